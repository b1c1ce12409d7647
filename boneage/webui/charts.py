"""The ages of an assessment's components as a table that is its own chart."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from boneage.explain import BOX_COLOURS
from boneage.wording import age_in_short, meaning_of, part_of

if TYPE_CHECKING:
    from boneage.predictor import Assessment

# Told apart by shape; the parts also by the colours of their boxes.
SHAPES = {"X": "circle", "C": "diamond", "assembled": "bar"}


def axis(ages: list[float]) -> tuple[float, float, list[int]]:
    """Lowest and highest month of an axis around ``ages``, and its ticks (months, whole years)."""
    low = max(0, math.floor((min(ages) - 4) / 12) * 12)
    high = max(math.ceil((max(ages) + 4) / 12) * 12, low + 24)
    step = 12 * math.ceil((high - low) / 12 / 5)
    return low, high, list(range(low, high + 1, step))


def components_table(assessment: Assessment) -> str:
    """HTML table of the components' ages in months, each with its mark on a common axis.

    A vertical line through all rows is the assembled age, a band its prediction interval.
    """
    ages = assessment.components
    interval = assessment.interval
    low, high, ticks = axis([*ages.values(), *((interval.low, interval.high) if interval else ())])

    def place(months: float) -> str:
        return f"{100 * (months - low) / (high - low):.2f}%"

    legend = ", band: interval" if interval else ""
    behind = "".join(f'<i class="grid" style="left:{place(tick)}"></i>' for tick in ticks)
    if interval:
        width = 100 * (interval.high - interval.low) / (high - low)
        behind += f'<i class="band" style="left:{place(interval.low)};width:{width:.2f}%"></i>'
    behind += f'<i class="line" style="left:{place(ages["assembled"])}"></i>'
    rows = []
    for name, age in ages.items():
        part = part_of(name)
        colour = f";background:{BOX_COLOURS[(part - 1) % len(BOX_COLOURS)]}" if part else ""
        shape = SHAPES.get(name, "square")
        meaning = meaning_of(name)
        rows.append(
            f'<tr class="{shape}"><th scope="row">{escape(name)} <span>{meaning}</span></th>'
            f'<td class="number">{age_in_short(age)}<span>{age:.1f} months</span></td>'
            f'<td class="track" aria-hidden="true"><div>{behind}'
            f'<i class="mark {shape}" style="left:{place(age)}{colour}"></i></div></td></tr>'
        )
    labels = "".join(f'<span style="left:{place(tick)}">{tick // 12}</span>' for tick in ticks)
    return (
        '<table class="components"><caption>Age by each component</caption><thead><tr>'
        '<th scope="col">Component</th><th scope="col" class="number">Age</th>'
        f'<th class="axis" aria-hidden="true">Years (line: assembled{legend})</th></tr></thead>'
        + f"<tbody>{''.join(rows)}</tbody>"
        + '<tfoot aria-hidden="true"><tr><td colspan="2"></td>'
        f'<td class="axis"><div>{labels}</div></td></tr></tfoot></table>'
    )
