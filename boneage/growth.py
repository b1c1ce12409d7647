"""Chronological age, and what a bone age means beside it.

The SDs are of the bone ages of healthy children around their chronological age, by sex: the Brush
Foundation's children in Greulich WW, Pyle SI. Radiographic Atlas of Skeletal Development of the
Hand and Wrist. 2nd edition, Stanford University Press 1959 (``brush_foundation_sd.csv``; months).
"""

from __future__ import annotations

import calendar
import math
import re
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from typing import Any

import numpy as np

from boneage import bundled
from boneage.errors import InputError
from boneage.tables import read_csv
from boneage.wording import age_in_words

SD_TABLE = "brush_foundation_sd.csv"
MAX_MONTHS = 300.0
"""The greatest age in months at which a hand is compared; its bones are fully grown long before."""
NORMAL_SD = 2.0
"""Half width of the normal range in SD: the statistical convention, about 95 % of a normal
distribution."""
CAUTION = (
    "The SD is that of Greulich and Pyle's atlas (1959), of children in Cleveland, Ohio, "
    "radiographed from 1931 to 1942. It covers neither other populations nor the error of this "
    "assessment."
)
NEAR = 0.05
"""So near to :data:`NORMAL_SD` an SD score is printed with two decimals, which show its side."""
_CHILDREN = {"F": "girls", "M": "boys"}


@dataclass(frozen=True)
class Comparison:
    """A bone age beside the chronological age.

    Attributes:
        bone_age: months.
        chronological_age: at examination, months.
        sex: ``F`` or ``M``.
        sd: of bone age at this chronological age and sex, months; ``None`` outside the table.
    """

    bone_age: float
    chronological_age: float
    sex: str
    sd: float | None

    @property
    def difference(self) -> float:
        """Bone age less chronological age, months."""
        return self.bone_age - self.chronological_age

    @property
    def z(self) -> float | None:
        """The difference in SD, unrounded: this is what is judged."""
        return None if self.sd is None else self.difference / self.sd

    @property
    def printed_z(self) -> float | None:
        """The difference in SD to 0.1; to 0.01 near the limit, and away from it if it is beyond."""
        if self.z is None:
            return None
        size = abs(self.z)
        if abs(size - NORMAL_SD) > NEAR:
            size = round(size, 1)
        elif size > NORMAL_SD:
            size = max(round(size, 2), NORMAL_SD + 0.01)
        else:
            size = round(size, 2)
        return math.copysign(size, self.z) if size else 0.0

    @property
    def sentence(self) -> str:
        """Difference and SD in words."""
        apart = f"{abs(self.difference):.1f}"
        if apart == "0.0":
            place = "equals"
        else:
            score = "" if self.printed_z is None else f" ({_score(self.printed_z)} SD)"
            side = "above" if self.difference > 0 else "below"
            place = f"is {apart} months{score} {side}"
        text = f"The bone age {place} the chronological age of "
        text += f"{age_in_words(self.chronological_age)}. "
        children = _CHILDREN[self.sex]
        if self.sd is None:
            low, high = (age_in_words(months) for months in _range(self.sex))
            return (
                f"{text}No SD is given: Greulich and Pyle's table covers {children} from {low} to "
                f"{high}."
            )
        return (
            f"{text}Around this age, one SD of bone age among the {children} in Greulich and "
            f"Pyle's atlas is {self.sd:.1f} months."
        )

    @property
    def reading(self) -> str | None:
        """The usual reading of the SD, said as a convention; ``None`` where there is no SD."""
        if self.z is None:
            return None
        if abs(self.z) <= NORMAL_SD:
            return (
                "By convention, a bone age within 2 SD of the chronological age is in the normal "
                "range (Gaskin et al. 2011)."
            )
        side = "above" if self.z > 0 else "below"
        return (
            f"By convention, a bone age more than 2 SD {side} the chronological age is outside the "
            "normal range (Gaskin et al. 2011). This is not a diagnosis."
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON: months to 0.01, SD score as printed; ``sd`` and ``z`` null outside the table."""
        return {
            "chronological_age": round(self.chronological_age, 2),
            "difference": round(self.difference, 2),
            "sd": None if self.sd is None else round(self.sd, 2),
            "z": self.printed_z,
        }


def compare(bone_age: float, chronological_age: float, sex: str) -> Comparison:
    """Put a bone age beside the chronological age.

    Args:
        bone_age: months.
        chronological_age: at examination, months; see :func:`age_in_months`.
        sex: ``F`` or ``M``.

    Raises:
        InputError: for another sex, and for an age that is none.
    """
    for name, age in (("bone", bone_age), ("chronological", chronological_age)):
        if age is None or not 0 <= age < math.inf:
            raise InputError(f"The {name} age is {age}; expected months, from 0.")
    return Comparison(bone_age, chronological_age, sex, bone_age_sd(chronological_age, sex))


def bone_age_sd(months: float, sex: str) -> float | None:
    """SD of bone age in months at a chronological age, interpolated linearly; see the module.

    Args:
        months: chronological age.
        sex: ``F`` or ``M``.

    Returns:
        ``None`` outside the table: 3 months to 17 years of boys, to 16 years of girls.

    Raises:
        InputError: for another sex.
    """
    if sex not in _CHILDREN:
        raise InputError(f"The sex is {sex!r}; the SD of bone age is known for F and M.")
    low, high = _range(sex)
    if not low <= months <= high:
        return None
    return float(np.interp(months, *_sds()[sex]))


def parse_date(text: str, name: str) -> date:
    """A date written ``YYYY-MM-DD``.

    Args:
        text: what was written; blanks around it do not matter.
        name: of the date, for messages: ``date of birth``.

    Raises:
        InputError: for any other form, and for a day that does not exist; the date itself is not
            repeated.
    """
    if not re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text.strip()):
        raise InputError(f"The {name} must be written YYYY-MM-DD, for example 2015-03-09.")
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        raise InputError(
            f"The {name} is not a day in the calendar; check the month and the day."
        ) from None


def age_in_months(born: date, examined: date, *, today: date | None = None) -> float:
    """Age at examination: whole months and the share of the month begun.

    A month ends on the day of birth, or on the month's last day where it has no such day.

    Args:
        born: date of birth.
        examined: date of the radiograph.
        today: by default the system's.

    Raises:
        InputError: if a date lies in the future, the examination before the birth, or the two more
            than 25 years apart.
    """
    # Where the radiograph was made it may be tomorrow already.
    latest = (today or date.today()) + timedelta(days=1)
    for name, day in (("date of birth", born), ("date of examination", examined)):
        if day > latest:
            raise InputError(f"The {name} lies in the future.")
    if examined < born:
        raise InputError("The date of examination lies before the date of birth.")
    months = 12 * (examined.year - born.year) + examined.month - born.month
    if _months_after(born, months) > examined:
        months -= 1
    begun, ends = _months_after(born, months), _months_after(born, months + 1)
    age = months + (examined - begun).days / (ends - begun).days
    if age > MAX_MONTHS:
        raise InputError(
            "The dates are more than 25 years apart; the bone age of a hand is compared up to "
            "25 years."
        )
    return age


def _score(z: float) -> str:
    """The size of a rounded SD score."""
    return f"{abs(z):.{2 if abs(abs(z) - NORMAL_SD) <= NEAR + 1e-9 else 1}f}"


def _months_after(born: date, months: int) -> date:
    year, month = divmod(born.month - 1 + months, 12)
    year, month = born.year + year, month + 1
    return date(year, month, min(born.day, calendar.monthrange(year, month)[1]))


@cache
def _sds() -> dict[str, tuple[list[float], list[float]]]:
    """Ages and their SDs by sex, both in months, youngest first."""
    _, rows = read_csv((bundled.PACKAGE / SD_TABLE).read_bytes(), SD_TABLE)
    table: dict[str, tuple[list[float], list[float]]] = {sex: ([], []) for sex in _CHILDREN}
    for _, row in rows:
        ages, sds = table[row["sex"]]
        ages.append(float(row["chronological_age_months"]))
        sds.append(float(row["bone_age_sd_months"]))
    return table


def _range(sex: str) -> tuple[float, float]:
    ages, _ = _sds()[sex]
    return ages[0], ages[-1]
