"""The one list of the project's networks, importable without torch.

Command lines validate against it, :func:`build` turns the ``architecture`` entry of a weights
config or of a recipe into a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from boneage.errors import InputError

if TYPE_CHECKING:
    from torch import nn

# torchvision's names, and the stages of each that feed the connections of hierarchical features:
# VGG's pooled blocks 3 and 4 (the paper's), elsewhere the stages of the same strides, 8 and 16.
BACKBONES: Mapping[str, tuple[str, str]] = {
    "resnet18": ("layer2", "layer3"),
    "resnet34": ("layer2", "layer3"),
    "resnet50": ("layer2", "layer3"),
    "mobilenet_v2": ("features.6", "features.13"),
    "googlenet": ("inception3b", "inception4e"),
    "vgg11_bn": ("features.14", "features.21"),
    "vgg13_bn": ("features.20", "features.27"),
    "vgg16_bn": ("features.23", "features.33"),
}
UNITS = {"hand": "months", "adult": "years"}


@dataclass(frozen=True)
class Entry:
    """One network: where its class is, what it was published for, and a line about it.

    What weights of it are for, the data that they were trained on decide.
    """

    module: str
    cls: str
    task: str
    summary: str

    @property
    def unit(self) -> str:
        """Unit of the predicted age, ``months`` or ``years``."""
        return UNITS[self.task]


MODELS: Mapping[str, Entry] = {
    "arcnn": Entry("boneage.models.arcnn", "ARCNN", "hand", "AR-CNN (Liu et al. 2019)"),
    "finetuned": Entry(
        "boneage.models.finetuned", "FineTuned", "hand", "one backbone, one linear unit a sex"
    ),
    "early_fusion": Entry(
        "boneage.models.finetuned", "EarlyFusion", "adult", "several backbones trained as one"
    ),
    "late_fusion": Entry(
        "boneage.models.finetuned", "LateFusion", "adult", "the mean of networks trained one by one"
    ),
    "hierarchical": Entry(
        "boneage.models.hierarchical",
        "HierarchicalVGG",
        "adult",
        "hierarchical features (Nguyen and Kim)",
    ),
    "month_classifier": Entry(
        "boneage.models.literature",
        "MonthClassifier",
        "hand",
        "a probability for each month (Larson et al. 2018)",
    ),
    "bonet": Entry("boneage.models.literature", "BoNet", "hand", "BoNet (Spampinato et al. 2017)"),
}


def entry(name: str) -> Entry:
    """What is known of an architecture, which takes no import of torch.

    Raises:
        InputError: for a name that is not in :data:`MODELS`.
    """
    if name not in MODELS:
        raise InputError(f"Unknown architecture {name!r}. Known: {', '.join(MODELS)}.")
    return MODELS[name]


def build(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The network ``name`` built with ``arguments``, its weights random.

    Raises:
        InputError: for a name that is not in :data:`MODELS` or arguments its class refuses.
    """
    found = entry(name)
    try:
        return getattr(import_module(found.module), found.cls)(**arguments)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"The arguments do not fit the architecture {name!r}: {error}.") from None
