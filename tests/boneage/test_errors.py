from __future__ import annotations

import os
import subprocess
import sys

import pytest

from boneage.errors import InputError, run_command


def failing(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("Give a film."), 2, "assess: Give a film.\n"),
        (
            PermissionError(13, "Permission denied", "/home/jane/film.png"),
            2,
            "assess: film.png cannot be used: Permission denied.\n",
        ),
        (OSError(), 2, "assess: A file cannot be used: the system gives no reason.\n"),
        (KeyboardInterrupt(), 130, "assess: stopped.\n"),
    ],
)
def test_an_end_in_one_sentence(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("assess", lambda: failing(error)) == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("lines", [1, 10_000])
def test_a_reader_who_has_gone_is_no_error(lines: int) -> None:
    """As in ``| head``."""
    program = (
        "import sys; from boneage.errors import run_command\n"
        "def action():\n"
        "    sys.stdin.read()\n"
        f"    for _ in range({lines}): print('a line')\n"
        "    return 0\n"
        "sys.exit(run_command('assess', action))"
    )
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with subprocess.Popen([sys.executable, "-c", program], env=buffered, **pipes) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stdin.close()  # now it prints
        assert process.stderr.read() == b""
    assert process.returncode == 141
