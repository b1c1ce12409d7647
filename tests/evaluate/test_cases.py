"""The files of cases: what is written is what is read."""

from pathlib import Path

import pytest

from boneage.errors import InputError
from evaluate.cases import (
    CASES,
    AssessmentRow,
    BoxRow,
    CaseRow,
    Writer,
    read_assessments,
    read_boxes,
    read_cases,
)

CASE = CaseRow("A3", "AR-CNN", "MAE", "d/test", "7", "F", 120.0, 118.254, "months", "w@1")
REFUSED = CaseRow("A3", "AR-CNN", "MAE", "d/test", "8", None, 99.5, None, "months", "w@1", "p1")
HEADER = "table,row,column,dataset,id,sex,age,assessed,unit,weights"


def write(folder: Path, *rows: CaseRow | AssessmentRow | BoxRow, patients: bool = False) -> Path:
    with Writer(folder, patients=patients) as writer:
        writer.write(rows)
    return folder / CASES


def test_cases_are_written_as_the_format_says(tmp_path: Path) -> None:
    path = write(tmp_path, CASE, REFUSED)
    assert path.read_text() == (
        f"{HEADER}\n"
        "A3,AR-CNN,MAE,d/test,7,F,120.00,118.25,months,w@1\n"
        "A3,AR-CNN,MAE,d/test,8,,99.50,,months,w@1\n"
    )
    first, second = read_cases(path)
    assert first.assessed == 118.25
    assert second.assessed is None
    assert second.sex is None


def test_patients_have_a_column_where_labels_do(tmp_path: Path) -> None:
    path = write(tmp_path, REFUSED, patients=True)
    assert path.read_text().splitlines()[0] == f"{HEADER},patient"
    assert read_cases(path) == [REFUSED]


def test_other_files_come_back_as_they_were(tmp_path: Path) -> None:
    detail = AssessmentRow("d/test", "w@1", "7", 120.0, 100.0, 130.25, 0.9, None)
    refusal = AssessmentRow("d/test", "w@1", "8", 99.5, None, None, None, "no hand, or two")
    box = BoxRow("d/test", "w@1", "7", "R1", 1.0, 2.0, 3.5, 4.0, 0.1234, 117.0)
    write(tmp_path, detail, refusal, box)
    assert read_assessments(tmp_path / "assessments.csv") == [detail, refusal]
    assert read_boxes(tmp_path / "boxes.csv") == [box]
    assert read_boxes(tmp_path / "missing.csv") == []


def test_an_interrupted_run_leaves_the_earlier_files(tmp_path: Path) -> None:
    path = write(tmp_path, CASE)
    before = path.read_bytes()

    def interrupted() -> None:
        with Writer(tmp_path, patients=False) as writer:
            writer.write([REFUSED])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,age\n1,2\n", "columns"),
        (f"{HEADER}\n", "no case"),
        (f"{HEADER}\nA3,AR-CNN,MAE,d,7,F,old,1,months,w\n", "line 2"),
        (f"{HEADER}\nA3,AR-CNN,MAE,d,7,F,nan,1,months,w\n", "line 2"),
        (f"{HEADER}\nA3,AR-CNN,MAE,d,7,F,1\n", "line 2"),
        (f"{HEADER}\nA3,AR-CNN,MAE,d,7,F,1,1,days,w\n", "days"),
    ],
)
def test_unreadable_cases_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / CASES
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_cases(path)


def test_a_missing_file_is_refused_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_cases(tmp_path / CASES)
    assert str(tmp_path) not in str(caught.value)
