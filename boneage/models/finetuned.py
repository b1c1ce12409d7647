"""Single-stage networks: the softmax layer of a backbone, or of three, replaced by one linear unit.

Fine-tuned VGG, GoogLeNet and ResNet, their early fusion and their late fusion are what Nguyen and
Kim ("Automatic Whole-body Bone Age Assessment Using Deep Hierarchical Features", Sections 3.1 and
4.3) compare their network with. With sex as an input there is one linear unit a sex.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, cat, nn, stack
from torch.nn import functional as F

from boneage.errors import InputError
from boneage.models.backbones import AgeHead, Backbone, pool, read_tensors, torchvision_network
from boneage.models.registry import build


@dataclass(frozen=True)
class FineTunedOutput:
    """Standardised ages of a batch of N images: ``assembled`` (N,)."""

    assembled: Tensor

    @property
    def components(self) -> dict[str, Tensor]:
        """Every component's standardised age by the papers' names, each (N,)."""
        return {"X": self.assembled, "assembled": self.assembled}


class FineTuned(nn.Module):
    """A whole-image regressor; also the first stage of a progressive AR-CNN training.

    Args:
        backbone: a name of :data:`boneage.models.registry.BACKBONES`.
        sexes: 1 for a sex-specific network, 2 for one with sex as an input.
        dropout: probability of dropping a feature before the linear unit in training.
        fully_connected: keep the two fully connected layers of 4,096 units that a VGG has before
            its softmax layer, as the paper does; without, its features are averaged over the image
            like the other backbones'.
        pretrained: start from torchvision's ImageNet weights.

    Raises:
        InputError: for fully connected layers of a backbone that has none.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        sexes: int = 1,
        dropout: float = 0.0,
        fully_connected: bool = False,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = Backbone(backbone, pretrained)
        self.fully_connected = None
        features = self.backbone.channels
        if fully_connected:
            if not backbone.startswith("vgg"):
                raise InputError(f"{backbone} has no fully connected layers to keep; VGGs have.")
            network = torchvision_network(backbone, pretrained)
            *kept, softmax = network.classifier
            self.fully_connected = nn.Sequential(network.avgpool, nn.Flatten(), *kept)
            features = softmax.in_features
        self.head = AgeHead(features, sexes, dropout)

    def forward(self, images: Tensor, sex: Tensor | None = None) -> FineTunedOutput:
        """images (N, 3, H, W) normalised, sex (N,) int64 -> standardised ages."""
        describe = self.fully_connected or pool
        return FineTunedOutput(self.head(describe(self.backbone(images)), sex))

    def load_heads(self, file: Path) -> list[AgeHead]:
        """Take over the whole-image head X of an AR-CNN's safetensors file, if there is one.

        Returns:
            The head if it was taken over.
        """
        taken = self.head.take_over(read_tensors(file), "recognition.whole_head")
        return [self.head] if taken else []

    def loss(self, output: FineTunedOutput, ages: Tensor) -> dict[str, Tensor]:
        """L1 on standardised ages (N,), averaged over the batch."""
        return {"recognition": F.l1_loss(output.assembled, ages)}

    @property
    def heat_map_layer(self) -> nn.Module:
        """The layer Grad-CAM explains the whole-image branch at."""
        return self.backbone.heat_map_layer


class EarlyFusion(nn.Module):
    """The features of several backbones concatenated, one regressor, trained as one network.

    Args:
        backbones: names of :data:`boneage.models.registry.BACKBONES`.
        sexes: 1 for a network without sex as an input (the paper), 2 for one with it.
        dropout: probability of dropping a pooled feature in training.
        pretrained: start every backbone from torchvision's ImageNet weights.
    """

    def __init__(
        self,
        backbones: Sequence[str] = ("vgg16_bn", "googlenet", "resnet50"),
        sexes: int = 1,
        dropout: float = 0.0,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        self.backbones = nn.ModuleList(Backbone(name, pretrained) for name in backbones)
        self.head = AgeHead(sum(b.channels for b in self.backbones), sexes, dropout)

    def forward(self, images: Tensor, sex: Tensor | None = None) -> FineTunedOutput:
        """images (N, 3, H, W) normalised, sex (N,) int64 -> standardised ages."""
        features = cat([pool(backbone(images)) for backbone in self.backbones], dim=1)
        return FineTunedOutput(self.head(features, sex))

    def loss(self, output: FineTunedOutput, ages: Tensor) -> dict[str, Tensor]:
        """L1 on standardised ages (N,), averaged over the batch."""
        return {"recognition": F.l1_loss(output.assembled, ages)}

    @property
    def heat_map_layer(self) -> nn.Module:
        """The layer Grad-CAM explains: the first backbone's last."""
        return self.backbones[0].heat_map_layer


class LateFusion(nn.Module):
    """The mean of the ages of networks that were trained one by one; it has no training itself.

    Args:
        members: ``{"name": ..., "arguments": ...}`` of each network, as in a weights config.
        views: ``(size, margin)`` of each member's preprocessing, px. The fusion is given the whole
            image as large as the member that needs most of it, and each member sees its part,
            resized from that; alone it would resize the radiograph itself, to nearly the same.
    """

    def __init__(
        self, members: Sequence[Mapping[str, Any]], views: Sequence[tuple[int, int]]
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(build(m["name"], m["arguments"]) for m in members)
        self.views = [tuple(view) for view in views]

    def forward(self, images: Tensor, sex: Tensor | None = None) -> FineTunedOutput:
        """images (N, 3, S, S) normalised, uncropped, sex (N,) int64 -> standardised ages."""
        ages = [
            member(_seen(images, *view), sex).assembled
            for member, view in zip(self.members, self.views, strict=True)
        ]
        return FineTunedOutput(stack(ages).mean(dim=0))

    @property
    def heat_map_layer(self) -> nn.Module:
        """The layer Grad-CAM explains: the first member's."""
        return self.members[0].heat_map_layer

    def view_of(self, layer: str | None) -> tuple[int, int]:
        """``(size, margin)`` of what the layer of this name sees, or the one Grad-CAM explains."""
        return self.views[int(layer.split(".")[1]) if layer else 0]


def _seen(images: Tensor, size: int, margin: int) -> Tensor:
    """The middle ``size`` px of images resized to ``size + 2 * margin`` px."""
    side = size + 2 * margin
    if images.shape[-1] != side:
        images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    return images[..., margin : margin + size, margin : margin + size]
