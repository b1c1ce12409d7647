"""Images of other kinds, and what is counted of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boneage import images
from boneage.refusal import BODY_POSES, NO_HAND, NOT_FRONTAL, POSES
from boneage.refusal import MIRRORED as SEEMS_MIRRORED
from evaluate import negatives, refusal
from evaluate.cases import AssessmentRow, CaseRow
from evaluate.records import groups
from evaluate.refusal import AS_THEY_ARE, FITTING, REFUSED, TOLD, RefusalRow
from evaluate.robustness import turn_and_scale
from evaluate.run import Dataset, evaluate
from evaluate.tables import report


@pytest.mark.parametrize("kind", negatives.DRAWN)
def test_a_seed_draws_the_same_images(kind: str) -> None:
    first, again, other = (
        next(iter(negatives.generate(kind, seed, 1))).pixels for seed in (2, 2, 5)
    )
    assert (first == again).all()
    assert first.shape != other.shape or (first != other).any()


def test_projections_are_parts_of_the_volume(ct_sample: Path) -> None:
    found = list(negatives.projections(ct_sample, 2, 4))
    assert len({radiograph.pixels.shape for radiograph in found}) > 1
    assert all(radiograph.pixels.std() > 0 for radiograph in found)


def test_chests_are_chosen_at_random(nih_test_dir: Path) -> None:
    paths = sorted((nih_test_dir / "images").iterdir())[:50]
    first, again, other = ([r.id for r in negatives.chosen(paths, seed, 5)] for seed in (2, 2, 3))
    assert first == again != other
    assert len(set(first)) == 5


def test_shares_of_each_kind() -> None:
    place = ("d/test", "w@1")
    turned = POSES[1].reason
    rows = [
        RefusalRow(*place, "noise", "1", NO_HAND, NO_HAND, False),
        RefusalRow(*place, "noise", "2", NO_HAND, turned, False),
        RefusalRow(*place, "noise", "3", NO_HAND, None, True),
        RefusalRow(*place, "noise", "4", NO_HAND, NO_HAND, False),
        RefusalRow(*place, "hands mirrored", "1", None, None, True),
        RefusalRow(*place, "hands mirrored", "2", None, None, False),
        RefusalRow(*place, "hands turned", "1", turned, turned, False),
        RefusalRow(*place, "hands turned", "2", turned, NO_HAND, False),
        RefusalRow(*place, "hands turned", "3", turned, None, True),
        RefusalRow(*place, "hands turned", "4", turned, None, False),
    ]
    details = [
        AssessmentRow(*place, "1", 100, 90, 110, 0.9, None),
        AssessmentRow(*place, "2", 100, None, None, None, NO_HAND),
        AssessmentRow("d/test", "other@1", "1", 100, None, None, None, NO_HAND),
    ]
    found = {(r["row"], r["column"]): r for r in refusal.records(rows, details, "hand")}
    assert found["noise", REFUSED]["measured"] == 75
    assert found["noise", FITTING]["measured"] == 50
    assert ("noise", TOLD) not in found
    assert found["hands mirrored", REFUSED]["measured"] == 0
    assert found["hands mirrored", TOLD]["measured"] == 50
    assert ("hands mirrored", FITTING) not in found
    turned = [found["hands turned", column]["measured"] for column in refusal.COLUMNS]
    assert turned == [50, 25, 75]
    own = found[f"hands {AS_THEY_ARE}", REFUSED]
    assert (own["measured"], own["n"]) == (50, 2)


def test_hands_are_changed_as_their_kind_says(hands: Dataset) -> None:
    upright = images.read(hands.folder.cases[0].path).pixels
    kinds = list(refusal._kinds(hands))[-12:]
    first = {kind: next(iter(found)).pixels for kind, _, found in kinds}
    inverted = upright.max() - upright
    expected = {
        "hands mirrored": upright[:, ::-1],
        "hands turned by 90 degrees clockwise": np.rot90(upright, -1),
        "hands upside down": np.rot90(upright, 2),
        "hands turned by 90 degrees anticlockwise": np.rot90(upright),
        "hands shown with dark bones": inverted,
        "hands turned by 90 degrees clockwise and shown with dark bones": np.rot90(inverted, -1),
        "hands upside down and shown with dark bones": np.rot90(inverted, 2),
        "hands turned by 90 degrees anticlockwise and shown with dark bones": np.rot90(inverted),
    }
    for name, degrees in (("120", 120), ("150", 150)):
        for word, sign in (("anticlockwise", 1), ("clockwise", -1)):
            turned = turn_and_scale(upright, degrees=sign * degrees)
            expected[f"hands turned by {name} degrees {word}"] = turned
    assert first.keys() == expected.keys()
    assert all((first[kind] == pixels).all() for kind, pixels in expected.items())


def test_images_of_adults_have_kinds_of_their_own(adults: Dataset) -> None:
    kinds = {kind: (expected, found) for kind, expected, found in refusal._kinds(adults)}
    assert not kinds.keys() & {negatives.CHEST, negatives.CT}
    assert {kind for kind, (expected, _) in kinds.items() if expected == NOT_FRONTAL} == {
        negatives.HAND, *negatives.DRAWN
    }  # fmt: skip
    assert next(iter(kinds[negatives.HAND][1])).pixels.shape == (299, 299)
    turned = {f"images {pose.description}": pose for pose in BODY_POSES[1:]}
    rest = kinds.keys() - {negatives.HAND, *negatives.DRAWN, "images mirrored"}
    assert rest == turned.keys()
    first = images.read(adults.folder.cases[0].path).pixels
    for kind, pose in turned.items():
        expected, found = kinds[kind]
        assert expected == pose.reason
        assert (next(iter(found)).pixels == pose.apply(first)).all()


def test_a_table_of_adults(adults: Dataset) -> None:
    place = (adults.name, "stub@0123456789ab")
    reason = BODY_POSES[2].reason
    rows = [
        RefusalRow(*place, "noise", "1", NOT_FRONTAL, NOT_FRONTAL, False),
        RefusalRow(*place, "images mirrored", "1", None, None, False),
        RefusalRow(*place, "images upside down", "1", reason, reason, False),
        RefusalRow(*place, "images upside down", "2", reason, None, True),
    ]
    details = [AssessmentRow(*place, "1", 50, 40, 60, 0.9, None)]
    cases = [CaseRow("S4", "stub", "MAE", adults.name, "1", "F", 50, 51, "years", place[1])]
    result = report(cases, groups(cases), details, [], (), (), rows)
    found = {(r["row"], r["column"]): r["measured"] for r in result.records if r["table"] == "S10"}
    assert found == {
        ("noise", REFUSED): 100, ("noise", FITTING): 100, ("images mirrored", REFUSED): 0,
        ("images upside down", REFUSED): 50, ("images upside down", FITTING): 50,
        ("images upside down", TOLD): 100, (f"images {AS_THEY_ARE}", REFUSED): 0,
    }  # fmt: skip
    (grid,) = (grid for grid in result.grids if grid.title.startswith("S10."))
    assert grid.title == f"S10. Images refused, by {place[1]}; images: {adults.name}"
    for grid in result.grids:
        assert any("chest radiographs (NIH ChestX-ray14)" in x for x in grid.notes), grid.title
    others = [replace(row, dataset="gone/test") for row in rows]
    assert report(cases, groups(cases), details, [], (), (), others).grids  # no such cases


@pytest.mark.parametrize(
    ("kind", "told"),
    [(f"hands {refusal.MIRRORED}", [True, False]), ("hands upside down", [False, True])],
)
def test_of_each_change_its_own_warning_counts(
    hands: Dataset,
    stub: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    told: list[bool],
) -> None:
    films = [images.read(case.path, id=case.id) for case in hands.folder.cases[:2]]
    monkeypatch.setattr(refusal, "_kinds", lambda dataset: [(kind, None, films)])
    predictor = stub()
    given = (SEEMS_MIRRORED, POSES[2].warning)
    warnings = {film.id: warning for film, warning in zip(films, given, strict=True)}
    assess = predictor.assess

    def warned(*radiographs: Any, **options: Any) -> list[Any]:
        return [replace(a, warnings=(warnings[a.id],)) for a in assess(*radiographs, **options)]

    monkeypatch.setattr(predictor, "assess", warned)
    assert [row.warned for row in refusal.assess(hands, predictor, "stub@1")] == told


def test_a_table_of_weights_that_refuse(
    hands: Dataset,
    stub: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        refusal, "_kinds", lambda dataset: [("noise", NO_HAND, negatives.generate("noise", 2, 3))]
    )
    predictor = stub(refuse=["noise 0", "noise 1"])
    predictor.ages |= {f"noise {i}": 100.0 for i in range(3)}
    predictor.config["refusal"] = {"validation": {"images": 1422, "accepted": 1418}}
    report = evaluate([hands], [predictor], tmp_path)
    assert report is not None
    text = report.text()
    assert "S10. Images refused, by stub@0123456789ab" in text
    assert "1,418 of 1,422" in text
    (record,) = [r for r in report.records if (r["row"], r["column"]) == ("noise", REFUSED)]
    assert record["measured"] == pytest.approx(200 / 3, abs=1e-3)
    rows = refusal.read(tmp_path / refusal.REFUSALS)
    assert [row.refused for row in rows] == ["This is no hand.", "This is no hand.", None]
    assert np.mean([row.expected == NO_HAND for row in rows]) == 1
    assert [row.warned for row in rows] == [False, False, False]
    refusal.write(tmp_path, [replace(rows[0], warned=True)])
    assert refusal.read(tmp_path / refusal.REFUSALS)[0].warned is True
