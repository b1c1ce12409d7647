"""Torchvision classification networks as feature extractors.

A :class:`Backbone` keeps torchvision's own module names, so any state dict of the torchvision
network (its ImageNet weights, a file on disk) loads without renaming.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

from boneage.errors import InputError
from boneage.models.registry import BACKBONES


class Backbone(nn.Module):
    """The convolutional part of a torchvision network.

    Args:
        name: one of :data:`boneage.models.registry.BACKBONES`.
        pretrained: start from torchvision's ImageNet weights (downloaded once by torchvision).

    Attributes:
        channels: channels C of the feature map.
        stride: input pixels a cell of the feature map stands for (32 for all of them).

    Raises:
        InputError: for an unknown name.
    """

    stride = 32

    def __init__(self, name: str, pretrained: bool = False) -> None:
        super().__init__()
        if name not in BACKBONES:
            raise InputError(f"Unknown backbone {name!r}. Known are: {', '.join(BACKBONES)}.")
        network = torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None)
        head = "classifier" if name == "mobilenet_v2" else "fc"
        self.name = name
        self.channels = network.last_channel if head == "classifier" else network.fc.in_features
        # The children keep their names; the head and the pooling before it are left behind.
        for child_name, child in network.named_children():
            if child_name not in (head, "avgpool"):
                self.add_module(child_name, child)

    def forward(self, images: Tensor) -> Tensor:
        """Feature map of ``images``: (N, 3, H, W) -> (N, C, ceil(H / 32), ceil(W / 32))."""
        for child in self.children():
            images = child(images)
        return images

    def load_initialisation(self, file: Path) -> None:
        """Load every tensor of this backbone from a safetensors file.

        The file may be a state dict of the torchvision network (its head is left out) or of one of
        this project's networks, whose backbone is found by its prefix.

        Raises:
            InputError: if the file cannot be read, or lacks a tensor, or has one of another shape.
        """
        try:
            tensors = load_file(file)
        except Exception:  # safetensors raises its own, untyped errors
            raise InputError(f"{file.name} is not a readable safetensors file.") from None
        # Counters of training steps play no part in the function, and releases leave them out.
        wanted = {k: v for k, v in self.state_dict().items() if not k.endswith("_tracked")}
        first = next(iter(wanted))
        prefixes = (key.removesuffix(first) for key in tensors if key.endswith(first))
        prefix = min(prefixes, key=len, default="")
        missing = [k for k in wanted if prefix + k not in tensors]
        if missing:
            raise InputError(
                f"{file.name} is no initialisation for {self.name}: it lacks {len(missing)} of "
                f"{len(wanted)} tensors, the first of them {missing[0]}."
            )
        wrong = [k for k in wanted if tensors[prefix + k].shape != wanted[k].shape]
        if wrong:
            raise InputError(f"{file.name}: {wrong[0]} has another shape than {self.name} needs.")
        values = {name: tensors[prefix + name].to(value.dtype) for name, value in wanted.items()}
        self.load_state_dict(values, strict=False)


def freeze_batch_norm(module: nn.Module) -> None:
    """Put every batch normalisation of ``module`` into evaluation mode for good.

    Whole radiographs and bone parts have different statistics; one running average of both fits
    neither. Frozen at the statistics of whole radiographs, training and evaluation see the same
    function. ``train()`` would undo it, so it is called after each ``train()``.
    """
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()


def pool(features: Tensor) -> Tensor:
    """Global average pooling in fp32: (N, C, H, W) -> (N, C)."""
    return features.float().mean(dim=(2, 3))


class AgeHead(nn.Module):
    """Dropout and one linear unit a sex, in fp32 whatever the autocast around it.

    With one sex this is the paper's L -> 1. With two, both sexes share the features and each has
    its own unit, so sex as an input can change the weight of every feature and not only an offset.

    Args:
        features: length L of the feature vector.
        sexes: number of sexes the network serves (1 or 2).
        dropout: probability of dropping a feature in training.
    """

    def __init__(self, features: int, sexes: int, dropout: float = 0.0) -> None:
        super().__init__()
        if sexes not in (1, 2):
            raise InputError(f"A network serves 1 or 2 sexes, not {sexes}.")
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(features, sexes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor, sex: Tensor | None = None) -> Tensor:
        """Standardised ages: features (N, ..., L), sex (N,) int64 in [0, sexes) -> (N, ...)."""
        with torch.autocast(features.device.type, enabled=False):
            ages = self.linear(self.dropout(features.float()))
        return of_sex(ages, sex)


def of_sex(values: Tensor, sex: Tensor | None) -> Tensor:
    """From values for each sex those of each case's own.

    Args:
        values: (N, ..., sexes).
        sex: (N,) int64 in [0, sexes); of no matter, and may be left out, with one sex.

    Returns:
        (N, ...).

    Raises:
        InputError: if there are two sexes and ``sex`` is left out.
    """
    if values.shape[-1] == 1:
        return values.squeeze(-1)
    if sex is None:
        raise InputError("This network takes the sex as an input; none was given.")
    index = sex.view(-1, *([1] * (values.dim() - 1))).expand(*values.shape[:-1], 1)
    return values.gather(-1, index).squeeze(-1)
