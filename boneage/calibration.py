"""What weights are given after their training: prediction intervals, and what they refuse.

:func:`calibrate` finds both; what is refused and how is in :mod:`boneage.refusal`.

Intervals are split-conformal (Papadopoulos et al., "Inductive Confidence Machines for Regression",
ECML 2002; Lei et al., "Distribution-Free Predictive Inference for Regression", JASA 2018), with a
half-width of its own for each band of assessed ages (Vovk, "Conditional validity of inductive
conformal predictors", ACML 2012). The errors come from the half of the validation cases by which
:mod:`train` selects no weights; that the weights before did not either, the config says or denies.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boneage import datasets, hub, losses
from boneage.chunks import chunks
from boneage.errors import InputError
from boneage.framing import Framing, mirrored
from boneage.refusal import (
    CUTS,
    POSES,
    Features,
    HandRefusal,
    Pose,
    Refusal,
    fit,
    fit_hands,
    tapped,
)

if TYPE_CHECKING:
    from boneage.datasets import Case, LabelledFolder
    from boneage.images import Radiograph
    from boneage.predictor import Predictor

COVERAGE = 0.9
KEPT, MARGIN = 0.99, 1.6
"""What is refused lies farther from the training images than 99 % of validation images, and this
many times as far: images from elsewhere lie farther than those of the same hospitals, too. Chosen
on hands."""
FEWEST = 99  # validation images of which a hundredth can be told
UPRIGHT, TURNED = 1500, 500
"""Training images by which an upright and another pose is learnt."""
CUT, SHARES, UNCUT = 400, (0.15, 0.3), 0.99
"""Training images by which each cut is learnt, the share of the side that it takes, and the share
of validation hands of which no cut is told."""
MIRRORED, UNMIRRORED = 800, 0.98
"""Training images by which mirrored hands are learnt, and the share of validation hands that are
told to be none; among the others may be some that are."""
NOISY, NOISE = 25, 0.06
"""One in so many training images is noisy, by a share of its range of up to this."""
TILTS = {"hand": 30.0, "adult": 10.0}
"""Degrees by which every second of them is turned further, either way."""
BATCH = 16  # images computed together
OTHER_HALF = "the other validation images"
WHOLE_SPLIT = "all validation images, these among them"
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
            f"{len(sizes)} cases are too few for intervals that cover {100 * coverage:g} %; it "
            f"takes at least {least}."
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

    Bands begin at multiples of two years for hands and of ten for adults; from the youngest on,
    each is as narrow as :data:`LEAST` cases (patients) allow, and the last takes what remains.

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


def calibrate(weights: Path, data: Path) -> dict[str, Any]:
    """Find intervals and what is refused, and write both into a weights folder.

    Fusions and BoNet have no single backbone whose features would tell what is unlike the training
    images, and refuse nothing; nor do weights for adults with fewer than 99 validation images. Of
    99 and more at least 99 have to seem upright.

    Args:
        weights: the folder.
        data: the labelled folder that the weights were trained on: errors come from its validation
            split, what its images look like from its training split.

    Returns:
        The ``interval`` and ``refusal`` entries of the config.

    Raises:
        InputError: if the folders do not belong together or hold too few images.
    """
    from boneage.predictor import Predictor, name_of

    config = hub.load_config(weights)
    # Without the calibration that is there: it is replaced, and may be what is broken.
    model = hub.build_network(weights, config, hub.checked_data(weights, config))
    config |= {"interval": None, "refusal": None}
    predictor = Predictor(model, config, name_of(weights), config["sha256"][:12], precision="fp32")
    labelled = datasets.load(data)
    if labelled.task != config["task"]:
        raise InputError(
            f"{labelled.name} is for the task {labelled.task}, the weights for {config['task']}."
        )
    if len(config["sexes"]) == 1:
        labelled = labelled.of_sex(*config["sexes"])
    cases = labelled.split("validation").cases
    enough = len(cases) >= FEWEST
    refuses = hasattr(model, "backbone") and (enough or config["task"] == "hand")
    if refuses and not enough:
        raise InputError(
            f"{labelled.name} has {len(cases)} validation images; what is to be refused is found "
            f"from {FEWEST} at least."
        )
    learnt = _learn(predictor, labelled.split("train")) if refuses else None
    assessed, features = _assess(predictor, cases, refuses)
    chosen = np.array([calibrates(case) for case in cases])
    refusal = None
    if learnt and features:
        learnt = replace(learnt, threshold=_threshold(learnt, features))
        if isinstance(learnt, HandRefusal):
            learnt = replace(
                learnt,
                cut_lead=_lead(learnt.cut_leads(features).max(1), UNCUT),
                mirrored_lead=_lead(learnt.mirrored_leads(features), UNMIRRORED),
            )
        accepted = np.array([found.reason is None for found in learnt.judge(features)])
        chosen &= accepted
        refusal = {
            **learnt.entry,
            "data": labelled.name,
            "validation": {"images": len(cases), "accepted": int(accepted.sum())},
        }
    own = [case for case, taken in zip(cases, chosen, strict=True) if taken]
    interval = {
        **fit_intervals(
            np.array([case.age for case in own]),
            assessed[chosen],
            labelled.unit,
            [case.patient or case.id for case in own] if any(c.patient for c in own) else None,
        ),
        "method": "split conformal, by assessed age",
        "data": labelled.name,
        "cases": len(own),
        "weights_selected_on": OTHER_HALF if half_selected(config["provenance"]) else WHOLE_SPLIT,
    }
    entries = {"interval": interval, "refusal": refusal}
    hub.save_calibration(weights, entries, learnt.arrays if learnt else {})
    return entries


def half_selected(provenance: Mapping[str, Any]) -> bool:
    """Whether these weights and all that they started from were selected on the other half."""
    if "selection_images" not in provenance:
        return False
    start = provenance.get("initialisation")
    if not isinstance(start, Mapping):
        return True
    befores = (each.get("provenance") for each in start.get("mean_of", [start]))
    return all(before is None or half_selected(before) for before in befores)


def _threshold(refusal: Refusal, features: Features) -> float:
    """The distance from which an image is refused, from those of upright validation images."""
    _, poses = refusal.poses(features)
    distances = refusal.distances(features, poses)[poses == 0]
    if len(distances) < FEWEST:
        raise InputError(
            f"{len(distances)} of the {len(poses)} validation images seem to be upright; what "
            f"is to be refused is found from {FEWEST} of them at least."
        )
    return round(MARGIN * conformal_quantile(distances, KEPT), 3)


def _lead(leads: np.ndarray, share: float) -> float:
    """The lead from which there is a warning: this share of validation images have none."""
    return round(conformal_quantile(leads, share), 3)


def _learn(predictor: Predictor, training: LabelledFolder) -> Refusal:
    """What the images look like in every pose, hands cut off and mirrored, too.

    They are training images chosen at random. Some are made noisy: the images of one data set are
    of one make, beside which noise that no reader would notice looks foreign.
    """
    rng = np.random.default_rng(0)

    def chosen(most: int) -> list[Case]:
        return [training.cases[i] for i in rng.permutation(len(training.cases))[:most]]

    def features(films: Iterable[Radiograph]) -> Features:
        # By twos, since every second one is tilted.
        mixed = (
            film if number // 2 % NOISY else _noisy(film, rng.uniform(0, NOISE), rng)
            for number, film in enumerate(films)
        )
        return Features.joined([predictor.features(batch) for batch in chunks(mixed, BATCH)])

    def tilted(most: int) -> Iterator[tuple[Radiograph, float]]:
        for number, case in enumerate(chosen(most)):
            yield datasets.read(case), rng.uniform(-1, 1) * TILTS[training.task] * (number % 2)

    poses, cuts = [], []
    for pose in POSES:
        films = tilted(UPRIGHT if pose.upright else TURNED)
        poses.append(features(_posed(film, pose, tilt) for film, tilt in films))
    if training.task != "hand":
        return fit(poses)
    others = features(
        _posed(replace(film, pixels=mirrored(film.pixels)), POSES[0], tilt)
        for film, tilt in tilted(MIRRORED)
    )
    for cut in CUTS:
        cases = chosen(CUT)
        framings = [Framing(**{cut.edge: share}) for share in rng.uniform(*SHARES, len(cases))]
        films = (
            framing.apply(datasets.read(case))
            for case, framing in zip(cases, framings, strict=True)
        )
        cuts.append(features(films))
    return fit_hands(poses, cuts, others)


def _posed(radiograph: Radiograph, pose: Pose, tilt: float) -> Radiograph:
    """A radiograph brought from upright into a pose, and turned by some degrees more."""
    degrees = (90 * pose.quarters + tilt + 180) % 360 - 180
    turned = Framing(degrees).apply(radiograph)
    return replace(turned, pixels=pose.invert(turned.pixels))


def _noisy(radiograph: Radiograph, share: float, rng: np.random.Generator) -> Radiograph:
    return replace(radiograph, pixels=losses.noise(radiograph.pixels, share, rng))


def _assess(
    predictor: Predictor, cases: Sequence[Case], tap: bool
) -> tuple[np.ndarray, Features | None]:
    """Assessed ages (n,), and features if they are to be tapped on the way."""
    ages, parts = [], []
    for batch in chunks(cases, BATCH):
        radiographs = [datasets.read(case) for case in batch]
        with tapped(predictor.model) if tap else nullcontext() as stages:
            found = predictor.assess(radiographs, [case.sex for case in batch], batch_size=BATCH)
        ages += [assessment.age for assessment in found]
        if stages:
            parts.append(Features.of(stages))
    return np.array(ages, np.float64), Features.joined(parts) if parts else None
