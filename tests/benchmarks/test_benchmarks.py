from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import benchmarks.__main__ as command
from benchmarks import ancestor, ct_projection, folder, many, precision, reading, training
from benchmarks.measure import (
    Figure,
    Measurement,
    Outcome,
    Row,
    alternate,
    measure,
    rows_apart,
)
from boneage import datasets, hub, images, volumes
from boneage.__main__ import main as boneage_command
from boneage.errors import InputError
from train.__main__ import thinned

SMALL_RECIPE = """
summary = "A small one"
architecture = "arcnn"

[arguments]
backbone = "mobilenet_v2"
size = 64
part_size = 32

[preprocess]
size = 64

[optimisation]
epochs = 1
batch_size = 100
freeze_batch_norm = true
frozen = ["recognition.backbone"]
"""


def allocate(megabytes: int) -> np.ndarray:
    return np.ones(megabytes * 10**6, np.uint8)


def beside(seconds: float, **target: float) -> Outcome:
    return Outcome("it", Measurement("done", seconds), Measurement("floor", 2.0), **target)


class TestRows:
    def test_times(self) -> None:
        assert beside(2.2, at_most=1.15).row() == (
            "it", "done: 2.20 s", "floor: 2.00 s", "1.10 of the time", "at most 1.15", "yes",
        )  # fmt: skip
        assert beside(2.4, at_most=1.15).row()[-1] == "**no**"
        assert beside(0.0022).row()[1:] == (
            "done: 2.2 ms", "floor: 2.00 s", "0.00 of the time", "", "",
        )  # fmt: skip

    def test_speeds(self) -> None:
        assert beside(2.5, at_least=0.8).row()[3:] == ("0.80 of the speed", "at least 0.8", "yes")
        assert beside(2.5, at_least=0.9).met is False
        assert beside(2.5, at_least=0.9).record()["ratio"] == pytest.approx(0.8)
        assert beside(2.5, as_speed=True).row()[3:] == ("0.80 of the speed", "", "")

    def test_figures(self) -> None:
        assert Figure("it", 0.05, "s", at_most=0.4).row() == (
            "it", "0.05 s", "", "", "at most 0.4 s", "yes",
        )  # fmt: skip
        assert Figure("it", 1, "", at_most=0).row()[1:] == ("1", "", "", "at most 0", "**no**")
        assert Figure("it", 1234.5, "MB").row()[1:] == ("1234 MB", "", "", "", "")

    def test_memory_beside_the_time(self) -> None:
        assert str(Measurement("done", 1.0, 12.3)) == "done: 1.00 s, 12 MB"


def test_memory_is_counted_above_the_imports() -> None:
    measurement = measure("allocates", allocate, 300, imports=("numpy",))
    assert measurement.what == "allocates"
    assert 290 < measurement.peak_mb < 400


def test_functions_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is moved on by the functions themselves; the median passes over one long call."""
    now, called = 0.0, []
    waits = {"a": iter([9, 1, 1, 7]), "b": iter([9, 2, 3, 4]), "c": iter([9, 5, 5, 5])}

    def wait(name: str) -> None:
        nonlocal now
        called.append(name)
        now += next(waits[name])

    monkeypatch.setattr("benchmarks.measure.time.perf_counter", lambda: now)
    functions = {name: lambda name=name: wait(name) for name in waits}
    assert alternate(functions, repeats=3) == {"a": 1, "b": 3, "c": 5}
    assert called == ["a", "b", "c", "c", "b", "a"] * 2


class TestCommand:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The one benchmark that is run, on a small volume but in a process of its own."""

        def run_small(name: str, options: Mapping[str, Any]) -> list[Row]:
            assert (name, options) == ("ct_projection", {})
            return rows_apart(name, {"shape": (40, 64, 64)})

        monkeypatch.setattr(command, "rows_apart", run_small)

    def test_prints_a_table_and_writes_json(
        self, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        assert command.main(["ct_projection", "--json", str(tmp_path / "out.json")]) == 0
        content = json.loads((tmp_path / "out.json").read_text())
        (outcome,) = content["benchmarks"]["ct_projection"]
        assert outcome["subject"] == "64 x 64 x 40 int16 NIfTI to its bone projection"
        assert outcome["measured"]["seconds"] > 0
        assert content["machine"]["numpy"] == np.__version__
        assert content["machine"]["accelerator"]
        first, empty, *table = capsys.readouterr().out.splitlines()
        assert f"numpy {np.__version__}" in first
        assert empty == ""
        assert {line.count("|") for line in table} == {len(command.HEADER) + 1}
        assert table[2].startswith("| ct_projection | 64 x 64 x 40 int16 NIfTI")
        assert "nibabel loads the array" in table[2]

    def test_unknown_names(self, capsys: pytest.CaptureFixture) -> None:
        with pytest.raises(SystemExit) as end:
            command.main(["nothing"])
        assert end.value.code == 2
        assert "known: assess, reading" in capsys.readouterr().err

    def test_too_few_files_to_be_killed_among(self, capsys: pytest.CaptureFixture) -> None:
        with pytest.raises(SystemExit):
            command.main(["many", "--count", "99"])
        assert "at least 1000" in capsys.readouterr().err


def test_the_phantom_is_read_the_right_way_round(tmp_path: Path) -> None:
    shape = (40, 64, 64)
    ct_projection.write_nifti(tmp_path / "body.nii", shape)
    volume = volumes.read(tmp_path / "body.nii")
    wanted = np.stack(list(ct_projection.axial_slices(shape, ct_projection.SPACING)))
    np.testing.assert_array_equal(volume.hu, wanted)
    assert volume.spacing == pytest.approx(ct_projection.SPACING)


@pytest.mark.parametrize(
    ("benchmark", "options", "rows"),
    [
        (ancestor, {"count": 1, "size": 128}, 6),
        (folder, {"most": 2}, 6),
        (reading, {}, 5),
        (training, {"recipes": {"tiny": "a small one"}}, 5),
    ],
    ids=["ancestor", "folder", "reading", "training"],
)
def test_small_runs(
    benchmark: ModuleType,
    options: dict[str, Any],
    rows: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "tiny.toml").write_text(SMALL_RECIPE)
    monkeypatch.setattr("train.recipe.FOLDER", tmp_path)
    monkeypatch.setattr(reading, "SIZE", (450, 600))
    load = datasets.load
    monkeypatch.setattr(datasets, "load", lambda root: thinned(load(root), 12))
    found = list(benchmark.run(repeats=1, **options))
    assert len(found) == rows
    assert all(row.measured.seconds > 0 and row.floor.seconds > 0 for row in found)


def test_precisions_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three films one is refused in one precision alone, and counts in no difference."""
    ages = {"bf16": (100.0, 50.5, None), "fp32": (100.2, 50.0, 70.0)}

    class Stub:
        def __init__(self, precision: str) -> None:
            self.ages = ages[precision]

        def assess(self, films: list, sexes: list) -> list[SimpleNamespace]:
            assert len(films) == len(sexes) == 3
            return [SimpleNamespace(age=age) for age in self.ages]

    load = "boneage.predictor.Predictor.load"
    monkeypatch.setattr(load, lambda device, precision: Stub(precision))
    median, refused, _, largest = precision.run(most=3)
    assert median.value == pytest.approx(0.35)
    assert largest.value == pytest.approx(0.5)
    assert (refused.value, refused.met) == (1, False)
    assert "2 radiographs" in median.subject


class TestMany:
    @pytest.fixture(autouse=True)
    def often_damaged(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(many, "DAMAGED", 4)

    @pytest.mark.parametrize("small", [True, False])
    def test_a_folder_of_whole_and_damaged_files(self, tmp_path: Path, small: bool) -> None:
        assert many.make(tmp_path / "films", tmp_path / "pool", 10, small) == {
            f"{n:06d}{'.png' if small else '.webp'}" for n in (3, 7)
        }
        files = sorted((tmp_path / "films").iterdir())
        assert len(files) == 10
        for number, file in enumerate(files):
            if number in (3, 7):
                with pytest.raises(InputError, match="damaged"):
                    images.read(file)
            else:
                assert images.read(file).pixels.shape == ((64, 64) if small else (299, 299))

    def test_what_was_missed_or_done_twice_is_counted(self) -> None:
        lines = [json.dumps({"file": name, "stamp": "1 2"}) for name in "abca"]
        assert many.tally(lines, 3) == (0, 1)
        assert many.tally(lines[:2], 3) == (1, 0)

    def test_failures_are_told_by_name(self, tmp_path: Path) -> None:
        damaged = many.make(tmp_path / "films", tmp_path / "pool", 8, small=False)
        weights, out = many.small_weights(tmp_path / "small"), tmp_path / "out"
        words = ["assess", str(tmp_path / "films"), "--sex", "F", "--weights", str(weights)]
        assert boneage_command([*words, "--out", str(out)]) == 1
        assert many.failed(out) == damaged == {"000003.webp", "000007.webp"}

    def test_growth_is_what_another_file_keeps(self) -> None:
        kept = [
            (100 * n, 800 + 2.0 * n + 50 * (n % 8 == 7)) for n in range(80)
        ]  # peaks come and go
        assert many.growth(kept) == pytest.approx(20, rel=0.05)
        flat = [(100 * n, 800 + 50.0 * (n % 2)) for n in range(80)]
        assert many.growth(flat) == 0
        assert many.growth(kept[:3]) is None
        assert many.growth([(7, 800.0)] * 8) is None

    def test_the_small_network_can_be_loaded(self, tmp_path: Path) -> None:
        _, config = hub.load(many.small_weights(tmp_path / "small"))
        assert config["task"] == "hand"
