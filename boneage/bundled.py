"""What comes with the project: released weights and example radiographs."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parent


def folder(name: str) -> Path:
    """``weights``, ``data`` or ``results``: beside the package in a checkout, in it installed."""
    checkout = PACKAGE.parent / name
    return checkout if checkout.is_dir() else PACKAGE / name
