"""Records as tables, in Markdown for ``tables.md`` and aligned for the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from evaluate.cases import RECORDED, UNION, AssessmentRow, CaseRow
from evaluate.described import Description
from evaluate.published import BEST_OF_SEVERAL, OTHER_IMAGES, TASKS, Table, tables
from evaluate.records import (
    COLUMNS,
    Group,
    Record,
    age_band_records,
    difference_records,
    further_records,
    published_records,
    statistics_records,
)

INTRODUCTION = (
    "Intervals are 95 % percentile bootstrap intervals over cases, or over patients where the "
    "labels name them. MAE: mean absolute error. Each row names its weights by id and revision; "
    f"those that start with `{RECORDED}` were measured earlier with weights that are not shipped."
)


@dataclass(frozen=True)
class Grid:
    """A table to print.

    Attributes:
        header: of the columns.
        rows: of text, as long as the header.
        notes: sentences below it.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """Columns aligned with spaces."""
        lines = (self.header, *self.rows)
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        body = [
            "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ]
        body.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([self.title, "", *body, *self.notes, ""])

    def markdown(self) -> str:
        """A Markdown table under a heading."""
        lines = [self.header, ("---",) * len(self.header), *self.rows]
        body = ["| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines]
        notes = [part for note in self.notes for part in ("", note)]
        return "\n".join([f"## {self.title}", "", *body, *notes, ""])


@dataclass(frozen=True)
class Report:
    """All records of a ``cases.csv``, the groups behind them, and the tables to print."""

    records: tuple[Record, ...]
    groups: tuple[Group, ...]
    grids: tuple[Grid, ...]

    def text(self) -> str:
        """For the terminal."""
        return "\n".join([*(grid.text() for grid in self.grids), INTRODUCTION.replace("`", "")])

    def markdown(self) -> str:
        """For ``tables.md``."""
        title = "# Published and measured errors"
        return "\n".join([title, "", INTRODUCTION, "", *(grid.markdown() for grid in self.grids)])


def report(
    cases: Sequence[CaseRow],
    groups: Sequence[Group],
    details: Sequence[AssessmentRow],
    weights: Sequence[Description] = (),
) -> Report:
    """Measure everything that the cases allow.

    Args:
        cases: the lines of ``cases.csv``.
        groups: of :func:`evaluate.records.groups`.
        details: the lines of ``assessments.csv``; only the reasons of refusals are taken.
        weights: the entries of ``weights.json``.
    """
    records: list[Record] = []
    grids: list[Grid] = []
    published, differences, further = (
        published_records(cases),
        difference_records(cases),
        further_records(cases),
    )
    for dataset, unit in {row.dataset: row.unit for row in cases}.items():
        for table in tables(TASKS[unit]):
            found = _select(published, table.id, dataset)
            remarks = {(c.row, c.column): c.remark for c in table.cells if c.remark}
            title = f"{table.id}. {table.title} ({table.source}), MAE in {table.unit}, on {dataset}"
            grids.append(_comparison(title, found, remarks, _other_images(dataset, table)))
            records += found
        for group in (group for group in groups if group.dataset == dataset):
            name = f"{group.row}, on {dataset}, by {group.weights}"
            refusals = _refusals(group, details)
            found = statistics_records(group)
            notes = [*refusals, _S1]
            if any(r["unit"] == "%" and r["measured"] == 100 for r in found):
                notes.append(_ALL_INSIDE)
            grids.append(_by_sex(f"S1. Further statistics of {name}", found, "Statistic", notes))
            records += found
            found = age_band_records(group)
            grids.append(
                _by_sex(
                    f"S2. MAE by age and sex in {unit}, of {name}", found, "Reference age", refusals
                )
            )
            records += found
        if found := _select(differences, "S3", dataset):
            title = f"S3. Differences of MAE between the units of table A2 in {unit}, on {dataset}"
            grids.append(_comparison(title, found, {}, [_S3]))
            records += found
        if found := _select(further, "S4", dataset):
            title = f"S4. Weights outside the papers' tables, MAE in {unit}, on {dataset}"
            grids.append(_comparison(title, found, {}))
            records += found
    used = {name for row in cases for name in row.weights.split(UNION)}
    if shown := [entry for entry in weights if entry["weights"] in used]:
        rows = tuple(tuple(entry[name] for name in _WEIGHTS) for entry in shown)
        grids.append(Grid("Weights", tuple(_WEIGHTS.values()), rows))
    return Report(tuple(records), tuple(groups), tuple(grids))


_WEIGHTS = {
    "weights": "Weights",
    "network": "Network",
    "data": "Trained on",
    "start": "Started from",
    "epochs": "Epochs",
    "validation": "Validation MAE",
}


_S1 = (
    "Limits of agreement: bias -/+ 1.96 SD of the error (Bland and Altman 1986). The published "
    "figure, where there is one, is the paper's claim about its own network."
)
_ALL_INSIDE = (
    "Where every case is inside, resampling cannot show a case outside, and the interval has no "
    "width; by the rule of three, up to 300 / n % of all such cases may still lie outside."
)
_S3 = (
    "Paired on the same cases; a negative difference says that the first unit errs less, an "
    "interval that holds 0 says that these cases do not decide it."
)


def _other_images(dataset: str, table: Table) -> list[str]:
    """The notes below a table of the adult paper, whose data nobody has."""
    if table.task != "adult":
        return []
    known = OTHER_IMAGES.get(re.split(r"[-_/]", dataset)[0])
    return [BEST_OF_SEVERAL, *([known] if known else [])]


def _select(records: Sequence[Record], table: str, dataset: str) -> list[Record]:
    return [r for r in records if r["table"] == table and r["dataset"] == dataset]


def _comparison(
    title: str,
    records: Sequence[Record],
    remarks: dict[tuple[str, str], str],
    closing: Sequence[str] = (),
) -> Grid:
    """Published beside measured, one record a line; what is long goes into numbered notes."""
    notes: dict[str, int] = {}
    rows = []
    for record in records:
        long = [remarks.get((record["row"], record["column"]), ""), record.get("why", "")]
        marks = [f"[{notes.setdefault(text, len(notes) + 1)}]" for text in long if text]
        short = [
            "recorded" if record["recorded"] else "",
            record.get("note", ""),
            f"{record['refused']} refused" if record["refused"] else "",
        ]
        rows.append(
            (
                record["row"],
                record["column"],
                _number(record["published"]),
                _number(record["measured"]),
                _interval(record),
                str(record["n"]),
                record["weights"] or "",
                ", ".join([part for part in short if part] + marks),
            )
        )
    header = ("Row", "Column", "Published", "Measured", "95 % interval", "n", "Weights", "Remark")
    numbered = tuple(f"[{number}] {text}." for text, number in notes.items())
    return Grid(title, header, tuple(rows), numbered + tuple(closing))


def _by_sex(title: str, records: Sequence[Record], what: str, notes: Sequence[str]) -> Grid:
    """A line for each statistic or age band; value, interval and n for all cases and each sex."""
    places = {(record["row"], record["column"]): record for record in records}
    first = [record for record in records if record["column"] == "all"]
    published = any(record["published"] is not None for record in first)
    header = (what, "Unit", *(["Published"] if published else []), *COLUMNS)
    rows = tuple(
        (
            record["row"],
            record["unit"],
            *([_number(record["published"])] if published else []),
            *(_cell(places[record["row"], column]) for column in COLUMNS),
        )
        for record in first
    )
    return Grid(title, header, rows, tuple(notes))


def _refusals(group: Group, details: Sequence[AssessmentRow]) -> list[str]:
    """What was left out, and why; nothing to say where nothing was."""
    if not group.refused:
        return []
    refused = {(row.weights, row.id) for row in group.rows if row.assessed is None}
    reasons: dict[str, int] = {}
    for detail in details:
        if detail.dataset == group.dataset and (detail.weights, detail.id) in refused:
            reason = (detail.refused or "").rstrip(".")
            reasons[reason] = reasons.get(reason, 0) + 1
    listed = "; ".join(f"{count} x {reason}" for reason, count in reasons.items())
    return [
        f"{group.refused} of {len(group.rows)} cases were refused and are in none of these "
        f"numbers{': ' + listed if listed else ''}."
    ]


def _cell(record: Record) -> str:
    if record["measured"] is None:
        return f"- (n={record['n']})"
    return f"{_number(record['measured'])} {_interval(record)} (n={record['n']})".replace("  ", " ")


def _interval(record: Record) -> str:
    ends = record["ci95"]
    return "" if ends is None else f"[{_number(ends[0])}, {_number(ends[1])}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 2) + 0.0:.2f}"  # + 0.0: no minus zero
