"""Torchvision classification networks as feature extractors.

A :class:`Backbone` keeps torchvision's own module names, so any state dict of the torchvision
network (its ImageNet weights, a file on disk) loads without renaming.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from boneage.errors import InputError
from boneage.models.registry import BACKBONES
from boneage.precision import in_fp32


class Backbone(nn.Module):
    """The convolutional part of a torchvision network.

    Args:
        name: one of :data:`boneage.models.registry.BACKBONES`.
        pretrained: start from torchvision's ImageNet weights (downloaded once by torchvision).

    Attributes:
        channels: channels C of the feature map.
        stride: input pixels a cell of the feature map stands for (32 for all of them); the
            smallest input.

    Raises:
        InputError: for an unknown name.
    """

    stride = 32

    def __init__(self, name: str, pretrained: bool = False) -> None:
        super().__init__()
        if name not in BACKBONES:
            raise InputError(f"Unknown backbone {name!r}. Known: {', '.join(BACKBONES)}.")
        network = torchvision_network(name, pretrained)
        self.name = name
        # The children keep their names; the head and the pooling before it are left behind.
        for child_name, child in network.named_children():
            if child_name not in ("fc", "classifier", "avgpool", "dropout"):
                self.add_module(child_name, child)
        first = next(m for m in network.modules() if isinstance(m, nn.Linear))  # of the head
        # torchvision's VGGs flatten 7 x 7 cells, the others average them.
        self.channels = first.in_features // (49 if name.startswith("vgg") else 1)

    def forward(self, images: Tensor) -> Tensor:
        """Feature map of ``images``: (N, 3, H, W) -> (N, C, h, w), h and w about H / 32, W / 32."""
        return self.staged(images, ())[-1]

    def staged(self, images: Tensor, stages: Sequence[str]) -> list[Tensor]:
        """The outputs of the named stages, in the order of the network, and the feature map.

        Args:
            images: (N, 3, H, W).
            stages: torchvision's module names, as ``layer2`` or ``features.14``.

        Raises:
            InputError: for a name that is no stage of this backbone.
        """
        outputs = []
        known = []
        side = images.shape[-1]
        for name, module in self._stages():
            known.append(name)
            # The finest maps, of stride 1 and 2, have few weights, whose rounding to bf16 moves the
            # ages most; training gets over it.
            is_fine = 3 * images.shape[-1] > side and not self.training
            images = in_fp32(module, images) if is_fine else module(images)
            if name in stages:
                outputs.append(images)
        if unknown := sorted(set(stages) - set(known)):
            raise InputError(
                f"{self.name} has no stage {unknown[0]}; its stages are {', '.join(known)}."
            )
        return [*outputs, images]

    def shapes(self, size: int, stages: Sequence[str] = ()) -> list[tuple[int, int, int]]:
        """(C, h, w) of what :meth:`staged` returns for a square input of ``size`` px."""
        # On the meta device shapes are computed and nothing else.
        twin = copy.deepcopy(self).to("meta").eval()
        with torch.no_grad():
            outputs = twin.staged(torch.empty(1, 3, size, size, device="meta"), stages)
        return [tuple(output.shape[1:]) for output in outputs]

    @property
    def heat_map_layer(self) -> nn.Module:
        """The layer Grad-CAM explains: the last one before any pooling."""
        *_, last = (m for _, m in self._stages() if not isinstance(m, nn.MaxPool2d))
        return last

    def _stages(self) -> Iterator[tuple[str, nn.Module]]:
        """What runs one after the other: the children, and those of a long sequence of them."""
        for name, child in self.named_children():
            if name == "features":
                yield from ((f"features.{inner}", m) for inner, m in child.named_children())
            else:
                yield name, child

    def load_initialisation(self, file: Path) -> None:
        """Load every tensor of this backbone from a safetensors file.

        The file may be a state dict of the torchvision network (its head is left out) or of one of
        this project's networks, whose backbone is found by its prefix.

        Raises:
            InputError: if the file cannot be read, or lacks a tensor, or has one of another shape.
        """
        tensors = read_tensors(file)
        # Counters of training steps play no part in the function, and releases leave them out.
        wanted = {k: v for k, v in self.state_dict().items() if not k.endswith("_tracked")}
        first = next(iter(wanted))
        prefixes = (key.removesuffix(first) for key in tensors if key.endswith(first))
        prefix = min(prefixes, key=len, default="")
        missing = [k for k in wanted if prefix + k not in tensors]
        if missing:
            raise InputError(
                f"{file.name} cannot initialise {self.name}: it lacks {len(missing)} of "
                f"{len(wanted)} tensors, the first of them {missing[0]}."
            )
        wrong = [k for k in wanted if tensors[prefix + k].shape != wanted[k].shape]
        if wrong:
            raise InputError(f"{file.name}: {wrong[0]} has another shape than {self.name} needs.")
        values = {name: tensors[prefix + name].to(value.dtype) for name, value in wanted.items()}
        self.load_state_dict(values, strict=False)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return load_file(file)
    except Exception:  # safetensors raises its own, untyped errors
        raise InputError(f"{file.name} is not a readable safetensors file.") from None


def torchvision_network(name: str, pretrained: bool) -> nn.Module:
    """torchvision's own network; of GoogLeNet without the classifiers that only training uses."""
    weights = "DEFAULT" if pretrained else None
    if name != "googlenet":
        return torchvision.models.get_model(name, weights=weights)
    network = torchvision.models.googlenet(weights=weights, init_weights=not pretrained)
    network.aux1 = network.aux2 = None
    if pretrained:
        fold_input_transform(network.conv1)
    return network


def fold_input_transform(first: nn.Module) -> None:
    """Have GoogLeNet's first layer do what torchvision does to its input beforehand.

    Its ImageNet weights expect (x - 0.5) / 0.5, so torchvision converts images from ImageNet's
    mean and SD, which all its networks are given. A linear change of the input is one of the first
    convolution's weights and of the mean that its normalisation subtracts.
    """
    mean, sd = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    scale, shift = (sd / 0.5).view(1, 3, 1, 1), ((mean - 0.5) / 0.5).view(1, 3, 1, 1)
    with torch.no_grad():
        first.bn.running_mean -= (first.conv.weight * shift).sum(dim=(1, 2, 3))
        first.conv.weight *= scale


def freeze_batch_norm(module: nn.Module) -> None:
    """Put every batch normalisation of ``module`` into evaluation mode for good.

    Whole radiographs and bone parts have different statistics; one running average of both fits
    neither. Frozen at the statistics of whole radiographs, training and evaluation see the same
    function. ``train()`` would undo it, so it is called after each ``train()``.
    """
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()


def fold_in_training(module: nn.Module) -> None:
    """Have convolutions apply the batch normalisations that follow them, step by step.

    For normalisations that stay frozen (:func:`freeze_batch_norm`) while their factors and summands
    are trained. The function and the gradients are the same but for rounding, and so are all
    parameters and their names; what falls away is a pass over every map, forwards and backwards.
    In bf16 the folded weights and summands are rounded too, and a gradient lies a little further
    from that of fp32 (docs/performance.md).

    Args:
        module: changed in place, to be run with its normalisations in evaluation mode.
    """
    for _, (_, convolution), (_, normalisation) in list(_normalised(module)):
        convolution.forward = partial(_convolve_normalised, convolution, normalisation)
        normalisation.forward = nn.Identity().forward


def _convolve_normalised(
    convolution: nn.Conv2d, normalisation: nn.BatchNorm2d, images: Tensor
) -> Tensor:
    """``normalisation(convolution(images))`` as one convolution."""
    # torch's fuse_conv_bn_weights does the same, but makes new parameters that nothing trains.
    factor = normalisation.weight * (normalisation.running_var + normalisation.eps).rsqrt()
    bias = normalisation.bias - normalisation.running_mean * factor
    if convolution.bias is not None:
        bias = bias + convolution.bias * factor
    return convolution._conv_forward(images, convolution.weight * factor[:, None, None, None], bias)


def fold_batch_norm(module: nn.Module) -> None:
    """Give convolutions the batch normalisations that follow them, for assessment alone.

    With its statistics at rest a normalisation is a factor and a summand of each channel, which
    the convolution's weights and bias can hold. The function stays the same but for rounding;
    MobileNetV2 takes a fifth to two fifths less time. In all networks here a normalisation
    follows its convolution among its parent's children; its place is kept by an identity.

    Args:
        module: in evaluation mode; changed in place.
    """
    for parent, (name, convolution), (following, normalisation) in list(_normalised(module)):
        convolution.__dict__.pop("forward", None)  # of :func:`fold_in_training`
        setattr(parent, name, fuse_conv_bn_eval(convolution, normalisation))
        setattr(parent, following, nn.Identity())


def _normalised(
    module: nn.Module,
) -> Iterator[tuple[nn.Module, tuple[str, nn.Conv2d], tuple[str, nn.BatchNorm2d]]]:
    """Every convolution that a batch normalisation follows, and this: parent, names, modules."""
    for parent in module.modules():
        for first, second in itertools.pairwise(parent.named_children()):
            if isinstance(first[1], nn.Conv2d) and isinstance(second[1], nn.BatchNorm2d):
                yield parent, first, second


def pool(features: Tensor) -> Tensor:
    """Global average pooling in fp32: (N, C, H, W) -> (N, C)."""
    return features.float().mean(dim=(2, 3))


class AgeHead(nn.Module):
    """Dropout and one linear unit a sex, in fp32 even where autocast is on.

    With one sex this is the paper's L -> 1. With two, both sexes share the features and each has
    its own unit, so sex as an input can change the weight of every feature and not only an offset.

    Args:
        features: length L of the feature vector.
        sexes: number of sexes the network serves (1 or 2).
        dropout: probability of dropping a feature in training.
        classes: one logit for each of so many ages in place of the age, a set of them a sex.
    """

    def __init__(
        self, features: int, sexes: int, dropout: float = 0.0, classes: int | None = None
    ) -> None:
        super().__init__()
        if sexes not in (1, 2):
            raise InputError(f"A network serves 1 or 2 sexes, not {sexes}.")
        self.classes = classes
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(features, (classes or 1) * sexes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor, sex: Tensor | None = None) -> Tensor:
        """Standardised ages: features (N, ..., L), sex (N,) int64 in [0, sexes) -> (N, ...).

        With classes their logits: -> (N, ..., classes).
        """
        ages = in_fp32(lambda values: self.linear(self.dropout(values)), features)
        if self.classes:
            ages = ages.unflatten(-1, (self.classes, -1))
        return of_sex(ages, sex)

    def take_over(self, tensors: Mapping[str, Tensor], name: str) -> bool:
        """Load the head ``name`` of a state dict, if there is one of this shape; whether it was."""
        here = self.state_dict()
        there = {key: tensors.get(f"{name}.{key}") for key in here}
        if any(t is None or t.shape != here[key].shape for key, t in there.items()):
            return False
        self.load_state_dict({key: t.to(here[key].dtype) for key, t in there.items()})
        return True

    @torch.no_grad()
    def widen(self, narrow: AgeHead) -> None:
        """Assess as another head does, whose features are the first of this one's.

        Args:
            narrow: of as many sexes, with at most as many features.
        """
        known = narrow.linear.in_features
        self.linear.weight[:, :known] = narrow.linear.weight
        self.linear.weight[:, known:] = 0
        self.linear.bias.copy_(narrow.linear.bias)

    @torch.no_grad()
    def restandardise(self, before: tuple[float, float], now: tuple[float, float]) -> None:
        """Keep the ages where their (mean, standard deviation) change, as with other images.

        A head of classes stays as it is: its logits are of no standardised age.
        """
        if self.classes:
            return
        (mean, sd), (new_mean, new_sd) = before, now
        self.linear.weight *= sd / new_sd
        self.linear.bias.mul_(sd / new_sd).add_((mean - new_mean) / new_sd)


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
