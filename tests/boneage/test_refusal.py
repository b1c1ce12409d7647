"""Refusals learnt from drawn features: clusters of which everything is known."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from boneage import refusal
from boneage.errors import InputError
from boneage.models.registry import build
from boneage.refusal import (
    BODY_POSES,
    CUTS,
    MIRRORED,
    NO_HAND,
    NOT_FRONTAL,
    POSES,
    Features,
    HandRefusal,
    Judgement,
    Pose,
    fit,
    fit_hands,
    refusal_of,
    tapped,
)

CONTENT, LAYOUT = 60, 100


def drawn(
    pose: int, n: int, seed: int, shift: float = 0.0, cut: int = 0, mirrored: bool = False
) -> Features:
    """Features of a pose, or cut, or mirrored: content and layout around centres of its own."""
    rng = np.random.default_rng([seed, pose])
    axes = np.random.default_rng(99).standard_normal((8, CONTENT))
    centres = np.random.default_rng(98).standard_normal((len(POSES), LAYOUT))
    shift = shift + np.random.default_rng(97).standard_normal((len(POSES), CONTENT))[pose]
    content = rng.standard_normal((n, 8)) @ axes + 0.3 * rng.standard_normal((n, CONTENT)) + shift
    cuts = np.random.default_rng(96).standard_normal((1 + len(CUTS), LAYOUT))
    mirror = mirrored * np.random.default_rng(95).standard_normal(LAYOUT)
    layout = 2 * centres[pose] + bool(cut) * cuts[cut] + mirror + rng.standard_normal((n, LAYOUT))
    return Features(content.astype(np.float32), layout.astype(np.float32))


@pytest.fixture(scope="module")
def learnt() -> HandRefusal:
    poses = [drawn(pose, 300, 0) for pose in range(len(POSES))]
    cuts = [drawn(0, 300, 2 + number, cut=number + 1) for number in range(len(CUTS))]
    mirrored = drawn(0, 300, 8, mirrored=True)
    fitted = fit_hands(poses, cuts, mirrored, threshold=2.0)
    return replace(fitted, cut_lead=2.0, mirrored_lead=2.0)


def test_training_like_images_are_at_distance_one(learnt: HandRefusal) -> None:
    found = learnt.distances(drawn(0, 500, 1), np.zeros(500, int))
    assert found.mean() == pytest.approx(1, abs=0.3)


def test_of_few_training_images_distances_are_numbers() -> None:
    poses = [drawn(pose, 20, 0) for pose in range(len(POSES))]
    few = fit_hands(poses, poses[: len(CUTS)], poses[0])
    found = few.distances(drawn(0, 50, 1), np.zeros(50, int))
    assert np.isfinite(found).all()


def test_hands_are_accepted_and_foreign_images_refused(learnt: HandRefusal) -> None:
    hands = learnt.judge(drawn(0, 200, 1))
    assert hands.count(Judgement()) >= 196
    foreign = learnt.judge(drawn(0, 200, 1, shift=5.0))
    assert foreign == [Judgement(NO_HAND)] * 200


@pytest.mark.parametrize("pose", range(1, len(POSES)))
def test_a_pose_is_named_with_what_to_do(learnt: HandRefusal, pose: int) -> None:
    judged = learnt.judge(drawn(pose, 100, 1))
    assert judged.count(Judgement(POSES[pose].reason)) >= 98
    assert ("turn it upright" in POSES[pose].reason) == bool(POSES[pose].quarters)
    assert ("show it with bright bones" in POSES[pose].reason) == POSES[pose].inverted


def test_a_doubtful_pose_is_a_warning(learnt: HandRefusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusal, "PRIOR_LEAD", np.inf)
    lenient = replace(learnt, threshold=np.inf)
    assert lenient.judge(drawn(1, 1, 1)) == [Judgement(None, (POSES[1].warning,))]
    assert "The hand may be turned by 90 degrees clockwise" in POSES[1].warning


@pytest.mark.parametrize("number", range(len(CUTS)))
def test_a_hand_that_is_cut_off_is_told_so(learnt: HandRefusal, number: int) -> None:
    judged = learnt.judge(drawn(0, 100, 9, cut=number + 1))
    assert judged.count(Judgement(None, (CUTS[number].warning,))) >= 90
    assert f"cut off at the {CUTS[number].edge} edge" in CUTS[number].warning
    untold = replace(learnt, cut_lead=np.inf, mirrored_lead=np.inf)
    assert untold.judge(drawn(0, 100, 9, cut=number + 1)).count(Judgement()) >= 98


def test_a_mirrored_hand_is_assessed_with_a_word(learnt: HandRefusal) -> None:
    judged = learnt.judge(drawn(0, 100, 9, mirrored=True))
    assert judged.count(Judgement(None, (MIRRORED,))) >= 90
    both = learnt.judge(drawn(0, 100, 9, cut=1, mirrored=True))
    assert both.count(Judgement(None, (CUTS[0].warning, MIRRORED))) >= 80


def test_survives_the_weights_folder(learnt: HandRefusal) -> None:
    again = refusal_of({"task": "hand", "refusal": learnt.entry}, learnt.arrays)
    features = drawn(3, 20, 2)
    assert again is not None
    assert again.judge(features) == learnt.judge(features)
    assert refusal_of({"task": "hand", "refusal": None}, {}) is None


def test_images_of_adults_are_judged_without_cuts_and_mirrors() -> None:
    fitted = fit([drawn(pose, 300, 0) for pose in range(len(POSES))], threshold=2.0)
    config = {"task": "adult", "refusal": fitted.entry}
    learnt = refusal_of(config, fitted.arrays)
    assert learnt is not None
    assert learnt.judge(drawn(0, 200, 1)).count(Judgement()) >= 196
    assert learnt.judge(drawn(0, 100, 9, cut=1, mirrored=True)).count(Judgement()) >= 98
    assert learnt.judge(drawn(0, 200, 1, shift=5.0)) == [Judgement(NOT_FRONTAL)] * 200
    turned = learnt.judge(drawn(1, 100, 1))
    assert turned.count(Judgement(BODY_POSES[1].reason)) >= 98
    assert BODY_POSES[1].reason == (
        "The body seems to be turned by 90 degrees clockwise: turn the image upright, head up, "
        "then assess it again."
    )
    assert "bones brighter than soft tissue" in BODY_POSES[-1].warning
    assert list(fitted.entry) == ["threshold"]
    with pytest.raises(InputError, match="calibrate them anew"):
        refusal_of({**config, "task": "hand"}, fitted.arrays)


def test_of_another_version_is_one_clear_error(learnt: HandRefusal) -> None:
    fewer = {name: array for name, array in learnt.arrays.items() if name != "mirrored"}
    before = {"threshold": 2.0, "cut_lead": 2.0}
    now = {**before, "mirrored_lead": 2.0}
    for entry, arrays in ((before, learnt.arrays), (now, fewer)):
        with pytest.raises(InputError, match="calibrate them anew"):
            refusal_of({"task": "hand", "refusal": entry}, arrays)
    assert refusal_of({"task": "hand", "refusal": now}, learnt.arrays) is not None


def test_poses_bring_an_upright_film_where_their_names_say() -> None:
    film = np.arange(6, dtype=np.uint8).reshape(2, 3)
    upright, clockwise, *_ = POSES
    assert (upright.apply(film) == film).all()
    assert clockwise.apply(film).tolist() == [[3, 0], [4, 1], [5, 2]]
    inverted = next(pose for pose in POSES if pose.inverted and not pose.quarters)
    assert inverted.apply(film).tolist() == [[5, 4, 3], [2, 1, 0]]


def test_only_the_whole_image_is_tapped() -> None:
    """The backbone of an AR-CNN runs twice: on whole images, then on the parts."""
    torch.manual_seed(0)
    arguments = {"backbone": "resnet18", "size": 128, "part_size": 64}
    model = build("arcnn", arguments).eval()
    images = torch.randn(2, 3, 128, 128)
    with torch.inference_mode(), tapped(model) as stages:
        model(images)
    with torch.inference_mode():
        expected = model.backbone.staged(images, ["layer2", "layer3"])[:2]
    assert list(stages) == ["layer2", "layer3"]
    for found, right in zip(stages.values(), expected, strict=True):
        assert torch.equal(found, right)
    assert Features.of(stages).content.shape == (2, 2 * (128 + 256))
    assert Features.of(stages).layout.shape == (2, 4 * 256)


def test_hooks_are_gone_afterwards() -> None:
    model = build("arcnn", {"backbone": "resnet18", "size": 128, "part_size": 64}).eval()
    with pytest.raises(ZeroDivisionError), tapped(model):
        raise ZeroDivisionError
    assert not any(module._forward_hooks for module in model.modules())


def test_a_pose_that_only_the_layout_shows_is_a_warning(learnt: HandRefusal) -> None:
    """An upright hand whose layout looks turned, as beside a large black margin, is assessed."""
    features = Features(drawn(0, 50, 1).content, drawn(1, 50, 1).layout)
    judged = learnt.judge(features)
    assert judged.count(Judgement(None, (POSES[1].warning,))) >= 49


def test_remedies_can_be_followed_on_the_page(repo_root: Path) -> None:
    source = (repo_root / "boneage" / "webui" / "framing.py").read_text()
    (control,) = re.findall(r'gr.Accordion\("([^"]+)"', source)
    for pose in POSES[1:]:
        for text in (pose.reason, pose.warning):
            assert f"“{control}”" in text
            assert ("turn it upright" in text) == bool(pose.quarters)
            assert ("bright bones on a dark background" in text) == pose.inverted


@pytest.mark.parametrize("pose", POSES, ids=lambda pose: pose.description or "upright")
def test_righting_undoes_a_pose(pose: Pose) -> None:
    image = np.arange(12, dtype=np.uint16).reshape(3, 4)
    righted = pose.right(pose.apply(image))
    assert (righted == image).all()
    assert righted.dtype == image.dtype
