"""Kinds of arguments on command lines, for argparse."""

import argparse
from pathlib import Path


def path(text: str) -> Path:
    """A file or folder; an empty name would mean the working directory."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return Path(text)


def natural(text: str) -> int:
    """A whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def seed(text: str) -> int:
    """What NumPy takes as a seed: from 0 to 2^32 - 1."""
    if natural(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text} is too large: a seed is at most {2**32 - 1}")
    return int(text)


def positive(text: str) -> int:
    """A whole number from 1."""
    if not natural(text):
        raise argparse.ArgumentTypeError("it must be at least 1")
    return int(text)
