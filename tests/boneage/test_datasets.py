from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

import pytest

from boneage import datasets
from boneage.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, rsna_test_dir: Path) -> Path:
    (tmp_path / "images").mkdir()
    for id in ("4360", "4361", "4362"):
        shutil.copy(rsna_test_dir / "images" / f"{id}.webp", tmp_path / "images")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    (folder / "labels.csv").write_text(text)
    return folder


class TestLoad:
    def test_bundled_test_set(self, rsna_test_dir: Path) -> None:
        data = datasets.load(rsna_test_dir)
        assert (data.name, data.task, data.unit) == ("rsna-test", "hand", "months")
        assert len(data.cases) == 200
        assert [case.id for case in data.cases] == [str(id) for id in range(4360, 4560)]
        assert sum(case.sex == "M" for case in data.cases) == 100
        assert all(case.path.is_file() for case in data.cases)

    def test_names_with_accents_in_either_form(self, folder: Path) -> None:
        decomposed, composed = (unicodedata.normalize(form, "Müller") for form in ("NFD", "NFC"))
        (folder / "images" / "4360.webp").rename(folder / "images" / f"{decomposed}.webp")
        for spelling in (decomposed, composed):
            (case,) = datasets.load(write(folder, f"id,boneage,sex\n{spelling},9,F\n")).cases
            assert case.id == composed

    def test_a_damaged_image_is_named(self, folder: Path) -> None:
        (case,) = datasets.load(write(folder, "id,boneage,sex\n4360,9,F\n")).cases
        assert datasets.read(case).id == "4360"
        case.path.write_bytes(case.path.read_bytes()[:1000])
        with pytest.raises(InputError, match=r"^Image 4360: The WebP file is damaged"):
            datasets.read(case)

    def test_months_or_years_by_the_column(self, folder: Path) -> None:
        data = datasets.load(write(folder, "id,split,age,sex,patient\n4361,test,40,f,7\n"))
        assert (data.task, data.unit) == ("adult", "years")
        case = data.cases[0]
        assert (case.id, case.split, case.age, case.sex, case.patient) == (
            "4361", "test", 40.0, "F", "7"
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("column", "value", "sex"),
        [
            ("male", "True", "M"), ("male", "false", "F"), ("male", "0", "F"),
            ("sex", "Female", "F"), ("sex", " m ", "M"), ("sex", "", None),
        ],
    )  # fmt: skip
    def test_spellings_of_sex(self, folder: Path, column: str, value: str, sex: str | None) -> None:
        data = datasets.load(write(folder, f"id,split,boneage,{column}\n4360,test,9,{value}\n"))
        assert data.cases[0].sex == sex

    def test_semicolons_and_decimal_commas(self, folder: Path) -> None:
        text = "id;split;boneage;male\n4360;test;63,5;True\n"
        assert datasets.load(write(folder, text)).cases[0].age == 63.5

    def test_byte_order_mark_of_spreadsheets(self, folder: Path) -> None:
        text = "\N{ZERO WIDTH NO-BREAK SPACE}id,split,boneage,male\n4360,test,9,True\n"
        (folder / "labels.csv").write_text(text, encoding="utf-8")
        assert datasets.load(folder).cases[0].id == "4360"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("id,split,male\n", "needs id, boneage"),
            ("id,split,boneage\n", "sex or male"),
            ("id,split,boneage,male\n\n", "names no image"),
            ("split,boneage,male\n", "has the columns split, boneage, male"),
            ("id,split,boneage,male\n4360,test,old,True\n", r"line 2 \(4360\): boneage is 'old'"),
            ("id,split,boneage,male\n4360,test,-1,True\n", "0 to 240"),
            ("id,split,boneage,male\n4360,test,nan,True\n", "0 to 240"),
            ("id,split,boneage,male\n4360,exam,9,True\n", "split is 'exam'"),
            ("id,split,boneage,male\n4360,test,9,True\n4360,test,9,True\n", "appears twice"),
            ("id,split,boneage,sex\n4360,test,9,x\n", "sex is 'x'; expected F or M"),
            ("id,split,boneage,male\n4360\n", r"boneage is ''"),
            ("id,split,boneage,male\n9999,test,9,True\n", "no file of that name"),
            (
                "id,split,boneage,male,patient\n4360,test,9,True,a\n4361,train,9,True,a\n",
                "Patient a is in the splits",
            ),
        ],
    )
    def test_wrong_labels_are_refused(self, folder: Path, text: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            datasets.load(write(folder, text))

    def test_blank_rows_and_other_files_are_passed_over(self, folder: Path) -> None:
        (folder / "images" / "4360.txt").write_text("a note")
        data = datasets.load(write(folder, "id,split,boneage,male\n4360,test,9,True\n,,,\n\n"))
        assert [case.path.name for case in data.cases] == ["4360.webp"]

    @pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
    def test_other_encodings_are_refused(self, folder: Path, encoding: str) -> None:
        text = "id,split,boneage,male,note\n4360,test,9,True,Ärztin\n"
        (folder / "labels.csv").write_text(text, encoding=encoding)
        with pytest.raises(InputError, match="not UTF-8"):
            datasets.load(folder)

    def test_missing_pieces_are_named_without_their_path(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"no labels\.csv") as error:
            datasets.load(tmp_path)
        assert str(tmp_path) not in str(error.value)
        write(tmp_path, "id,split,boneage,male\n4360,test,9,True\n")
        with pytest.raises(InputError, match="folder images is missing"):
            datasets.load(tmp_path)

    def test_two_files_for_one_id(self, folder: Path) -> None:
        shutil.copy(folder / "images" / "4360.webp", folder / "images" / "4360.png")
        with pytest.raises(InputError, match="two files for the id 4360"):
            datasets.load(write(folder, "id,split,boneage,male\n4360,test,9,True\n"))


class TestSplits:
    def test_split_and_sex(self, rsna_test_dir: Path) -> None:
        girls = datasets.load(rsna_test_dir).split("test").of_sex("F")
        assert len(girls.cases) == 100

    def test_a_split_that_is_missing_names_those_there(self, rsna_test_dir: Path) -> None:
        with pytest.raises(InputError, match="its splits are: test"):
            datasets.load(rsna_test_dir).split("train")


class TestRandomSplit:
    def test_shares(self) -> None:
        splits = [datasets.random_split(str(patient)) for patient in range(10_000)]
        shares = {split: splits.count(split) / len(splits) for split in datasets.SPLITS}
        assert shares == pytest.approx({"train": 0.6, "validation": 0.1, "test": 0.3}, abs=0.02)

    def test_used_where_the_labels_name_none(self, folder: Path) -> None:
        data = datasets.load(write(folder, "id,age,sex,patient\n4360,40,F,7\n4361,41,F,7\n"))
        assert {case.split for case in data.cases} == {datasets.random_split("7")}

    def test_goes_by_image_where_there_is_no_patient(self, folder: Path) -> None:
        data = datasets.load(write(folder, "id,age,sex\n4360,40,F\n4361,41,F\n"))
        assert [c.split for c in data.cases] == [datasets.random_split(c.id) for c in data.cases]
