"""``python -m evaluate.robustness``: errors on radiographs turned, scaled, or scanned otherwise.

Liu et al. (MICCAI 2019, Section 3) claim "stable performance with different rotation, scaling ratio
and contrast ratio" and publish no number. Measured here are the MAE on every case of a test set
after each of :data:`CHANGES`, and how far each moves the ages; beside what the paper names, what
scanners, files and their users do: mirror, enlarge, frame, compress, add noise. It takes minutes,
so it is a command of its own; the evaluation prints what was recorded as table S5, for the weights
that it was recorded with.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from boneage import losses
from boneage.arguments import path
from boneage.errors import InputError, run_command
from boneage.framing import mirrored
from evaluate.cases import CASES, CaseRow, Outcome, case_rows, write_rows
from evaluate.published import Cell
from evaluate.records import DECIMALS, MAE, Record, empty_record, fill, measure, patients_of

if TYPE_CHECKING:
    from boneage.datasets import Case
    from boneage.images import Radiograph
    from evaluate.run import Assessor, Dataset

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data" / "rsna-test"
FOLDER = ROOT / "evaluate" / "recorded" / "robustness"
TABLE = "S5"
UNCHANGED = "unchanged"
COLUMNS = (
    "MAE",
    "MAE - unchanged",
    "mean change of the age",
    "95th percentile of the change",
    "largest change",
)
NOT_MEASURED = (
    "not measured with these weights; `python -m evaluate.robustness` does it of the released ones"
)
BATCH = 16  # images assessed together


@dataclass(frozen=True)
class Change:
    """One change of a radiograph, made before the preprocessing.

    Attributes:
        kind: a key of ``_KINDS``.
        amount: degrees counter-clockwise, a factor, per cent of each side or of the grey range, a
            JPEG quality, or a number of grey levels; of no matter to mirroring.
    """

    kind: str
    amount: float

    @property
    def name(self) -> str:
        """``rotation by +10 degrees``, ``scaling by 0.8``, ``mirrored``: a row of S5."""
        return _KINDS[self.kind][0].format(self.amount)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """The changed image: (H, W) uint8 or uint16 to the same type, enlarged to another shape."""
        return _KINDS[self.kind][1](pixels, self.amount)


CHANGES = (
    *(Change("rotation", degrees) for degrees in (-30, -20, -10, 10, 20, 30)),
    *(Change("scaling", factor) for factor in (0.8, 0.9, 1.1, 1.2)),
    *(Change("contrast", factor) for factor in (0.5, 0.75, 1.5, 2)),
    Change("mirroring", 1),
    *(Change("enlargement", factor) for factor in (2, 4)),
    Change("border", 6),
    *(Change("frame", per_cent) for per_cent in (6, 15)),
    *(Change("noise", per_cent) for per_cent in (1, 3)),
    *(Change("jpeg", quality) for quality in (90, 75, 50)),
    *(Change("levels", levels) for levels in (64, 32)),
)


def turn_and_scale(pixels: np.ndarray, degrees: float = 0.0, factor: float = 1.0) -> np.ndarray:
    """Turn and scale about the middle, bilinear; the image keeps its size.

    What comes in from outside gets the value of the nearest pixel of the image's border, so that a
    black, grey or white border, and a forearm that the border cuts, go on as they are.

    Args:
        pixels: (H, W) uint8 or uint16.
        degrees: counter-clockwise.
        factor: above 1 enlarges.
    """
    from scipy.ndimage import affine_transform

    angle = np.deg2rad(degrees)
    cos, sin = np.cos(angle) / factor, np.sin(angle) / factor
    back = np.array([[cos, sin], [-sin, cos]])  # from a place in the result to its source
    middle = (np.array(pixels.shape) - 1) / 2
    moved = affine_transform(
        pixels.astype(np.float32), back, middle - back @ middle, order=1, mode="nearest"
    )
    return np.rint(moved).astype(pixels.dtype)


def change_contrast(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Stretch grey values about their mean by a factor; what leaves the type's range is cut off."""
    mean = pixels.mean()
    top = np.iinfo(pixels.dtype).max
    return np.rint((mean + factor * (pixels - mean)).clip(0, top)).astype(pixels.dtype)


def enlarge(pixels: np.ndarray, factor: float) -> np.ndarray:
    """More pixels of the same film, bicubic, as a scanner's software interpolates them."""
    from PIL import Image

    height, width = (round(factor * side) for side in pixels.shape)
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def white_border(pixels: np.ndarray, share: float) -> np.ndarray:
    """White over this share of each side at every edge, as collimators leave it."""
    down, across = (round(share * side) for side in pixels.shape)
    white = np.full_like(pixels, np.iinfo(pixels.dtype).max)
    white[down:-down, across:-across] = pixels[down:-down, across:-across]
    return white


def dark_frame(pixels: np.ndarray, share: float) -> np.ndarray:
    """The film within a frame as dark as its darkest pixel, this share of its sides wide."""
    down, across = (round(share * side) for side in pixels.shape)
    return np.pad(pixels, ((down, down), (across, across)), constant_values=pixels.min())


def _noise(pixels: np.ndarray, per_cent: float) -> np.ndarray:
    """The same noise for every film of a shape, so that a case is always the same."""
    return losses.noise(pixels, per_cent / 100, np.random.default_rng(0))


_KINDS: dict[str, tuple[str, Callable[[np.ndarray, float], np.ndarray]]] = {
    "rotation": ("rotation by {:+g} degrees", lambda film, by: turn_and_scale(film, degrees=by)),
    "scaling": ("scaling by {:g}", lambda film, by: turn_and_scale(film, factor=by)),
    "contrast": ("contrast by {:g}", change_contrast),
    "mirroring": ("mirrored", lambda film, _: mirrored(film)),
    "enlargement": ("enlarged {:g} times", enlarge),
    "border": ("a white border of {:g} %", lambda film, by: white_border(film, by / 100)),
    "frame": ("within a dark frame of {:g} %", lambda film, by: dark_frame(film, by / 100)),
    "noise": ("noise of {:g} % of the grey range", _noise),
    "jpeg": ("JPEG of quality {:g}", lambda film, by: losses.jpeg(film, int(by))),
    "levels": ("{:g} grey levels", losses.few_levels),
}


def assess(
    dataset: Dataset, predictor: Assessor, weights: str, changes: Sequence[Change] = CHANGES
) -> list[CaseRow]:
    """Assess every case unchanged and after each change; a line of table S5 for each.

    Args:
        dataset: hands, all of them readable.
        predictor: which may serve one sex; cases of the other are left out.
        weights: their label.
        changes: made one at a time.
    """
    from tqdm import tqdm

    from boneage import images

    sexes = predictor.config["sexes"]
    cases = [case for case in dataset.folder.cases if not sexes or case.sex in sexes]
    rows: list[CaseRow] = []
    for start in tqdm(range(0, len(cases), BATCH), unit="batch", desc=dataset.name):
        chunk = cases[start : start + BATCH]
        originals = [images.read(case.path, id=case.id) for case in chunk]
        for change in (None, *changes):
            radiographs = [replace(r, pixels=change(r.pixels)) if change else r for r in originals]
            row = change.name if change else UNCHANGED
            rows += _lines(chunk, radiographs, predictor, row, dataset, weights)
    order = {name: i for i, name in enumerate((UNCHANGED, *(change.name for change in changes)))}
    return sorted(rows, key=lambda row: (order[row.row], row.id))


def _lines(
    cases: Sequence[Case],
    radiographs: Sequence[Radiograph],
    predictor: Assessor,
    row: str,
    dataset: Dataset,
    weights: str,
) -> list[CaseRow]:
    found = predictor.assess(radiographs, [case.sex for case in cases], batch_size=BATCH)
    cell = Cell(TABLE, row, "MAE", None)
    place = {"dataset": dataset.name, "unit": dataset.folder.unit, "weights": weights}
    return [
        line
        for case, assessment in zip(cases, found, strict=True)
        for line in case_rows(Outcome(case, assessment, assessment.refused), [cell], **place)
    ]


def records(cases: Sequence[CaseRow], dataset: str) -> list[Record]:
    """Table S5 of a data set of hands: every change's MAE, what it adds to it, how ages move.

    Differences are paired: each case with itself unchanged.
    """
    places: dict[str, dict[str, dict[str, CaseRow]]] = {}
    for row in cases:
        if row.table == TABLE and row.dataset == dataset:
            places.setdefault(row.weights, {}).setdefault(row.row, {})[row.id] = row
    if not places:
        return [
            {**empty_record(TABLE, name, COLUMNS[0], dataset, "months"), "why": NOT_MEASURED}
            for name in (UNCHANGED, *(change.name for change in CHANGES))
        ]
    found = []
    for weights, by_change in places.items():
        for name, changed in by_change.items():
            empty = empty_record(TABLE, name, COLUMNS[0], dataset, "months", weights=weights)
            found.append(measure({**empty, "recorded": True}, list(changed.values()), MAE))
            if name != UNCHANGED:
                found += _differences(found[-1], changed, by_change.get(UNCHANGED, {}))
    return found


def _differences(
    record: Record, changed: dict[str, CaseRow], unchanged: dict[str, CaseRow]
) -> list[Record]:
    both = [
        (row, unchanged[id])
        for id, row in changed.items()
        if id in unchanged and row.assessed is not None and unchanged[id].assessed is not None
    ]
    ages = [(row.assessed, before.assessed, row.age) for row, before in both]
    after, before, actual = np.array(ages, dtype=np.float64).reshape(-1, 3).T
    keys = patients_of([row for row, _ in both])
    moved = abs(after - before)
    empty = {**record, "measured": None, "n": 0, "ci95": None}
    found = [
        fill({**empty, "column": COLUMNS[1]}, abs(after - actual) - abs(before - actual), keys),
        fill({**empty, "column": COLUMNS[2]}, moved, keys),
    ]
    for name, share in zip(COLUMNS[3:], (95, 100), strict=True):
        tail = {**fill({**empty, "column": name}, moved, keys), "ci95": None}  # too few tell one
        if len(moved):
            tail["measured"] = round(np.percentile(moved, share).item(), DECIMALS)
        found.append(tail)
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m evaluate.robustness",
        description="Assess test radiographs turned, scaled, changed in contrast, mirrored, "
        "enlarged, framed, noisy, compressed and with few grey levels, and record the ages, from "
        "which python -m evaluate makes table S5 and its figure. Takes "
        f"{1 + len(CHANGES)} times as long as the evaluation of the same images.",
    )
    p.add_argument(
        "--data", type=path, metavar="DIR",
        help="labelled folder whose test split is assessed (default: the bundled rsna-test)",
    )  # fmt: skip
    p.add_argument(
        "--weights", type=path, metavar="DIR",
        help="weights folder (default: the released weights for hands)",
    )  # fmt: skip
    p.add_argument(
        "--out", type=path, metavar="DIR",
        help="folder for cases.csv and run.json (default, of the released weights on the bundled "
        "images: evaluate/recorded/robustness, from which the evaluation takes them)",
    )  # fmt: skip
    return p


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = parser().parse_args(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    return run_command("evaluate.robustness", lambda: _run(args, words))


def _run(args: argparse.Namespace, arguments: list[str]) -> int:
    from boneage import datasets
    from boneage.predictor import Predictor
    from evaluate.processes import Processes
    from evaluate.run import (
        RUN,
        Dataset,
        about_machine,
        describe_data,
        describe_weights,
        label,
        write_json,
    )

    if not args.out and (args.data or args.weights):
        raise InputError("Other weights or images need a folder of their own: give --out DIR.")
    out = args.out or FOLDER
    started, clock = datetime.now(UTC), time.monotonic()
    folder = datasets.load(args.data or DATA)
    if folder.task != "hand":
        raise InputError(f"Hands are measured; {folder.name} is for the task {folder.task}.")
    dataset = Dataset(f"{folder.name}/test", folder.split("test"))
    predictor = Predictor.load(args.weights, precision="fp32")
    rows = assess(dataset, predictor, label(predictor))
    if not rows:
        sexes = " or ".join(predictor.sexes)
        raise InputError(f"{dataset.name} has no case of the sex {sexes}, which the weights need.")
    write_rows(out / CASES, rows)
    write_json(
        out / RUN,
        {
            "command": shlex.join(["python", "-m", "evaluate.robustness", *arguments]),
            "started": started.isoformat(timespec="seconds"),
            "duration_s": round(time.monotonic() - clock, 1),
            "datasets": [describe_data(dataset)],
            "weights": [describe_weights(predictor)],
            **about_machine([predictor], Processes()),
        },
    )
    for record in records(rows, dataset.name):
        if record["column"] == COLUMNS[0]:
            error = "none assessed" if not record["n"] else f"MAE {record['measured']:.2f} months"
            print(f"{record['row']}: {error}, n = {record['n']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
