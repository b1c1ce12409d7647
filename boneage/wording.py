"""Ages and components in words, the same on the page and in reports."""

from __future__ import annotations

NO_BREAK = "\N{NO-BREAK SPACE}"
_MEANINGS = {
    "X": "whole hand",
    "C": "hand and parts together",
    "assembled": "mean of all above",
}


def age_in_words(months: float) -> str:
    """``124.3`` -> ``10 years 4 months``, rounded to whole months, numbers kept with their unit."""
    years, rest = divmod(round(months), 12)
    parts = [
        f"{count}{NO_BREAK}{unit}{'s' * (count != 1)}"
        for count, unit in ((years, "year"), (rest, "month"))
        if count
    ]
    return " ".join(parts) or f"0{NO_BREAK}months"


def age_in_short(months: float) -> str:
    """``124.3`` -> ``10 y 4 m``, rounded to whole months, its spaces not to be broken."""
    years, rest = divmod(round(months), 12)
    return f"{years} y {rest} m".replace(" ", NO_BREAK)


def as_published(value: float | None, unit: str) -> str:
    """A paper's figure as it prints it: Nguyen and Kim give thousandths of years."""
    return "-" if value is None else f"{value:.{3 if unit == 'years' else 2}f}"


def part_of(component: str) -> int | None:
    """The number of the part that a component looks at: 2 of ``R2``, ``None`` of ``X``."""
    return int(component[1:]) if component[0] == "R" and component[1:].isdigit() else None


def meaning_of(component: str) -> str:
    """What a component of an assessment looks at, in words; empty for one that is not known."""
    part = part_of(component)
    return _MEANINGS.get(component, "") if part is None else f"part {part}"
