"""The command that starts the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import app
from boneage.predictor import Predictor
from boneage.webui import page


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Addresses at which a page would have been served."""
    calls: list[tuple[str, int]] = []
    monkeypatch.setattr(Predictor, "load", lambda *_, **__: None)
    monkeypatch.setattr(page, "build", lambda *_, **__: None)
    monkeypatch.setattr(page, "launch", lambda _, host, port: calls.append((host, port)))
    for name in ("GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "SPACE_ID", "BONEAGE_WEIGHTS"):
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


def test_missing_weights_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["--weights", str(tmp_path / "nothing")]) == 2
    assert "nothing" in capsys.readouterr().err
