"""What the fields of the chronological age mean."""

from __future__ import annotations

import pytest

from boneage.errors import InputError
from boneage.webui import chronology


def test_months_by_dates_or_by_years() -> None:
    assert chronology.months(None, None, None) is None
    assert chronology.months("", "", None) is None
    assert chronology.months(None, None, 10.5) == 126
    assert chronology.months("2010-01-01", "2019-07-01", 3) == 114  # dates are more exact


@pytest.mark.parametrize(
    ("stated", "taken"), [(None, None), (10.33, 10.33), (12.0, None), (25.5, None)]
)
def test_whole_years_of_a_file_are_too_coarse(stated: float | None, taken: float | None) -> None:
    assert chronology.known(stated) == taken


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (("2010-01-01", None, None), "also needs the date of examination"),
        ((None, "2010-01-01", None), "also needs the date of birth"),
        (("1.1.2010", "2019-07-01", None), "YYYY-MM-DD"),
        (("2019-07-01", "2010-01-01", None), "before the date of birth"),
        ((None, None, -1), "0 to 25"),
        ((None, None, 26), "0 to 25"),
        ((None, None, float("nan")), "0 to 25"),
    ],
)
def test_impossible_ages_are_explained(
    fields: tuple[str | None, str | None, float | None], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        chronology.months(*fields)
