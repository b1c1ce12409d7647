from __future__ import annotations

from pathlib import Path

import pytest

from boneage import bundled


def test_what_was_installed_goes_before_what_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other packages may have left a folder of the same name there."""
    monkeypatch.setattr(bundled, "PACKAGE", tmp_path / "boneage")
    for folder in (tmp_path / "data", tmp_path / "boneage" / "weights", tmp_path / "weights"):
        folder.mkdir(parents=True)
    assert bundled.folder("data") == tmp_path / "data"
    assert bundled.folder("weights") == tmp_path / "boneage" / "weights"
