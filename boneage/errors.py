"""The one exception a user's input can raise, and how command lines report it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path


class InputError(ValueError):
    """Something about the input is wrong; the message is for the person who gave it."""


def run_command(name: str, action: Callable[[], int]) -> int:
    """Run a command; bad input or an unusable file ends in one sentence on stderr and code 2.

    Stopped by the keyboard it ends with 130, and with 141 once nobody reads what it prints, as a
    shell would have it.

    Args:
        name: of the command, put before the sentence.
        action: does the work and returns the exit code.
    """
    try:
        code = action()
        sys.stdout.flush()  # or what is left would be written, and fail, after this
        return code
    except InputError as error:
        message = str(error)
    except KeyboardInterrupt:
        print(f"{name}: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Nor may what is still to be written fail at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        file = Path(error.filename).name if error.filename else "A file"
        message = f"{file} cannot be used: {system_reason(error)}."
    tell(name, message)
    return 2


def tell(name: str, message: str) -> None:
    """Print a sentence on stderr; names of files may be part of it.

    Args:
        name: of the command, put before the sentence.
        message: the sentence.
    """
    print(f"{name}: {printable(message)}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """The text without the control characters by which a name could steer a terminal or a table."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)


def system_reason(error: OSError) -> str:
    """Why the system refused something, without file names."""
    return error.strerror or "the system gives no reason"
