"""Errors and intervals against numbers worked out by hand and against known distributions."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from boneage import metrics
from boneage.errors import InputError

ASSESSED = [10.0, 20.0, 36.0, 40.0]
ACTUAL = [12.0, 20.0, 30.0, 44.0]  # errors -2, 0, 6, -4


def test_statistics_by_hand() -> None:
    assert metrics.mae(ASSESSED, ACTUAL) == 3.0
    assert metrics.bias(ASSESSED, ACTUAL) == 0.0
    assert metrics.rmse(ASSESSED, ACTUAL) == pytest.approx(math.sqrt(14))
    assert metrics.within(ASSESSED, ACTUAL, 4) == 0.75  # the limit itself is inside
    assert metrics.within(ASSESSED, ACTUAL, 3.99) == 0.5
    bias, lower, upper = metrics.bland_altman(ASSESSED, ACTUAL)
    assert bias == 0.0
    assert upper == pytest.approx(1.96 * math.sqrt(56 / 3))  # SD with n - 1
    assert lower == pytest.approx(-upper)


def test_bias_is_assessed_minus_actual() -> None:
    assert metrics.bias([5, 6], [1, 2]) == 4.0


@pytest.mark.parametrize("function", [metrics.mae, metrics.rmse, metrics.bias])
@pytest.mark.parametrize(
    ("assessed", "actual", "message"),
    [
        ([], [], "no assessed ages"),
        ([1.0], [1.0, 2.0], "1 assessed ages for 2"),
        ([1.0, math.nan], [1.0, 2.0], "not a finite number"),
        ([1.0, 2.0], [1.0, math.inf], "not a finite number"),
        ([[1.0]], [[1.0]], "2 dimensions"),
    ],
)
def test_bad_arrays_are_refused(
    function: Callable[..., float], assessed: list, actual: list, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        function(assessed, actual)


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="at least 0"):
        metrics.within(ASSESSED, ACTUAL, -1)
    with pytest.raises(InputError, match="two cases"):
        metrics.bland_altman([1.0], [2.0])


def test_interval_of_a_mean_is_that_of_theory() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400)
    low, high = metrics.bootstrap_interval(values)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)


def test_interval_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    true = math.sqrt(2 / math.pi)  # mean absolute value of a standard normal variable
    covered = 0
    for _ in range(300):
        low, high = metrics.bootstrap_interval(np.abs(generator.normal(size=60)), resamples=400)
        covered += low <= true <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_interval_is_the_same_every_time_and_differs_by_seed() -> None:
    values = np.arange(50.0)
    assert metrics.bootstrap_interval(values) == metrics.bootstrap_interval(values)
    assert metrics.bootstrap_interval(values) != metrics.bootstrap_interval(values, seed=1)


def test_interval_does_not_depend_on_chunks_of_memory() -> None:
    values = np.random.default_rng(3).normal(size=3000)
    low, high = metrics.bootstrap_interval(values, resamples=2000)  # several chunks
    half = 1.96 * values.std() / math.sqrt(3000)
    assert high - low == pytest.approx(2 * half, rel=0.08)


def test_films_of_one_patient_widen_the_interval() -> None:
    per_patient = np.random.default_rng(4).normal(size=40)
    values = np.repeat(per_patient, 5)  # five equal films each
    patients = np.repeat([f"p{i}" for i in range(40)], 5)
    free, grouped = (
        np.diff(metrics.bootstrap_interval(values, groups=groups))[0] for groups in (None, patients)
    )
    assert grouped / free == pytest.approx(math.sqrt(5), rel=0.1)


def test_groups_of_one_are_cases() -> None:
    values = np.arange(30.0)
    keys = [f"{i:02}" for i in range(30)]
    assert metrics.bootstrap_interval(values, groups=keys) == metrics.bootstrap_interval(values)


def test_larger_patients_count_with_all_their_films() -> None:
    values = [0.0, 0.0, 0.0, 8.0]
    assert metrics.estimate(values, groups=["a", "a", "a", "b"]).value == 2.0
    low, high = metrics.bootstrap_interval(values, groups=["a", "a", "a", "b"])
    assert (low, high) == (0.0, 8.0)


def test_what_cannot_be_resampled_is_refused() -> None:
    with pytest.raises(InputError, match="at least two"):
        metrics.bootstrap_interval([1.0])
    with pytest.raises(InputError, match="at least two"):
        metrics.bootstrap_interval([1.0, 2.0], groups=["a", "a"])
    with pytest.raises(InputError, match="1 group keys for 2"):
        metrics.bootstrap_interval([1.0, 2.0], groups=["a"])
    with pytest.raises(InputError, match="no values"):
        metrics.bootstrap_interval([])
    with pytest.raises(InputError, match="level"):
        metrics.bootstrap_interval([1.0, 2.0], level=95)


def test_estimates_are_the_statistics() -> None:
    generator = np.random.default_rng(5)
    actual = generator.uniform(0, 228, 80)
    assessed = actual + generator.normal(1, 8, 80)
    error = metrics.errors(assessed, actual)
    limits = metrics.bland_altman(assessed, actual)
    for values, statistic, expected in (
        (np.abs(error), None, metrics.mae(assessed, actual)),
        (error**2, metrics.root_mean, metrics.rmse(assessed, actual)),
        (metrics.agreement_values(error), metrics.lower_agreement, limits.lower),
        (metrics.agreement_values(error), metrics.upper_agreement, limits.upper),
    ):
        value, interval, n = metrics.estimate(values, statistic=statistic)
        assert value == pytest.approx(expected)
        assert n == 80
        assert interval is not None
        assert interval[0] < value < interval[1]
    spread = error.std(ddof=1)
    assert limits.upper - limits.lower == pytest.approx(2 * 1.96 * spread)


def test_a_single_case_has_no_interval() -> None:
    assert metrics.estimate([3.0]) == (3.0, None, 1)


def test_pairing_removes_what_both_share() -> None:
    generator = np.random.default_rng(6)
    actual = generator.uniform(0, 200, 100)
    shared = generator.normal(0, 10, 100)
    better, worse = actual + shared, actual + shared * 1.1
    low, high = metrics.paired_bootstrap_interval(better, worse, actual)
    assert low <= metrics.mae(better, actual) - metrics.mae(worse, actual) <= high < 0
    alone = metrics.bootstrap_interval(np.abs(shared))
    assert high - low < 0.2 * (alone[1] - alone[0])
    assert metrics.paired_bootstrap_interval(better, better, actual) == (0.0, 0.0)
