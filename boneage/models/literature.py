"""The other methods of Table A3 that can be run: Larson's month classifier and Spampinato's BoNet.

Neither paper's code nor weights were published; what the papers leave open is marked as our
reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from boneage.errors import InputError
from boneage.models.backbones import AgeHead, Backbone, pool
from boneage.models.finetuned import FineTunedOutput
from boneage.precision import in_fp32


@dataclass(frozen=True)
class MonthOutput(FineTunedOutput):
    """Standardised ages, and the logits (N, classes) that they are expected values of."""

    logits: Tensor


class MonthClassifier(nn.Module):
    """A probability for each month; the age is their expected value.

    Larson et al., "Performance of a Deep-Learning Neural Network Model in Assessing Skeletal
    Maturity on Pediatric Hand Radiographs", Radiology 2018;287:313-322: a ResNet-50. Trained by
    cross-entropy on the month of the reference age (our reading: no smoothing of the labels, no
    dropout). With sex as an input there is one set of logits a sex (our reading).

    Its classes are months, the ages that it takes and gives are standardised as everywhere: tell
    it their mean and SD by :meth:`set_ages`. Both are kept with the weights.

    Args:
        backbone: a name of :data:`boneage.models.registry.BACKBONES`.
        months: first and last class; an age outside counts as the nearest of them. By default
            the range in which ages are reported, which holds every RSNA label (1 to 228).
        sexes: 1 for a network a sex, 2 for one network with sex as an input.
        dropout: probability of dropping a pooled feature in training.
        pretrained: start from torchvision's ImageNet weights.

    Raises:
        InputError: for months that are no range.
    """

    age_mean: Tensor
    age_sd: Tensor
    months: Tensor

    def __init__(
        self,
        backbone: str = "resnet50",
        months: Sequence[int] = (0, 228),
        sexes: int = 1,
        dropout: float = 0.0,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        first, last = months
        if not first < last:
            raise InputError(f"The months must go up; they go from {first} to {last}.")
        self.backbone = Backbone(backbone, pretrained)
        classes = torch.arange(first, last + 1, dtype=torch.float32)
        self.head = AgeHead(self.backbone.channels, sexes, dropout, len(classes))
        self.register_buffer("months", classes, persistent=False)
        # Each is the sum of two numbers: weights folders hold fp16, of which one alone would move
        # the ages by up to a tenth of a month.
        self.register_buffer("age_mean", torch.tensor([0.0, 0.0]))
        self.register_buffer("age_sd", torch.tensor([1.0, 0.0]))

    def set_ages(self, mean: float, sd: float) -> None:
        """Take over the mean and SD, in months, by which the ages are standardised."""
        for buffer, value in ((self.age_mean, mean), (self.age_sd, sd)):
            coarse = torch.tensor(value).half().item()
            buffer.copy_(torch.tensor([coarse, value - coarse]))

    def forward(self, images: Tensor, sex: Tensor | None = None) -> MonthOutput:
        """images (N, 3, H, W) normalised, sex (N,) int64 -> standardised ages and logits."""
        logits = self.head(pool(self.backbone(images)), sex)
        # No matrix product: under autocast that keeps 8 significant bits.
        months = (logits.softmax(dim=-1) * self.months).sum(dim=-1)
        return MonthOutput((months - self.age_mean.sum()) / self.age_sd.sum(), logits)

    def loss(self, output: MonthOutput, ages: Tensor) -> dict[str, Tensor]:
        """Cross-entropy with the month nearest to standardised ages (N,), averaged."""
        months = (ages * self.age_sd.sum() + self.age_mean.sum()).round()
        classes = (months - self.months[0]).clamp(0, len(self.months) - 1).long()
        return {"classification": F.cross_entropy(output.logits, classes)}

    @property
    def heat_map_layer(self) -> nn.Module:
        """The layer Grad-CAM explains the expected value at."""
        return self.backbone.heat_map_layer


class SpatialTransformer(nn.Module):
    """Resamples a feature map by an affine transformation that it infers from the map itself.

    Jaderberg et al., "Spatial Transformer Networks", NIPS 2015, Section 3. The transformation is
    the identity at first; it is limited, and slow to learn, since it otherwise comes to rest at an
    extreme before the other layers have learnt what to keep. Outside of the map there are zeros.

    Args:
        channels: channels C of the feature map.
        grid: cells a side that the map is averaged to before its transformation is inferred.
        hidden: units of the localisation network's hidden layer.
    """

    LARGEST = 0.5  # change of any of the six numbers, in halves of the map's side
    SPEED = 0.02  # of learning: under Adam what scales an output scales its learning rate

    def __init__(self, channels: int, grid: int, hidden: int = 32) -> None:
        super().__init__()
        last = nn.Linear(hidden, 6)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.localisation = nn.Sequential(
            nn.AdaptiveAvgPool2d(grid),
            nn.Flatten(),
            nn.Linear(channels * grid**2, hidden),
            nn.ReLU(),
            last,
        )
        self.register_buffer("identity", torch.eye(2, 3), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w), in fp32 even where autocast is on."""
        return in_fp32(self._deformed, features)

    def _deformed(self, features: Tensor) -> Tensor:
        change = self.LARGEST * (self.SPEED * self.localisation(features)).tanh()
        transformation = self.identity + change.view(-1, 2, 3)
        where = F.affine_grid(transformation, list(features.shape), align_corners=False)
        return F.grid_sample(features, where, align_corners=False)


class BoNet(nn.Module):
    """A small network of its own: five convolutions, a deformation layer, a regressor.

    Spampinato et al., "Deep learning for automated skeletal bone age assessment in X-ray images",
    Medical Image Analysis 2017;36:41-51. Five convolutional layers and a fully connected one make
    the six; the deformation layer between them is a spatial transformer. All sizes are our
    reading: convolutions of 7 x 7 with stride 2 and then 3 x 3, each with batch normalisation (so
    that it trains from random weights within a few epochs) and ReLU, the first three also with
    2 x 2 max pooling.

    Args:
        sexes: 1 for a network a sex, 2 for one network with sex as an input (one linear unit a sex
            on the fully connected layer; our reading).
        dropout: probability of dropping a unit of the fully connected layer in training.
        pretrained: refused; there are no weights to start from.

    Raises:
        InputError: for ``pretrained``.
    """

    CHANNELS = (96, 128, 256, 256, 256)
    GRID = 6  # cells a side that any input's deformed features are averaged to
    HIDDEN = 512

    def __init__(self, sexes: int = 1, dropout: float = 0.0, pretrained: bool = False) -> None:
        super().__init__()
        if pretrained:
            raise InputError("There are no ImageNet weights of BoNet; it starts at random.")
        layers: list[nn.Module] = []
        before = 1
        for index, channels in enumerate(self.CHANNELS):
            kernel, stride = (7, 2) if index == 0 else (3, 1)
            layers += [
                nn.Conv2d(before, channels, kernel, stride, kernel // 2, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            ]
            if index < 3:
                layers.append(nn.MaxPool2d(2))
            before = channels
        self.features = nn.Sequential(*layers)
        self.deformation = SpatialTransformer(before, self.GRID)
        self.fully_connected = nn.Sequential(
            nn.AdaptiveAvgPool2d(self.GRID),
            nn.Flatten(),
            nn.Linear(before * self.GRID**2, self.HIDDEN),
            nn.ReLU(),
        )
        self.head = AgeHead(self.HIDDEN, sexes, dropout)

    def forward(self, images: Tensor, sex: Tensor | None = None) -> FineTunedOutput:
        """images (N, 3, H, W) normalised, at least 16 px a side, sex (N,) -> standardised ages."""
        # The three channels of a radiograph are one.
        deformed = self.deformation(self.features(images[:, :1]))
        return FineTunedOutput(self.head(self.fully_connected(deformed), sex))

    def loss(self, output: FineTunedOutput, ages: Tensor) -> dict[str, Tensor]:
        """L1 on standardised ages (N,), averaged over the batch (our reading)."""
        return {"recognition": F.l1_loss(output.assembled, ages)}

    @property
    def heat_map_layer(self) -> nn.Module:
        """The layer Grad-CAM explains: the last convolution, which still lies as the image does."""
        return self.features
