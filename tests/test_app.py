"""The command that starts the page."""

from __future__ import annotations

import threading
from pathlib import Path
from threading import Event
from typing import Any

import pytest

import app
from boneage.errors import InputError
from boneage.predictor import Predictor
from boneage.webui import page

BONEAGE = ("BONEAGE_WEIGHTS", "BONEAGE_REVISION", "BONEAGE_QUEUE")


class Weights:
    """Weights for hands whose network is not built yet."""

    def __init__(self, error: str | None = None) -> None:
        self.error = error
        self.prepared = Event()

    def prepare(self) -> None:
        self.prepared.set()
        if self.error:
            raise InputError(self.error)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Addresses at which a page would have been served."""
    calls: list[tuple[str, int]] = []
    monkeypatch.setattr(Predictor, "load", lambda *_, **__: Weights())
    monkeypatch.setattr(page, "build", lambda *_, **__: None)
    monkeypatch.setattr(page, "launch", lambda _, host, port: calls.append((host, port)))
    for name in ("GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "SPACE_ID", *BONEAGE):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_listens_on_this_machine_alone_unless_asked(
    launched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert app.main([]) == 0
    assert app.main(["--host", "0.0.0.0", "--port", "81"]) == 0
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    monkeypatch.setenv("GRADIO_SERVER_PORT", "8080")
    assert app.main([]) == 0
    assert launched == [("127.0.0.1", 7860), ("0.0.0.0", 81), ("0.0.0.0", 8080)]


def test_a_space_is_reached_from_outside(launched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "someone/page")
    assert app.main([]) == 0
    assert app.main(["--host", "127.0.0.1"]) == 0
    assert launched == [("0.0.0.0", 7860), ("127.0.0.1", 7860)]


def test_weights_and_queue_from_the_environment(
    launched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def load(*given: Any, **named: Any) -> Weights:
        asked.append((given, named))
        return Weights()

    monkeypatch.setattr(Predictor, "load", load)
    monkeypatch.setattr(page, "build", lambda *_, queue: asked.append(queue))
    monkeypatch.setenv("BONEAGE_WEIGHTS", "someone/bone-age")
    monkeypatch.setenv("BONEAGE_REVISION", "trial")
    monkeypatch.setenv("BONEAGE_QUEUE", "5")
    assert app.main([]) == 0
    assert asked == [(("someone/bone-age",), {"revision": "trial", "wait": False}), 5]
    assert app.main(["--weights", "mine", "--revision", "main", "--queue", "7"]) == 0
    assert asked[2:] == [(("mine",), {"revision": "main", "wait": False}), 7]


@pytest.mark.parametrize("error", [None, "The tensors do not fit."])
def test_the_network_is_built_while_the_page_is_served(
    launched: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: str | None,
) -> None:
    weights = Weights(error)
    monkeypatch.setattr(Predictor, "load", lambda **_: weights)
    served: list[bool] = []
    # Serving ends when the network is there; built after it, this would wait in vain.
    monkeypatch.setattr(page, "launch", lambda *_: served.append(weights.prepared.wait(60)))
    assert app.main([]) == 0
    assert served == [True]
    for thread in [t for t in threading.enumerate() if t.name == "boneage-prepare"]:
        thread.join()
    assert capsys.readouterr().err == (f"boneage: {error}\n" if error else "")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(["--queue", "0"], "at least 1"), (["--revision", "main"], "give both")],
)
def test_options_that_make_no_sense_are_refused(
    launched: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    assert app.main(arguments) == 2
    assert reason in capsys.readouterr().err
    assert launched == []


def test_missing_weights_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["--weights", str(tmp_path / "nothing")]) == 2
    assert "nothing" in capsys.readouterr().err
