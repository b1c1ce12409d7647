"""Figures 2a, 2b and 3 of the hand paper, 4 and 5 of the adult one, drawn from the cases assessed.

The hand paper's text claims have figures too: robustness, and boxes beside annotated regions.

Boxes differ in line style as well as in colour, as sexes do in :mod:`boneage.plots`, so that the
figures can be read in grey.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from boneage import metrics, plots
from boneage.plots import HEIGHT, POINTS, WIDTH, Ages
from boneage.sex import SEX_NAMES
from evaluate.cases import BoxRow, CaseRow
from evaluate.heat_maps import HeatMaps
from evaluate.ossification import OBSERVERS, Annotated, Region
from evaluate.published import LARGEST_DEVIATION_MONTHS
from evaluate.records import Group, Record
from evaluate.robustness import CHANGES, COLUMNS, UNCHANGED
from evaluate.robustness import TABLE as ROBUSTNESS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from boneage.datasets import Case

Labelled = TypeVar("Labelled", "CaseRow", "Case")

DPI = 300
EXAMPLES = 5  # radiographs of each sex in figure 3
FONT = {"font.family": "DejaVu Sans", "font.size": 10}
HATCHES = {"F": "", "M": "//", None: ".."}
BOX_LINES = {
    "R1": ("#E69F00", "-"),
    "R2": ("#56B4E9", (0, (4, 1.5))),
    "R3": ("#F0E442", (0, (1.2, 1.2))),
    "R4": ("#CC79A7", (0, (5, 1.5, 1, 1.5))),
}
REGION = "#00C090"  # filled, where boxes are lines


@dataclass(frozen=True)
class Example:
    """A radiograph of figure 3.

    Attributes:
        heading: above it.
        path: the image.
        boxes: drawn on it as lines.
        regions: drawn below these, filled.
    """

    heading: str
    path: Path
    boxes: Sequence[BoxRow]
    regions: Sequence[Region] = ()


def draw(
    groups: Sequence[Group],
    boxes: Sequence[BoxRow],
    heat_maps: HeatMaps,
    images: Mapping[tuple[str, str], Path],
    folder: Path,
    annotated: Sequence[Annotated] = (),
    records: Sequence[Record] = (),
) -> list[Path]:
    """Draw the figures of every group into ``folder``, in place of those of an earlier run.

    Hands get the figures 2a, 2b and 3 of their paper; adults 4 and 5 of theirs, and what
    corresponds to 2a and 2b. The first group's are ``figure-2a.png`` and so on; those of further
    groups carry data set and weights in the name. Where there are such records or boxes,
    ``figure-robustness.png`` and ``figure-ossification.png`` are drawn likewise.

    Args:
        groups: of :func:`evaluate.records.groups`; one without an assessed case has no figure.
        boxes: the lines of ``boxes.csv``.
        heat_maps: those of ``heat-maps.npz``.
        images: files by data set and case id; figures 3 and 5 show cases that are among them.
        folder: made if needed.
        annotated: radiographs with annotated regions.
        records: those of table S5 are drawn.

    Returns:
        The files written.
    """
    from matplotlib import rc_context

    def save(number: str, figure: Figure | None, dataset: str, weights: str) -> None:
        if figure is not None:
            suffix = re.sub(r"[^A-Za-z0-9.@-]+", "-", f"-{dataset}-{weights}")
            path = folder / f"figure-{number}.png"
            if path in written:
                path = folder / f"figure-{number}{suffix}.png"
            figure.savefig(path, dpi=DPI, metadata={"Software": None})
            written.append(path)

    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("figure-*.png"):
        stale.unlink()
    written: list[Path] = []
    drawn: set[str] = set()
    for group in groups:
        if not group.assessed:
            continue
        with rc_context(FONT):
            if group.unit == "months":
                figures = {
                    "2a": assessed_against_reference(group),
                    "2b": deviation_against_reference(group),
                    "3": attention_boxes(group, boxes, images),
                }
            else:
                figures = {
                    # Of the data, so once for all weights.
                    "4": None if group.dataset in drawn else ages_and_sexes(group),
                    "5": grad_cams(group, heat_maps, images),
                    "adult-assessed": assessed_against_reference(group),
                    "adult-deviation": deviation_against_reference(group),
                }
            drawn.add(group.dataset)
            for number, figure in figures.items():
                save(number, figure, group.dataset, group.weights)
    with rc_context(FONT):
        for dataset, weights in _recorded(records):
            save("robustness", robustness(records, dataset, weights), dataset, weights)
        for item in annotated:
            name = item.dataset.name
            for weights in dict.fromkeys(box.weights for box in boxes if box.dataset == name):
                figure = annotated_boxes(item, boxes, weights)
                save("ossification", figure, name, weights)
    return written


def assessed_against_reference(group: Group) -> Figure:
    """Figure 2a: assessed against reference age, with the line of identity."""
    return plots.assessed_against_reference(_ages(group), _facts(group))


def deviation_against_reference(group: Group) -> Figure:
    """Figure 2b: absolute deviation against reference age; for hands with the paper's bound."""
    ages = _ages(group)
    title = f"Absolute deviation against {ages.kind} age"
    figure = plots.figure(WIDTH, HEIGHT, title, _facts(group))
    axes = figure.add_subplot()
    deviation = np.abs(ages.assessed - ages.reference)
    plots.scatter(axes, ages, deviation, ages.reference.max())
    top = deviation.max()
    if group.unit == "months":
        bound = LARGEST_DEVIATION_MONTHS
        top = max(top, bound)
        inside = f"here {(deviation <= bound).sum()} of {len(deviation)} cases keep it"
        axes.axhline(
            bound, color="black", linewidth=1.2, linestyle=(0, (6, 3)),
            label=f"{bound:g} months, the bound that Liu et al. (2019) report;\n{inside}",
        )  # fmt: skip
    axes.set(ylim=(0, 1.08 * top), ylabel=f"Absolute deviation ({group.unit})")
    axes.locator_params(axis="y", steps=[1, 2, 5, 10], integer=True)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def attention_boxes(
    group: Group, boxes: Sequence[BoxRow], images: Mapping[tuple[str, str], Path]
) -> Figure | None:
    """Figure 3: attention boxes on radiographs across the ages, a row for each sex.

    Returns:
        ``None`` if no case has both boxes and an image.
    """
    parts = _by_case(box for box in boxes if box.dataset == group.dataset)
    usable = [
        row
        for row in group.assessed
        if (row.weights, row.id) in parts and (group.dataset, row.id) in images
    ]
    lines = {
        sex: [
            Example(
                f"{_name(row)}\n{row.age:.0f} {row.unit}, assessed {row.assessed:.0f}",
                images[group.dataset, row.id],
                parts[row.weights, row.id],
            )
            for row in _across_ages([row for row in usable if row.sex == sex])
        ]
        for sex in SEX_NAMES
    }
    return _box_figure("Attention boxes, by sex and age", _facts(group), lines)


def annotated_boxes(annotated: Annotated, boxes: Sequence[BoxRow], weights: str) -> Figure | None:
    """Figure 3 on radiographs whose ossification regions an expert annotated, with the regions.

    Returns:
        ``None`` if no case has boxes of these weights.
    """
    folder, name = annotated.dataset.folder, annotated.dataset.name
    parts = _by_case(box for box in boxes if box.dataset == name)
    usable = [case for case in folder.cases if (weights, case.id) in parts]
    lines = {
        sex: [
            Example(
                f"{_name(case)}\n{case.age:.0f} {folder.unit}",
                case.path,
                parts[weights, case.id],
                annotated.regions[OBSERVERS[0], case.id],
            )
            for case in _across_ages([case for case in usable if case.sex == sex])
        ]
        for sex in SEX_NAMES
    }
    shown = sum(map(len, lines.values()))
    facts = [f"{name}: {shown} of {len(usable)} radiographs", f"Weights {weights}"]
    return _box_figure("Attention boxes and annotated ossification regions", facts, lines)


def _box_figure(
    title: str, facts: Sequence[str], lines: Mapping[str, Sequence[Example]]
) -> Figure | None:
    """Radiographs with their boxes, a row for each sex that has any; ``None`` without one."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    rows = [examples for examples in lines.values() if examples]
    if not rows:
        return None
    figure = plots.figure(2.15 * EXAMPLES, 2.6 * len(rows) + 1.3, title, facts)
    grid = figure.subplots(len(rows), EXAMPLES, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for line, examples in zip(grid, rows, strict=True):
        for axes, example in zip(line, examples, strict=False):
            _radiograph(axes, example)
            axes.set_title(example.heading, fontsize=9)
    shown = {box.part for examples in rows for example in examples for box in example.boxes}
    handles: list[Any] = [
        Line2D([], [], color=color, linestyle=style, linewidth=2.5, label=part)
        for part, (color, style) in BOX_LINES.items()
        if part in shown
    ]
    if any(example.regions for examples in rows for example in examples):
        handles.append(Patch(facecolor=REGION, alpha=0.6, label="Annotated regions (expert)"))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=True,
        facecolor="#444444", labelcolor="white", handlelength=4,
        title="Bone parts by descending attention score", title_fontproperties={"size": 10},
    ).get_title().set_color("white")  # fmt: skip
    return figure


def robustness(records: Sequence[Record], dataset: str, weights: str) -> Figure:
    """Table S5: the MAE against the angle, the scale and the contrast, with its interval."""
    found = {
        record["row"]: record
        for record in _robust(records)
        if (record["dataset"], record["weights"]) == (dataset, weights)
    }
    unchanged = found[UNCHANGED]
    counts = sorted({record["n"] for record in found.values()})
    n = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    facts = [f"{dataset}: n = {n}, 95 % intervals", f"Weights {weights}"]
    figure = plots.figure(1.6 * WIDTH, 0.6 * HEIGHT, "Robustness of the assessed age", facts)
    kinds = {"rotation": ("degrees", 0), "scaling": ("factor", 1), "contrast": ("factor", 1)}
    panels = figure.subplots(1, len(kinds), sharey=True)
    for axes, (kind, (unit, neutral)) in zip(panels, kinds.items(), strict=True):
        points = [(change.amount, found[change.name]) for change in CHANGES
                  if change.kind == kind and change.name in found]  # fmt: skip
        points = sorted([*points, (neutral, unchanged)], key=lambda point: point[0])
        amounts = [amount for amount, _ in points]
        errors = np.array([record["measured"] for _, record in points])
        ends = np.array([record["ci95"] or [record["measured"]] * 2 for _, record in points])
        axes.errorbar(
            amounts, errors, abs(ends.T - errors), color="#0072B2", marker="o", markersize=4,
            linewidth=1.2, capsize=3,
        )  # fmt: skip
        axes.axhline(unchanged["measured"], color="black", linewidth=1, linestyle=(0, (6, 3)))
        axes.set(xlabel=f"{kind.capitalize()} ({unit})", xticks=amounts)
        axes.set_xticks(amounts, [f"{amount:g}" for amount in amounts], fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set(ylim=(0, None), ylabel="MAE (months)")
    return figure


def _robust(records: Sequence[Record]) -> list[Record]:
    """The MAE of table S5 that were measured."""
    return [
        record
        for record in records
        if (record["table"], record["column"]) == (ROBUSTNESS, COLUMNS[0])
        and record["measured"] is not None
    ]


def _recorded(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Data sets and weights of which robustness was measured, unchanged images included."""
    return [(r["dataset"], r["weights"]) for r in _robust(records) if r["row"] == UNCHANGED]


def _by_case(boxes: Iterable[BoxRow]) -> dict[tuple[str, str], list[BoxRow]]:
    """Boxes that have a line style, by weights and case id."""
    parts: dict[tuple[str, str], list[BoxRow]] = {}
    for box in boxes:
        if box.part in BOX_LINES:
            parts.setdefault((box.weights, box.id), []).append(box)
    return parts


def _name(case: CaseRow | Case) -> str:
    return f"{SEX_NAMES.get(case.sex or '', '').capitalize()}, {case.id}"


def ages_and_sexes(group: Group) -> Figure:
    """Figure 4: a histogram of the actual ages by sex, and the counts of each sex."""
    facts = f"{group.dataset}: n = {len(group.rows)}"
    figure = plots.figure(1.5 * WIDTH, 0.75 * HEIGHT, "Ages and sexes of the cases", [facts])
    histogram, counts = figure.subplots(1, 2, width_ratios=(4, 1))
    sexes = [sex for sex in POINTS if any(row.sex == sex for row in group.rows)]
    ages = [np.array([row.age for row in group.rows if row.sex == sex]) for sex in sexes]
    names = [SEX_NAMES.get(sex or "", "sex unknown").capitalize() for sex in sexes]
    edges = np.arange(0, 5 * math.ceil(max(map(max, ages)) / 5) + 6, 5)
    below = np.zeros(len(edges) - 1)
    for index, (sex, found, name) in enumerate(zip(sexes, ages, names, strict=True)):
        height = np.histogram(found, edges)[0]
        style = {"color": POINTS[sex]["edgecolors"], "hatch": HATCHES[sex], "edgecolor": "white"}
        histogram.bar(edges[:-1], height, 5, below, align="edge", label=name, **style)
        below += height
        counts.bar(index, len(found), **style)
        counts.text(index, len(found), str(len(found)), ha="center", va="bottom")
    histogram.set(xlabel=f"Actual age ({group.unit})", ylabel="Images", xlim=(0, edges[-1]))
    histogram.legend(frameon=False)
    counts.set_xticks(range(len(names)), names)
    counts.margins(y=0.1)
    for axes in (histogram, counts):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def grad_cams(
    group: Group, heat_maps: HeatMaps, images: Mapping[tuple[str, str], Path]
) -> Figure | None:
    """Figure 5: images (above) and their Grad-CAMs (below), across the ages.

    Returns:
        ``None`` if no case has both a heat map and an image.
    """
    from boneage.explain import display_image, overlay_heat_map
    from boneage.images import read

    shown = sorted(
        (
            row
            for row in group.assessed
            if (group.dataset, row.weights, row.id) in heat_maps
            and (group.dataset, row.id) in images
        ),
        key=lambda row: (row.age, row.id),
    )
    if not shown:
        return None
    width = 1.75 * max(4, len(shown))
    figure = plots.figure(width, 4.9, "Images and their Grad-CAMs, by age", _facts(group))
    grid = figure.subplots(2, len(shown), squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for (above, below), row in zip(grid.T, shown, strict=True):
        image = display_image(read(images[group.dataset, row.id]).pixels)
        heat_map = heat_maps[group.dataset, row.weights, row.id]
        above.imshow(image)
        below.imshow(overlay_heat_map(image, heat_map, 0.5))
        sex = SEX_NAMES.get(row.sex or "", "sex unknown").capitalize()
        above.set_title(
            f"{sex}, {row.id}\n{row.age:.0f} {row.unit}, assessed {row.assessed:.0f}", fontsize=8
        )
    return figure


def _facts(group: Group) -> list[str]:
    """What was assessed, how well, and by what."""
    ages = _ages(group)
    refused = f", {group.refused} refused" if group.refused else ""
    return [
        f"{group.row} on {group.dataset}: n = {len(ages.assessed)}{refused}, "
        f"MAE {metrics.mae(ages.assessed, ages.reference):.2f} {group.unit}",
        f"Weights {group.weights}",
    ]


def _radiograph(axes: Axes, example: Example) -> None:
    from matplotlib.patches import Rectangle

    from boneage.images import read

    pixels = read(example.path).pixels
    tall, wide = pixels.shape
    low, high = np.percentile(pixels, [0.5, 99.5])
    axes.imshow(pixels, cmap="gray", vmin=low, vmax=max(high, low + 1), interpolation="bilinear")
    for region in example.regions:
        corner = (region.x0 * wide, region.y0 * tall)
        width, height = (region.x1 - region.x0) * wide, (region.y1 - region.y0) * tall
        axes.add_patch(Rectangle(corner, width, height, facecolor=REGION, alpha=0.6, linewidth=0))
    for box in example.boxes:
        color, line = BOX_LINES[box.part]
        corner, width, height = (box.x0, box.y0), box.x1 - box.x0, box.y1 - box.y0
        for edge, style, thickness in (("black", "-", 3.4), (color, line, 2.0)):
            axes.add_patch(
                Rectangle(
                    corner, width, height, fill=False, edgecolor=edge, linestyle=style,
                    linewidth=thickness, clip_on=False,
                )
            )  # fmt: skip


def _across_ages(rows: Sequence[Labelled]) -> list[Labelled]:
    """Examples at even quantiles of age, the youngest and oldest tenth left out."""
    by_age = sorted(rows, key=lambda row: (row.age, row.id))
    if len(by_age) <= EXAMPLES:
        return by_age
    places = np.linspace(0.1, 0.9, EXAMPLES) * (len(by_age) - 1)
    return [by_age[round(place)] for place in places]


def _ages(group: Group) -> Ages:
    return Ages(
        np.array([row.assessed for row in group.assessed], dtype=np.float64),
        np.array([row.age for row in group.assessed]),
        [row.sex for row in group.assessed],
        group.unit,
        # Both papers write "actual", which of a hand would be taken for the chronological age.
        "reference" if group.unit == "months" else "actual",
    )
