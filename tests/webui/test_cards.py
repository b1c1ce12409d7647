"""The HTML of the page's cards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from boneage.images import Radiograph
from boneage.predictor import Assessment, Interval, ModelReference
from boneage.webui import cards, hand_cards
from boneage.webui.charts import axis, components_table
from boneage.wording import age_in_short, age_in_words

HOSTILE = '<img src=x onerror="alert(1)">'


@pytest.fixture
def radiograph() -> Radiograph:
    pixels = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)
    return Radiograph(pixels, HOSTILE, "PNG", "PNG, 48 x 64 px", "F", 10.26, (HOSTILE,))


@pytest.fixture
def assessment() -> Assessment:
    return Assessment(
        id=HOSTILE,
        task="hand",
        sex="F",
        age=124.3,
        unit="months",
        interval=None,
        components={"X": 120.0, "C": 126.0, "R1": 121.0, "assembled": 124.3},
        boxes=(),
        warnings=(HOSTILE,),
        refused=None,
        model=ModelReference("weights", "0123"),
    )


def test_age_in_words() -> None:
    def words(months: float) -> str:
        return age_in_words(months).replace("\N{NO-BREAK SPACE}", " ")

    assert words(124.3) == "10 years 4 months"
    assert words(119.6) == "10 years"
    assert words(13) == "1 year 1 month"
    assert words(5) == "5 months"
    assert words(0) == "0 months"
    assert age_in_short(119.6).split() == ["10", "y", "0", "m"]


@pytest.mark.parametrize("ages", [[0.0], [228.0], [1.0, 228.0], [124.3, 124.4], [60.0, 100.0]])
def test_axis_holds_all_ages(ages: list[float]) -> None:
    low, high, ticks = axis(ages)
    assert low <= min(ages) <= max(ages) <= high
    assert 2 <= len(ticks) <= 6
    assert all(tick % 12 == 0 and low <= tick <= high for tick in ticks)


def test_names_from_files_are_escaped(radiograph: Radiograph, assessment: Assessment) -> None:
    for html in (
        cards.given(radiograph, HOSTILE),
        hand_cards.result(radiograph, assessment),
        hand_cards.result(radiograph, replace(assessment, age=None, refused=HOSTILE)),
        cards.problem(HOSTILE, HOSTILE),
    ):
        assert HOSTILE not in html
        assert "&lt;img" in html


def test_given_says_what_the_file_says(radiograph: Radiograph) -> None:
    html = cards.given(radiograph, hand_cards.reference_line(130.0))
    assert "48 x 64 px" in html
    assert "10.3 years at examination" in html
    assert "130.0 months" in html


def test_result_shows_interval_reference_and_model(
    radiograph: Radiograph, assessment: Assessment
) -> None:
    assessment = replace(assessment, interval=Interval(110.0, 140.0, 0.9))
    html = hand_cards.result(radiograph, assessment, reference=130.0)
    assert '<data value="124.30">124.3 months</data>' in html
    assert "90 % prediction interval" in html
    assert "5.7 months below" in html
    assert "weights" in html
    assert "0123" in html


def test_difference_in_words() -> None:
    assert cards.difference(54.0, 54.0, "years") == "the assessment is the same."
    assert cards.difference(53.96, 54.0, "years") == "the assessment is the same."
    assert "0.1 years above" in cards.difference(54.1, 54.0, "years")
    assert "0.1 years below" in cards.difference(53.9, 54.0, "years")


def test_refusal_shows_its_reason_and_no_age(
    radiograph: Radiograph, assessment: Assessment
) -> None:
    html = hand_cards.result(radiograph, replace(assessment, age=None, refused="This is no hand."))
    assert "This is no hand." in html
    assert "<data" not in html


def test_heat_map_is_a_layer_of_its_own(radiograph: Radiograph, assessment: Assessment) -> None:
    assert 'class="over"' not in hand_cards.result(radiograph, assessment)
    explained = replace(assessment, heat_map=np.eye(4, dtype=np.float32))
    assert 'class="over"' in hand_cards.result(radiograph, explained)


def test_components_table_names_every_component(assessment: Assessment) -> None:
    html = components_table(assessment)
    for name, meaning in (
        ("X", "whole hand"),
        ("C", "hand and parts together"),
        ("R1", "part 1"),
        ("assembled", "mean of all above"),
    ):
        assert f'<th scope="row">{name} <span>{meaning}</span></th>' in html
    assert "126.0 months" in html
    assert 'class="band"' not in html
    assert 'class="band"' in components_table(replace(assessment, interval=Interval(100, 150, 0.9)))
