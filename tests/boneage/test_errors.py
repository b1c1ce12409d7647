from __future__ import annotations

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


def test_a_reader_who_has_gone_is_no_error() -> None:
    """As in ``| head``."""
    program = (
        "import sys; from boneage.errors import run_command\n"
        "def action():\n"
        "    for _ in range(10_000): print('a line')\n"
        "    return 0\n"
        "sys.exit(run_command('assess', action))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
