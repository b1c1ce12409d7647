"""Errors of assessed ages against reference ages, and their bootstrap intervals.

Ages are one-dimensional arrays in one unit (months for hands, years for adults); an error is
*assessed minus actual*, so a positive bias means that ages are overestimated. Every function raises
:class:`~boneage.errors.InputError` for arrays that are empty, of unequal length or not finite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from boneage.errors import InputError

RESAMPLES = 5000
LEVEL = 0.95
NORMAL_95 = 1.96  # half-width of the central 95 % of a normal distribution, in SD

Array = NDArray[np.float64]


class BlandAltman(NamedTuple):
    """Bias and 95 % limits of agreement, in the unit of the ages."""

    bias: float
    lower: float
    upper: float


class Estimate(NamedTuple):
    """A measured value, its 95 % interval (``None`` for a single case), and the number of cases."""

    value: float
    interval: tuple[float, float] | None
    n: int


def errors(assessed: ArrayLike, actual: ArrayLike) -> Array:
    """Signed errors ``assessed - actual``, shape (n,)."""
    a, b = _finite(assessed, "assessed ages"), _finite(actual, "actual ages")
    if a.shape != b.shape:
        raise InputError(f"There are {a.size} assessed ages for {b.size} actual ones.")
    return a - b


def mae(assessed: ArrayLike, actual: ArrayLike) -> float:
    """Mean absolute error ``mean |e|``, in the unit of the ages."""
    return float(np.abs(errors(assessed, actual)).mean())


def rmse(assessed: ArrayLike, actual: ArrayLike) -> float:
    """Root mean square error ``sqrt(mean e^2)``, in the unit of the ages."""
    return float(np.sqrt(np.square(errors(assessed, actual)).mean()))


def bias(assessed: ArrayLike, actual: ArrayLike) -> float:
    """Mean signed error ``mean e``, in the unit of the ages."""
    return float(errors(assessed, actual).mean())


def within(assessed: ArrayLike, actual: ArrayLike, limit: float) -> float:
    """Share of cases with ``|e| <= limit``, 0 to 1.

    Args:
        limit: largest accepted absolute error, in the unit of the ages, at least 0.
    """
    if not limit >= 0:
        raise InputError(f"The limit of an error is {limit}; it must be at least 0.")
    return float((np.abs(errors(assessed, actual)) <= limit).mean())


def bland_altman(assessed: ArrayLike, actual: ArrayLike) -> BlandAltman:
    """Bias and limits of agreement ``mean e -/+ 1.96 SD(e)``, SD with n - 1.

    Source: Bland and Altman, Lancet 1986; 327:307-310. The limits hold for one assessment, not for
    the mean, and presume errors that are near normal and alike at every age.

    Raises:
        InputError: also for a single case, whose SD is undefined.
    """
    means = agreement_values(errors(assessed, actual)).mean(axis=0, keepdims=True)
    return BlandAltman(
        float(means[0, 0]), float(lower_agreement(means)[0]), float(upper_agreement(means)[0])
    )


def root_mean(means: Array) -> Array:
    """The RMSE from means of squared errors, (k, 1) to (k,); a statistic for :func:`estimate`."""
    return np.sqrt(means[:, 0])


def agreement_values(error: Array) -> Array:
    """Per-case values whose means give limits of agreement: ``e``, ``e^2`` and ``n / (n - 1)``."""
    n = len(error)
    if n < 2:
        raise InputError("Limits of agreement need at least two cases.")
    return np.column_stack([error, error**2, np.full(n, n / (n - 1))])


def lower_agreement(means: Array) -> Array:
    """Lower limit of agreement from means of :func:`agreement_values`, (k, 3) to (k,)."""
    return means[:, 0] - NORMAL_95 * _deviation(means)


def upper_agreement(means: Array) -> Array:
    """Upper limit of agreement from means of :func:`agreement_values`, (k, 3) to (k,)."""
    return means[:, 0] + NORMAL_95 * _deviation(means)


def estimate(
    values: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    statistic: Callable[[Array], Array] | None = None,
) -> Estimate:
    """A function of means of per-case values with its bootstrap interval.

    Arguments as in :func:`bootstrap_interval`; a single case or group has no interval.
    """
    table = _table(values)
    means = table.mean(axis=0, keepdims=True)
    value = float(means[0, 0] if statistic is None else statistic(means)[0])
    if len(np.unique(np.arange(len(table)) if groups is None else np.asarray(groups))) < 2:
        return Estimate(value, None, len(table))
    interval = bootstrap_interval(table, groups=groups, statistic=statistic)
    return Estimate(value, interval, len(table))


def bootstrap_interval(
    values: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    statistic: Callable[[Array], Array] | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a function of means (Efron and Tibshirani 1993, ch. 13).

    Cases are resampled with replacement. With ``groups``, whole groups are: several films of one
    patient are not independent, and resampling films would give too narrow an interval.

    Args:
        values: (n,) or (n, m): for each case the quantities whose means enter the statistic, such
            as ``|e|`` for the MAE.
        groups: (n,) keys, equal for cases of one patient; ``None`` makes every case its own group.
        statistic: from the means of each resample, (resamples, m), to one number each,
            (resamples,). ``None``: the mean of the first column.
        resamples: number of bootstrap samples.
        level: nominal coverage, between 0 and 1.
        seed: of the random generator; the same call always gives the same interval.

    Returns:
        Lower and upper end, in the statistic's unit.

    Raises:
        InputError: also if there is only one case or group, which cannot be resampled.
    """
    table = _table(values)
    if resamples < 1 or not 0 < level < 1:
        raise InputError("A bootstrap needs at least one resample and a level between 0 and 1.")
    sums = np.column_stack([table, np.ones(len(table))])
    if groups is not None:
        keys = np.asarray(groups)
        if keys.shape != (len(table),):
            raise InputError(f"There are {keys.size} group keys for {len(table)} cases.")
        names, index = np.unique(keys, return_inverse=True)
        grouped = np.zeros((len(names), sums.shape[1]))
        np.add.at(grouped, index, sums)
        sums = grouped
    count = len(sums)
    if count < 2:
        raise InputError("A bootstrap interval needs at least two cases or groups.")

    generator = np.random.default_rng(seed)
    totals = np.empty((resamples, sums.shape[1]))
    chunk = max(1, 2_000_000 // count)  # bounds the memory, whatever the number of cases
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = generator.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        totals[start : start + size] = times @ sums
    means = totals[:, :-1] / totals[:, -1:]
    estimates = means[:, 0] if statistic is None else statistic(means)
    low, high = np.quantile(estimates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_bootstrap_interval(
    assessed_a: ArrayLike,
    assessed_b: ArrayLike,
    actual: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval of ``MAE(a) - MAE(b)`` of two assessments of the same cases.

    Both are resampled together, which removes the variation that they share; an interval wholly
    below 0 says that ``a`` errs less. Arguments otherwise as in :func:`bootstrap_interval`.
    """
    difference = np.abs(errors(assessed_a, actual)) - np.abs(errors(assessed_b, actual))
    return bootstrap_interval(
        difference, groups=groups, resamples=resamples, level=level, seed=seed
    )


def _deviation(means: Array) -> Array:
    return np.sqrt(np.maximum(means[:, 1] - means[:, 0] ** 2, 0) * means[:, 2])


def _table(values: ArrayLike) -> Array:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2:
        raise InputError(f"The values have {table.ndim} dimensions; expected 1 or 2.")
    _finite(table.reshape(-1), "values")
    return table


def _finite(values: ArrayLike, what: str) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise InputError(f"The {what} are an array of {array.ndim} dimensions; expected one.")
    if not array.size:
        raise InputError(f"There are no {what}.")
    if not np.isfinite(array).all():
        raise InputError(f"The {what} hold a value that is not a finite number.")
    return array
