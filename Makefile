# make demo   the page with the bundled weights on http://127.0.0.1:7860
# make test   all tests, a core each; the browser tests need Chromium
# make lint   ruff
# make clean  removes the virtual environment

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Installs torch's gigabytes in a third of pip's time.
UV := 0.13.9
# A changed requirements file installs anew; an unchanged one costs nothing.
DEMO := $(VENV)/.demo
TEST := $(VENV)/.test

.PHONY: demo test lint clean

demo: $(DEMO)
	$(BIN)/python app.py

test: $(TEST)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV)

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "boneage needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet uv==$(UV)

$(DEMO): requirements.txt | $(BIN)/uv
	$(BIN)/uv pip install --python $(BIN)/python --quiet -r requirements.txt
	@touch $@

$(TEST): requirements.txt requirements-dev.txt | $(BIN)/uv
	$(BIN)/uv pip install --python $(BIN)/python --quiet -r requirements-dev.txt
	@touch $@
