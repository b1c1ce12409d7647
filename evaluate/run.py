"""The evaluation itself: assess the cases, write ``cases.csv``, make the rest from it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from boneage.batch import THREADS
from boneage.errors import InputError
from evaluate import described, heat_maps, ossification, refusal
from evaluate.cases import (
    ASSESSMENTS,
    BOXES,
    CASES,
    AssessmentRow,
    BoxRow,
    CaseRow,
    Outcome,
    Writer,
    assessment_row,
    box_rows,
    case_rows,
    read_assessments,
    read_boxes,
    read_cases,
)
from evaluate.ossification import Annotated, Score
from evaluate.processes import Processes
from evaluate.published import Cell, filled_cells
from evaluate.recorded import RecordedRow
from evaluate.records import groups
from evaluate.refusal import RefusalRow
from evaluate.robustness import TABLE as ROBUSTNESS
from evaluate.tables import Report, report

if TYPE_CHECKING:
    from boneage.datasets import Case, LabelledFolder
    from boneage.images import Radiograph
    from boneage.predictor import Assessment

METRICS = "metrics.json"
TABLES = "tables.md"
RUN = "run.json"
PACKAGES = (
    "torch", "torchvision", "numpy", "pillow", "pydicom", "safetensors", "matplotlib",
)  # fmt: skip


class Assessor(Protocol):
    """What the evaluation needs of :class:`boneage.predictor.Predictor`."""

    id: str
    revision: str
    config: Mapping[str, Any]

    def assess(
        self,
        radiographs: Sequence[Radiograph],
        sex: Sequence[str | None],
        *,
        batch_size: int,
        heat_map: bool = False,
    ) -> list[Assessment]: ...


@dataclass(frozen=True)
class Dataset:
    """The cases to assess.

    Attributes:
        name: folder and split, ``rsna-test/test``; stands in every line and table.
        folder: its cases, by id.
    """

    name: str
    folder: LabelledFolder


def evaluate(
    datasets: Sequence[Dataset],
    predictors: Sequence[Assessor],
    out: Path,
    *,
    batch_size: int = 16,
    recorded: Sequence[RecordedRow] = (),
    annotated: Sequence[Annotated] = (),
    processes: Processes | None = None,
    command: Sequence[str] = (),
) -> Report | None:
    """Assess every case with every predictor of its task and write all results to ``out``.

    Batches are cut from the sorted ids and dealt to the processes in turn; the process of rank 0
    writes. So the results are those of one process.

    Args:
        datasets: what to assess.
        predictors: with which weights.
        out: folder for ``cases.csv`` and everything made from it.
        batch_size: images assessed together.
        recorded: rows that fill cells which no predictor fills.
        annotated: radiographs with annotated regions, on which attention boxes are scored.
        processes: this one among several; by default alone.
        command: the command line, for ``run.json``.

    Returns:
        The tables; ``None`` in processes other than that of rank 0.

    Raises:
        InputError: if there is nothing to assess with, two data sets or two sets of weights have
            one name, or weights claim a cell that they cannot fill.
    """
    processes = processes or Processes()
    started, clock = datetime.now(UTC), time.monotonic()
    stored = _checked(datasets, predictors, recorded)
    patients = any(case.patient for dataset in datasets for case in dataset.folder.cases)
    writer = Writer(out, patients=patients) if processes.rank == 0 else None
    found = _Findings()
    with writer or nullcontext():
        for dataset in datasets:
            filled: set[tuple[str, str, str]] = set()
            for predictor in predictors:
                if predictor.config["task"] == dataset.folder.task:
                    batches = assess_cases(dataset, predictor, batch_size, processes)
                    filled |= _assess(dataset, predictor, batches, writer, found)
            if writer:
                writer.write(
                    row
                    for row in stored[dataset.name]
                    if (row.table, row.row, row.column) not in filled
                )
        for item in annotated:
            for predictor in filter(ossification.has_boxes, predictors):
                batches = assess_cases(item.dataset, predictor, batch_size, processes)
                _score_boxes(item, predictor, list(chain.from_iterable(batches)), writer, found)
    if processes.rank != 0:
        return None
    heat_maps.write(out, found.heat_maps)
    ossification.write(out, found.box_scores)
    refusal.write(out, found.refusals)
    _describe_weights(out, predictors, recorded)
    result = render(out / CASES, out, datasets, annotated)
    write_json(
        out / RUN,
        {
            "command": shlex.join(command),
            "started": started.isoformat(timespec="seconds"),
            "duration_s": round(time.monotonic() - clock, 1),
            "datasets": [
                describe_data(dataset)
                for dataset in (*datasets, *(item.dataset for item in annotated))
            ],
            "weights": [describe_weights(predictor) for predictor in predictors],
            "recorded": [row.name for row in recorded],
            "batch_size": batch_size,
            **about_machine(predictors, processes),
        },
    )
    return result


@dataclass
class _Findings:
    """What an evaluation finds beside ages; each goes into a file of its own."""

    heat_maps: dict[tuple[str, str, str], np.ndarray] = field(default_factory=dict)
    box_scores: list[Score] = field(default_factory=list)
    refusals: list[RefusalRow] = field(default_factory=list)


def _checked(
    datasets: Sequence[Dataset], predictors: Sequence[Assessor], recorded: Sequence[RecordedRow]
) -> dict[str, list[CaseRow]]:
    """The recorded lines of each data set; :class:`InputError` if nothing can be evaluated."""
    _refuse_twins([dataset.name for dataset in datasets], "data sets")
    _refuse_twins([label(predictor) for predictor in predictors], "weights")
    for predictor in predictors:
        filled_cells(predictor.config, predictor.id)  # before anything is assessed
    hashes = {p.config["sha256"] for p in predictors}
    stored = {dataset.name: _recorded_cases(dataset, recorded, hashes) for dataset in datasets}
    if not any(stored.values()) and not any(
        p.config["task"] == d.folder.task for p in predictors for d in datasets
    ):
        tasks = " or ".join(sorted({dataset.folder.task for dataset in datasets}))
        raise InputError(f"There are no weights for the task {tasks}; name some with --weights.")
    return stored


def _assess(
    dataset: Dataset,
    predictor: Assessor,
    batches: Iterable[list[Outcome]],
    writer: Writer | None,
    found: _Findings,
) -> set[tuple[str, str, str]]:
    """Write the lines of a data set by one network; the cells (table, row, column) they fill."""
    name, cells = label(predictor), filled_cells(predictor.config, predictor.id)
    filled: set[tuple[str, str, str]] = set()
    read: list[Case] = []
    assessed: list[Case] = []
    for outcomes in batches:
        lines = lines_of(outcomes, dataset, name, cells)
        filled |= {(x.table, x.row, x.column) for x in lines if isinstance(x, CaseRow)}
        read += [x.case for x in outcomes if x.assessment is not None]
        assessed += [x.case for x in outcomes if x.refused is None]
        if writer:
            writer.write(lines)
    if writer and assessed and dataset.folder.task == "adult":
        found.heat_maps |= heat_maps.explain(dataset.name, assessed, predictor, name)
    if writer and predictor.config.get("refusal"):
        readable = replace(dataset, folder=replace(dataset.folder, cases=tuple(read)))
        found.refusals += refusal.assess(readable, predictor, name)
    return filled


def _score_boxes(
    item: Annotated,
    predictor: Assessor,
    outcomes: Sequence[Outcome],
    writer: Writer | None,
    found: _Findings,
) -> None:
    """Write the attention boxes of annotated radiographs, and how they fit the annotation."""
    if not writer:
        return
    name = label(predictor)
    for outcome in outcomes:
        writer.write(box_rows(outcome, dataset=item.dataset.name, weights=name))
    found.box_scores += ossification.score(outcomes, item, predictor, name)


def _describe_weights(
    out: Path, predictors: Sequence[Assessor], recorded: Sequence[RecordedRow]
) -> None:
    """Write what the weights of the tables are."""
    provenances = {label(p): p.config["provenance"] for p in predictors}
    # Robustness is of weights that are there under their own name.
    provenances |= {
        row.weights: r.provenance for r in recorded for row in r.cases if row.table != ROBUSTNESS
    }
    refusing = {label(p): p.config.get("refusal") for p in predictors}
    described.write(
        out, [described.describe(*item, refusing.get(item[0])) for item in provenances.items()]
    )


def render(
    cases_file: Path,
    out: Path,
    datasets: Sequence[Dataset] = (),
    annotated: Sequence[Annotated] = (),
) -> Report:
    """Make ``tables.md``, ``metrics.json`` and the figures from a ``cases.csv``.

    Prediction intervals and the reasons of refusals come from ``assessments.csv``, attention boxes
    from ``boxes.csv``, how they fit annotated regions from ``ossification.csv``, heat maps from
    ``heat-maps.npz``, what is refused from ``refusals.csv``, what the weights are from
    ``weights.json``, all beside it; without these files the tables and figures lack that part.

    Args:
        cases_file: the ``cases.csv``.
        out: folder to write to.
        datasets: where the images of figures 3 and 5 are found, by name.
        annotated: radiographs with annotated regions, where these are found.
    """
    from evaluate.figures import draw

    cases = read_cases(cases_file)
    details = read_assessments(cases_file.with_name(ASSESSMENTS))
    boxes = read_boxes(cases_file.with_name(BOXES))
    found = groups(cases, details)
    weights = described.read(cases_file.with_name(described.WEIGHTS))
    scores = ossification.read(cases_file.with_name(ossification.SCORES))
    refused = refusal.read(cases_file.with_name(refusal.REFUSALS))
    result = report(cases, found, details, weights, scores, annotated, refused)
    out.mkdir(parents=True, exist_ok=True)
    (out / TABLES).write_text(result.markdown(), encoding="utf-8")
    write_json(out / METRICS, list(result.records))
    images = {
        (dataset.name, case.id): case.path for dataset in datasets for case in dataset.folder.cases
    }
    maps = heat_maps.read(cases_file.with_name(heat_maps.HEAT_MAPS))
    draw(found, boxes, maps, images, out / "figures", annotated, result.records)
    return result


def label(predictor: Assessor) -> str:
    """``id@revision``, by which every line names its weights."""
    return f"{predictor.id}@{predictor.revision}" if predictor.revision else predictor.id


def assess_cases(
    dataset: Dataset, predictor: Assessor, batch_size: int, processes: Processes
) -> Iterator[list[Outcome]]:
    """The outcomes of all cases in order of id, in every process, some batches at a time."""
    from tqdm import tqdm

    sexes = predictor.config.get("sexes")
    cases = [
        case for case in dataset.folder.cases if not sexes or case.sex is None or case.sex in sexes
    ]
    batches = [cases[i : i + batch_size] for i in range(0, len(cases), batch_size)]
    bar = tqdm(
        total=len(cases), unit="case", desc=f"{dataset.name}, {predictor.id}",
        disable=processes.rank != 0,
    )  # fmt: skip
    with bar, ThreadPoolExecutor(THREADS) as ahead:
        mine = batches[processes.rank :: processes.count]
        reading = [ahead.submit(_read, case) for case in mine[0]] if mine else []
        for turn in range(-(-len(batches) // processes.count)):
            done: list[Outcome] = []
            if turn < len(mine):
                images = [image.result() for image in reading]
                if turn + 1 < len(mine):  # decode the next batch while this one is computed
                    reading = [ahead.submit(_read, case) for case in mine[turn + 1]]
                done = _assess_batch(mine[turn], images, predictor, batch_size)
            gathered = [outcome for part in processes.gather(done) for outcome in part]
            bar.update(len(gathered))
            yield gathered


def _read(case: Case) -> Radiograph | str:
    """The image, or the reason why it cannot be read."""
    from boneage import images

    try:
        return images.read(case.path, id=case.id)
    except InputError as error:
        return str(error)


def _assess_batch(
    cases: Sequence[Case],
    images: Sequence[Radiograph | str],
    predictor: Assessor,
    batch_size: int,
) -> list[Outcome]:
    """One outcome for each case; what cannot be read or assessed counts as refused."""
    pairs = list(zip(cases, images, strict=True))
    readable = [(case, image) for case, image in pairs if not isinstance(image, str)]
    outcomes = [Outcome(case, None, image) for case, image in pairs if isinstance(image, str)]
    try:
        outcomes += _outcomes(readable, predictor, batch_size)
    except InputError:  # which of them it was shows when each goes alone
        for pair in readable:
            try:
                outcomes += _outcomes([pair], predictor, 1)
            except InputError as error:
                outcomes.append(Outcome(pair[0], None, str(error)))
    return sorted(outcomes, key=lambda outcome: outcome.case.id)


def _outcomes(
    pairs: Sequence[tuple[Case, Radiograph]], predictor: Assessor, batch_size: int
) -> list[Outcome]:
    if not pairs:
        return []
    found = predictor.assess(
        [image for _, image in pairs], [case.sex for case, _ in pairs], batch_size=batch_size
    )
    return [
        Outcome(case, assessment, assessment.refused)
        for (case, _), assessment in zip(pairs, found, strict=True)
    ]


def lines_of(
    outcomes: Sequence[Outcome], dataset: Dataset, weights: str, cells: Sequence[Cell]
) -> list[CaseRow | AssessmentRow | BoxRow]:
    """What the files of an evaluation keep of outcomes by weights that fill these cells."""
    place = {"dataset": dataset.name, "weights": weights}
    return [
        line
        for outcome in outcomes
        for line in (
            *case_rows(outcome, cells, unit=dataset.folder.unit, **place),
            assessment_row(outcome, **place),
            *box_rows(outcome, **place),
        )
    ]


def _recorded_cases(
    dataset: Dataset, recorded: Sequence[RecordedRow], weights: Collection[str]
) -> list[CaseRow]:
    return [
        row
        for folder in recorded
        for row in folder.fitting(dataset.name, dataset.folder.cases, weights)
    ]


def _refuse_twins(names: Sequence[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"Two {what} have the name {name}; the tables could not tell them.")


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """Name, size and one hash over labels and image files, in order of id."""
    digest = hashlib.sha256()
    for case in dataset.folder.cases:
        image = hashlib.sha256(case.path.read_bytes()).hexdigest()
        digest.update(f"{case.id},{case.sex},{case.age:.2f},{image}\n".encode())
    return {
        "name": dataset.name,
        "unit": dataset.folder.unit,
        "cases": len(dataset.folder.cases),
        "sha256": digest.hexdigest(),
    }


def describe_weights(predictor: Assessor) -> dict[str, Any]:
    """Id, revision, hash, task, cells and provenance, for ``run.json``."""
    keys = ("sha256", "task", "fills", "provenance")
    return {
        "id": predictor.id,
        "revision": predictor.revision,
        **{key: predictor.config.get(key) for key in keys},
    }


def about_machine(predictors: Sequence[Assessor], processes: Processes) -> dict[str, Any]:
    """Versions, device, cores, threads and processes, for ``run.json``."""
    import torch

    import boneage

    versions = {"python": platform.python_version(), "boneage": boneage.__version__}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    devices = {str(getattr(predictor, "device", "cpu")) for predictor in predictors}
    return {
        "versions": versions,
        "device": ", ".join(sorted(devices)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "processor": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": processes.count,
    }


def write_json(path: Path, value: Any) -> None:
    """Write JSON as every file of an evaluation has it."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
