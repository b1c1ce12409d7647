"""What the Batch tab says, as HTML and as files to download: progress, table, comparison."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from boneage import plots
from boneage.batch import Outcome, summary
from boneage.sex import SEX_NAMES
from boneage.tables import cell
from boneage.webui import cards
from boneage.wording import age_in_short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110
WHO = {"all": "All", "F": "Female", "M": "Male"}


@dataclass(frozen=True)
class Case:
    """One line of the result.

    Attributes:
        file: its plain name, in a zip with the folders there; ``id`` is the name without ending.
        sex: as which it was assessed.
        age: assessed, ``None`` where there is none; ``reference`` likewise; in one unit.
        warnings: what may make the age less reliable.
        failure: why there is no age.
        assessment: as JSON; ``None`` where there is none.
    """

    file: str
    id: str
    sex: str | None
    age: float | None
    reference: float | None
    warnings: tuple[str, ...]
    failure: str | None
    assessment: dict[str, Any] | None

    @classmethod
    def of(cls, outcome: Outcome) -> Case:
        """What is kept of an outcome: no pixels."""
        item, found = outcome.item, outcome.assessment
        known = {"file": item.source.shown, "id": item.source.id, "reference": item.reference}
        if found is None:
            return cls(
                **known, sex=item.sex, age=None, warnings=(), failure=outcome.failure,
                assessment=None,
            )  # fmt: skip
        return cls(
            **known, sex=found.sex, age=found.age, warnings=found.warnings, failure=found.refused,
            assessment=found.to_dict(),
        )  # fmt: skip

    @property
    def difference(self) -> float | None:
        """Assessed minus reference age."""
        if self.age is None or self.reference is None:
            return None
        return self.age - self.reference

    @property
    def interval(self) -> dict[str, float]:
        """Its prediction interval: low, high and coverage; empty where there is none."""
        return (self.assessment or {}).get("interval") or {}

    @property
    def note(self) -> str:
        """Its warnings, or why there is no age."""
        if self.failure is not None:
            return f"Not assessed: {self.failure}"
        return " ".join(self.warnings)


# --- Before and while it runs ---


def start(most: int, limit: str, each: str) -> str:
    """The card before anything is given; sizes in words."""
    return f"""
<section class="card empty">
  <h2>Give radiographs of hands, or try the example</h2>
  <p>Then press Start. You get:</p>
  <ul>
    <li>a table of all bone ages that you can sort and download;</li>
    <li>for files that cannot be assessed, the reason; the others are still assessed;</li>
    <li>where you give reference ages, how far the assessments lie from them.</li>
  </ul>
  <p>Files or zips of them, PNG, JPEG, TIFF, WebP, BMP or DICOM: at most {most:,} files, {limit} in
  all, {each} each.</p>
  <p>The table is a CSV file with the columns <code>id</code> or <code>file</code> (the name with or
  without ending, and with its folders where names repeat), <code>sex</code> (F, M) or
  <code>male</code> (True, False), and optionally <code>boneage</code>, the reference in months.</p>
</section>"""


WAITING = """
<section class="card busy"><h2><i class="spinner" aria-hidden="true"></i>Waiting in the queue</h2>
<p>One batch runs at a time, so that the page stays quick for everybody. Yours begins by itself.</p>
</section>"""


def progress(done: int, total: int, elapsed: float) -> str:
    """How far it is, and how long it still takes.

    Args:
        done, total: files.
        elapsed: seconds since the start.
    """
    left = time_left(elapsed, done, total)
    return (
        '<section class="card running"><h2><i class="spinner" aria-hidden="true"></i>'
        f'Assessing</h2><progress aria-label="Files done" max="{total}" value="{done}"></progress>'
        f"<p><strong>{done:,} of {total:,}</strong>{f', {left}' if left else ''}</p></section>"
    )


def time_left(elapsed: float, done: int, total: int) -> str:
    """In words, from the pace so far; nothing before there is a pace."""
    if not done:
        return ""
    seconds = elapsed / done * (total - done)
    if seconds < 60:
        return "less than a minute left"
    minutes = round(seconds / 60)
    return f"about {minutes} minute{'s' * (minutes != 1)} left"


def announcement(done: int, total: int) -> str:
    """For screen readers; it changes with every tenth only."""
    return f"{100 * done // total // 10 * 10} % of {total:,} files done." if total else ""


def ended(cases: Sequence[Case], total: int, notes: Sequence[str]) -> str:
    """How it ended, and what does not fit between the table and the files."""
    failed = sum(case.failure is not None for case in cases)
    title = "Done" if len(cases) == total else f"Stopped after {len(cases):,} of {total:,}"
    counts = f"{len(cases) - failed:,} assessed"
    if failed:
        counts += f", {failed:,} not; the table says why"
    return (
        f'<section class="card done"><h2>{title}</h2><p>{counts}.</p></section>'
        + cards.warnings(notes, "About your table of sexes")
    )


# --- The result ---


def table(cases: Sequence[Case], unit: str) -> dict[str, Any]:
    """Headers and rows of the sortable table, and how its cells look.

    Without intervals or references it has no columns for them.
    """
    compared = any(case.reference is not None for case in cases)
    coverage = next((case.interval["coverage"] for case in cases if case.interval), None)
    headers = ["File", "Sex", f"Age ({unit})", "Years and months"]
    if coverage is not None:
        headers.append(f"{100 * coverage:g} % interval ({unit})")
    if compared:
        headers += [f"Reference ({unit})", f"Difference ({unit})"]
    rows = []
    for case in cases:
        row: list[Any] = [
            case.file,
            SEX_NAMES.get(case.sex or "", "").capitalize(),
            _rounded(case.age),
            "" if case.age is None else age_in_short(case.age),
        ]
        if coverage is not None:
            row.append("{low:.1f} to {high:.1f}".format(**case.interval) if case.interval else "")
        if compared:
            row += [_rounded(case.reference), _rounded(case.difference)]
        rows.append([*row, case.note])
    shown = [
        [f"{cell:.1f}" if isinstance(cell, float) else cell or "" for cell in row] for row in rows
    ]
    return {"headers": [*headers, "Notes"], "data": rows, "metadata": {"display_value": shown}}


def comparison(cases: Sequence[Case], unit: str) -> str:
    """Errors by sex and two plots; nothing where there are no reference ages."""
    found = compare(cases, unit)
    if found is None:
        return ""
    rows = ""
    for key, name in WHO.items():
        if key in found:
            line = found[key]
            interval = "" if line["ci95"] is None else " ({:.2f} to {:.2f})".format(*line["ci95"])
            rows += (
                f'<tr><th scope="row">{name}</th><td>{line["n"]:,}</td>'
                f"<td>{line['mae']:.2f}{interval}</td><td>{line['bias']:+.2f}</td></tr>"
            )
    return (
        '<section class="card errors"><table><caption>Assessed against reference ages</caption>'
        '<thead><tr><th scope="col">Cases</th><th scope="col">n</th>'
        f'<th scope="col">MAE, {unit} (95 % interval)</th><th scope="col">Bias, {unit}</th>'
        f"</tr></thead><tbody>{rows}</tbody></table>"
        "<p>MAE is the mean absolute error, with its bootstrap interval. Bias is the mean of "
        "assessed minus reference age: above 0 where ages are overestimated.</p></section>"
        f'<div class="plots">{_plots(cases, unit, found)}</div>'
    )


def compare(cases: Sequence[Case], unit: str) -> dict[str, Any] | None:
    """:func:`boneage.batch.summary` of the cases with both ages."""
    ages = _ages(cases, unit)
    return summary(ages.assessed.tolist(), ages.reference.tolist(), ages.sexes, unit)


def answer(cases: Sequence[Case], unit: str, without_file: Sequence[str] = ()) -> dict[str, Any]:
    """The JSON of download and API; ``without_file`` are rows of the table that have none."""
    lost = "The table has a row for it, but there is no such file."
    return {
        "assessments": [{"file": c.file, **c.assessment} for c in cases if c.assessment],
        "failures": [
            *(
                {"file": c.file, "id": c.id, "reason": c.failure}
                for c in cases
                if c.assessment is None
            ),
            *({"file": None, "id": name, "reason": lost} for name in without_file),
        ],
        "summary": compare(cases, unit),
    }


def downloads(cases: Sequence[Case], unit: str, without_file: Sequence[str] = ()) -> str:
    """Links to the results as CSV and JSON, which travel inside the page."""
    if not cases:
        return ""
    content = json.dumps(answer(cases, unit, without_file), indent=1) + "\n"
    return (
        '<section class="details">'
        + _link("bone-ages.csv", "text/csv", as_csv(cases, unit), "Download as CSV")
        + _link("bone-ages.json", "application/json", content, "Download as JSON")
        + "</section>"
    )


def as_csv(cases: Sequence[Case], unit: str) -> str:
    """One row a file, for a spreadsheet: no cell of a file's own begins a formula."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(
        ["file", "id", "sex", f"age_{unit}", "age", f"low_{unit}", f"high_{unit}", "coverage",
         f"reference_{unit}", f"difference_{unit}", "warnings", "failure", "model", "revision"]
    )  # fmt: skip
    for case in cases:
        model = case.assessment["model"] if case.assessment else {"id": "", "revision": ""}
        texts = [" ".join(case.warnings), case.failure or "", model["id"], model["revision"]]
        writer.writerow(
            [
                *map(cell, [case.file, case.id, case.sex or ""]),
                _rounded(case.age),
                "" if case.age is None else age_in_short(case.age).replace("\xa0", " "),
                _rounded(case.interval.get("low")),
                _rounded(case.interval.get("high")),
                case.interval.get("coverage"),
                _rounded(case.reference),
                _rounded(case.difference),
                *map(cell, texts),
            ]
        )
    return file.getvalue()


def _rounded(age: float | None) -> float | None:
    return None if age is None else round(age, 1)


def _ages(cases: Sequence[Case], unit: str) -> plots.Ages:
    both = [(c.age, c.reference, c.sex) for c in cases if c.difference is not None]
    assessed, reference, sexes = zip(*both, strict=True) if both else ((), (), ())
    return plots.Ages(
        np.array(assessed, float), np.array(reference, float), sexes, unit, "reference"
    )


def _plots(cases: Sequence[Case], unit: str, found: dict[str, Any]) -> str:
    ages = _ages(cases, unit)
    facts = [f"n = {found['all']['n']}, MAE {found['all']['mae']:.2f} {unit}"]
    drawn = (
        (
            plots.assessed_against_reference(ages, facts),
            "Scatter plot of assessed against reference age, with the line of identity",
        ),
        (
            plots.bland_altman(ages, facts),
            "Bland-Altman plot: assessed minus reference age against the mean of both; bias "
            f"{found['all']['bias']:+.1f} {unit}",
        ),
    )
    return "".join(
        f'<figure class="card"><img src="{_picture(plot)}" alt="{escape(alt)}"></figure>'
        for plot, alt in drawn
    )


def _picture(plot: Figure) -> str:
    buffer = io.BytesIO()
    plot.savefig(buffer, dpi=DPI)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _link(name: str, kind: str, content: str, label: str) -> str:
    data = base64.b64encode(content.encode("utf-8-sig" if kind == "text/csv" else "utf-8"))
    return (
        f'<a class="download" download="{name}" href="data:{kind};base64,{data.decode()}">'
        f"{label}</a>"
    )
