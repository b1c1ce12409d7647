"""Single-stage networks: one backbone, the softmax layer replaced by one linear unit."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from boneage.models.backbones import AgeHead, Backbone, pool


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
        dropout: probability of dropping a pooled feature in training.
        pretrained: start from torchvision's ImageNet weights.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        sexes: int = 1,
        dropout: float = 0.0,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = Backbone(backbone, pretrained)
        self.head = AgeHead(self.backbone.channels, sexes, dropout)

    def forward(self, images: Tensor, sex: Tensor | None = None) -> FineTunedOutput:
        """images (N, 3, H, W) normalised, sex (N,) int64 -> standardised ages."""
        return FineTunedOutput(self.head(pool(self.backbone(images)), sex))

    def loss(self, output: FineTunedOutput, ages: Tensor) -> dict[str, Tensor]:
        """L1 on standardised ages (N,), averaged over the batch."""
        return {"recognition": F.l1_loss(output.assembled, ages)}

    @property
    def heat_map_layer(self) -> nn.Module:
        """The layer Grad-CAM explains the whole-image branch at."""
        return self.backbone
