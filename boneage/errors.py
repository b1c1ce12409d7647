"""The one exception a user's input can raise, and how command lines report it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path


class InputError(ValueError):
    """Something about the input is wrong; the message is for the person who gave it."""


def run_command(name: str, action: Callable[[], int]) -> int:
    """Run a command; bad input or an unusable file ends in one sentence on stderr and code 2.

    Args:
        name: of the command, put before the sentence.
        action: does the work and returns the exit code.
    """
    try:
        return action()
    except InputError as error:
        message = str(error)
    except OSError as error:
        file = Path(error.filename).name if error.filename else "A file"
        message = f"{file} cannot be used: {system_reason(error)}."
    print(f"{name}: {message}", file=sys.stderr)
    return 2


def system_reason(error: OSError) -> str:
    """Why the system refused something, without file names."""
    return error.strerror or "the system gives no reason"
