"""What weights are given after their training: prediction intervals, and what they refuse.

Intervals are split-conformal (Papadopoulos et al., "Inductive Confidence Machines for Regression",
ECML 2002; Lei et al., "Distribution-Free Predictive Inference for Regression", JASA 2018), with a
half-width of its own for each band of assessed ages (Vovk, "Conditional validity of inductive
conformal predictors", ACML 2012). The errors come from the half of the validation cases that
chooses no weights.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from boneage.errors import InputError

if TYPE_CHECKING:
    from boneage.datasets import Case

COVERAGE = 0.9
LEAST = 50  # cases, or patients, in a band
STEPS = {"months": 24.0, "years": 10.0}  # bands begin at multiples of these


def calibrates(case: Case) -> bool:
    """Whether a validation case calibrates the intervals; the others choose the weights.

    A hash of the patient, or of the id where labels name no patient, decides: half of all cases,
    the same ones always, and a patient's are never parted.
    """
    key = f"calibration {case.patient or case.id}"
    return hashlib.sha256(key.encode()).digest()[0] % 2 == 0


def conformal_quantile(
    errors: np.ndarray, coverage: float, patients: Sequence[str] | None = None
) -> float:
    """The half-width that covers a new case's error with at least this probability.

    It is the error of rank ceil((n + 1) * coverage) among n. Where several cases are of one
    patient, each counts as its share of the patient, and n is the number of patients, so that the
    probability is that of a case of a new patient (Lee, Barber and Willett, "Distribution-free
    inference with hierarchical data", 2023).

    Args:
        errors: absolute, (n,).
        coverage: in (0, 1).
        patients: the patient of each case; each its own where left out.

    Raises:
        InputError: if they are too few for any finite half-width.
    """
    keys = np.arange(len(errors)) if patients is None else np.array(patients)
    _, index, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    order = np.argsort(errors, kind="stable")
    covered = np.cumsum(1 / sizes[index][order])
    rank = np.searchsorted(covered, coverage * (len(sizes) + 1) - 1e-9)
    if rank == len(errors):
        least = math.ceil(coverage / (1 - coverage) - 1e-9)
        raise InputError(
            f"{len(sizes)} cases are too few for intervals that cover {coverage:.0%}; it takes at "
            f"least {least}."
        )
    return float(errors[order[rank]])


def fit_intervals(
    ages: np.ndarray,
    assessed: np.ndarray,
    unit: str,
    patients: Sequence[str] | None = None,
    coverage: float = COVERAGE,
) -> dict[str, Any]:
    """The ``interval`` entry of a weights config.

    Bands begin at multiples of two years for hands and of ten for adults; from the youngest on, each
    is as narrow as :data:`LEAST` cases (patients) allow, and the last one takes what remains.

    Args:
        ages: reference ages, (n,), in ``unit``.
        assessed: assessed ages, (n,); the bands are of these, as no other is known of a new case.
        unit: ``months`` or ``years``.
        patients: the patient of each case, if labels name them.
        coverage: of the intervals.

    Raises:
        InputError: if the cases are too few.
    """
    keys = np.arange(len(ages)) if patients is None else np.array(patients)
    step = STEPS[unit]
    starts = [0.0]
    for end in np.arange(step, assessed.max(initial=0), step):
        inside = (starts[-1] <= assessed) & (assessed < end)
        if min(len(np.unique(keys[inside])), len(np.unique(keys[assessed >= end]))) >= LEAST:
            starts.append(float(end))
    bands = []
    for start, end in zip(starts, [*starts[1:], np.inf], strict=True):
        inside = (start <= assessed) & (assessed < end)
        errors = np.abs(assessed - ages)[inside]
        own = None if patients is None else keys[inside]
        width = conformal_quantile(errors, coverage, own)
        band = {"from": start, "half_width": round(width, 2), "cases": int(inside.sum())}
        bands.append(band if own is None else {**band, "patients": len(np.unique(own))})
    return {"coverage": coverage, "bands": bands}


@dataclass(frozen=True)
class Intervals:
    """Prediction intervals of some weights.

    Attributes:
        coverage: nominal.
        starts: lowest assessed age of each band, ascending.
        half_widths: of each band.
        lowest, highest: ages that are reported, which no interval exceeds.
    """

    coverage: float
    starts: tuple[float, ...]
    half_widths: tuple[float, ...]
    lowest: float
    highest: float

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Intervals | None:
        """Those of a weights config; ``None`` where it has none."""
        if not (entry := config.get("interval")):
            return None
        return cls(
            entry["coverage"],
            tuple(band["from"] for band in entry["bands"]),
            tuple(band["half_width"] for band in entry["bands"]),
            config["age"]["lowest"],
            config["age"]["highest"],
        )

    def around(self, age: float) -> tuple[float, float]:
        """Lowest and highest age of the interval around an assessed age."""
        band = max(0, int(np.searchsorted(self.starts, age, side="right")) - 1)
        width = self.half_widths[band]
        return max(age - width, self.lowest), min(age + width, self.highest)
