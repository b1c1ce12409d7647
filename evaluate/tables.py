"""Records as tables, in Markdown for ``tables.md`` and aligned for the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from boneage.wording import as_published
from evaluate import ossification, refusal, robustness
from evaluate.cases import RECORDED, UNION, AssessmentRow, CaseRow
from evaluate.described import Description
from evaluate.ossification import Annotated, Score
from evaluate.published import (
    BEST_OF_SEVERAL,
    OWN_IMAGES,
    STAND_INS,
    TASKS,
    tables,
)
from evaluate.records import (
    COLUMNS,
    EQUAL_TIME_NOTE,
    Group,
    Record,
    age_band_records,
    difference_records,
    further_records,
    interval_band_records,
    method_difference_records,
    published_records,
    statistics_records,
)
from evaluate.refusal import RefusalRow

INTRODUCTION = (
    "Intervals are 95 % percentile bootstrap intervals over cases, or over patients where the "
    "labels name them. MAE: mean absolute error. Each row names its weights by id and revision; "
    f"those that start with `{RECORDED}` were measured earlier, with weights that are not shipped "
    "or by a command of its own."
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
    """All records of a ``cases.csv``, and the tables to print."""

    records: tuple[Record, ...]
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
    scores: Sequence[Score] = (),
    annotated: Sequence[Annotated] = (),
    refused: Sequence[RefusalRow] = (),
) -> Report:
    """Measure everything that the cases allow.

    Args:
        cases: the lines of ``cases.csv``.
        groups: of :func:`evaluate.records.groups`.
        details: the lines of ``assessments.csv``; only the refusals are taken.
        weights: the entries of ``weights.json``.
        scores: the lines of ``ossification.csv``.
        annotated: the radiographs that these are about.
        refused: the lines of ``refusals.csv``.
    """
    records: list[Record] = []
    grids: list[Grid] = []
    published, differences, methods, further = (
        published_records(cases),
        difference_records(cases),
        method_difference_records(cases),
        further_records(cases),
    )
    units = {row.dataset: row.unit for row in cases}
    for dataset, unit in units.items():
        split = dataset.rpartition("/")[2]
        chosen = _stand_in(dataset, TASKS[unit]) + ([_SEEN[split]] if split in _SEEN else [])
        for table in tables(TASKS[unit]):
            found = _select(published, table.id, dataset)
            remarks = {(c.row, c.column): c.remark for c in table.cells if c.remark}
            title = f"{table.id}. {table.title} ({table.source}), MAE in {table.unit}, on {dataset}"
            told = [_RECORDED] * any(record["recorded"] for record in found)
            best = [BEST_OF_SEVERAL] * (table.task == "adult")
            notes = [*best, *told, *chosen]
            grids.append(_comparison(title, found, remarks, notes))
            records += found
        for group in (group for group in groups if group.dataset == dataset):
            name = f"{group.row}, on {dataset}, by {group.weights}"
            refusals = _refusals(group, details)
            found = statistics_records(group)
            notes = [*refusals, _S1, *chosen]
            if any(r["unit"] == "%" and r["measured"] == 100 for r in found):
                notes.append(_ALL_INSIDE)
            grids.append(_by_sex(f"S1. Further statistics of {name}", found, "Statistic", notes))
            records += found
            found = age_band_records(group)
            grids.append(
                _by_sex(
                    f"S2. MAE by age and sex in {unit}, of {name}",
                    found,
                    "Reference age",
                    [*refusals, *chosen],
                )
            )
            records += found
            if found := interval_band_records(group):
                title = f"S11. Prediction intervals by assessed age and sex, of {name}"
                grids.append(_by_sex(title, found, "Assessed age", [_ALL_INSIDE, *chosen]))
                records += found
        if found := _select(differences, "S3", dataset):
            title = f"S3. Differences of MAE between the units of table A2 in {unit}, on {dataset}"
            grids.append(_comparison(title, found, {}, [_S3, *chosen]))
            records += found
        if found := _select(further, "S4", dataset):
            title = f"S4. Weights outside the papers' comparisons, MAE in {unit}, on {dataset}"
            grids.append(_comparison(title, found, {}, chosen))
            records += found
        if found := _select(methods, "S12", dataset):
            title = f"S12. Differences of MAE between methods in {unit}, on {dataset}"
            equal = [_EQUAL_TIME] * any(record.get("note") == EQUAL_TIME_NOTE for record in found)
            grids.append(_comparison(title, found, {}, [_S12, *equal, *chosen]))
            records += found
        if unit == "months":
            found = robustness.records(cases, dataset)
            grids.append(_robustness(dataset, found))
            records += found
    for group in ossification.by_weights(scores):
        for grid, found in _ossification(group):
            grids.append(grid)
            records += found
    for group in refusal.by_weights(refused):
        if group[0].dataset not in units:  # its cases were taken out of the file
            continue
        task = TASKS[units[group[0].dataset]]
        found = refusal.records(group, details, task)
        grids.append(_refusal(group[0], found, weights, task))
        records += found
    for item in annotated if scores else ():
        found = ossification.agreement_records(item)
        title = f"S9. Agreement of the two observers' boxes, on {item.dataset.name}"
        grids.append(_matrix(title, found, "Region", ossification.AGREEMENT, [_S9]))
        records += found
    used = {name for row in cases for name in row.weights.split(UNION)}
    if shown := [entry for entry in weights if entry["weights"] in used]:
        rows = tuple(tuple(entry[name] for name in _WEIGHTS) for entry in shown)
        grids.append(Grid("Weights", tuple(_WEIGHTS.values()), rows))
    return Report(tuple(records), tuple(grids))


_WEIGHTS = {
    "weights": "Weights",
    "network": "Network",
    "data": "Trained on",
    "start": "Started from",
    "epochs": "Epochs",
    "validation": "Validation MAE",
}


_RECORDED = (
    "Recorded rows are of networks that are not shipped. The last table says what each one is, "
    "what it started from and for how many epochs it was trained: after a few epochs from "
    "random weights, a row shows how fast a network learns; it is no evidence against the method."
)
_SEEN = {
    "validation": "On validation images training selects its weights, and on half of them the "
    "intervals are found: of weights trained on the same data set the errors are somewhat too low "
    "here, and the coverage is no test.",
    "train": "Of weights that were trained on these images the errors are too low.",
    "all": "Of weights that were trained on some of these images the errors are too low.",
}
_S1 = (
    "Limits of agreement: bias -/+ 1.96 SD of the error (Bland and Altman 1986). The published "
    "figure, where there is one, is the paper's claim about its own network. An assessment that "
    "errs no less than giving every case the same age has learnt nothing from the image."
)
_ALL_INSIDE = (
    "Where every case is inside, resampling cannot show a case outside, and the interval has no "
    "width; by the rule of three, up to 300 / n % of all such cases may still lie outside."
)
_ALL_REFUSED = (
    "Where all of a kind are refused, resampling cannot show one that is not, and the interval has "
    "no width; by the rule of three, up to 300 / n % of all such images may still get an age."
)
_S3 = (
    "Paired on the same cases; a negative difference means that the first unit errs less; if "
    "the interval contains 0, these cases do not decide it."
)
_S12 = (
    "Paired on the same cases, those of one sex where either side has one sex only; a negative "
    "difference means that the first method errs less; if the interval contains 0, these cases do "
    "not decide it. The methods differ in backbone, size and hours of training, see "
    "docs/experiments.md; each was trained once, and no interval here covers the "
    "chance between trainings."
)
_EQUAL_TIME = (
    "Equal time: two networks, with parts and without, trained from the same weights (which had "
    "been trained with parts) for about the same processor time, each to the end of its schedule; "
    "docs/experiments.md has their epochs."
)


_S5 = (
    "Liu et al. claim stable performance under rotation, scaling and contrast changes and publish "
    "no number. Every change is made to the image before its preprocessing: rotation "
    "(anticlockwise) and scaling about the middle, bilinear, where what comes in from outside "
    "has the value of the nearest pixel of the border; contrast about the mean grey, cut off at "
    "black and white; less contrast than before changes no more than the rounding of grey values, "
    "since they are stretched before assessment; enlarged bicubically; white over 6 % of each side "
    "at every edge; a frame as dark as the darkest pixel, added around. Normal noise, the same for "
    "every image, and grey levels are of the range from the 1st to the 99th percentile; JPEG is "
    "written at the size of the test set's copies, where its blocks of 8 px hide more of a bone "
    "than in a full-size radiograph. The images are squashed to squares, so that a rotation is "
    "slightly sheared. The changes from mirroring on are not from the paper. Differences are "
    "paired by case; changes of the age are absolute. Where the interval of a difference lies "
    "above 0, the error grows, and the claim does not hold for these weights. n differs where "
    "a changed image is refused, or one that was refused is not."
)
_S6 = (
    "These are validation images: weights are selected by their MAE on them, among others. No "
    "annotated region was used to train or select. Measured of each image are box centres inside "
    "a region, the share of the boxes whose centre lies in one; boxes that overlap a region, "
    "however little; regions covered, the share of the 17 regions (4 DIP, 5 PIP, 5 MCP, radius, "
    "ulna, wrist; the expert's) whose centre lies in a box. Larger boxes overlap and cover more: "
    "compare with those of the same sizes, and see the areas. A refused image has no boxes and is "
    "left out."
)
_S7 = (
    "Paired by image; positive where the agent's boxes fit better; if the interval contains 0, "
    "these images do not decide it. Three baselines draw at random; mean boxes and usual anchors "
    "are the same for every image of a sex, but for the image itself being left out."
)
_S8 = (
    "Covered: share of the regions of that name whose centre lies in one of R1 to R3. Box centres "
    "inside: share of R1 to R3 whose centre lies in a region of that name. The wrist region holds "
    "the carpals; a proximal phalanx lies between its MCP and its PIP region."
)
_S9 = (
    "Each box of the expert is compared with the other observer's box of that name that it "
    "overlaps most. Intervals resample images."
)


def _robustness(dataset: str, records: Sequence[Record]) -> Grid:
    weights = next((r["weights"] for r in records if r["weights"]), None)
    by = f", by {weights}" if weights else ""
    title = f"S5. Robustness of the age in months, on {dataset}{by}"
    if weights:
        return _matrix(title, records, "Change", robustness.COLUMNS, [_S5])
    return Grid(title, ("Change", "MAE"), (("all", "-"),), (f"{robustness.NOT_MEASURED}.",))


def _refusal(
    row: RefusalRow, records: Sequence[Record], weights: Sequence[Description], task: str
) -> Grid:
    subject = refusal.SUBJECTS[task]
    title = f"S10. Images refused, by {row.weights}; {subject}: {row.dataset}"
    accepted = next((entry["accepted"] for entry in weights if entry["weights"] == row.weights), "")
    notes = [
        refusal.NOTES[task],
        *_stand_in(row.dataset, task),
        f"Of the validation images {accepted} are accepted.",
        _ALL_REFUSED,
    ]
    return _matrix(title, records, "Image", refusal.COLUMNS, notes)


def _ossification(scores: Sequence[Score]) -> list[tuple[Grid, list[Record]]]:
    """Tables S6 to S8 of one set of weights."""
    name = f"on {scores[0].dataset}, by {scores[0].weights}"
    chosen = "; ".join(f"{chooser}: {how}" for chooser, how in ossification.CHOOSERS.items())
    boxes = ossification.score_records(scores)
    differences = ossification.difference_records(scores)
    names = ossification.name_records(scores)
    return [
        (
            _matrix(
                f"S6. Attention boxes and annotated ossification regions, {name}", boxes,
                "Measure, boxes", ossification.COLUMNS, [_S6, f"Boxes are {chosen}."],
            ),
            boxes,
        ),
        (
            _matrix(
                f"S7. What attention adds to boxes chosen blindly, {name}", differences,
                "Measure, difference", ossification.COLUMNS, [_S7],
            ),
            differences,
        ),
        (
            _matrix(
                f"S8. Attention boxes R1 to R3 by region, {name}", names, "Region",
                ossification.BY_NAME, [_S8],
            ),
            names,
        ),
    ]  # fmt: skip


def _stand_in(dataset: str, task: str) -> list[str]:
    """The note below every table of adults: what stands in for the paper's images."""
    return [STAND_INS.get(re.split(r"[-_/]", dataset)[0], OWN_IMAGES)] * (task == "adult")


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
                as_published(record["published"], record["unit"]),
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
    return _matrix(title, records, what, tuple(COLUMNS), notes)


def _matrix(
    title: str,
    records: Sequence[Record],
    what: str,
    columns: Sequence[str],
    notes: Sequence[str],
) -> Grid:
    """A line for each row of the records; value, interval and n in each of their columns."""
    places = {(record["row"], record["column"]): record for record in records}
    first = [record for record in records if record["column"] == columns[0]]
    published = any(record["published"] is not None for record in first)
    header = (what, "Unit", *(["Published"] if published else []), *columns)
    rows = tuple(
        (
            record["row"],
            record["unit"],
            *([as_published(record["published"], record["unit"])] if published else []),
            *(_cell(places.get((record["row"], column))) for column in columns),
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


def _cell(record: Record | None) -> str:
    if record is None:
        return ""
    if record["measured"] is None:
        return f"- (n={record['n']})"
    return f"{_number(record['measured'])} {_interval(record)} (n={record['n']})".replace("  ", " ")


def _interval(record: Record) -> str:
    ends = record["ci95"]
    return "" if ends is None else f"[{_number(ends[0])}, {_number(ends[1])}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 2) + 0.0:.2f}"  # + 0.0: no minus zero
