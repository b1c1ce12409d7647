"""From ``cases.csv`` to numbers: the records of ``metrics.json``.

A record is one number of one table: ``{table, row, column, published, measured, n, ci95: [lo, hi],
unit, dataset, weights, recorded, refused}``, with ``why`` where nothing was measured and ``note``
where a reader must know something more. Tables A and B are the papers'; S1 (further statistics), S2
(MAE by age and sex), S3 (paired differences between units) and S4 (weights that fill no row of a
comparison of methods) are the project's own, as are S5 to S12 (robustness, attention boxes,
refusals, prediction intervals by assessed age, paired differences between methods).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations, product
from typing import Any

import numpy as np

from boneage import metrics
from boneage.sex import SEX_NAMES
from evaluate.cases import RECORDED, UNION, AssessmentRow, CaseRow
from evaluate.published import (
    EQUAL_TIME,
    FURTHER,
    LARGEST_DEVIATION_MONTHS,
    TASKS,
    Cell,
    tables,
)

Record = dict[str, Any]
Function = Callable[[np.ndarray], np.ndarray]

DECIMALS = 4
COLUMNS = {"all": None, "female": "F", "male": "M"}
# In years; a band holds its first number and not its second.
AGE_BANDS = {
    "months": ((0, 2), (2, 5), (5, 8), (8, 11), (11, 14), (14, None)),
    "years": ((0, 18), (18, 30), (30, 40), (40, 50), (50, 60), (60, 70), (70, 80), (80, None)),
}
WITHIN = {"months": (6, 12, LARGEST_DEVIATION_MONTHS, 24), "years": (2, 5, 10)}
BOTH = "both"
EQUAL_TIME_NOTE = "equal time"
CONSTANT = "MAE of one age for all, the median reference"
DIFFERENCES = (("C", "X"), ("assembling", "X"), ("assembling", "C"))


@dataclass(frozen=True)
class Group:
    """The cases of one row of a comparison of methods, on one data set, by one set of weights.

    Attributes:
        weights: id and revision; joined by ``+`` where each assessed the cases of one sex.
        rows: one for each case, refused ones included, by id.
        intervals: prediction intervals by weights and case id.
    """

    table: str
    row: str
    dataset: str
    unit: str
    weights: str
    rows: tuple[CaseRow, ...]
    intervals: dict[tuple[str, str], AssessmentRow]

    @property
    def assessed(self) -> tuple[CaseRow, ...]:
        """The cases that were not refused."""
        return tuple(row for row in self.rows if row.assessed is not None)

    @property
    def refused(self) -> int:
        """Number of refused cases."""
        return len(self.rows) - len(self.assessed)


@dataclass(frozen=True)
class Statistic:
    """A line of table S1.

    Attributes:
        values: from errors, (n,), to the per-case values, (n,) or (n, m).
        of_means: from means of these to the statistic, see :func:`metrics.bootstrap_interval`.
        published: what the paper says about it.
        least: number of cases that it needs.
    """

    name: str
    unit: str
    values: Function
    of_means: Function | None = None
    published: float | None = None
    least: int = 1


def groups(cases: Sequence[CaseRow], details: Sequence[AssessmentRow] = ()) -> list[Group]:
    """The rows that get the project's further statistics and figures; recorded ones do not."""
    intervals: dict[str, dict[tuple[str, str], AssessmentRow]] = {}
    for detail in details:
        if detail.coverage is not None:
            intervals.setdefault(detail.dataset, {})[detail.weights, detail.id] = detail
    headlines = {t.id for t in (*tables("hand"), *tables("adult")) if t.headline} | {FURTHER}
    places: dict[tuple[str, str, str, str], list[CaseRow]] = {}
    for row in cases:
        if row.table in headlines and not row.weights.startswith(RECORDED):
            places.setdefault((row.dataset, row.table, row.row, row.unit), []).append(row)
    return [
        Group(table, row, dataset, unit, weights, members, intervals.get(dataset, {}))
        for (dataset, table, row, unit), found in places.items()
        for weights, members in unite(found)
    ]


def unite(rows: Iterable[CaseRow]) -> list[tuple[str, tuple[CaseRow, ...]]]:
    """Rows of one cell by weights; weights that share no case are united, each having done a part.

    Two networks trained for one sex each fill a cell for both sexes together; two networks that
    assessed the same case are two measurements of the cell.
    """
    by_weights: dict[str, list[CaseRow]] = {}
    for row in rows:
        by_weights.setdefault(row.weights, []).append(row)
    ids = [{row.id for row in found} for found in by_weights.values()]
    if all(a.isdisjoint(b) for a, b in combinations(ids, 2)):
        members = sorted((row for found in by_weights.values() for row in found), key=_by_id)
        return [(UNION.join(by_weights), tuple(members))] if members else []
    return [(weights, tuple(found)) for weights, found in by_weights.items()]


def published_records(cases: Sequence[CaseRow]) -> list[Record]:
    """The papers' tables for every data set in ``cases``, each cell beside what was measured."""
    places: dict[tuple[str, str, str, str], list[CaseRow]] = {}
    units: dict[str, str] = {}
    for row in cases:
        units.setdefault(row.dataset, row.unit)
        places.setdefault((row.dataset, row.table, row.row, row.column), []).append(row)
    return [
        record
        for dataset, unit in units.items()
        for table in tables(TASKS[unit])
        for cell in table.cells
        for record in _cell_records(
            cell, dataset, unit, places.get((dataset, cell.table, cell.row, cell.column), [])
        )
    ]


def _cell_records(cell: Cell, dataset: str, unit: str, rows: list[CaseRow]) -> list[Record]:
    empty = empty_record(cell.table, cell.row, cell.column, dataset, unit, published=cell.published)
    if not rows:
        return [{**empty, "why": cell.why}]
    records = []
    for weights, members in unite(rows):
        recorded = any(row.weights.startswith(RECORDED) for row in members)
        record = measure({**empty, "weights": weights, "recorded": recorded}, members, MAE)
        sexes = {row.sex for row in members if row.assessed is not None}
        if cell.sex is None and len(sexes) == 1 and (sex := sexes.pop()):
            record["note"] = f"{SEX_NAMES[sex]} cases only"
        records.append(record)
    return records


def further_records(cases: Sequence[CaseRow]) -> list[Record]:
    """Table S4: weights that fill no row of the papers' comparisons of methods."""
    places: dict[tuple[str, str], list[CaseRow]] = {}
    for row in cases:
        if row.table == FURTHER:
            places.setdefault((row.dataset, row.row), []).append(row)
    return [
        record
        for (dataset, name), rows in places.items()
        for record in _cell_records(Cell(FURTHER, name, "MAE", None), dataset, rows[0].unit, rows)
    ]


def statistics_records(group: Group) -> list[Record]:
    """Table S1 of a group: every statistic for all cases and for each sex."""
    records = []
    for statistic in _STATISTICS[group.unit]:
        for column, sex in COLUMNS.items():
            record = empty_record(
                "S1", statistic.name, column, group.dataset, statistic.unit,
                published=statistic.published, weights=group.weights,
            )  # fmt: skip
            members = [row for row in group.rows if sex is None or row.sex == sex]
            records.append(measure(record, members, statistic))
    return [*records, *_constant_records(group), *_interval_records(group, "S1", group.assessed)]


def _constant_records(group: Group) -> list[Record]:
    """MAE of the same age given to all, whatever the image shows, of those that were assessed.

    It is the median reference age of the same cases, which no other constant can beat on them.
    """
    records = []
    for column, sex in COLUMNS.items():
        members = [row for row in group.rows if sex is None or row.sex == sex]
        ages = [row.age for row in members if row.assessed is not None]
        same = float(np.median(ages)) if ages else None
        guessed = [row if row.assessed is None else replace(row, assessed=same) for row in members]
        record = empty_record(
            "S1", CONSTANT, column, group.dataset, group.unit, weights=group.weights
        )
        records.append(measure(record, guessed, MAE))
    return records


def interval_band_records(group: Group) -> list[Record]:
    """Table S11 of a group: coverage and width of its prediction intervals by assessed age.

    Empty where there are no intervals.
    """
    return [
        {**record, "row": f"{name}, {record['row']}"}
        for name, lowest, end in _bands(group.unit)
        for record in _interval_records(
            group, "S11", [row for row in group.assessed if lowest <= (row.assessed or 0) < end]
        )
    ]


def _bands(unit: str) -> Iterator[tuple[str, float, float]]:
    """Name, lowest age and end of each of :data:`AGE_BANDS`, in the unit."""
    per_year = 12 if unit == "months" else 1
    for first, end in AGE_BANDS[unit]:
        name = f"{first} years and over" if end is None else f"{first} to {end} years"
        yield name, first * per_year, math.inf if end is None else end * per_year


def _interval_records(group: Group, table: str, rows: Iterable[CaseRow]) -> list[Record]:
    """Measured coverage and mean width of the prediction intervals, where there are any."""
    found = [
        (row, group.intervals[row.weights, row.id])
        for row in rows
        if (row.weights, row.id) in group.intervals
    ]
    records = []
    for coverage in sorted({detail.coverage for _, detail in found if detail.coverage}):
        name = f"{100 * coverage:g} % prediction interval"
        for column, sex in COLUMNS.items():
            chosen = [
                (row, detail)
                for row, detail in found
                if detail.coverage == coverage and (sex is None or row.sex == sex)
            ]
            low = np.array([detail.low for _, detail in chosen])
            high = np.array([detail.high for _, detail in chosen])
            _, actual, keys = _arrays([row for row, _ in chosen])
            inside = 100.0 * ((low <= actual) & (actual <= high))
            for what, unit, values in (
                (f"cases inside the {name}", "%", inside),
                (f"mean width of the {name}", group.unit, high - low),
            ):
                record = empty_record(
                    table, what, column, group.dataset, unit, weights=group.weights
                )
                records.append(fill(record, values, keys))
    return sorted(records, key=lambda record: record["row"])


def age_band_records(group: Group) -> list[Record]:
    """Table S2 of a group: MAE by age band and sex, empty bands included."""
    records = []
    for name, lowest, end in _bands(group.unit):
        band = [row for row in group.rows if lowest <= row.age < end]
        for column, sex in COLUMNS.items():
            record = empty_record(
                "S2", name, column, group.dataset, group.unit, weights=group.weights
            )
            members = [row for row in band if sex is None or row.sex == sex]
            records.append(measure(record, members, MAE))
    return records


def difference_records(cases: Sequence[CaseRow]) -> list[Record]:
    """Table S3: differences of MAE between the units of table A2, on the same cases.

    The published value is the difference of the two published MAE; of both sexes together nothing
    is published.
    """
    published = {(cell.row, cell.column): cell for t in tables("hand") for cell in t.cells}
    places: dict[tuple[str, str], dict[str, list[CaseRow]]] = {}
    for row in cases:
        if row.table == "A2":
            for name in (row.row, BOTH):
                columns = places.setdefault((row.dataset, name), {})
                columns.setdefault(row.column, []).append(row)
    records = []
    for (dataset, sex), columns in sorted(places.items(), key=lambda item: item[0][1] == BOTH):
        for first, second in DIFFERENCES:
            others = dict(unite(columns.get(second, [])))
            cells = [published.get((sex, unit)) for unit in (first, second)]
            a, b = (None if cell is None else cell.published for cell in cells)
            for weights, members in unite(columns.get(first, [])):
                record = empty_record(
                    "S3", sex, f"{first} - {second}", dataset, "months",
                    published=None if a is None or b is None else round(a - b, 2), weights=weights,
                )  # fmt: skip
                records.append(_difference(record, members, others.get(weights, ())))
    return records


def method_difference_records(cases: Sequence[CaseRow]) -> list[Record]:
    """Table S12: differences of MAE between a paper's own method and others, on the same cases.

    The others are those of its table and, of a comparison of methods, the weights of table S4 that
    fill no row of any. The published value is the difference of the two published MAE. Pairs of
    :data:`evaluate.published.EQUAL_TIME` are noted; those that fill no row of any table but S4 are
    compared, too, in a row of that name.
    """
    places: dict[tuple[str, str, str, str], list[CaseRow]] = {}
    units: dict[str, str] = {}
    for row in cases:
        units.setdefault(row.dataset, row.unit)
        places.setdefault((row.dataset, row.table, row.row, row.column), []).append(row)
    in_papers = {row.weights for row in cases if row.table != FURTHER}

    def rows_of(dataset: str, cell: Cell) -> list[CaseRow]:
        return places.get((dataset, cell.table, cell.row, cell.column), [])

    records = []
    for dataset, unit in units.items():
        further = [
            (Cell(*place[1:], published=None), rows)
            for place, rows in places.items()
            if place[:2] == (dataset, FURTHER) and in_papers.isdisjoint(row.weights for row in rows)
        ]
        for table in (table for table in tables(TASKS[unit]) if table.own):
            cells = {cell: rows_of(dataset, cell) for cell in table.cells}
            (own,) = (cell for cell in cells if (cell.row, cell.column) == table.own)
            others = [(cell, rows) for cell, rows in cells.items() if cell != own]
            for cell, rows in others + (further if table.headline else []):
                records += _method_differences(dataset, unit, (own, cells[own]), (cell, rows))
        for first, second in permutations(further, 2):
            records += _method_differences(dataset, unit, first, second, equal_time_only=True)
    return records


def _method_differences(
    dataset: str,
    unit: str,
    first: tuple[Cell, list[CaseRow]],
    second: tuple[Cell, list[CaseRow]],
    *,
    equal_time_only: bool = False,
) -> list[Record]:
    """Records of S12: the first cell's errors less the second's, by each pair of weights."""
    (own, cases), (cell, others) = first, second
    records = []
    for (ours, members), (theirs, partners) in product(unite(cases), unite(others)):
        equal_time = tuple(name.rpartition("@")[2] for name in (ours, theirs)) in EQUAL_TIME
        if equal_time_only and not equal_time:
            continue
        difference = (
            None
            if own.published is None or cell.published is None
            else round(own.published - cell.published, DECIMALS)
        )
        record = empty_record(
            "S12", own.table, f"{own.method} - {cell.method}", dataset, unit,
            published=difference, weights=f"{ours}, {theirs}",
        )  # fmt: skip
        record["recorded"] = any(row.weights.startswith(RECORDED) for row in (*members, *partners))
        if equal_time:
            record["note"] = EQUAL_TIME_NOTE
        records.append(_difference(record, members, partners))
    return records


def _difference(record: Record, members: Sequence[CaseRow], partners: Sequence[CaseRow]) -> Record:
    """Fill a record with the mean difference of two absolute errors of the same case.

    Only cases that both sides have count; those that either refused are counted as refused.
    """
    other = {row.id: row for row in partners}
    shared = [row for row in members if row.id in other]
    done = [
        row for row in shared if row.assessed is not None and other[row.id].assessed is not None
    ]
    a, actual, keys = _arrays(done)
    b, _, _ = _arrays([other[row.id] for row in done])
    record = {**record, "refused": len(shared) - len(done)}
    return fill(record, np.abs(a - actual) - np.abs(b - actual), keys)


def _share(limit: float, unit: str) -> Statistic:
    claimed = (unit, limit) == ("months", LARGEST_DEVIATION_MONTHS)
    return Statistic(
        f"within {limit:g} {unit}",
        "%",
        lambda e: 100.0 * (np.abs(e) <= limit),
        published=100.0 if claimed else None,
    )


MAE = Statistic("MAE", "", np.abs)
_STATISTICS = {
    unit: (
        Statistic("MAE", unit, np.abs),
        Statistic("RMSE", unit, np.square, metrics.root_mean),
        Statistic("bias (assessed - reference)", unit, np.copy),
        Statistic(
            "lower 95 % limit of agreement",
            unit,
            metrics.agreement_values,
            metrics.lower_agreement,
            least=2,
        ),
        Statistic(
            "upper 95 % limit of agreement",
            unit,
            metrics.agreement_values,
            metrics.upper_agreement,
            least=2,
        ),
        *(_share(limit, unit) for limit in limits),
    )
    for unit, limits in WITHIN.items()
}


def _by_id(row: CaseRow) -> str:
    return row.id


def empty_record(
    table: str,
    row: str,
    column: str,
    dataset: str,
    unit: str,
    *,
    published: float | None = None,
    weights: str | None = None,
) -> Record:
    """A record of which nothing is measured yet."""
    return {
        "table": table, "row": row, "column": column, "published": published, "measured": None,
        "n": 0, "ci95": None, "unit": unit, "dataset": dataset, "weights": weights,
        "recorded": False, "refused": 0,
    }  # fmt: skip


def measure(record: Record, members: Sequence[CaseRow], statistic: Statistic) -> Record:
    """Fill a record from the errors of its cases; the refused ones are counted, nothing else."""
    done = [row for row in members if row.assessed is not None]
    record = {**record, "refused": len(members) - len(done)}
    if 0 < len(done) < statistic.least:
        return {**record, "n": len(done), "why": f"it needs {statistic.least} cases"}
    assessed, actual, keys = _arrays(done)
    values = statistic.values(assessed - actual) if done else assessed
    return fill(record, values, keys, statistic.of_means)


def fill(
    record: Record, values: np.ndarray, keys: np.ndarray | None, of_means: Function | None = None
) -> Record:
    """Fill a record with the mean of per-case values, or a function of means, and its interval.

    Args:
        record: to be filled; where there are no values it says why.
        values: (n,) or (n, m), see :func:`metrics.estimate`.
        keys: patients, ``None`` where each case is its own.
        of_means: ``None`` for the mean.
    """
    if not len(values):
        return {**record, "why": "every case was refused" if record["refused"] else "no such case"}
    value, interval, n = metrics.estimate(values, groups=keys, statistic=of_means)
    ends = None if interval is None else [round(end, DECIMALS) for end in interval]
    return {**record, "measured": round(value, DECIMALS), "n": n, "ci95": ends}


def _arrays(rows: Sequence[CaseRow]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Assessed and actual ages and, where labels have patients, the patients' keys."""
    assessed = np.array([row.assessed for row in rows], dtype=np.float64)
    actual = np.array([row.age for row in rows], dtype=np.float64)
    return assessed, actual, patients_of(rows)


def patients_of(rows: Sequence[CaseRow]) -> np.ndarray | None:
    """The patients' keys (n,), ``None`` where labels have none."""
    if not any(row.patient for row in rows):
        return None
    # A case without a patient stands for itself.
    return np.array([f"patient {row.patient}" if row.patient else f"case {row.id}" for row in rows])
