"""Paths of the real images that tests read."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import Tensor

# A test must never reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"

ROOT = Path(__file__).parent.parent
SLOW = ("train", "webui", "weights", "evaluate")  # folders
LARGE = 4_000_000  # weights of a layer
FEW = 999_983  # random numbers; a prime, so that no two rows of a layer are alike

# No test speaks TLS, and each client that reads the authorities' certificates takes 50 ms.
ssl.SSLContext.load_verify_locations = lambda *_, **__: None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow files: at the end, one would keep a single core busy."""
    items.sort(key=lambda item: item.path.parent.name not in SLOW)


@pytest.fixture
def quick_fills(monkeypatch: pytest.MonkeyPatch) -> None:
    """A VGG's fully connected layers repeat a few random numbers: to draw them all takes seconds.

    Left as memory has them they would now and then hold NaN.
    """
    import torch
    from torch import nn

    reset, normal = nn.Linear.reset_parameters, nn.init.normal_

    def repeat(tensor: Tensor) -> Tensor:
        few = normal(torch.empty(FEW), std=0.01)
        with torch.no_grad():
            for part in tensor.view(-1).split(FEW):
                part.copy_(few[: len(part)])
        return tensor

    def reset_quickly(layer: nn.Linear) -> None:
        if layer.weight.numel() < LARGE:
            reset(layer)
        else:
            repeat(layer.weight)
            nn.init.zeros_(layer.bias)

    def normal_quickly(tensor: Tensor, *arguments: Any, **options: Any) -> Tensor:
        return repeat(tensor) if tensor.numel() > LARGE else normal(tensor, *arguments, **options)

    monkeypatch.setattr(nn.Linear, "reset_parameters", reset_quickly)
    monkeypatch.setattr(nn.init, "normal_", normal_quickly)


@pytest.fixture(scope="session")
def repo_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def rsna_test_dir() -> Path:
    return ROOT / "data" / "rsna-test"


@pytest.fixture(scope="session")
def rsna_fullsize_dir() -> Path:
    return ROOT / "data" / "rsna-fullsize"


@pytest.fixture(scope="session")
def nih_test_dir() -> Path:
    return ROOT / "data" / "nih-chest-test"


@pytest.fixture(scope="session")
def nih_fullsize_dir() -> Path:
    return ROOT / "data" / "nih-chest-fullsize"


@pytest.fixture(scope="session")
def ct_sample() -> Path:
    return ROOT / "data" / "ct-samples" / "torso_3mm.nii.gz"


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder of a small AR-CNN that was never trained."""
    import torch

    from boneage import hub
    from boneage.models.registry import build

    torch.manual_seed(0)
    arguments = {"backbone": "resnet18", "size": 128, "part_size": 64, "sexes": 2}
    config = {
        "architecture": {"name": "arcnn", "arguments": arguments},
        "task": "hand",
        "unit": "months",
        "sexes": ["F", "M"],
        "preprocess": {"size": 128, "resolution": 299, "percentiles": [1, 99], "mean": 0.5,
                       "std": 0.5},
        "age": {"mean": 127.0, "sd": 41.0, "lowest": 0.0, "highest": 228.0},
        "interval": None,
        "refusal": None,
        "fills": [],
        "provenance": {},
    }  # fmt: skip
    return hub.save(tmp_path_factory.mktemp("weights") / "tiny", build("arcnn", arguments), config)


@pytest.fixture(scope="session")
def untrained_adult(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder of a small network for adults that was never trained.

    Its ages differ by years from image to image, as those of a fresh network would not.
    """
    import torch
    from torch import nn

    from boneage import hub
    from boneage.models.registry import build

    torch.manual_seed(0)
    arguments = {"backbone": "mobilenet_v2", "global_pooling": True}
    model = build("hierarchical", arguments)
    nn.init.normal_(model.head.linear.weight)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the statistics of the one batch below
    model(torch.randn(16, 3, 64, 64))
    config = {
        "architecture": {"name": "hierarchical", "arguments": arguments},
        "task": "adult",
        "unit": "years",
        "sexes": [],
        "projection": "thorax",
        "preprocess": {"size": 64, "resolution": 128, "percentiles": [1, 99], "mean": 0.5,
                       "std": 0.5, "margin": 8, "region": "whole"},
        "age": {"mean": 47.0, "sd": 16.0, "lowest": 0.0, "highest": 120.0},
        "interval": None,
        "refusal": None,
        "fills": [],
        "provenance": {"metrics": {"validation_mae": 9.9}, "validation_images": 5,
                       "data": "nih-chest-128"},
    }  # fmt: skip
    return hub.save(tmp_path_factory.mktemp("weights") / "tiny-adult", model, config)
