"""Age from hierarchical features: connections that carry middle features past the deeper layers.

Nguyen and Kim, "Automatic Whole-body Bone Age Assessment Using Deep Hierarchical Features",
Sections 3.2 and 5. The paper adds two connections to a VGG and says that they can be attached to
any network; so they are modules of their own here, fed by named stages of any backbone.

Shapes below: N images, C x H x W a stage's output, L features, S input side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, cat, nn
from torch.nn import functional as F

from boneage.errors import InputError
from boneage.models.backbones import AgeHead, Backbone
from boneage.models.finetuned import FineTunedOutput
from boneage.models.registry import BACKBONES


def connection_parameters(channels: int, height: int, width: int, units: int) -> int:
    """Learnable parameters of one connection, N(C, H, W, n_U) = C H W n_U + n_U (Eq. 1)."""
    return channels * height * width * units + units


def resample_grid(weight: Tensor, old: tuple[int, int, int], new: tuple[int, int]) -> Tensor:
    """A linear layer's weights on a flattened feature map, for a map of another size.

    The layer answers a map as it answered before to that map averaged down to the old size.

    Args:
        weight: (U, C H W).
        old: (C, H, W) of the map it was learnt on.
        new: (H', W').

    Returns:
        (U, C H' W').
    """
    down, across = (
        F.adaptive_avg_pool1d(torch.eye(after), before)
        for before, after in zip(old[1:], new, strict=True)
    )  # (H', H) and (W', W)
    maps = torch.einsum("uchw,ah,bw->ucab", weight.float().unflatten(1, old), down, across)
    return maps.flatten(1)


class Connection(nn.Module):
    """One additional connection (Fig. 2): flatten, fully connected, ReLU, dropout.

    There is no batch normalisation in it: its parameters would break Eq. 1.

    Args:
        shape: (C, H, W) of the stage that feeds it; with global pooling pass (C, 1, 1).
        units: n_U, length of its feature vector.
        dropout: probability of dropping a feature in training.
    """

    def __init__(self, shape: tuple[int, int, int], units: int, dropout: float) -> None:
        super().__init__()
        channels, height, width = shape
        self.linear = nn.Linear(channels * height * width, units)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, n_U)."""
        return self.dropout(F.relu(self.linear(features.flatten(1))))


class HierarchicalVGG(nn.Module):
    """A backbone whose middle stages reach the regressor directly (Fig. 1).

    The feature vectors of all connections and of the last feature map are concatenated and
    regressed by three fully connected layers.

    Args:
        backbone: a name of :data:`boneage.models.registry.BACKBONES` (paper: a VGG).
        size: side S of the square input, px; of no matter with global pooling.
        stages: torchvision's names of the stages that feed connections; ``None`` for the backbone's
            of stride 8 and 16, in a VGG the max-pooled blocks 3 and 4 (the paper's).
        units: n_U of every connection (paper: 256).
        hidden: units of the regressor's first two layers (our reading: the paper names none).
        dropout: probability of dropping a feature after every fully connected layer but the last.
        global_pooling: average every feature map over the image before its connection (the
            conclusion's variant); the input may then have any size, and the network is smaller.
        sexes: 1 for a network without sex as an input (the paper), 2 for one with it.
        pretrained: start the backbone from torchvision's ImageNet weights.

    Raises:
        InputError: for an unknown backbone or stage, or no stage at all.
    """

    def __init__(
        self,
        backbone: str = "vgg16_bn",
        size: int = 224,
        stages: Sequence[str] | None = None,
        units: int = 256,
        hidden: int = 256,
        dropout: float = 0.5,
        global_pooling: bool = False,
        sexes: int = 1,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = Backbone(backbone, pretrained)
        self.stages = tuple(BACKBONES[backbone] if stages is None else stages)
        if not self.stages:
            raise InputError("Hierarchical features need at least one stage.")
        if not global_pooling and size < Backbone.stride:
            raise InputError(f"The input needs at least {Backbone.stride} px a side.")
        self.size = None if global_pooling else size
        self.pool = nn.AdaptiveAvgPool2d(1) if global_pooling else nn.Identity()
        shapes = self.backbone.shapes(size, self.stages)
        if global_pooling:
            shapes = [(channels, 1, 1) for channels, _, _ in shapes]
        *tapped, last = shapes
        self.connections = nn.ModuleList(Connection(shape, units, dropout) for shape in tapped)
        features = math.prod(last) + units * len(tapped)
        self.regressor = nn.Sequential(
            nn.Linear(features, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
        )
        self.head = AgeHead(hidden, sexes, dropout)

    def forward(self, images: Tensor, sex: Tensor | None = None) -> FineTunedOutput:
        """images (N, 3, S, S) normalised, sex (N,) int64 or ``None`` -> standardised ages.

        Raises:
            InputError: for images of another size, unless features are pooled.
        """
        if self.size and images.shape[-2:] != (self.size, self.size):
            raise InputError(f"This network was built for {self.size} x {self.size} px input.")
        *tapped, last = (self.pool(x) for x in self.backbone.staged(images, self.stages))
        middle = [connect(x) for connect, x in zip(self.connections, tapped, strict=True)]
        return FineTunedOutput(self.head(self.regressor(cat([last.flatten(1), *middle], 1)), sex))

    def resampled(self, other: HierarchicalVGG) -> dict[str, Tensor]:
        """The state of the same network for another size of the input, made to fit this one's."""
        tensors = dict(other.state_dict())
        if self.size == other.size:  # as with global pooling, where it is None
            return tensors
        before, now = (
            network.backbone.shapes(network.size, self.stages) for network in (other, self)
        )
        names = [f"connections.{i}.linear.weight" for i in range(len(self.connections))]
        for name, old, new in zip([*names, "regressor.0.weight"], before, now, strict=True):
            # The regressor's columns go on with the connections' features.
            grid, others = tensors[name].tensor_split([math.prod(old)], dim=1)
            tensors[name] = cat([resample_grid(grid, old, new[1:]), others], dim=1)
        return tensors

    def loss(self, output: FineTunedOutput, ages: Tensor) -> dict[str, Tensor]:
        """L1 on standardised ages (N,), averaged over the batch."""
        return {"recognition": F.l1_loss(output.assembled, ages)}

    @property
    def heat_map_layer(self) -> nn.Module:
        """The layer Grad-CAM explains: the last convolutional block (our reading of Fig. 5)."""
        return self.backbone.heat_map_layer
