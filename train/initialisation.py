"""What a network starts its training from: random weights, ImageNet's, or those of another run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from boneage import hub
from boneage.datasets import LabelledFolder
from boneage.errors import InputError
from boneage.models.backbones import AgeHead
from boneage.models.registry import build
from boneage.predictor import name_of
from train import recipe as recipes


@dataclass(frozen=True)
class NewNetwork:
    """What is to be trained.

    Attributes:
        architecture: a name of :data:`boneage.models.registry.MODELS`.
        arguments: of the architecture.
        sexes: that it is for, in the order of their index; none if sex is no input.
        training: the images, whose ages standardise the network's.
        backbone_alone: nothing but the backbone is taken over from other weights.
    """

    architecture: str
    arguments: Mapping[str, Any]
    sexes: Sequence[str]
    training: LabelledFolder
    backbone_alone: bool = False

    def build(self, pretrained: bool = False) -> nn.Module:
        """The network with random weights, or its backbone with torchvision's ImageNet weights.

        Raises:
            InputError: if these cannot be downloaded.
        """
        try:
            return build(self.architecture, {**self.arguments, "pretrained": pretrained})
        except OSError:  # of torchvision's download
            raise InputError(
                "torchvision's ImageNet weights could not be downloaded. Without network, start "
                "from a file with --init."
            ) from None

    def is_like(self, trained: Mapping[str, Any] | None) -> bool:
        """Whether a config's architecture is this one, be it for another size of the input."""
        if not trained or trained["name"] != self.architecture:
            return False
        before, size = dict(trained["arguments"]), trained["arguments"].get("size")
        now = recipes.resized(self.arguments, size) if size else dict(self.arguments)
        # Parts and anchors went through the rounding of each stage's size.
        parts = abs(before.pop("part_size", 0) - now.pop("part_size", 0))
        old, new = (each.pop("scales", None) or [] for each in (before, now))
        anchors = len(old) == len(new) and all(map(math.isclose, old, new))
        return before == now and parts <= 1 and anchors

    def is_another_training(self, config: Mapping[str, Any]) -> bool:
        """Whether a config's weights are of this network, for the same sexes and unit."""
        return (
            self.is_like(config.get("architecture"))
            and config["sexes"] == list(self.sexes)
            and config["unit"] == self.training.unit
        )


def initialised(
    network: NewNetwork, init: Sequence[Path] = (), pretrained: bool = False
) -> tuple[nn.Module, Any]:
    """The network with its initial weights, and what is known of their origin.

    Where ages of the same unit were standardised otherwise for the weights of ``init``, their heads
    are changed to assess the same ages as before.

    Args:
        network: to be trained.
        init: a safetensors file; its backbone, heads or all of it are taken, as they fit. Several
            start the network from the mean of their weights.
        pretrained: take torchvision's ImageNet weights, where there is no ``init``.

    Raises:
        InputError: if the weights cannot be had or fit no part of the network, or if several are
            not all of this network.
    """
    if not init:
        return network.build(pretrained), "torchvision ImageNet" if pretrained else "random"
    if len(init) == 1:
        return _started(network, init[0])
    if network.backbone_alone:
        raise InputError("This recipe takes over only the backbone; give --init once.")
    for file in init:
        if not network.is_another_training(config := _config_beside(file)):
            name = name_of(file.parent) if config else file.name
            raise InputError(
                "Several files of --init must each be weights of the recipe's own network, of the "
                f"same sexes and unit, whose mean it starts from; {name} is not."
            )
    starts = [_started(network, file) for file in init]
    return _mean([model for model, _ in starts]), {"mean_of": [origin for _, origin in starts]}


def _started(network: NewNetwork, init: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The network with what it takes of a safetensors file, and what is known of that.

    Raises:
        InputError: if nothing of the file fits.
    """
    model = network.build()
    config = _config_beside(init)
    if not network.backbone_alone and (state := _whole_network(init, config, model, network)):
        model.load_state_dict(state)
        heads = [module for module in model.modules() if isinstance(module, AgeHead)]
    elif not hasattr(model, "backbone"):
        raise InputError(f"{network.architecture} has no single backbone that --init could start.")
    else:
        model.backbone.load_initialisation(init)
        keeps = hasattr(model, "load_heads") and not network.backbone_alone
        heads = model.load_heads(init) if keeps else []
    if config.get("unit") == network.training.unit:
        ages = [case.age for case in network.training.cases]
        for head in heads:
            before = config["age"]["mean"], config["age"]["sd"]
            head.restandardise(before, (mean(ages), stdev(ages)))
    return model, _origin_of(init, config)


def _mean(models: Sequence[nn.Module]) -> nn.Module:
    """A network of the mean weights of several, which are trainings from one start.

    On the way between such weights the error hardly rises, and in the middle it often falls
    (Wortsman et al., "Model soups", ICML 2022). Running statistics of batch normalisation are
    averaged too: where it is not frozen they are not quite the mean network's own. Summed in
    double precision, so that the order does not matter.
    """
    states = [model.state_dict() for model in models]
    for name, value in states[0].items():
        if value.is_floating_point():
            value.copy_(torch.stack([state[name].double() for state in states]).mean(0))
    return models[0]


def _whole_network(
    init: Path, config: Mapping[str, Any], model: nn.Module, network: NewNetwork
) -> dict[str, Tensor] | None:
    """The state dict that ``model``, built of ``network``, takes over from a run's weights.

    ``None`` unless they are of the same network, or of the AR-CNN of both sexes that this is for
    one of.
    """
    before = config.get("architecture")
    both = replace(network, arguments={**network.arguments, "sexes": 2})
    is_of_both = len(network.sexes) == 1 and hasattr(model, "of_one_sex") and both.is_like(before)
    if not is_of_both and not network.is_like(before):
        return None
    trained = hub.build_network(init.parent, config, hub.checked_data(init.parent, config))
    if is_of_both:
        return trained.of_one_sex(config["sexes"].index(network.sexes[0]))
    return model.resampled(trained) if hasattr(model, "resampled") else trained.state_dict()


def _origin_of(file: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of an initialisation: its name, its own account, and how it was trained."""
    origin: dict[str, Any] = {"file": file.name}
    with safe_open(file, "pt") as tensors:
        origin |= {k: v for k, v in (tensors.metadata() or {}).items() if k != "format"}
    if config:
        origin["provenance"] = config["provenance"]
        origin["size"] = config["preprocess"]["size"]
    return origin


def _config_beside(file: Path) -> dict[str, Any]:
    """The config of the weights folder that a file lies in; empty if it lies in none."""
    if file.name != hub.TENSORS or not (file.parent / hub.CONFIG).is_file():
        return {}
    return hub.load_config(file.parent)
