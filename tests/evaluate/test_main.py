"""The command: help, exit codes, and that bad input ends in one sentence."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluate import __main__ as command
from evaluate.run import Dataset, evaluate

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data" / "rsna-test"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from evaluate.__main__ import parser; parser().format_help(); "
        "heavy = {'torch', 'numpy', 'matplotlib', 'PIL'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        command.main(["--help"])
    assert exit.value.code == 0
    text = capsys.readouterr().out
    for word in ("--split", "--data", "--weights", "--out", "--batch-size", "--from-cases",
                 "exit codes", "cases.csv", "run.json"):  # fmt: skip
        assert word in text


@pytest.mark.parametrize(
    "arguments", [["--split", "holdout"], ["--batch-size", "0"], ["--batch-size", "x"], ["--nope"]]
)
def test_bad_arguments_exit_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        command.main(arguments)
    assert exit.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "not a labelled folder"),
        (["--data", str(DATA), "--split", "train"], "no cases of the split"),
        (["--weights", "nowhere"], "not a weights folder"),
        (["--from-cases", "nowhere.csv"], "cannot be read"),
        (["--from-cases", "a.csv", "--weights", "b"], "takes no --weights"),
    ],
)
def test_bad_input_exits_2_with_a_sentence(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("evaluate: ")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_folder_exits_2(
    hands: Dataset,
    stub: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    evaluate([hands], [stub()], tmp_path)
    (tmp_path / "taken").touch()
    arguments = ["--from-cases", str(tmp_path / "cases.csv"), "--out", str(tmp_path / "taken")]
    assert command.main(arguments) == 2
    assert capsys.readouterr().err.endswith("evaluate: taken cannot be used: File exists.\n")


def test_weights_of_another_task_are_refused(
    untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((untrained / "config.json").read_text())
    (tmp_path / "adult").mkdir()
    (tmp_path / "adult" / "config.json").write_text(json.dumps(config | {"task": "adult"}))
    weights, data = str(tmp_path / "adult"), str(DATA)
    assert command.main(["--weights", weights, "--data", data, "--out", str(tmp_path)]) == 2
    assert "for the task adult, the data for hand" in capsys.readouterr().err


def test_the_bundled_test_sets_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = {d.name: len(d.folder.cases) for d in command._datasets(None, "test")}
    assert found == {"rsna-test/test": 200, "nih-chest-test/test": 1068}


def test_of_the_bundled_data_those_that_the_weights_are_for(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("evaluate.run.evaluate", lambda datasets, *_, **__: asked.extend(datasets))
    command.main(["--weights", str(untrained), "--out", str(tmp_path)])
    assert [dataset.name for dataset in asked] == ["rsna-test/test"]


def test_tables_again_from_cases(
    hands: Dataset,
    stub: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    evaluate([hands], [stub()], tmp_path / "a")
    arguments = ["--from-cases", str(tmp_path / "a" / "cases.csv"), "--out", str(tmp_path / "b")]
    assert command.main(arguments) == 0
    first, second = (tmp_path / name / "metrics.json" for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert "A1. AR-CNN" in capsys.readouterr().out
    first.unlink()
    assert command.main(arguments[:2]) == 0  # beside the cases, where nothing else is said
    assert first.read_bytes() == second.read_bytes()
