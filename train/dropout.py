"""Dropout that does not depend on how a step's images are shared out."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class Places:
    """Where the images that are computed now stand in the step's batch.

    Attributes:
        total: images of the step, over all processes.
        index: (N,) int64, the place of each image at hand, below ``total``; at first of all.
    """

    total: int
    index: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.index = torch.arange(self.total)


class SharedDropout(nn.Dropout):
    """Dropout with the mask that an image would get if all of the step were computed at once.

    Every process draws the mask of all images from the same seed and takes the rows of its own, so
    neither their number nor the parts that a step is cut into change it.

    Args:
        p: probability of dropping a feature.
        places: of the images at hand, the first dimension of the input.
    """

    def __init__(self, p: float, places: Places) -> None:
        super().__init__(p)
        self.places = places

    def forward(self, input: Tensor) -> Tensor:
        """Drop features of ``input``, (N, ...), in training."""
        if not (self.training and self.p):
            return input
        size = (self.places.total, *input.shape[1:])
        kept = torch.rand(size, device=input.device)[self.places.index] >= self.p
        return input * kept / (1 - self.p)


def share_dropout(model: nn.Module, places: Places) -> None:
    """Put :class:`SharedDropout` in place of every ``nn.Dropout`` of a network."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, SharedDropout(child.p, places))
