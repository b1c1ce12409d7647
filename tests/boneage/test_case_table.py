"""Tables of sexes as people's spreadsheets write them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from boneage import case_table
from boneage.batch import Source
from boneage.case_table import CaseTable, Row
from boneage.errors import InputError


def read(text: str, task: str = "hand") -> CaseTable:
    return case_table.read(text.encode(), "sexes.csv", task)


def source(file: str) -> Source:
    return Source(Path(file), Path(file).stem)


@pytest.mark.parametrize(
    "text",
    [
        "id,sex,boneage\n1,F,120.5\n2,M,\n",
        "\ufeffID;Sex;BoneAge\r\n1;female;120,5\r\n2;boy;\r\n",
        "FILE\tMALE\tBONEAGE\n1\tFalse\t120.5\n\n2\tTRUE\t\n",
        'file,male,boneage\n"1","0","120.5"\n2,1,\n',
    ],
)
def test_spellings(text: str) -> None:
    assert read(text).rows == {"1": Row("F", 120.5), "2": Row("M", None)}


def test_folders_of_either_kind_may_stand_before_the_name() -> None:
    table = read('file,male,boneage\n"scans/1","0","120.5"\nC:\\scans\\2,1,\n')
    items = table.items([source("1.png"), source("elsewhere/2.png")])
    assert [(item.sex, item.reference) for item in items] == [("F", 120.5), ("M", None)]


class TestFilesOfOneName:
    """As archives export them: each patient's folder has an IM000001."""

    FILES = ("export/anna/IM000001", "export/bert/IM000001", "export/carl/IM000002")

    def zipped(self, *files: str) -> list[Source]:
        return [Source(Path("films.zip"), Path(file).stem, zipfile.ZipInfo(file)) for file in files]

    def test_share_no_row(self) -> None:
        table = read("id,sex\nIM000001,F\nIM000002,M\n")
        sources = self.zipped(*self.FILES)
        items = table.items(sources, "F")
        assert [item.sex for item in items] == [None, None, "M"]
        for item in items[:2]:
            assert "Several files are called IM000001" in str(item.source.problem)
        assert items[2].source.problem is None
        assert table.report(sources) == []

    @pytest.mark.parametrize("before", ["", "export/", "D:\\export\\"])
    def test_are_told_apart_by_their_folders(self, before: str) -> None:
        table = read(f"id,sex\n{before}anna/IM000001,F\n{before}bert/IM000001,M\nIM000002,M\n")
        items = table.items(self.zipped(*self.FILES))
        assert [item.sex for item in items] == ["F", "M", "M"]

    def test_one_that_the_table_leaves_out_gets_no_others_row(self) -> None:
        table = read("id,sex\nanna/IM000001,F\n")
        sources = self.zipped(*self.FILES)
        assert [item.sex for item in table.items(sources)] == ["F", None, None]
        assert table.report(sources) == [
            "2 files have no row in the table: export/bert/IM000001, export/carl/IM000002."
        ]

    @pytest.mark.parametrize(
        ("rows", "files"),
        [
            (("anna/im1", "bert/im1"), ("anna/IM1", "bert/IM1")),
            (("Anna/IM1", "Bert/IM1"), ("anna/IM1", "bert/IM1")),
            (("anna/IM1", "bert/IM1.dcm"), ("anna/IM1.dcm", "bert/IM1.dcm")),
            (("anna.zip/IM1", "bert/IM1"), ("anna/IM1", "bert/IM1")),
        ],
    )
    def test_case_and_ending_count_less_than_folders(
        self, rows: tuple[str, str], files: tuple[str, str]
    ) -> None:
        table = read(f"id,sex\n{rows[0]},F\n{rows[1]},M\n")
        assert [item.sex for item in table.items(self.zipped(*files))] == ["F", "M"]

    def test_zips_tell_their_films_apart(self) -> None:
        sources = [Source(Path(f"in/{name}.zip"), "1", zipfile.ZipInfo("1.png")) for name in "ab"]
        items = read("id,sex\na/1,F\nb/1.png,M\n").items(sources)
        assert [item.sex for item in items] == ["F", "M"]

    def test_a_row_for_another_folder_is_not_taken(self) -> None:
        table = read("id,sex\nanna/IM1,F\ncarl/IM1,M\n")
        sources = self.zipped("bert/IM1", "carl/IM1")
        assert [item.sex for item in table.items(sources)] == [None, "M"]
        assert table.without_file(sources) == ["anna/IM1"]

    def test_thousands_are_told_apart(self) -> None:
        names = [f"patient-{number}/IM1" for number in range(3000)]
        table = read("id,sex\n" + "".join(f"{name},F\n" for name in names))
        assert {item.sex for item in table.items(self.zipped(*names))} == {"F"}
        assert {item.sex for item in read("id,sex\nIM1,F\n").items(self.zipped(*names))} == {None}

    def test_several_rows_for_a_file_without_folders(self) -> None:
        table = read("id,sex\nanna/IM000001,F\nbert/IM000001,M\n")
        (item,) = table.items([source("IM000001")])
        assert item.sex is None
        assert "Several rows" in str(item.source.problem)

    def test_formats_of_one_film_share_its_row(self) -> None:
        table = read("id,sex\n1,F\n")
        assert [i.sex for i in table.items([source("1.png"), source("1.dcm")])] == ["F", "F"]

    def test_a_row_is_not_shared_in_either_spelling(self) -> None:
        table = read("id,sex\nHand,M\n")
        items = table.items([source("a/hand.png"), source("b/HAND.png")], "F")
        assert [item.sex for item in items] == [None, None]
        assert all("Several files are called" in str(item.source.problem) for item in items)


@pytest.mark.parametrize(
    ("text", "sex", "reason"),
    [
        ("id,sex,male\n1,,True\n", "M", ""),
        ("id,male,sex\n1,True,\n", "M", ""),
        ("id,sex,male\n1,M,True\n", "M", ""),
        ("id,sex,male\n1,,\n", "F", ""),
        ("id,sex,male\n1,F,True\n", None, "row 2: sex and male contradict each other."),
        ("id,sex,male\n1,M,x\n", None, "expected True or False"),
        ("id,sex\n1,M\n1.png,F\n", None, "Several rows of the table may be meant for it"),
        ("id,sex\n1,F\n1.png,F\n", "F", ""),
    ],
)
def test_two_columns_or_rows_agree_or_say_nothing(text: str, sex: str | None, reason: str) -> None:
    (item,) = read(text).items([source("1.png")], "F")
    assert item.sex == sex
    assert reason in (item.source.problem or "")
    assert bool(item.source.problem) == bool(reason)


def test_a_row_without_ending_may_be_another_files() -> None:
    table = read("id,sex\n1,M\n1.png,F\n")
    assert [i.sex for i in table.items([source("1.png"), source("1.dcm")])] == ["F", "M"]


def test_letters_may_be_composed_otherwise() -> None:
    table = read("id,sex\nJ\u00f6rg,M\n")
    assert [item.sex for item in table.items([source("Jo\u0308rg.png")])] == ["M"]


def test_files_with_and_without_ending() -> None:
    table = read("file,sex\n1.png,F\n2,M\n3.dcm,F\n")
    sources = [source(file) for file in ("a/1.png", "b/2.webp", "3.png", "4.png")]
    assert [item.sex for item in table.items(sources)] == ["F", "M", None, None]
    assert [item.sex for item in table.items(sources, "M")] == ["F", "M", "M", "M"]
    assert table.without_file(sources) == ["3.dcm"]
    assert table.report(sources) == [
        "2 files have no row in the table: 3.png, 4.png.",
        "1 row of the table has no file: 3.dcm.",
    ]
    assert table.report(sources[:1]) == ["2 rows of the table have no file: 2, 3.dcm."]
    assert table.report(sources[:3]) == [
        "1 file has no row in the table: 3.png.",
        "1 row of the table has no file: 3.dcm.",
    ]


def test_upper_and_lower_case_may_differ_where_one_row_is_meant() -> None:
    table = read("id,sex\nSCAN1.PNG,F\nscan2,M\nScan2,F\nscan3,M\nD,F\n")
    sources = [source(f"{name}.png") for name in ("scan1", "SCAN2", "scan3", "Scan3", "d")]
    items = table.items(sources)
    assert [item.sex for item in items] == ["F", None, "M", None, "F"]
    assert "Several rows of the table may be meant for it: scan2, Scan2" in str(
        items[1].source.problem
    )
    assert table.without_file(sources) == []


def test_a_table_for_other_files_is_refused() -> None:
    table = read("id,sex\n1,F\n2,M\n")
    with pytest.raises(InputError, match="row for any of the files: its rows are 1, 2; the files"):
        table.items([source("a.png")], "F")


@pytest.mark.parametrize("text", ["U", "N/A", "O", "unknown", ""])
@pytest.mark.parametrize("column", ["sex", "male"])
def test_an_unknown_sex_is_none_given(column: str, text: str) -> None:
    table = read(f"id,{column}\n1,{text}\n2,M\n")
    sources = [source("1.png"), source("2.png")]
    first, second = table.items(sources, "F")
    assert (first.sex, first.source.problem) == ("F", None)
    assert table.items(sources)[0].sex is None
    assert second.sex == "M"


@pytest.mark.parametrize(
    ("column", "text", "expected"),
    [("sex", "diverse", "F or M"), ("male", "maybe", "True or False")],
)
def test_a_sex_that_is_not_understood_is_the_failure_of_its_file(
    column: str, text: str, expected: str
) -> None:
    first, second = read(f"id,{column}\n1,{text}\n2,M\n").items(
        [source("1.png"), source("2.png")], "F"
    )
    assert first.sex is None
    assert first.source.problem == (
        f"sexes.csv, row 2: {column} is '{text}'; expected {expected}, or nothing if unknown."
    )
    assert (second.sex, second.source.problem) == ("M", None)


def test_no_table_has_nothing_to_report() -> None:
    assert CaseTable().report([source("1.png")]) == []
    (item,) = CaseTable().items([source("1.png")], "F")
    assert (item.sex, item.reference) == ("F", None)


def test_many_names_are_counted() -> None:
    (note,) = read("id,sex\n1,F\n").report(
        [source("1.png"), *(source(f"{n}.png") for n in "abcdefg")]
    )
    assert note == "7 files have no row in the table: a.png, b.png, c.png, d.png, e.png and 2 more."


def test_adults_have_ages_in_years_and_need_no_sex() -> None:
    table = read("id,age,boneage\n1,54,3\n", "adult")
    assert table.rows == {"1": Row(None, 54.0)}


def test_an_age_that_is_no_bone_age_is_not_compared_with() -> None:
    table = read("id,sex,age\n1,F,10\n")
    assert table.rows == {"1": Row("F", None)}
    assert "column age of the table was not used" in table.report([source("1.png")])[0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has the columns none"),
        ("name,sex\n1,F\n", "has the columns name, sex; it needs id or file"),
        ("id,notes\n1,F\n", "needs id or file, and sex or male"),
        ("id,sex\n1,F\n,M\n", "row 3: the id is missing"),
        ("id,sex\n1,F\n1,M\n", "row 3: 1 appears twice"),
        ("id,sex\n", "has no rows"),
        ("id,sex,boneage\n1,F,old\n", r"row 2 \(1\): boneage is 'old'; expected months"),
        ("id,sex,boneage\n1,F,nan\n", "boneage is 'nan'"),
        ("id,sex,boneage\n1,F,241\n", "0 to 240"),
        ('id;sex\n1;"F' + "x" * 200_000, "not a readable CSV"),
    ],
)
def test_what_is_wrong_is_named(text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read(text)


def test_not_utf_8_and_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="UTF-8"):
        case_table.read("id;sex\nJörg;F\n".encode("latin-1"), "sexes.csv", "hand")
    monkeypatch.setattr(case_table, "MAX_ROWS", 2)
    with pytest.raises(InputError, match="more than 2 rows"):
        read("id,sex\n1,F\n2,F\n3,F\n")
    assert len(read("id,sex\n1,F\n2,F\n").rows) == 2
    monkeypatch.setattr(case_table, "MAX_BYTES", 4)
    with pytest.raises(InputError, match="larger than"):
        read("id,sex\n1,F\n")


def test_folders_without_end_are_refused() -> None:
    """Each of them is looked up with all below it."""
    with pytest.raises(InputError, match=r"row 2: the name has more than 32 folders"):
        read(f"id,sex\n{'a/' * 33}1,F\n")


def test_a_sex_that_is_not_understood_matters_to_those_who_need_it() -> None:
    table = read("id,sex,boneage\n1,diverse,120\n")
    for needs_sex in (True, False):
        (item,) = table.items([source("1.png")], "F", needs_sex=needs_sex)
        assert (item.source.problem is not None) is needs_sex
        assert (item.sex, item.reference) == (None, 120)
