"""AR-CNN's forward pass beside one that works as its ancestor NTS-Net does.

The ancestor's way: suppression in NumPy for each image, a Python loop that crops and resizes each
part, and all M parts described, also where K of them are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.measure import Measurement, Outcome, alternate

if TYPE_CHECKING:
    from torch import Tensor

    from boneage.models.arcnn import ARCNN, ARCNNOutput

OVERLAP = 0.25  # intersection over union from which a worse box is suppressed
FORWARD, STAGE = 1.5, 5.0  # targets
Crop = Callable[["Tensor", "Tensor", int], "Tensor"]


def run(repeats: int = 5, count: int = 16, size: int = 448) -> Iterator[Outcome]:
    """ResNet-18, untrained, ``count`` images of ``size`` px and parts of half of it."""
    import torch

    from boneage.models.arcnn import crop_parts

    network = untrained(size)
    agent, used = network.attention, network.recognition.parts_used
    images, sex = batch_of(count, size)
    with torch.inference_mode():
        scores = agent.score(network.backbone(images), sex)

        def ours() -> Tensor:
            boxes = agent.propose(scores).boxes[:, :used]
            parts = crop_parts(images[:, :1], boxes, network.part_size)
            parts = parts.expand(-1, images.shape[1], -1, -1)
            return parts.contiguous(memory_format=torch.channels_last)

        seconds = alternate(
            {
                "ours": lambda: network(images, sex),
                "theirs": lambda: forward(network, images, sex),
                "theirs, plain": lambda: forward(network, images, sex, crop_plainly),
                "theirs, fewer": lambda: forward(network, images, sex, crop_plainly, used),
                "our stage": ours,
                "their stage": lambda: parts_of(network, images, scores),
                "their plain stage": lambda: parts_of(network, images, scores, crop_plainly),
                "their least": lambda: parts_of(network, images[:, :1], scores, count=used),
            },
            repeats,
        )
    subject = f"{count} images of {size} px, parts of {size // 2} px, ResNet-18"
    pixels, own = "the same pixels", "its own resizing"
    stage = "proposals and crops"
    for what, mine, way, theirs, target in (
        ("forward", "ours", pixels, "theirs", FORWARD),
        ("forward", "ours", own, "theirs, plain", FORWARD),
        (stage, "our stage", pixels, "their stage", STAGE),
        (stage, "our stage", own, "their plain stage", STAGE),
        # Less than the ancestor does:
        ("forward", "ours", f"{own}, {used} parts of {agent.parts}", "theirs, fewer", None),
        (stage, "our stage", f"{pixels}, {used} parts of one channel", "their least", None),
    ):
        yield Outcome(
            subject,
            Measurement(what, seconds[mine]),
            Measurement(f"the ancestor's way, {way}", seconds[theirs]),
            at_least=target,
            as_speed=True,
        )


def untrained(size: int) -> ARCNN:
    """A network with random weights; normalisation, folded as in assessment, keeps it in range."""
    import torch

    from boneage.models.arcnn import ARCNN
    from boneage.models.backbones import fold_batch_norm

    torch.manual_seed(0)
    network = ARCNN("resnet18", size, size // 2, sexes=2)
    network = network.to(memory_format=torch.channels_last).eval().requires_grad_(False)
    fold_batch_norm(network)
    return network


def batch_of(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Images of noise, and sexes by turns."""
    import torch

    grey = torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(1))
    images = grey.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
    return images, torch.arange(count) % 2


def forward(
    network: ARCNN,
    images: Tensor,
    sex: Tensor,
    crop: Crop | None = None,
    count: int | None = None,
) -> ARCNNOutput:
    """What the network does, the ancestor's way; ``count`` parts in place of all M."""
    from boneage.models.arcnn import ARCNNOutput, Proposals

    features = network.backbone(images)
    scores = network.attention.score(features, sex)
    parts, boxes, chosen = parts_of(network, images, scores, crop, count)
    whole, concatenated, assessed = network.recognition(features, parts, sex)
    proposals = Proposals(boxes, scores.gather(1, chosen))
    return ARCNNOutput(whole, concatenated, assessed, proposals, network.recognition.parts_used)


def parts_of(
    network: ARCNN,
    images: Tensor,
    scores: Tensor,
    crop: Crop | None = None,
    count: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """All M parts (N * M, C, P, P) of images, their boxes (N, M, 4) and their anchors (N, M).

    With ``count`` so many in place of all M.
    """
    import torch

    crop = crop or crop_alike
    agent, side = network.attention, network.part_size
    count = count or agent.parts
    anchors = agent.anchors.numpy()
    chosen = torch.from_numpy(
        np.stack([suppress(anchors, values, count) for values in scores.numpy()])
    )
    boxes = agent.anchors[chosen]
    if crop is crop_alike:
        images = images.contiguous()  # once, not for each part
    shape = (len(images) * count, images.shape[1], side, side)
    parts = torch.empty(shape, memory_format=torch.channels_last)  # as the network's weights are
    for i in range(len(images)):
        for j in range(count):
            parts[i * count + j] = crop(images[i : i + 1], boxes[i, j], side)[0]
    return parts, boxes, chosen


def suppress(boxes: np.ndarray, scores: np.ndarray, count: int) -> np.ndarray:
    """Greedy suppression of one image's boxes (A, 4); the best of the suppressed fill up."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    ranked = np.argsort(-scores, kind="stable")
    left, chosen = ranked, []
    while len(left) and len(chosen) < count:
        best, left = left[0], left[1:]
        chosen.append(best)
        low = np.maximum(boxes[best, :2], boxes[left, :2])
        high = np.minimum(boxes[best, 2:], boxes[left, 2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=1)
        left = left[shared / (areas[best] + areas[left] - shared) <= OVERLAP]
    rest = [anchor for anchor in ranked if anchor not in chosen] if len(chosen) < count else []
    return np.array(chosen + rest[: count - len(chosen)])


def crop_alike(image: Tensor, box: Tensor, size: int) -> Tensor:
    """One part (1, 3, P, P) of an image (1, 3, H, W), of the pixels that the project's has."""
    import torch
    from torchvision.ops import roi_align

    region = torch.cat([torch.zeros(1), box])[None]
    return roi_align(image, region, (size, size), sampling_ratio=2, aligned=True)


def crop_plainly(image: Tensor, box: Tensor, size: int) -> Tensor:
    """The ancestor's own: whole pixels are cut out and resized."""
    from torch.nn import functional as F

    x0, y0, x1, y1 = (round(value) for value in box.tolist())
    part = image[:, :, y0:y1, x0:x1]
    return F.interpolate(part, (size, size), mode="bilinear", align_corners=True)
