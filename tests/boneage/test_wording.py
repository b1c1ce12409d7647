"""Ages and components in words."""

from __future__ import annotations

import pytest

from boneage import wording


@pytest.mark.parametrize(
    ("months", "words", "short"),
    [
        (124.3, "10 years 4 months", "10 y 4 m"),
        (12, "1 year", "1 y 0 m"),
        (13, "1 year 1 month", "1 y 1 m"),
        (5.6, "6 months", "0 y 6 m"),
        (0, "0 months", "0 y 0 m"),
    ],
)
def test_ages(months: float, words: str, short: str) -> None:
    assert wording.age_in_words(months).replace(wording.NO_BREAK, " ") == words
    assert wording.age_in_short(months) == short.replace(" ", wording.NO_BREAK)


def test_components() -> None:
    assert [wording.part_of(name) for name in ("R1", "R12", "X", "Rest")] == [1, 12, None, None]
    assert wording.meaning_of("R2") == "part 2"
    assert wording.meaning_of("X") == "whole hand"
    assert wording.meaning_of("unknown") == ""


def test_published_figures_have_their_papers_decimals() -> None:
    assert [wording.as_published(value, "years") for value in (9.741, 5.1)] == ["9.741", "5.100"]
    assert [wording.as_published(value, "months") for value in (4.38, 5.2)] == ["4.38", "5.20"]
    assert wording.as_published(None, "years") == "-"
