from __future__ import annotations

import pytest
from torch import nn
from torch.optim.swa_utils import AveragedModel

from train.loop import moving_average, parameter_groups


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
