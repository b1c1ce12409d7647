"""Kinds of numbers on command lines, for argparse."""

import argparse


def natural(text: str) -> int:
    """A whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return int(text)


def positive(text: str) -> int:
    """A whole number from 1."""
    if not natural(text):
        raise argparse.ArgumentTypeError("0 is too few")
    return int(text)
