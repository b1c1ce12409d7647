from __future__ import annotations

import pytest

from boneage.errors import InputError
from boneage.tables import cell, number, read_csv

ROWS = [(2, {"id": "1", "note": "a, b", "sex": "F"}), (4, {"id": "2", "note": "", "sex": ""})]


@pytest.mark.parametrize(
    "text",
    [
        'id,note,sex\n1,"a, b",F\n,,\n2\n',
        'id;note;sex\r\n 1 ;"a, b"; F\r\n;;\r\n2\r\n',
        '\ufeffid\tnote\tsex\n1\ta, b\tF\n\n2\t\t\n',
    ],
)  # fmt: skip
def test_any_separator(text: str) -> None:
    assert read_csv(text.encode(), "t.csv") == (["id", "note", "sex"], ROWS)


@pytest.mark.parametrize("text", ['id;"sex, F or M"\n1;F\n', 'id,"a; b; c",sex\n1,2,F\n'])
def test_what_is_quoted_separates_nothing(text: str) -> None:
    header, rows = read_csv(text.encode(), "t.csv")
    assert len(header) == text.partition("\n")[2].count(text[2]) + 1
    assert rows[0][1]["id"] == "1"


def test_one_column() -> None:
    assert read_csv(b"id\n1\n", "t.csv") == (["id"], [(2, {"id": "1"})])
    assert read_csv(b"", "t.csv") == ([], [])


def test_other_encodings_are_refused() -> None:
    with pytest.raises(InputError, match=r"t\.csv is not UTF-8 text"):
        read_csv("id\nJörg\n".encode("latin-1"), "t.csv")


def test_a_cell_is_no_formula_and_no_control_sequence() -> None:
    assert [cell(text) for text in ("=1", "@a", "a=1", "\ta", "a\r\n\x1b")] == [
        "'=1", "'@a", "a=1", "'\ufffda", "a\ufffd\ufffd\ufffd",
    ]  # fmt: skip


def test_decimal_commas() -> None:
    assert (number("63,5"), number("63.5"), number("7")) == (63.5, 63.5, 7)
    with pytest.raises(ValueError, match=r"1\.234\.5"):
        number("1.234,5")
