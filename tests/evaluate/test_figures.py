"""The figures are there, of the right size, and show the cases."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluate import heat_maps
from evaluate.cases import CaseRow, read_boxes, read_cases
from evaluate.figures import (
    DPI,
    EXAMPLES,
    HEIGHT,
    WIDTH,
    ages_and_sexes,
    attention_boxes,
    draw,
    grad_cams,
)
from evaluate.records import groups
from evaluate.run import Dataset, evaluate

PAINTED = True


def test_figures_are_drawn(
    hands: Dataset, stub: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluate.figures.DPI", DPI)
    stale = tmp_path / "figures" / "figure-2a-old.png"
    stale.parent.mkdir()
    stale.touch()
    evaluate([hands], [stub()], tmp_path)
    found = {path.name: path for path in (tmp_path / "figures").iterdir()}
    assert sorted(found) == ["figure-2a.png", "figure-2b.png", "figure-3.png"]
    for name, path in found.items():
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        if name != "figure-3.png":
            assert pixels.shape[:2] == (int(HEIGHT * DPI), int(WIDTH * DPI))
        assert (pixels != 255).any(axis=2).mean() > 0.01
        assert len(np.unique(pixels)) > 50


def test_weights_that_share_cases_have_their_own_figures(
    hands: Dataset, stub: Callable[..., Any], tmp_path: Path
) -> None:
    evaluate([hands], [stub(id="a"), stub(id="b")], tmp_path)
    names = sorted(path.name for path in (tmp_path / "figures").glob("figure-2a*"))
    assert names == ["figure-2a-hands-test-b@0123456789ab.png", "figure-2a.png"]


def test_boxes_are_drawn_for_each_sex(
    hands: Dataset, stub: Callable[..., Any], tmp_path: Path
) -> None:
    evaluate([hands], [stub()], tmp_path)
    (group,) = groups(read_cases(tmp_path / "cases.csv"))
    images = {(hands.name, case.id): case.path for case in hands.folder.cases}
    boxes = read_boxes(tmp_path / "boxes.csv")
    figure = attention_boxes(group, boxes, images)
    assert figure is not None
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 2 * EXAMPLES
    assert all(len(axes.patches) == 6 for axes in shown)  # three boxes, each with a dark edge
    first = shown[0].patches[0]
    assert (first.get_x(), first.get_width()) == (boxes[0].x0, boxes[0].x1 - boxes[0].x0)
    assert all(axes.get_title().startswith("Female") for axes in shown[:EXAMPLES])
    assert attention_boxes(group, [], images) is None
    assert attention_boxes(group, boxes, {}) is None


def test_refused_cases_and_single_cases_do_not_stop_the_drawing(tmp_path: Path) -> None:
    place = ("A3", "AR-CNN", "MAE", "d/test", "1", None, 100.0)
    refused, exact = (CaseRow(*place, assessed, "months", "w@1") for assessed in (None, 100.0))
    assert draw(groups([refused]), [], {}, {}, tmp_path) == []
    written = draw(groups([exact]), [], {}, {}, tmp_path)
    assert [path.name for path in written] == ["figure-2a.png", "figure-2b.png"]


def test_adults_have_their_own_figures(
    adults: Dataset, stub_for: Callable[..., Any], tmp_path: Path
) -> None:
    predictor = stub_for(adults.folder.cases, task="adult", sexes=(), fills=["B2:Early fusion"])
    evaluate([adults], [predictor], tmp_path)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {
        "figure-4.png", "figure-5.png", "figure-adult-assessed.png", "figure-adult-deviation.png",
    }  # fmt: skip
    (group,) = groups(read_cases(tmp_path / "cases.csv"))
    maps = heat_maps.read(tmp_path / "heat-maps.npz")
    images = {(adults.name, case.id): case.path for case in adults.folder.cases}
    figure = grad_cams(group, maps, images)
    assert figure is not None
    assert len([axes for axes in figure.axes if axes.images]) == 2 * len(maps)
    assert grad_cams(group, {}, images) is None
    histogram, counts = ages_and_sexes(group).axes
    assert sum(bar.get_height() for bar in histogram.patches) == len(adults.folder.cases)
    sexes = [case.sex for case in adults.folder.cases]
    assert [bar.get_height() for bar in counts.patches] == [sexes.count("F"), sexes.count("M")]


def test_heat_maps_are_of_cases_that_were_assessed(
    adults: Dataset, stub_for: Callable[..., Any], tmp_path: Path
) -> None:
    refused = [case.id for case in adults.folder.cases[::2]]
    options = {"task": "adult", "sexes": ["F"], "fills": ["B2:Early fusion"]}
    evaluate([adults], [stub_for(adults.folder.cases, refuse=refused, **options)], tmp_path)
    shown = {id for _, _, id in heat_maps.read(tmp_path / "heat-maps.npz")}
    women = {case.id for case in adults.folder.cases if case.sex == "F"}
    assert shown
    assert shown <= women - set(refused)


def test_examples_are_of_different_patients_across_the_ages(adults: Dataset) -> None:
    chosen = heat_maps.examples(adults.folder.cases)
    assert len({case.patient for case in chosen}) == len(chosen) == heat_maps.EXAMPLES
    ages = [case.age for case in chosen]
    assert ages == sorted(ages)
    assert ages[-1] - ages[0] > 20


def test_no_heat_maps_leave_no_file(tmp_path: Path) -> None:
    (tmp_path / "heat-maps.npz").touch()
    heat_maps.write(tmp_path, {})
    assert list(tmp_path.iterdir()) == []
