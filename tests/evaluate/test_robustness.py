"""Changes of radiographs are what their names say, and table S5 is of the weights at hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boneage import hub, images
from boneage.predictor import released
from evaluate import recorded, robustness
from evaluate.cases import CASES, RECORDED, CaseRow, read_cases, write_rows
from evaluate.robustness import CHANGES, COLUMNS, TABLE, UNCHANGED, Change
from evaluate.run import Dataset, evaluate

PAINTED = True


@pytest.fixture
def pixels(rsna_test_dir: Path) -> np.ndarray:
    return images.read(rsna_test_dir / "images" / "4360.webp").pixels


def test_rotation_is_counter_clockwise_about_the_middle(pixels: np.ndarray) -> None:
    assert (robustness.turn_and_scale(pixels, degrees=90) == np.rot90(pixels)).all()
    assert (Change("rotation", 0)(pixels) == pixels).all()
    there = Change("rotation", 20)(pixels).astype(int)
    back = Change("rotation", -20)(there.astype(np.uint8)).astype(int)
    middle = slice(75, 225)
    assert (
        abs(back - pixels)[middle, middle].mean() < abs(there - pixels)[middle, middle].mean() / 3
    )


def test_scaling_by_two_doubles_the_middle(pixels: np.ndarray) -> None:
    larger = robustness.turn_and_scale(pixels, factor=2)
    assert (larger[1::2, 1::2] == pixels[75:224, 75:224]).all()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_what_comes_in_from_outside_continues_the_border(kind: type) -> None:
    film = np.full((101, 101), 200, kind)
    film[1:-1, 1:-1] = 10
    smaller = Change("scaling", 0.8)(film)
    assert smaller.dtype == kind
    assert (smaller[:10] == 200).all()
    assert (smaller[:, -10:] == 200).all()
    assert (smaller[12:-12, 12:-12] == 10).all()
    assert (Change("rotation", 30)(film)[:5, :5] == 200).all()


def test_contrast_stretches_about_the_mean_and_cuts_off() -> None:
    film = np.array([[0, 100], [140, 160]], np.uint8)  # mean 100
    assert Change("contrast", 0.5)(film).tolist() == [[50, 100], [120, 130]]
    assert Change("contrast", 3)(film).tolist() == [[0, 100], [220, 255]]
    deep = robustness.change_contrast(film.astype(np.uint16) * 257, 2)
    assert deep.dtype == np.uint16
    assert deep.tolist() == [[0, 25700], [180 * 257, 220 * 257]]


def test_mirrored_enlarged_and_bordered() -> None:
    film = np.arange(100, dtype=np.uint16).reshape(10, 10)
    assert (Change("mirroring", 1)(film) == film[:, ::-1]).all()
    large = Change("enlargement", 2)(film)
    assert (large.shape, large.dtype) == ((20, 20), np.uint16)
    assert abs(large[1::2, 1::2].astype(int) - film).max() <= 6  # half a pixel of 11
    bordered = Change("border", 10)(film)
    assert (bordered[1:-1, 1:-1] == film[1:-1, 1:-1]).all()
    assert (bordered == 65535).sum() == 100 - 64


def test_a_frame_makes_the_film_larger(pixels: np.ndarray) -> None:
    framed = Change("frame", 10)(pixels)
    assert framed.shape == (359, 359)
    assert (framed[30:-30, 30:-30] == pixels).all()
    assert (framed[:30] == pixels.min()).all()


def test_noise_is_the_same_for_a_film_every_time(pixels: np.ndarray) -> None:
    noisy = Change("noise", 3)(pixels)
    assert (noisy == Change("noise", 3)(pixels)).all()
    assert (noisy != pixels).any()


def test_the_papers_kinds_of_change_and_others() -> None:
    names = [change.name for change in CHANGES]
    assert len(set(names)) == len(names)
    expected = {
        "rotation by +10 degrees",
        "scaling by 0.8",
        "contrast by 0.5",
        "mirrored",
        "enlarged 4 times",
        "a white border of 6 %",
        "within a dark frame of 15 %",
        "noise of 1 % of the grey range",
        "JPEG of quality 75",
        "64 grey levels",
    }
    assert expected < set(names)


def test_every_case_is_assessed_after_every_change(
    hands: Dataset, stub: Callable[..., Any]
) -> None:
    predictor = stub(refuse=[hands.folder.cases[0].id])
    rows = robustness.assess(hands, predictor, "stub@1", CHANGES[:2])
    count = len(hands.folder.cases)
    assert [row.row for row in rows[::count]] == [UNCHANGED, CHANGES[0].name, CHANGES[1].name]
    assert len(rows) == 3 * count
    assert {(row.table, row.dataset, row.weights) for row in rows} == {
        (TABLE, hands.name, "stub@1")
    }
    assert [row.assessed is None for row in rows] == [
        row.id == hands.folder.cases[0].id for row in rows
    ]
    boys = robustness.assess(hands, stub(sexes=["M"]), "boys@1", CHANGES[:1])
    assert {row.sex for row in boys} == {"M"}


def row(change: str, id: str, assessed: float | None) -> CaseRow:
    place = ("MAE", "d/test", id, "F", 100.0)
    return CaseRow(TABLE, change, *place, assessed, "months", f"{RECORDED}w@1")


def test_differences_are_paired() -> None:
    cases = [
        row(UNCHANGED, "1", 104.0), row(UNCHANGED, "2", 98.0), row(UNCHANGED, "3", None),
        row("scaling by 2", "1", 97.0), row("scaling by 2", "2", 92.0),
        row("scaling by 2", "3", 500.0),
    ]  # fmt: skip
    found = {(r["row"], r["column"]): r for r in robustness.records(cases, "d/test")}
    assert found[UNCHANGED, "MAE"]["measured"] == 3.0
    assert found[UNCHANGED, "MAE"]["refused"] == 1
    assert found["scaling by 2", "MAE"]["measured"] == pytest.approx((3 + 8 + 400) / 3, abs=1e-4)
    added = found["scaling by 2", COLUMNS[1]]
    assert (added["measured"], added["n"], added["ci95"]) == (2.5, 2, [-1.0, 6.0])
    assert found["scaling by 2", COLUMNS[2]]["measured"] == 6.5
    tail, largest = (found["scaling by 2", column] for column in COLUMNS[3:])
    assert (tail["measured"], largest["measured"]) == (pytest.approx(6.95), 7.0)  # moved by 7 and 6
    assert (largest["n"], largest["ci95"]) == (2, None)
    assert all(r["recorded"] for r in found.values())
    empty = robustness.records(cases, "other/test")
    assert len(empty) == 1 + len(CHANGES)
    assert {(r["measured"], r["why"]) for r in empty} == {(None, robustness.NOT_MEASURED)}


def test_films_of_one_patient_are_drawn_together(tmp_path: Path) -> None:
    """The patients go through the file; two of them leave the interval as wide as their ages."""
    films = [row(UNCHANGED, str(i), 100.0) for i in range(8)]
    films += [row("scaling by 2", str(i), 110.0 if i < 4 else 130.0) for i in range(8)]
    films = [replace(film, patient="a" if int(film.id) < 4 else "b") for film in films]
    write_rows(tmp_path / CASES, films)
    found = {(r["row"], r["column"]): r for r in robustness.records(
        read_cases(tmp_path / CASES), "d/test"
    )}  # fmt: skip
    for column in COLUMNS[:3]:
        assert found["scaling by 2", column]["ci95"] == [10.0, 30.0]


@pytest.fixture
def recording(hands: Dataset, stub: Callable[..., Any], tmp_path: Path) -> Path:
    """What the command records, of a stub."""
    folder = tmp_path / "recorded"
    rows = robustness.assess(hands, stub(), "stub@0123456789ab")
    write_rows(folder / "robustness" / CASES, rows)
    provenance = {"seed": 0, "commit": "abc"}
    run = {"weights": [{"sha256": "0" * 64, "provenance": provenance}]}
    (folder / "robustness" / "run.json").write_text(json.dumps(run))
    return folder


def test_a_recording_is_printed_for_its_weights_alone(
    hands: Dataset, stub: Callable[..., Any], tmp_path: Path, recording: Path
) -> None:
    own, other = stub(), stub()
    other.config["sha256"] = "1" * 64
    for name, predictor in (("own", own), ("other", other)):
        evaluate([hands], [predictor], tmp_path / name, recorded=recorded.load(recording))
    text = (tmp_path / "own" / "tables.md").read_text()
    assert f"## S5. Robustness of the age in months, on {hands.name}, by recorded:stub@" in text
    assert "| rotation by +30 degrees | months | 4.00 [4.00, 4.00] (n=12) | 0.00" in text
    assert (tmp_path / "own" / "figures" / "figure-robustness.png").is_file()
    weights = json.loads((tmp_path / "own" / "weights.json").read_text())
    assert [entry["weights"] for entry in weights] == ["stub@0123456789ab"]
    assert robustness.NOT_MEASURED in (tmp_path / "other" / "tables.md").read_text()
    assert not (tmp_path / "other" / "figures" / "figure-robustness.png").exists()
    assert all(r.table != TABLE for r in read_cases(tmp_path / "other" / CASES))


def test_the_command_writes_a_recording(
    untrained: Path,
    make_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = partial(robustness.assess, changes=CHANGES[:3])
    monkeypatch.setattr(robustness, "assess", few)
    data, out = make_folder(["4360", "4361"]), tmp_path / "recorded" / "robustness"
    words = ["--data", str(data), "--weights", str(untrained), "--out", str(out)]
    run_and_check(words, out)
    run = json.loads((out / "run.json").read_text())
    assert run["weights"][0]["sha256"] == hub.load_config(untrained)["sha256"]
    assert run["datasets"][0]["name"] == "hands/test"


def run_and_check(words: list[str], out: Path) -> None:
    assert robustness.main(words) == 0
    rows = read_cases(out / CASES)
    assert len(rows) == 2 * (1 + 3)
    unchanged = [r.assessed for r in rows if r.row == UNCHANGED]
    turned = [r.assessed for r in rows if r.row == CHANGES[0].name]
    assert unchanged != turned


def test_other_weights_are_recorded_elsewhere(
    untrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (robustness.FOLDER / "run.json").read_bytes()
    assert robustness.main(["--weights", str(untrained)]) == 2
    assert "give --out DIR" in capsys.readouterr().err
    assert (robustness.FOLDER / "run.json").read_bytes() == before


@pytest.mark.parametrize("data", ["nowhere", "nih-chest-test"])
def test_bad_input_ends_in_a_sentence(
    data: str,
    repo_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(robustness, "assess", lambda *_: pytest.fail("assessed"))
    place = str(repo_root / "data" / data)
    assert robustness.main(["--data", place, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("evaluate.robustness: ")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_shipped_recording_is_of_the_released_weights(rsna_test_dir: Path) -> None:
    from boneage import datasets

    (found,) = [row for row in recorded.load() if row.name == robustness.FOLDER.name]
    sha = hub.load_config(released("hand"))["sha256"]
    cases = datasets.load(rsna_test_dir).cases
    rows = found.fitting("rsna-test/test", cases, {sha})
    assert len(rows) == 200 * (1 + len(CHANGES))
    assert {r.row for r in rows} == {UNCHANGED, *(change.name for change in CHANGES)}
    assert found.fitting("rsna-test/test", cases, {"0" * 64}) == ()
    assert not replace(found, sha256="0" * 64).fitting("rsna-test/test", cases, {sha})
