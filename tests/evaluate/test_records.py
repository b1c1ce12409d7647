"""Numbers from cases: exact values, unions of weights, refusals, patients, empty cells."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from evaluate import records
from evaluate.cases import RECORDED, AssessmentRow, CaseRow
from evaluate.published import EQUAL_TIME, TABLES
from evaluate.tables import report


def row(
    id: str,
    error: float | None,
    *,
    sex: str | None = "F",
    age: float = 100.0,
    place: tuple[str, str, str] = ("A3", "AR-CNN", "MAE"),
    weights: str = "w@1",
    patient: str | None = None,
    unit: str = "months",
) -> CaseRow:
    assessed = None if error is None else age + error
    return CaseRow(*place, "d/test", id, sex, age, assessed, unit, weights, patient)


def cell(found: Sequence[records.Record], *place: str) -> records.Record:
    (only,) = [r for r in found if (r["table"], r["row"], r["column"]) == place]
    return only


def test_measured_beside_published() -> None:
    found = records.published_records([row("1", 3.0), row("2", -5.0, sex="M")])
    record = cell(found, "A3", "AR-CNN", "MAE")
    assert record == {
        "table": "A3", "row": "AR-CNN", "column": "MAE", "published": 4.38, "measured": 4.0,
        "n": 2, "ci95": [3.0, 5.0], "unit": "months", "dataset": "d/test", "weights": "w@1",
        "recorded": False, "refused": 0,
    }  # fmt: skip


def test_every_other_cell_is_null_and_says_why() -> None:
    found = records.published_records([row("1", 3.0)])
    empty = [record for record in found if record["measured"] is None]
    assert len(found) == sum(len(t.cells) for t in TABLES if t.task == "hand")
    assert len(empty) == len(found) - 1
    for record in empty:
        assert record["why"]
        assert (record["n"], record["ci95"], record["weights"]) == (0, None, None)
    assert "nothing to run" in cell(found, "A3", "Human reviewers", "MAE")["why"]


def test_the_unit_decides_whose_tables_run() -> None:
    found = records.published_records(
        [row("1", 3.0, place=("B2", "Late fusion", "MAE"), unit="years")]
    )
    assert {record["table"] for record in found} == {"B1", "B2", "B3", "B4"}
    assert {record["unit"] for record in found} == {"years"}


def test_weights_for_one_sex_each_fill_a_row_together() -> None:
    cases = [
        row("1", 2.0, sex="M", weights="boys@1"),
        row("2", 4.0, sex="F", weights="girls@1"),
        row("3", 6.0, sex="M", weights="boys@1"),
    ]
    record = cell(records.published_records(cases), "A3", "AR-CNN", "MAE")
    assert (record["measured"], record["n"]) == (4.0, 3)
    assert record["weights"] == "boys@1 + girls@1"
    (group,) = records.groups(cases)
    assert [r.id for r in group.rows] == ["1", "2", "3"]


def test_weights_that_assessed_the_same_case_are_two_measurements() -> None:
    cases = [row("1", 2.0, weights="a@1"), row("1", 4.0, weights="b@1")]
    found = [r for r in records.published_records(cases) if r["measured"] is not None]
    assert [(r["weights"], r["measured"]) for r in found] == [("a@1", 2.0), ("b@1", 4.0)]
    assert [group.weights for group in records.groups(cases)] == ["a@1", "b@1"]


def test_half_a_row_says_so() -> None:
    found = records.published_records([row("1", 2.0, sex="M"), row("2", 4.0, sex="M")])
    assert cell(found, "A3", "AR-CNN", "MAE")["note"] == "male cases only"
    unknown = row("9", None, sex=None)  # refused by weights of one sex
    found = records.published_records([row("1", 3.0, sex="M"), unknown])
    assert cell(found, "A3", "AR-CNN", "MAE")["note"] == "male cases only"


def test_refused_cases_are_counted_and_left_out() -> None:
    cases = [row("1", 2.0), row("2", None), row("3", 4.0), row("4", None)]
    record = cell(records.published_records(cases), "A3", "AR-CNN", "MAE")
    assert (record["measured"], record["n"], record["refused"]) == (3.0, 2, 2)
    details = [
        AssessmentRow("d/test", "w@1", "2", 100, None, None, None, "This is no hand."),
        AssessmentRow("d/test", "w@1", "4", 100, None, None, None, "This is no hand."),
    ]
    text = report(cases, records.groups(cases), details).text()
    assert "2 of 4 cases were refused" in text
    assert "2 x This is no hand" in text


def test_a_row_of_refusals_has_no_number() -> None:
    record = cell(records.published_records([row("1", None)]), "A3", "AR-CNN", "MAE")
    assert (record["measured"], record["refused"]) == (None, 1)
    assert record["why"] == "every case was refused"


def test_intervals_resample_patients() -> None:
    generator = np.random.default_rng(0)
    errors = np.repeat(generator.normal(0, 10, 30), 4)
    widths = []
    for patients in (False, True):
        cases = [
            row(f"{i:03}", e, patient=f"p{i // 4}" if patients else None)
            for i, e in enumerate(errors)
        ]
        record = cell(records.published_records(cases), "A3", "AR-CNN", "MAE")
        assert record["n"] == 120
        widths.append(record["ci95"][1] - record["ci95"][0])
    assert widths[1] > 1.6 * widths[0]


def test_recorded_rows_are_marked_and_get_no_further_statistics() -> None:
    place = ("A3", "Larson 2018", "MAE")
    cases = [row("1", 3.0, place=place, weights=f"{RECORDED}old@1"), row("1", 4.0)]
    assert cell(records.published_records(cases), *place)["recorded"]
    assert [group.row for group in records.groups(cases)] == ["AR-CNN"]


def test_further_statistics_by_hand() -> None:
    cases = [
        row("1", -2.0), row("2", 0.0), row("3", 6.0), row("4", -4.0),
        row("5", 13.0, sex="M"), row("6", -21.0, sex="M"),
    ]  # fmt: skip
    (group,) = records.groups(cases)
    found = records.statistics_records(group)

    def value(name: str, column: str) -> float:
        return cell(found, "S1", name, column)["measured"]

    assert value("MAE", "female") == 3.0
    assert value("RMSE", "female") == pytest.approx(14**0.5, abs=1e-4)
    assert value("bias (assessed - reference)", "male") == -4.0
    assert value("upper 95 % limit of agreement", "female") == pytest.approx(8.4682, abs=1e-4)
    assert value("within 6 months", "all") == pytest.approx(66.6667)
    assert value("within 12 months", "female") == 100.0
    assert value("within 20 months", "male") == 50.0
    assert cell(found, "S1", "within 20 months", "all")["published"] == 100.0
    assert cell(found, "S1", "MAE", "male")["n"] == 2


def test_one_case_has_a_value_but_no_spread() -> None:
    (group,) = records.groups([row("1", 5.0)])
    found = records.statistics_records(group)
    assert cell(found, "S1", "MAE", "all")["measured"] == 5.0
    assert cell(found, "S1", "MAE", "all")["ci95"] is None
    limit = cell(found, "S1", "lower 95 % limit of agreement", "all")
    assert (limit["measured"], limit["why"]) == (None, "it needs 2 cases")
    assert cell(found, "S1", "MAE", "male")["why"] == "no such case"


def test_one_age_for_all_is_the_median_of_those_assessed() -> None:
    cases = [
        *(row(str(age), 1.0, age=age) for age in (20.0, 50.0, 170.0)),
        row("M", 1.0, age=60.0, sex="M"),
        row("refused", None, age=400.0),
    ]
    (group,) = records.groups(cases)
    found = records.statistics_records(group)
    girls = cell(found, "S1", records.CONSTANT, "female")
    assert (girls["measured"], girls["n"], girls["refused"]) == (50.0, 3, 1)
    assert cell(found, "S1", records.CONSTANT, "male")["measured"] == 0.0
    assert cell(found, "S1", records.CONSTANT, "all")["measured"] == 40.0
    (group,) = records.groups([row("1", None)])
    assert cell(records.statistics_records(group), "S1", records.CONSTANT, "all")["why"]


def test_coverage_of_prediction_intervals() -> None:
    cases = [row("1", 2.0), row("2", 20.0), row("3", -2.0, sex="M")]
    details = [
        AssessmentRow("d/test", "w@1", r.id, r.age, r.assessed - 10, r.assessed + 10, 0.9, None)
        for r in cases
        if r.assessed is not None
    ]
    (group,) = records.groups(cases, details)
    found = records.statistics_records(group)
    inside = "cases inside the 90 % prediction interval"
    assert cell(found, "S1", inside, "female")["measured"] == 50.0
    assert cell(found, "S1", inside, "male")["measured"] == 100.0
    width = cell(found, "S1", "mean width of the 90 % prediction interval", "all")
    assert (width["measured"], width["unit"], width["n"]) == (20.0, "months", 3)


def test_age_bands_hold_every_case_once_and_show_empty_ones() -> None:
    ages = [0.0, 23.99, 24.0, 59.9, 60.0, 131.9, 132.0, 168.0, 228.0]
    cases = [row(str(i), 1.0, age=age) for i, age in enumerate(ages)]
    (group,) = records.groups(cases)
    found = records.age_band_records(group)
    counts = [r["n"] for r in found if r["column"] == "all"]
    assert counts == [2, 2, 1, 1, 1, 2]
    assert [r["n"] for r in found if r["column"] == "male"] == [0] * 6
    assert all(r["why"] for r in found if r["n"] == 0)


def test_differences_are_paired() -> None:
    cases = [
        row(id, error, sex="M", place=("A2", "male", unit))
        for unit, errors in {"X": (4, 8), "C": (2, 7), "assembling": (1, None)}.items()
        for id, error in zip("12", errors, strict=True)
    ]
    found = records.difference_records(cases)
    gain = cell(found, "S3", "male", "C - X")
    assert (gain["measured"], gain["n"], gain["published"]) == (-1.5, 2, -0.77)
    assert gain["ci95"] == [-2.0, -1.0]
    partial = cell(found, "S3", "male", "assembling - X")
    assert (partial["measured"], partial["n"], partial["refused"]) == (-3.0, 1, 1)


def test_units_are_also_compared_for_both_sexes_together() -> None:
    cases = [
        row(id, error, sex=sex, place=("A2", name, unit))
        for unit, errors in {"X": (4, 8), "C": (2, 7)}.items()
        for id, error, sex, name in zip("12", errors, "FM", ("female", "male"), strict=True)
    ]
    both = cell(records.difference_records(cases), "S3", "both", "C - X")
    assert (both["measured"], both["n"], both["published"]) == (-1.5, 2, None)


def test_methods_are_compared_on_the_cases_that_both_assessed() -> None:
    errors = {
        ("A3", "AR-CNN", "ours"): (1, 2, 3, None),
        ("A3", "Spampinato 2017", f"{RECORDED}bonet"): (9, 9, 9, None),
        ("A3", "Larson 2018", "months"): (2, 4, None, 9),
        ("S4", "single", "single"): (5, 5, 5, 5),
        ("S4", "months", "months"): (2, 4, None, 9),  # fills a row of A3: compared there
    }
    cases = [
        row(id, error, place=(table, name, "MAE"), weights=weights)
        for (table, name, weights), found in errors.items()
        for id, error in zip("1234", found, strict=True)
    ]
    found = records.method_difference_records(cases)
    assert [(r["column"], r["recorded"]) for r in found if r["measured"]] == [
        ("AR-CNN - Spampinato 2017", True),
        ("AR-CNN - Larson 2018", False),
        ("AR-CNN - single", False),
    ]
    paper = cell(found, "S12", "A3", "AR-CNN - Larson 2018")
    assert (paper["measured"], paper["n"], paper["refused"]) == (-1.5, 2, 2)
    assert paper["published"] == pytest.approx(4.38 - 6.24)
    assert paper["weights"] == "ours, months"
    other = cell(found, "S12", "A3", "AR-CNN - single")
    assert (other["measured"], other["n"], other["published"]) == (-3.0, 3, None)


@pytest.mark.parametrize(("with_parts", "without"), EQUAL_TIME)
def test_weights_trained_for_equal_time_are_compared(with_parts: str, without: str) -> None:
    """Those that stand in table S4 alone; other weights there are not compared."""
    cases = [
        row(id, error, place=("S4", name, "MAE"), weights=f"{RECORDED}{name}@{revision}")
        for name, revision, errors in (
            ("whole", without, (4, 3)), ("other", "0" * 12, (5, 5)), ("ours", with_parts, (1, 2))
        )
        for id, error in zip("12", errors, strict=True)
    ]  # fmt: skip
    (found,) = records.method_difference_records(cases)
    assert (found["table"], found["row"], found["column"]) == ("S12", "S4", "ours - whole")
    assert (found["measured"], found["n"], found["recorded"]) == (-2.0, 2, True)
    assert _footnote_and_remarks(cases) == (True, ["recorded, equal time"])
    assert not records.method_difference_records(cases[:2])  # one of the two alone


def test_a_papers_method_is_told_to_have_had_equal_time() -> None:
    with_parts, without = EQUAL_TIME[0]
    for revision, expected in ((without, (True, ["equal time"])), ("0" * 12, (False, [""]))):
        cases = [
            row("1", 1, weights=f"ours@{with_parts}"),
            row("1", 2, place=("S4", "whole", "MAE"), weights=f"whole@{revision}"),
        ]
        assert _footnote_and_remarks(cases) == expected


def _footnote_and_remarks(cases: list[CaseRow]) -> tuple[bool, list[str]]:
    """Whether a footnote of table S12 explains equal time, and the remark of each line."""
    (grid,) = (grid for grid in report(cases, [], []).grids if grid.title.startswith("S12."))
    explained = any("same processor time" in note for note in grid.notes)
    return explained, [line[grid.header.index("Remark")] for line in grid.rows]


def test_boys_alone_are_compared_with_boys() -> None:
    """Table A1's own method, and weights of one sex beside weights of both."""
    cases = [
        *(row(id, 2, sex="M", place=("A1", "male", "K=3"), weights="k3") for id in "12"),
        *(row(id, 3, sex="M", place=("A1", "male", "K=1"), weights="k1") for id in "12"),
        row("1", 1, sex="M"),
        row("3", 7),
        row("1", 5, sex="M", place=("S4", "boys", "MAE"), weights="boys"),
    ]
    found = records.method_difference_records(cases)
    by_parts = cell(found, "S12", "A1", "K=3 - K=1")
    assert (by_parts["measured"], by_parts["n"]) == (-1.0, 2)
    assert by_parts["published"] == pytest.approx(4.32 - 5.87)
    boys = cell(found, "S12", "A3", "AR-CNN - boys")
    assert (boys["measured"], boys["n"]) == (-4.0, 1)


@pytest.mark.parametrize(("split", "warned"), [("validation", True), ("test", False)])
def test_tables_of_validation_images_say_what_these_are_for(split: str, warned: bool) -> None:
    cases = [replace(row("1", 3.0), dataset=f"d/{split}")]
    grids = report(cases, records.groups(cases), []).grids
    told = {
        grid.title.partition(".")[0]: any("On validation images" in note for note in grid.notes)
        for grid in grids
    }
    assert {told[name] for name in ("A1", "A2", "A3", "S1", "S2")} == {warned}


def test_without_the_own_method_nothing_is_compared() -> None:
    assert records.method_difference_records([row("1", 3.0, place=("S4", "mine", "MAE"))]) == []


def test_weights_outside_the_papers_get_a_table() -> None:
    cases = [row("1", 3.0, place=("S4", "mine", "MAE")), row("2", 5.0, place=("S4", "mine", "MAE"))]
    (record,) = records.further_records(cases)
    assert (record["row"], record["measured"], record["published"]) == ("mine", 4.0, None)
    (group,) = records.groups(cases)
    assert group.row == "mine"


def test_every_measured_record_has_n_and_names_data_and_weights() -> None:
    cases = [row(str(i), float(i)) for i in range(5)]
    for record in report(cases, records.groups(cases), []).records:
        assert record["dataset"] == "d/test"
        if record["measured"] is None:
            assert record["why"]
        else:
            assert record["n"] == 5 or record["table"] == "S2"
            assert record["weights"] == "w@1"
            assert len(record["ci95"]) == 2


def test_coverage_and_width_by_assessed_age() -> None:
    """Two cases assessed at 8 years, of which one is inside; one at 12, inside."""
    cases = [row("1", 0.0, age=100), row("2", -20.0, age=120), row("3", 5.0, age=150)]
    details = [
        AssessmentRow("d/test", "w@1", "1", 100, 90, 110, 0.9, None),
        AssessmentRow("d/test", "w@1", "2", 120, 90, 110, 0.9, None),
        AssessmentRow("d/test", "w@1", "3", 150, 130, 170, 0.9, None),
    ]
    (group,) = records.groups(cases, details)
    found = records.interval_band_records(group)
    inside = "cases inside the 90 % prediction interval"
    width = "mean width of the 90 % prediction interval"
    for band, what, value, n in (
        ("8 to 11 years", inside, 50.0, 2), ("8 to 11 years", width, 20.0, 2),
        ("11 to 14 years", inside, 100.0, 1), ("11 to 14 years", width, 40.0, 1),
    ):  # fmt: skip
        record = cell(found, "S11", f"{band}, {what}", "all")
        assert (record["measured"], record["n"]) == (value, n)
    assert len(found) == 2 * 2 * 3
    assert records.interval_band_records(records.groups(cases)[0]) == []
