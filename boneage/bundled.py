"""What comes with the project: released weights and example radiographs."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parent


def folder(name: str) -> Path:
    """``weights``, ``data`` or ``results``: beside the package in a checkout, in it installed."""
    installed = PACKAGE / name
    return installed if installed.is_dir() else PACKAGE.parent / name
