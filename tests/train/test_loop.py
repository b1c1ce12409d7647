from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from boneage.errors import InputError
from train.data import Batch
from train.loop import freeze, moving_average, parameter_groups


def test_the_average_forgets_the_initial_weights() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, -100.0)
    ema = AveragedModel(model, multi_avg_fn=moving_average(0.998), use_buffers=True)
    for _ in range(200):
        nn.init.constant_(model.weight, 1.0)
        ema.update_parameters(model)
    assert ema.module.weight.item() == pytest.approx(1.0, abs=1e-3)


def test_the_average_lags_by_its_decay() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    ema = AveragedModel(model, multi_avg_fn=moving_average(0.5), use_buffers=True)
    for _ in range(50):
        ema.update_parameters(model)
    nn.init.constant_(model.weight, 1.0)
    ema.update_parameters(model)
    assert ema.module.weight.item() == pytest.approx(0.5)


def test_no_decay_of_biases_and_normalisations() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 1))
    decayed, others = parameter_groups(model, 0.1)
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3, 3, 3), (1, 4)]
    assert len(others["params"]) == 4
    assert others["weight_decay"] == 0
    assert sum(p.numel() for g in (decayed, others) for p in g["params"]) == sum(
        p.numel() for p in model.parameters()
    )


def test_frozen_modules_are_not_trained() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 1))
    frozen = freeze(model, ["0", "1"])
    assert frozen == [model[0], model[1]]
    groups = parameter_groups(model, 0.1)
    assert sum(p.numel() for group in groups for p in group["params"]) == 5


def test_a_prefix_is_a_whole_name() -> None:
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(12)))
    assert freeze(model, ["1"]) == [model[1]]


def test_refuses_to_freeze_what_is_not_there() -> None:
    with pytest.raises(InputError, match="no module layer9"):
        freeze(nn.Linear(1, 1), ["layer9"])


def test_a_batch_in_parts_is_the_batch() -> None:
    pixels, places = torch.arange(6).view(6, 1, 1, 1), torch.arange(6)
    batch = Batch(pixels, torch.rand(6, 2), torch.rand(6), torch.ones(6), places)
    parts = batch.parts(2)
    assert [len(part.ages) for part in parts] == [2, 2, 2]
    assert torch.equal(torch.cat([part.pixels for part in parts]), batch.pixels)
    assert torch.equal(torch.cat([part.ages for part in parts]), batch.ages)
    assert [part.places.tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]
