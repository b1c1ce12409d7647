"""What the released weights for adults refuse, a few images of each kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from boneage import datasets, images
from boneage.predictor import Predictor, released
from boneage.refusal import BODY_POSES, NOT_FRONTAL, Pose
from boneage.views import REGIONS
from evaluate import negatives

FEW = 4
SEED = 3  # not the one that is reported


@pytest.fixture(scope="module", params=REGIONS)
def predictor(request: pytest.FixtureRequest) -> Predictor:
    return Predictor.load(released("adult", request.param), task="adult", device="cpu")


def test_drawn_images_are_refused(predictor: Predictor) -> None:
    drawn = [each for kind in negatives.DRAWN for each in negatives.generate(kind, SEED, FEW)]
    found = predictor.assess(drawn)
    assert [a.refused for a in found].count(NOT_FRONTAL) >= len(drawn) - 1
    refused = [a for a in found if a.refused]
    assert all(a.age is None and a.interval is None and not a.components for a in refused)


def test_hands_are_refused(predictor: Predictor, rsna_test_dir: Path) -> None:
    hands = [images.read(case.path) for case in datasets.load(rsna_test_dir).cases[::5]]
    found = predictor.assess(hands)
    assert [a.refused for a in found].count(NOT_FRONTAL) >= len(found) - 1


def test_chest_radiographs_are_assessed(
    predictor: Predictor, nih_test_dir: Path, nih_fullsize_dir: Path
) -> None:
    cases = datasets.load(nih_test_dir).cases[::20] + datasets.load(nih_fullsize_dir).cases
    chests = [images.read(case.path) for case in cases]
    found = predictor.assess(chests)
    assert sum(a.refused is not None for a in found) <= 1


@pytest.mark.parametrize("pose", BODY_POSES[1:], ids=lambda pose: pose.description)
def test_turned_and_inverted_ones_are_told_so(
    predictor: Predictor, nih_test_dir: Path, pose: Pose
) -> None:
    chests = [images.read(case.path) for case in datasets.load(nih_test_dir).cases[::50]]
    found = predictor.assess([replace(r, pixels=pose.apply(r.pixels)) for r in chests])
    assert [a.refused for a in found].count(pose.reason) >= 0.9 * len(found)


def test_projections_of_volumes_are_not_judged(
    predictor: Predictor, rsna_test_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The volume was looked at: by the same pixels, a picture is refused and a projection not."""
    picture = images.read(datasets.load(rsna_test_dir).cases[0].path)
    projection = replace(picture, format="CT")
    found = predictor.assess([picture, projection])
    assert [a.refused for a in found] == [NOT_FRONTAL, None]
    monkeypatch.setitem(predictor.config["provenance"], "from_ct", True)  # they know projections
    assert predictor.assess(projection)[0].refused == NOT_FRONTAL
