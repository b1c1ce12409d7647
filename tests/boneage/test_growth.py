"""Chronological age to the day, and bone age beside it."""

from __future__ import annotations

import json
from datetime import date, timedelta
from itertools import pairwise

import pytest

from boneage import growth
from boneage.errors import InputError

TODAY = date(2026, 11, 21)


def age(born: str, examined: str) -> float:
    return growth.age_in_months(date.fromisoformat(born), date.fromisoformat(examined), today=TODAY)


class TestAge:
    @pytest.mark.parametrize(
        ("born", "examined", "months"),
        [
            ("2015-03-09", "2015-03-09", 0),
            ("2015-03-09", "2024-03-09", 108),
            ("2015-03-09", "2024-03-08", 107 + 28 / 29),  # February 2024 has 29 days
            ("2015-03-09", "2023-03-08", 95 + 27 / 28),
            ("2015-03-09", "2024-04-01", 108 + 23 / 31),
            ("2015-12-31", "2016-01-01", 1 / 31),
            # A month without such a day ends on its last one.
            ("2023-01-31", "2023-02-28", 1),
            ("2023-01-31", "2023-03-01", 1 + 1 / 31),
            ("2023-01-31", "2023-03-31", 2),
            ("2020-02-29", "2021-02-28", 12),
            ("2020-02-29", "2024-02-29", 48),
        ],
    )
    def test_whole_months_and_the_share_of_the_month_begun(
        self, born: str, examined: str, months: float
    ) -> None:
        assert age(born, examined) == pytest.approx(months)

    @pytest.mark.parametrize("born", ["2015-01-31", "2016-02-29", "2015-03-09"])
    def test_grows_every_day(self, born: str) -> None:
        first = date.fromisoformat(born)
        ages = [growth.age_in_months(first, first + timedelta(days)) for days in range(1500)]
        steps = [after - before for before, after in pairwise(ages)]
        assert min(steps) >= 1 / 31 - 1e-9
        assert max(steps) <= 1 / 28 + 1e-9

    def test_up_to_25_years(self) -> None:
        assert age("2000-05-01", "2025-05-01") == 300
        with pytest.raises(InputError, match="more than 25 years apart"):
            age("2000-05-01", "2025-05-02")

    def test_examined_before_birth(self) -> None:
        with pytest.raises(InputError, match="examination lies before the date of birth"):
            age("2020-05-02", "2020-05-01")

    def test_in_the_future(self) -> None:
        with pytest.raises(InputError, match="date of examination lies in the future"):
            age("2020-05-02", "2026-11-23")
        with pytest.raises(InputError, match="date of birth lies in the future"):
            age("2027-05-02", "2026-11-20")
        assert age("2026-11-21", "2026-11-22") > 0  # it is tomorrow already somewhere

    def test_today_is_the_systems(self) -> None:
        today = date.today()
        assert growth.age_in_months(today, today) == 0
        with pytest.raises(InputError, match="in the future"):
            growth.age_in_months(today, today + timedelta(2))


class TestParseDate:
    def test_iso(self) -> None:
        assert growth.parse_date(" 2015-03-09 ", "date of birth") == date(2015, 3, 9)

    @pytest.mark.parametrize(
        "text",
        ["", "9.3.2015", "03/09/2015", "2015-3-9", "20150309", "2015-W11-1", "15-03-09",
         "2015-03-09T00:00", "２０１５-03-09"],
    )  # fmt: skip
    def test_any_other_form_is_told_the_right_one(self, text: str) -> None:
        with pytest.raises(InputError, match="The date of birth must be written YYYY-MM-DD"):
            growth.parse_date(text, "date of birth")

    @pytest.mark.parametrize("text", ["2015-02-29", "2015-13-01", "0000-01-01"])
    def test_no_day_of_the_calendar(self, text: str) -> None:
        with pytest.raises(
            InputError, match="date of examination is not a day in the calendar"
        ) as e:
            growth.parse_date(text, "date of examination")
        assert text not in str(e.value)


class TestSd:
    def test_the_table(self) -> None:
        assert growth.bone_age_sd(3, "F") == 0.72
        assert growth.bone_age_sd(156, "F") == 10.67
        assert growth.bone_age_sd(192, "F") == 7.31
        assert growth.bone_age_sd(3, "M") == 0.69
        assert growth.bone_age_sd(204, "M") == 13.05

    def test_linear_between_its_rows(self) -> None:
        assert growth.bone_age_sd(126, "M") == pytest.approx((9.79 + 10.09) / 2)
        assert growth.bone_age_sd(63, "F") == pytest.approx(0.75 * 11.65 + 0.25 * 10.23)

    @pytest.mark.parametrize(
        ("months", "sex"), [(2.9, "F"), (192.1, "F"), (2.9, "M"), (204.1, "M")]
    )
    def test_none_outside(self, months: float, sex: str) -> None:
        assert growth.bone_age_sd(months, sex) is None

    def test_the_sex_is_needed(self) -> None:
        with pytest.raises(InputError, match="known for F and M"):
            growth.bone_age_sd(100, "female")


class TestComparison:
    @pytest.mark.parametrize(
        ("bone", "chronological"),
        [(120, -5), (120, float("nan")), (120, float("inf")), (None, 120), (-1, 120)],
    )
    def test_ages_that_are_none(self, bone: float | None, chronological: float) -> None:
        with pytest.raises(InputError, match="expected months, from 0"):
            growth.compare(bone, chronological, "M")

    def test_numbers(self) -> None:
        compared = growth.compare(133.2, 120, "M")
        assert compared.difference == pytest.approx(13.2)
        assert compared.sd == 9.79
        assert compared.z == pytest.approx(13.2 / 9.79)
        assert compared.printed_z == 1.3
        assert json.loads(json.dumps(compared.to_dict())) == {
            "chronological_age": 120, "difference": 13.2, "sd": 9.79, "z": 1.3,
        }  # fmt: skip

    def test_sentence(self) -> None:
        boys = growth.compare(133.2, 120, "M").sentence.replace("\N{NO-BREAK SPACE}", " ")
        assert boys == (
            "The bone age is 13.2 months (1.3 SD) above the chronological age of 10 years. Around "
            "this age, one SD of bone age among the boys in Greulich and Pyle's atlas is 9.8 "
            "months."
        )
        girls = growth.compare(90.4, 120, "F").sentence
        assert "29.6 months (2.5 SD) below" in girls
        assert "among the girls in Greulich and Pyle's atlas is 11.7 months" in girls

    @pytest.mark.parametrize("bone_age", [120, 120.04, 119.96])
    def test_sentence_where_both_are_equal(self, bone_age: float) -> None:
        compared = growth.compare(bone_age, 120, "F")
        assert compared.sentence.startswith("The bone age equals the chronological age of 10")
        assert str(compared.printed_z) == "0.0"

    @pytest.mark.parametrize(
        ("z", "printed", "reading"),
        [
            (0.2, "0.2", "within 2 SD"),
            (1.94, "1.9", "within 2 SD"),
            (1.96, "1.96", "within 2 SD"),
            (1.999, "2.00", "within 2 SD"),
            (2.001, "2.01", "more than 2 SD above"),
            (2.04, "2.04", "more than 2 SD above"),
            (2.06, "2.1", "more than 2 SD above"),
        ],
    )
    def test_reading_judges_the_unrounded_and_its_side_is_printed(
        self, z: float, printed: str, reading: str
    ) -> None:
        for sign, side in ((1, "above"), (-1, "below")):
            compared = growth.compare(120 + sign * z * 9.79, 120, "M")
            assert f"({printed} SD) {side}" in compared.sentence
            assert compared.to_dict()["z"] == sign * float(printed)
            expected = reading.replace("above", side)
            assert compared.reading.startswith(f"By convention, a bone age {expected} ")
            assert ("not a diagnosis" in compared.reading) == (z > 2)

    def test_two_sd_and_a_little_are_not_within_two(self) -> None:
        compared = growth.Comparison(140.2, 120, "M", 9.9)
        assert "(2.04 SD)" in compared.sentence
        assert "outside the normal range" in compared.reading

    def test_no_sd_says_why(self) -> None:
        compared = growth.compare(200, 210, "M")
        assert compared.sd is None
        assert compared.z is None
        assert compared.reading is None
        assert compared.to_dict()["sd"] is None
        sentence = compared.sentence.replace("\N{NO-BREAK SPACE}", " ")
        assert sentence == (
            "The bone age is 10.0 months below the chronological age of 17 years 6 months. No SD "
            "is given: Greulich and Pyle's table covers boys from 3 months to 17 years."
        )
