"""``cases.csv`` and the two files beside it: what was assessed, one line each.

The papers' tables and figures are made from these files, so none can disagree with the cases. Boxes
beside annotated regions, refusals and heat maps have files of their own.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from boneage.errors import InputError
from boneage.models.registry import UNITS
from evaluate.published import ASSEMBLED, Cell

if TYPE_CHECKING:
    from boneage.datasets import Case
    from boneage.predictor import Assessment

CASES = "cases.csv"
ASSESSMENTS = "assessments.csv"
BOXES = "boxes.csv"
RECORDED = "recorded:"  # prefix of the weights of rows that were not run but recorded earlier
UNION = " + "  # joins the weights that fill one cell together, one for each sex


@dataclass(frozen=True)
class CaseRow:
    """One case in one cell of one table, a line of ``cases.csv``.

    Attributes:
        dataset: folder and split, ``rsna-test/test``.
        sex: ``F``, ``M``, or ``None`` if unknown.
        age: reference age.
        assessed: assessed age, ``None`` if the case was refused.
        unit: of both, ``months`` or ``years``.
        weights: id and revision; starts with ``recorded:`` for recorded rows.
        patient: the file has this column only if labels do.
    """

    table: str
    row: str
    column: str
    dataset: str
    id: str
    sex: str | None
    age: float
    assessed: float | None
    unit: str
    weights: str
    patient: str | None = None


@dataclass(frozen=True)
class AssessmentRow:
    """What is known of one assessment beyond its ages, a line of ``assessments.csv``.

    Attributes:
        low, high: the prediction interval, ``None`` without one.
        coverage: its nominal coverage, 0 to 1.
        refused: the reason, ``None`` if the case was assessed.
    """

    dataset: str
    weights: str
    id: str
    age: float
    low: float | None
    high: float | None
    coverage: float | None
    refused: str | None


@dataclass(frozen=True)
class BoxRow:
    """One attention box in pixels of the source image, a line of ``boxes.csv``."""

    dataset: str
    weights: str
    id: str
    part: str
    x0: float
    y0: float
    x1: float
    y1: float
    score: float
    age: float


@dataclass(frozen=True)
class Outcome:
    """A case with its assessment, or with the reason why it has none."""

    case: Case
    assessment: Assessment | None
    refused: str | None


def case_rows(
    outcome: Outcome, cells: Iterable[Cell], *, dataset: str, unit: str, weights: str
) -> list[CaseRow]:
    """The lines of one case: one for each cell that counts cases of its sex.

    Raises:
        InputError: if the weights claim a cell whose component their assessments do not have.
    """
    case, assessment = outcome.case, outcome.assessment
    rows = []
    for cell in cells:
        if cell.sex is not None and cell.sex != case.sex:
            continue
        age = None
        if outcome.refused is None and assessment is not None:
            age = (
                assessment.age
                if cell.component == ASSEMBLED
                else assessment.components.get(cell.component)
            )
            if age is None or not math.isfinite(age):
                raise InputError(
                    f"{weights} says it fills table {cell.table}, {cell.row}, {cell.column}, but "
                    f"gives no age {cell.component}."
                )
        rows.append(
            CaseRow(
                cell.table, cell.row, cell.column, dataset, case.id, case.sex, case.age, age, unit,
                weights, case.patient,
            )
        )  # fmt: skip
    return rows


def assessment_row(outcome: Outcome, *, dataset: str, weights: str) -> AssessmentRow:
    """The line of one case in ``assessments.csv``."""
    interval = outcome.assessment.interval if outcome.assessment and not outcome.refused else None
    low, high, coverage = (
        (interval.low, interval.high, interval.coverage) if interval else (None, None, None)
    )
    return AssessmentRow(
        dataset, weights, outcome.case.id, outcome.case.age, low, high, coverage, outcome.refused
    )


def box_rows(outcome: Outcome, *, dataset: str, weights: str) -> list[BoxRow]:
    """The lines of one case in ``boxes.csv``; none if it was refused."""
    if outcome.refused is not None or outcome.assessment is None:
        return []
    return [
        BoxRow(dataset, weights, outcome.case.id, f"R{i}", b.x0, b.y0, b.x1, b.y1, b.score, b.age)
        for i, b in enumerate(outcome.assessment.boxes, start=1)
    ]


class Writer:
    """Writes the three files line by line; they take their names when the last line is written.

    An interrupted run therefore leaves the files of the run before as they were.
    """

    def __init__(self, folder: Path, *, patients: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._kinds: dict[type, tuple[Path, list[str]]] = {
            CaseRow: (folder / CASES, _columns(CaseRow, patients=patients)),
            AssessmentRow: (folder / ASSESSMENTS, _columns(AssessmentRow)),
            BoxRow: (folder / BOXES, _columns(BoxRow)),
        }
        self._files: list[TextIO] = []
        self._writers: dict[type, Any] = {}

    def __enter__(self) -> Self:
        for kind, (path, columns) in self._kinds.items():
            file = _part(path).open("w", newline="", encoding="utf-8")
            self._files.append(file)
            self._writers[kind] = csv.writer(file, lineterminator="\n")
            self._writers[kind].writerow(columns)
        return self

    def write(self, rows: Iterable[CaseRow | AssessmentRow | BoxRow]) -> None:
        """Append rows to the file of their kind."""
        for row in rows:
            _, columns = self._kinds[type(row)]
            self._writers[type(row)].writerow([_text(row, name) for name in columns])

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files:
            file.close()
        for path, _ in self._kinds.values():
            if kind is None:
                _part(path).replace(path)
            else:
                _part(path).unlink(missing_ok=True)


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    """Write a file of one kind of rows, one at least, all at once; with the patients, if known."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = any(getattr(row, "patient", "") for row in rows)
    columns = _columns(type(rows[0]), patients=known)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_text(row, name) for name in columns] for row in rows)


def read_cases(path: Path) -> list[CaseRow]:
    """Read a ``cases.csv``.

    Raises:
        InputError: if it is missing, empty, has other columns, or holds an age that is no number.
    """
    rows = list(read_rows(path, CaseRow, optional=("patient",)))
    if not rows:
        raise InputError(f"{path.name} holds no case.")
    if odd := {row.unit for row in rows} - set(UNITS.values()):
        raise InputError(f"{path.name}: unit {odd.pop()!r}; known: months and years.")
    return rows


def read_assessments(path: Path) -> list[AssessmentRow]:
    """Read an ``assessments.csv``; a missing one has no lines."""
    return list(read_rows(path, AssessmentRow)) if path.is_file() else []


def read_boxes(path: Path) -> list[BoxRow]:
    """Read a ``boxes.csv``; a missing one has no lines."""
    return list(read_rows(path, BoxRow)) if path.is_file() else []


def read_rows(path: Path, kind: type, optional: tuple[str, ...] = ()) -> Iterator[Any]:
    """Read a file of one kind of rows.

    Args:
        path: the file.
        kind: a dataclass of this module or like these: its fields are the columns.
        optional: columns that may be missing.

    Raises:
        InputError: if it is missing, has other columns, or a line cannot be read.
    """
    types = {field.name: str(field.type) for field in fields(kind)}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            wanted = [name for name in types if name in columns or name not in optional]
            if list(columns) != wanted:
                raise InputError(f"{path.name} has the columns {columns}; expected {wanted}.")
            for line, record in enumerate(reader, start=2):
                try:
                    yield kind(**{name: _value(record[name], types[name]) for name in wanted})
                except (KeyError, TypeError, ValueError):
                    raise InputError(f"{path.name} line {line} is not readable.") from None
    except OSError:
        raise InputError(f"{path.name} cannot be read.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path.name} is not a text file in UTF-8.") from None


def _value(text: str, kind: str) -> str | float | bool | None:
    if text == "" and kind.endswith("| None"):
        return None
    if kind == "bool":
        return {"yes": True, "no": False}[text]
    if not kind.startswith("float"):
        return text
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _text(row: Any, name: str) -> str:
    value = getattr(row, name)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    return f"{value:.4f}" if name == "score" else f"{value:.2f}"


def _columns(kind: type, *, patients: bool = True) -> list[str]:
    return [field.name for field in fields(kind) if patients or field.name != "patient"]


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")
