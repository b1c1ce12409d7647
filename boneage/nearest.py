"""Radiographs of nearly the same bone age, to be looked at beside the one that was assessed."""

from __future__ import annotations

from collections.abc import Iterable

from boneage.datasets import Case
from boneage.errors import InputError


def nearest(
    cases: Iterable[Case], age: float, sex: str, count: int = 4, exclude: str | None = None
) -> list[Case]:
    """The cases nearest in age, of the same sex, on both sides where there are any.

    Args:
        cases: labelled images; their ages are the reference ages of their data set (of the RSNA's,
            radiologists').
        age: the assessed age, in the cases' unit.
        sex: ``F`` or ``M``.
        count: how many; fewer where there are fewer of this sex. From two on, one is younger and
            one older than ``age`` where there is such a case.
        exclude: id of a case to leave out: the radiograph itself.

    Returns:
        Sorted by age, then by id. Of two equally near the younger is taken, then the lower id.

    Raises:
        InputError: for a count below 1.
    """
    if count < 1:
        raise InputError(f"The number of cases is {count}; it must be at least 1.")
    ranked = sorted(
        (case for case in cases if case.sex == sex and case.id != exclude),
        key=lambda case: (abs(case.age - age), case.age, case.id),
    )
    sides: list[Case] = []
    if count > 1:
        younger = (case for case in ranked if case.age < age)
        older = (case for case in ranked if case.age > age)
        sides = [case for side in (younger, older) if (case := next(side, None))]
    chosen = [*sides, *(case for case in ranked if case not in sides)][:count]
    return sorted(chosen, key=lambda case: (case.age, case.id))
