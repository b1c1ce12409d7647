"""How many foreign images get no age, and how many of the data set do: ``refusals.csv``, table S10.

Assessed are the images of :mod:`evaluate.negatives`, made of what is bundled, and some of the data
set turned, inverted and mirrored. Images as they are are the evaluation's own cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from boneage.chunks import chunks
from boneage.framing import mirrored
from boneage.refusal import KINDS
from boneage.refusal import MIRRORED as SEEMS_MIRRORED
from evaluate import negatives
from evaluate.cases import AssessmentRow, read_rows, write_rows
from evaluate.negatives import CHEST, COUNT, CT, DRAWN, HAND, REPORTED
from evaluate.records import Record, empty_record, fill
from evaluate.robustness import turn_and_scale

if TYPE_CHECKING:
    from boneage.datasets import Case
    from boneage.images import Radiograph
    from evaluate.run import Assessor, Dataset

REFUSALS = "refusals.csv"
TABLE = "S10"
REFUSED, FITTING, TOLD = "refused", "for the right reason", "refused or warned"
COLUMNS = (REFUSED, FITTING, TOLD)
DATA = Path(__file__).resolve().parents[1] / "data"
CHESTS = DATA / "nih-chest-test" / "images"
HANDS = DATA / "rsna-test" / "images"
VOLUME = DATA / "ct-samples" / "torso_3mm.nii.gz"
SUBJECTS = {"hand": "hands", "adult": "images"}
AS_THEY_ARE, MIRRORED = "as they are", "mirrored"
BATCH = 16  # images assessed together
NOTES = {
    "hand": "Share of the images that are given no age. The right reason is that the image shows "
    "no hand, or how the hand is turned; a warning says that the hand may be turned or inverted "
    "or, of mirrored hands, that it may be mirrored. Hands as they are should be assessed, and "
    "mirrored ones with that warning. Hands turned by 120 and 150 degrees lie between what is "
    "known, and should be refused for any reason or warned of; what comes in at their corners "
    "repeats the border. No parameter was fitted to an image that shows no hand; the threshold's "
    "margin and the number of components were chosen while looking at others of these kinds and "
    "at full-size radiographs, the number after three of these chest radiographs had been "
    "assessed, the margin after three of them and two of these shapes had been. Intervals resample "
    "images: chest radiographs of one patient count apiece, and all CT projections are of one "
    "volume.",
    "adult": "Share of the images that are given no age. The right reason is that the image is "
    "unlike the frontal images that the weights were trained on, or how it is turned; a warning "
    "says that it may be turned or inverted. Images as they are and mirrored ones should be "
    "assessed. No parameter was fitted to an image of another kind; the threshold's margin and the "
    "number of components are those that were chosen on hands. A first trial, after which poses "
    "and tilt were added, had assessed the hands that these are chosen from, test images and "
    "others of the drawn kinds. Intervals resample images: those of one patient count apiece.",
}
SLANTS = (-120, 120, -150, 150)  # degrees, counter-clockwise: between the poses that are known


@dataclass(frozen=True)
class RefusalRow:
    """One image, a line of ``refusals.csv``.

    Attributes:
        kind: what it shows, a row of table S10.
        expected: the reason that fits, ``None`` if there is none or any will do.
        refused: the reason given, ``None`` if it was assessed.
        warned: whether the assessment warns that the image may be turned or inverted, of a mirrored
            hand that it may be mirrored.
    """

    dataset: str
    weights: str
    kind: str
    id: str
    expected: str | None
    refused: str | None
    warned: bool


def assess(dataset: Dataset, predictor: Assessor, weights: str) -> list[RefusalRow]:
    """Assess images of every kind.

    Args:
        dataset: hands, or images of adults.
        predictor: of weights that refuse.
        weights: their label.
    """
    from tqdm import tqdm

    rows = []
    turned = tuple(pose.warning for pose in KINDS[dataset.folder.task].POSES[1:])
    for kind, expected, radiographs in tqdm(list(_kinds(dataset)), "refusals", unit="kind"):
        fitting = (SEEMS_MIRRORED,) if kind.endswith(MIRRORED) else turned
        for batch in chunks(radiographs, BATCH):
            sexes = [(predictor.config["sexes"] or [None])[0]] * len(batch)
            for found in predictor.assess(batch, sexes, batch_size=len(batch)):
                warned = any(warning in fitting for warning in found.warnings)
                rows.append(
                    RefusalRow(
                        dataset.name, weights, kind, found.id, expected, found.refused, warned
                    )
                )
    return rows


def _kinds(dataset: Dataset) -> Iterator[tuple[str, str | None, Iterable[Radiograph]]]:
    task, cases = dataset.folder.task, dataset.folder.cases
    foreign = KINDS[task].FOREIGN
    if task == "hand":
        yield CHEST, foreign, negatives.chosen(sorted(CHESTS.iterdir()), REPORTED)
        yield CT, foreign, negatives.projections(VOLUME, REPORTED)
    else:
        yield HAND, foreign, negatives.chosen(sorted(HANDS.iterdir()), REPORTED)
    for kind in DRAWN:
        yield kind, foreign, negatives.generate(kind, REPORTED)
    chosen = cases[:: max(1, len(cases) // COUNT)][:COUNT]
    subject = SUBJECTS[task]
    yield f"{subject} {MIRRORED}", None, _changed(chosen, mirrored)
    for pose in KINDS[task].POSES[1:]:
        yield f"{subject} {pose.description}", pose.reason, _changed(chosen, pose.apply)
    for angle in SLANTS if task == "hand" else ():
        turned = f"{subject} turned by {abs(angle)} degrees {'anti' * (angle > 0)}clockwise"
        yield turned, None, _changed(chosen, partial(turn_and_scale, degrees=angle))


def _changed(
    cases: Sequence[Case], change: Callable[[np.ndarray], np.ndarray]
) -> Iterator[Radiograph]:
    from boneage import images

    for case in cases:
        radiograph = images.read(case.path, id=case.id)
        yield replace(radiograph, pixels=change(radiograph.pixels))


def write(folder: Path, rows: Sequence[RefusalRow]) -> None:
    """Write ``refusals.csv``; nothing where nothing refuses."""
    (folder / REFUSALS).unlink(missing_ok=True)
    if rows:
        write_rows(folder / REFUSALS, rows)


def read(path: Path) -> list[RefusalRow]:
    """Read a ``refusals.csv``; a missing one has no lines."""
    return list(read_rows(path, RefusalRow)) if path.is_file() else []


def records(
    rows: Sequence[RefusalRow], details: Sequence[AssessmentRow], task: str
) -> list[Record]:
    """Table S10 of one data set and one set of weights.

    Args:
        rows: the lines of ``refusals.csv``.
        details: the lines of ``assessments.csv``; those of the same data set and weights are the
            images as they are.
        task: of the data set.
    """
    own = f"{SUBJECTS[task]} {AS_THEY_ARE}"
    # No warning says that an image is foreign, nor that an adult's is mirrored.
    untold = (KINDS[task].FOREIGN, *([None] if task == "adult" else []))
    place = (rows[0].dataset, rows[0].weights)
    kinds: dict[str, list[RefusalRow]] = {}
    for row in rows:
        kinds.setdefault(row.kind, []).append(row)
    kinds[own] = [
        RefusalRow(*place, own, detail.id, None, detail.refused, False)
        for detail in details
        if (detail.dataset, detail.weights) == place
    ]
    found = []
    for kind, members in kinds.items():
        for column in COLUMNS:
            expected = members[0].expected if members else None
            if column == FITTING and expected is None:
                continue
            if column == TOLD and (kind == own or expected in untold):
                continue
            empty = empty_record(TABLE, kind, column, place[0], "%", weights=place[1])
            given = [
                row.refused == row.expected
                if column == FITTING
                else row.refused is not None or (column == TOLD and row.warned)
                for row in members
            ]
            found.append(fill(empty, 100 * np.array(given, dtype=np.float64), None))
    return found


def by_weights(rows: Iterable[RefusalRow]) -> list[tuple[RefusalRow, ...]]:
    """The rows of each data set and weights."""
    found: dict[tuple[str, str], list[RefusalRow]] = {}
    for row in rows:
        found.setdefault((row.dataset, row.weights), []).append(row)
    return [tuple(group) for group in found.values()]
