from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import ancestor
from boneage.models.arcnn import ARCNN, ARCNNOutput


@pytest.fixture(scope="module")
def network() -> ARCNN:
    return ancestor.untrained(128)


@pytest.fixture(scope="module")
def outputs(network: ARCNN) -> tuple[ARCNNOutput, ARCNNOutput]:
    images, sex = ancestor.batch_of(4, 128)
    with torch.inference_mode():
        return network(images, sex), ancestor.forward(network, images, sex)


def test_the_same_boxes(outputs: tuple[ARCNNOutput, ARCNNOutput]) -> None:
    ours, theirs = (output.proposals for output in outputs)
    assert theirs.boxes.shape == (4, 6, 4)
    assert torch.equal(ours.boxes, theirs.boxes[:, :3])
    assert torch.equal(ours.scores, theirs.scores[:, :3])
    assert len({tuple(box) for boxes in ours.boxes.tolist() for box in boxes}) > 3


def test_the_same_ages(outputs: tuple[ARCNNOutput, ARCNNOutput]) -> None:
    ours, theirs = (output.components for output in outputs)
    assert ours.keys() == theirs.keys()
    for name, ages in ours.items():
        assert torch.allclose(ages, theirs[name], atol=1e-5), name
    assert ours["R1"].std() > 1e-3  # ages that differ, so that equal ones mean something


def test_all_parts_in_the_order_of_the_agent(network: ARCNN) -> None:
    """More parts than suppression leaves: the best of the suppressed fill up."""
    scores = torch.randn(
        2, len(network.attention.anchors), generator=torch.Generator().manual_seed(2)
    )
    agent = network.attention
    boxes = agent.propose(scores).boxes
    for values, expected in zip(scores.numpy(), boxes, strict=True):
        chosen = ancestor.suppress(agent.anchors.numpy(), values, agent.parts)
        np.testing.assert_array_equal(agent.anchors[chosen], expected)


def test_its_own_resizing_shows_the_same_part() -> None:
    image = torch.arange(64.0).expand(1, 3, 64, 64)
    box = torch.tensor([16.0, 8, 48, 40])
    ours, theirs = (crop(image, box, 32) for crop in (ancestor.crop_alike, ancestor.crop_plainly))
    assert ours.shape == theirs.shape == (1, 3, 32, 32)
    assert (ours - theirs).abs().max() < 1
