from __future__ import annotations

from itertools import pairwise

import pytest

from train.recipe import Optimisation
from train.schedule import Schedule


def test_warm_up_then_cosine_to_zero() -> None:
    schedule = Schedule(Optimisation(epochs=1, learning_rate=1.0, warmup=0.1), total=100)
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] < 0.001
    assert all(a >= b for a, b in pairwise(rates[10:]))


class TestPlateau:
    def schedule(self, **changes: object) -> Schedule:
        settings = {"epochs": 9, "learning_rate": 1.0, "schedule": "plateau", "warmup": 0.2,
                    "patience": 2, "factor": 0.5}  # fmt: skip
        return Schedule(Optimisation(**settings | changes), total=10)

    def test_the_warm_up_leaves_no_trace(self) -> None:
        schedule = self.schedule()
        for mae in (9.0, 8.0, 7.0):  # epochs that end during the warm-up and after it
            assert schedule.end_epoch(mae)
        assert schedule.rate(1) == 1.0
        assert schedule.rate(5) == 1.0

    def test_reduced_after_as_many_stale_epochs_as_patience(self) -> None:
        schedule = self.schedule()
        rates = []
        for mae in (5.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0):
            schedule.end_epoch(mae)
            rates.append(schedule.rate(9))
        assert rates == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.125]

    def test_never_below_the_floor(self) -> None:
        schedule = self.schedule(patience=0, floor=0.1)
        for _ in range(20):
            schedule.end_epoch(5.0)
        assert schedule.rate(9) == 0.1

    def test_without_patience_a_better_epoch_reduces_nothing(self) -> None:
        schedule = self.schedule(patience=0)
        for mae in (5.0, 4.0, 3.0):
            schedule.end_epoch(mae)
        assert schedule.rate(9) == 1.0

    def test_state_comes_back(self) -> None:
        first, second = self.schedule(), self.schedule()
        for mae in (5.0, 6.0, 6.0, 6.0, 6.0):
            first.end_epoch(mae)
        second.restore(first.state())
        assert second == first
