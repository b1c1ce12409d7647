"""Plots of assessed against reference ages, for the evaluator and the page.

Sexes differ in marker as well as in colour, so that the plots can be read in grey. Colours are of
Okabe and Ito's palette, which is told apart with any colour vision. Figures are made without
pyplot, whose state threads would share; saving one frees it.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from boneage import metrics
from boneage.sex import SEX_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 6.0, 6.4  # inches
TICKS = {"months": 24, "years": 10}  # between two marks of an age axis
POINTS: dict[str | None, dict[str, Any]] = {
    "F": {"marker": "o", "edgecolors": "#D55E00", "facecolors": "none"},
    "M": {"marker": "^", "edgecolors": "#0072B2", "facecolors": "#0072B2", "alpha": 0.75},
    None: {"marker": "s", "edgecolors": "#555555", "facecolors": "none"},
}


@dataclass(frozen=True)
class Ages:
    """Assessed and reference ages of the same cases, of which there is at least one.

    Attributes:
        assessed, reference: (n,) in ``unit``.
        sexes: ``F``, ``M`` or ``None`` for each.
        unit: ``months`` or ``years``.
        kind: what the reference ages are called: ``actual`` or ``reference``.
    """

    assessed: np.ndarray
    reference: np.ndarray
    sexes: Sequence[str | None]
    unit: str
    kind: str = "actual"


def assessed_against_reference(ages: Ages, facts: Sequence[str]) -> Figure:
    """Assessed against reference age, with the line of identity."""
    plot = figure(WIDTH, HEIGHT, f"Assessed against {ages.kind} age", facts)
    axes = plot.add_subplot()
    end = scatter(axes, ages, ages.assessed, max(ages.assessed.max(), ages.reference.max()))
    axes.plot([0, end], [0, end], color="black", linewidth=1, zorder=1, label="Identity")
    axes.set(ylim=(0, end), aspect="equal", ylabel=f"Assessed age ({ages.unit})")
    axes.set_yticks(axes.get_xticks())
    plot.legend(loc="outside lower center", ncols=3, frameon=False)
    return plot


def bland_altman(ages: Ages, facts: Sequence[str]) -> Figure:
    """Difference against mean of assessed and reference age, with bias and limits of agreement.

    Source: Bland and Altman, Lancet 1986; 327:307-310. A single case has no limits.
    """
    plot = figure(WIDTH, 0.8 * HEIGHT, "Difference against mean of both ages", facts)
    axes = plot.add_subplot()
    difference = metrics.errors(ages.assessed, ages.reference)
    mean = (ages.assessed + ages.reference) / 2
    _points(axes, ages, mean, difference)
    bias = float(difference.mean())
    lines = [(bias, "-", f"Bias {bias:+.1f} {ages.unit}")]
    if len(difference) > 1:
        limits = metrics.bland_altman(ages.assessed, ages.reference)
        name = f"95 % limits of agreement {limits.lower:+.1f} to {limits.upper:+.1f} {ages.unit}"
        lines += [(limits.lower, (0, (6, 3)), name), (limits.upper, (0, (6, 3)), None)]
    for height, style, label in lines:
        axes.axhline(height, color="black", linewidth=1.2, linestyle=style, zorder=1, label=label)
    axes.axhline(0, color="#999999", linewidth=0.8, zorder=0)
    reach = 1.12 * max(1.0, *(abs(height) for height, _, _ in lines), np.abs(difference).max())
    step = TICKS[ages.unit]
    low, high = step * math.floor(mean.min() / step), step * math.ceil(mean.max() / step)
    high = max(high, low + step)
    axes.set(
        xlim=(low, high), ylim=(-reach, reach),
        xlabel=f"Mean of assessed and {ages.kind} age ({ages.unit})",
        ylabel=f"Assessed minus {ages.kind} age ({ages.unit})",
    )  # fmt: skip
    axes.set_xticks(np.arange(low, high + 1, step))
    plot.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return plot


def figure(width: float, height: float, title: str, facts: Sequence[str]) -> Figure:
    """An empty figure of so many inches; the title and below it the facts, wrapped to its width."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    empty = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(empty)
    lines = [title, *(textwrap.fill(line, int(11.5 * width)) for line in facts)]
    empty.suptitle("\n".join(lines), fontsize=11)
    return empty


def scatter(axes: Axes, ages: Ages, heights: np.ndarray, oldest: float) -> float:
    """Points by sex over the reference age; returns the end of the age axis, past ``oldest``."""
    _points(axes, ages, ages.reference, heights)
    step = TICKS[ages.unit]
    end = step * math.ceil(oldest / step)
    axes.set(xlim=(0, end), xlabel=f"{ages.kind.capitalize()} age ({ages.unit})")
    axes.set_xticks(np.arange(0, end + 1, step))
    return end


def _points(axes: Axes, ages: Ages, across: np.ndarray, heights: np.ndarray) -> None:
    """Points by sex on a light grid."""
    for sex, style in POINTS.items():
        chosen = np.array([found == sex for found in ages.sexes])
        if chosen.any():
            name = SEX_NAMES.get(sex or "", "sex unknown").capitalize()
            axes.scatter(
                across[chosen], heights[chosen], s=22, linewidths=1, zorder=3, clip_on=False,
                label=f"{name} (n = {chosen.sum()})", **style,
            )  # fmt: skip
    axes.set_axisbelow(True)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
