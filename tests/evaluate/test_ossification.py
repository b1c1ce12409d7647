"""Boxes against regions: measures by hand, baselines by brute force, tables from the files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from boneage import hub
from boneage.errors import InputError
from boneage.models.arcnn import AttentionAgent
from boneage.predictor import Predictor, released
from evaluate import __main__ as command
from evaluate import ossification
from evaluate.cases import read_boxes
from evaluate.figures import annotated_boxes
from evaluate.ossification import (
    AGENT,
    CENTRAL,
    MEAN,
    OBSERVERS,
    RANDOM,
    USUAL,
    Annotated,
    Region,
    Score,
)
from evaluate.run import Dataset, evaluate, render

REGIONS = (
    Region("MCP", 0.1, 0.1, 0.3, 0.3), Region("MCP", 0.5, 0.1, 0.7, 0.3),
    Region("Wrist", 0.3, 0.7, 0.7, 0.9),
)  # fmt: skip


@pytest.fixture(scope="module")
def bundled() -> Annotated:
    return command._annotated()


@pytest.fixture(scope="module")
def few(bundled: Annotated) -> Annotated:
    """Three girls and three boys."""
    cases = bundled.dataset.folder.cases
    chosen = [case for sex in "FM" for case in [c for c in cases if c.sex == sex][:3]]
    folder = replace(bundled.dataset.folder, cases=tuple(sorted(chosen, key=lambda c: c.id)))
    return replace(bundled, dataset=Dataset(bundled.dataset.name, folder))


@pytest.fixture(scope="module")
def predictor(untrained: Path) -> Predictor:
    return Predictor.load(untrained, device="cpu")


def test_the_bundled_regions_are_whole(bundled: Annotated) -> None:
    cases = bundled.dataset.folder.cases
    assert len(cases) == 89
    assert {case.split for case in cases} == {"validation"}
    assert len(bundled.regions) == 2 * 89
    for case, observer in product(cases, OBSERVERS):
        counts = Counter(region.name for region in bundled.regions[observer, case.id])
        assert counts == {"DIP": 4, "PIP": 5, "MCP": 5, "Radius": 1, "Ulna": 1, "Wrist": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no regions.csv"),
        ("id,region\n1,DIP\n", "no column annotator, x0"),
        ("id,annotator,region,x0,y0,x1,y1\n1,expert,DIP,a,0,1,1\n", "line 2: a coordinate"),
        ("id,annotator,region,x0,y0,x1,y1\n1,expert,DIP,0.5,0,0.4,1\n", "line 2: the box"),
        ("id,annotator,region,x0,y0,x1,y1\n1,expert,DIP,0,0,1.1,1\n", "line 2: the box"),
        ("id,annotator,region,x0,y0,x1,y1\n1,expert,Toe,0,0,1,1\n", "line 2: unknown"),
        ("id,annotator,region,x0,y0,x1,y1\n1,nobody,DIP,0,0,1,1\n", "line 2: unknown"),
    ],
)
def test_bad_regions_are_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text:
        (tmp_path / "regions.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        ossification.read_regions(tmp_path)


def test_measures_by_hand() -> None:
    boxes = np.array(
        [
            [0.0, 0.0, 0.4, 0.4],  # centre in the first region, which it covers
            [0.4, 0.0, 0.8, 0.8],  # covers the second and the wrist; centre in none
            [0.25, 0.25, 0.45, 0.45],  # overlaps the first alone
            [0.8, 0.8, 1.0, 1.0],  # nothing
        ]
    )
    hits = ossification._Hits(boxes, REGIONS)
    assert hits.expected(np.array([[0]])) == pytest.approx([100, 100, 100 / 3, 16])
    assert hits.expected(np.array([[0, 1]])) == pytest.approx([50, 100, 100, 24])
    assert hits.expected(np.array([[2, 3]])) == pytest.approx([0, 50, 0, 4])
    assert hits.expected(np.array([[0], [3]])) == pytest.approx([50, 50, 100 / 6, 10])
    assert hits.expected(np.array([[0, 1]]), "Wrist") == pytest.approx([0, 50, 100, 24])


def test_same_sizes_elsewhere_is_the_mean_over_all_places() -> None:
    agent = AttentionAgent(1, 128, (24, 48, 96))
    shapes = ossification._shapes(128)
    assert len(shapes) == len(agent.anchors)
    hits = ossification._Hits(agent.anchors.numpy() / 128, REGIONS)
    chosen = np.array([5, 50, 60])
    places = [np.flatnonzero(shapes == shapes[i]) for i in chosen]
    every = np.array(list(product(*places)))
    assert hits.expected_elsewhere(chosen, shapes) == pytest.approx(hits.expected(every), rel=1e-5)


def test_shapes_follow_the_anchors() -> None:
    shapes = ossification._shapes(256)
    anchors = AttentionAgent(1, 256, (20, 40, 80)).anchors.numpy()
    inside = ((anchors > 0) & (anchors < 256)).all(axis=1)  # not clipped
    sizes = (anchors[:, 2:] - anchors[:, :2]).round(2)
    for shape in np.unique(shapes):
        assert len(np.unique(sizes[(shapes == shape) & inside], axis=0)) <= 1
    assert len(np.unique(sizes[inside], axis=0)) == len(np.unique(shapes[inside]))


def test_random_scores_draw_anchors_by_their_weights() -> None:
    agent = AttentionAgent(1, 128, (24, 48, 96))
    count = len(agent.anchors)
    alike = ossification._draw(agent, np.zeros(count))
    first = np.bincount(alike[:, 0], minlength=count) / len(alike)
    assert first == pytest.approx(1 / count, abs=0.006)
    assert all(len(set(row)) == agent.parts for row in alike[:100])
    weights = np.zeros(count)
    weights[7] = np.log(count - 1)  # as likely as all others together
    assert (ossification._draw(agent, weights)[:, 0] == 7).mean() == pytest.approx(0.5, abs=0.02)


@pytest.fixture(scope="module")
def evaluated(
    hands: Dataset,
    few: Annotated,
    predictor: Predictor,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The results of an evaluation with annotated images."""
    out = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluate.figures.DPI", 30)
        patch.setattr("evaluate.ossification.DRAWS", 100)
        evaluate([hands], [predictor], out, annotated=[few])
    return out


@pytest.fixture(scope="module")
def scores(evaluated: Path) -> list[Score]:
    return ossification.read(evaluated / ossification.SCORES)


def test_scores_are_those_of_the_boxes(
    few: Annotated, predictor: Predictor, scores: list[Score]
) -> None:
    from boneage import images

    case = few.dataset.folder.cases[0]
    radiograph = images.read(case.path)
    (assessment,) = predictor.assess(radiograph, case.sex)
    boxes = np.array([[b.x0, b.y0, b.x1, b.y1] for b in assessment.boxes]) / radiograph.width
    hits = ossification._Hits(boxes, few.regions["expert", case.id])
    own = {s.ranks: s for s in scores if (s.id, s.boxes, s.region) == (case.id, AGENT, "any")}
    for k, ranks in enumerate(ossification.RANKS, start=1):
        found = own[ranks]
        expected = hits.expected(np.arange(k)[None])
        values = [found.inside, found.overlapping, found.covered, found.area]
        assert values == pytest.approx(expected, abs=0.01)
    assert {s.boxes for s in scores} == set(ossification.CHOOSERS)
    assert {s.region for s in scores if s.boxes == MEAN} == {"any"}
    for chooser in (AGENT, RANDOM, CENTRAL, USUAL):
        found = {s.region for s in scores if s.boxes == chooser}
        assert found == {"any", *ossification.NAMES}, chooser


def test_fixed_boxes_leave_the_image_itself_out(
    few: Annotated, predictor: Predictor, scores: list[Score]
) -> None:
    from boneage import images

    case, *others = [c for c in few.dataset.folder.cases if c.sex == "F"]
    boxes = []
    for other in others:
        radiograph = images.read(other.path)
        (assessment,) = predictor.assess(radiograph, "F")
        boxes.append([[b.x0, b.y0, b.x1, b.y1] for b in assessment.boxes])
    hits = ossification._Hits(np.mean(boxes, axis=0) / 299, few.regions["expert", case.id])
    (found,) = [s for s in scores if (s.id, s.boxes, s.ranks) == (case.id, MEAN, "R1-R3")]
    assert found.area == pytest.approx(hits.expected(np.array([[0, 1, 2]]))[3], abs=0.01)
    assert found.covered == pytest.approx(hits.expected(np.array([[0, 1, 2]]))[2], abs=0.01)


def test_tables_come_from_the_files_alone(few: Annotated, evaluated: Path, tmp_path: Path) -> None:
    render(evaluated / "cases.csv", tmp_path, annotated=[few])
    assert (evaluated / "metrics.json").read_bytes() == (tmp_path / "metrics.json").read_bytes()
    text = (tmp_path / "tables.md").read_text()
    for heading in ("S6. Attention boxes", "S7. What", "S8. Attention", "S9. Agreement"):
        assert f"## {heading}" in text
    assert "These are validation images" in text
    assert (evaluated / "figures" / "figure-ossification.png").is_file()
    records = [
        r for r in json.loads((evaluated / "metrics.json").read_text()) if r["table"] >= "S6"
    ]
    places = [(r["table"], r["row"], r["column"]) for r in records]
    assert len(set(places)) == len(places)
    found = dict(zip(places, (r["measured"] for r in records), strict=True))
    for measure in ossification.MEASURES.values():
        for baseline in ossification.BASELINES:
            for column in ossification.COLUMNS:
                own = found["S6", f"{measure}, {AGENT}", column]
                other = found["S6", f"{measure}, {baseline}", column]
                difference = found["S7", f"{measure}, {AGENT} - {baseline}", column]
                assert difference == pytest.approx(own - other, abs=0.001)


def test_weights_without_boxes_are_not_scored(
    hands: Dataset, few: Annotated, stub: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / ossification.SCORES).touch()  # of an earlier run
    evaluate([hands], [stub()], tmp_path, annotated=[few])
    assert not (tmp_path / ossification.SCORES).exists()
    assert "## S6" not in (tmp_path / "tables.md").read_text()


def test_the_figure_shows_regions_below_boxes(few: Annotated, evaluated: Path) -> None:
    boxes = [b for b in read_boxes(evaluated / "boxes.csv") if b.dataset == few.dataset.name]
    assert len(boxes) == 6 * 3
    figure = annotated_boxes(few, boxes, boxes[0].weights)
    assert figure is not None
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 6
    assert all(len(axes.patches) == 17 + 2 * 3 for axes in shown)
    first = few.regions["expert", shown[0].get_title().split()[1]][0]
    assert shown[0].patches[0].get_x() == pytest.approx(299 * first.x0)
    assert annotated_boxes(few, boxes, "others@1") is None


def test_observers_who_agree_overlap_wholly(few: Annotated) -> None:
    regions = {(o, id): boxes for (e, id), boxes in few.regions.items() if e == "expert"
               for o in OBSERVERS}  # fmt: skip
    for record in ossification.agreement_records(replace(few, regions=regions)):
        assert record["measured"] == 100
    real = {(r["row"], r["column"]): r["measured"] for r in ossification.agreement_records(few)}
    assert 30 < real["all", "mean IoU"] < 80


def test_overlap_by_hand() -> None:
    first, second = Region("MCP", 0.0, 0.0, 0.4, 0.4), Region("MCP", 0.2, 0.0, 0.6, 0.4)
    assert ossification._iou(first, second) == pytest.approx(1 / 3)
    assert ossification._iou(first, Region("MCP", 0.5, 0.5, 0.6, 0.6)) == 0


def test_released_weights_are_scored_where_they_choose_boxes() -> None:
    for task in ("hand", "adult"):
        predictor = SimpleNamespace(config=hub.load_config(released(task)))
        assert ossification.has_boxes(predictor) == (task == "hand")
