from __future__ import annotations

import csv
import io
import os
import re
import shutil
import tarfile
import zipfile
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from openpyxl import Workbook
from PIL import Image
from pydicom import dcmread

from boneage import bundled, datasets, images, nih, volumes
from boneage.__main__ import main
from boneage.errors import InputError


@cache
def png(rsna_test_dir: Path, id: str) -> bytes:
    buffer = io.BytesIO()
    Image.open(rsna_test_dir / "images" / f"{id}.webp").convert("L").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def download(tmp_path: Path, rsna_test_dir: Path) -> Path:
    """The official download's layout: a folder, a zip, a zip of zips, and three label files."""
    root = tmp_path / "rsna"
    images = root / "boneage-training-dataset" / "boneage-training-dataset"
    images.mkdir(parents=True)
    for id in ("1377", "1378"):
        (images / f"{id}.png").write_bytes(png(rsna_test_dir, "4400"))
    (root / "boneage-training-dataset.csv").write_text(
        "id,boneage,male\n1377,180,False\n1378,12,False\n1379,94,True\n"
    )
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("boneage-validation-dataset-1/1386.png", png(rsna_test_dir, "4401"))
        archive.writestr("__MACOSX/._1386.png", b"resource fork")
    with zipfile.ZipFile(root / "Bone Age Validation Set.zip", "w") as archive:
        archive.writestr("Bone Age Validation Set/boneage-validation-dataset-1.zip",
                         inner.getvalue())  # fmt: skip
    (root / "Validation Dataset.csv").write_text(
        "Image ID,male,Bone Age (months)\n1386,TRUE,30.5\n"
    )
    with zipfile.ZipFile(root / "Bone Age Test Set.zip", "w") as archive:
        archive.writestr("Test Set Images/4360.png", png(rsna_test_dir, "4360"))
    workbook = Workbook()
    workbook.active.append(["Case ID", "Sex", "Ground truth bone age (months)"])
    workbook.active.append([4360, "M", 168.93])
    workbook.save(root / "Bone age ground truth.xlsx")
    return root


class TestPrepareRsna:
    def test_all_splits(
        self, download: Path, tmp_path: Path, rsna_test_dir: Path, capsys: pytest.CaptureFixture
    ) -> None:
        out = tmp_path / "out"
        assert main(["prepare", "rsna", str(download), "--out", str(out), "--size", "128"]) == 0
        said = capsys.readouterr().out
        assert "train: 2 images; 1 labels without an image were skipped." in said
        data = datasets.load(out)
        assert [(c.id, c.split, c.age, c.sex) for c in data.cases] == [
            ("1377", "train", 180, "F"),
            ("1378", "train", 12, "F"),
            ("1386", "validation", 30.5, "M"),
            ("4360", "test", 168.93, "M"),
        ]
        made = Image.open(out / "images" / "4360.png")
        original = Image.open(io.BytesIO(png(rsna_test_dir, "4360")))
        expected = original.resize((128, 128), Image.Resampling.BILINEAR)
        assert np.array_equal(made, expected)

    def test_other_splits_than_the_official(
        self, download: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        splits = tmp_path / "splits.csv"
        splits.write_text("id,split\n1378,validation\n4360,test\n9999,train\n")
        command = ["prepare", "rsna", str(download), "--splits", str(splits)]
        assert main([*command, "--out", str(tmp_path / "out")]) == 0
        assert (
            "splits.csv: 1 validation, 1 test images; 1 labels without an image were skipped."
            in capsys.readouterr().out
        )
        made = datasets.load(tmp_path / "out")
        assert [(c.id, c.split) for c in made.cases] == [("1378", "validation"), ("4360", "test")]
        assert not (tmp_path / "out" / "images" / "1377.png").exists()

    @pytest.mark.parametrize(
        ("table", "message"),
        [
            (None, "splits.csv: there is no such file, or it cannot be read."),
            (
                "id,part\n1378,train\n",
                "splits.csv needs the columns id and split; it has id, part.",
            ),
            (
                "id,split\n1378,held-out\n",
                "splits.csv has the split 'held-out'; known: train, validation, test.",
            ),
            ("id,split\n1378,train\n1378,test\n", "splits.csv: 1378 appears twice."),
            ("id,split\n1,train\n", "splits.csv names none of the images of the download."),
        ],
    )
    def test_unusable_splits_are_refused(
        self,
        table: str | None,
        message: str,
        download: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture,
    ) -> None:
        splits = tmp_path / "splits.csv"
        if table is not None:
            splits.write_text(table)
        command = ["prepare", "rsna", str(download), "--splits", str(splits)]
        assert main([*command, "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_the_splits_of_the_bundled_weights(self, rsna_test_dir: Path) -> None:
        table = rsna_test_dir.parent / "rsna-splits.csv"
        rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
        assert Counter(split for _, split in rows) == {
            "train": 10_782,
            "validation": 1_422,
            "test": 200,
        }
        tested = {id for id, split in rows if split == "test"}
        assert tested == {c.id for c in datasets.load(rsna_test_dir).cases}
        assert len({id for id, _ in rows}) == len(rows)

    def test_missing_splits_are_named(
        self, download: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        (download / "Validation Dataset.csv").unlink()
        assert main(["prepare", "rsna", str(download), "--out", str(tmp_path / "out")]) == 0
        assert "validation: skipped, Validation Dataset.csv is missing." in capsys.readouterr().out
        assert {c.split for c in datasets.load(tmp_path / "out").cases} == {"train", "test"}

    def test_goes_on_where_it_was_interrupted(self, download: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        command = ["prepare", "rsna", str(download), "--out", str(out), "--size", "64"]
        (out / "images").mkdir(parents=True)
        Image.new("L", (64, 64), 7).save(out / "images" / "1377.png")
        (out / "images" / "1378.png").write_bytes(b"half an ima")
        assert main(command) == 0
        assert np.asarray(Image.open(out / "images" / "1377.png")).max() == 7  # kept
        assert Image.open(out / "images" / "1378.png").size == (64, 64)  # made anew
        # Another size is another data set.
        assert main([*command[:-1], "96"]) == 0
        assert Image.open(out / "images" / "1377.png").size == (96, 96)

    @pytest.mark.parametrize("finished", [True, False])
    def test_smaller_copies_inside_the_download_are_not_its_images(
        self, download: Path, finished: bool
    ) -> None:
        """Nor where the run that makes them was interrupted."""
        small, large = download / "a-32", download / "b-128"
        command = ["prepare", "rsna", str(download), "--out"]
        assert main([*command, str(small), "--size", "32"]) == 0
        if not finished:
            (small / "labels.csv").unlink()
        assert main([*command, str(large), "--size", "128"]) == 0
        made = np.asarray(Image.open(large / "images" / "4360.png"))
        blurred = Image.fromarray(made).resize((32, 32)).resize((128, 128))
        assert np.abs(made.astype(int) - np.asarray(blurred)).max() > 30  # fine detail

    def test_the_download_itself_is_not_written_into(
        self, download: Path, capsys: pytest.CaptureFixture
    ) -> None:
        assert main(["prepare", "rsna", str(download), "--out", f"{download}/."]) == 2
        assert "is the download itself" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "labels",
        [
            "id,age,sex\n1377,40,F\n",
            "id,split,boneage,male\n1377,train,181,False\n",
            "id,split,boneage,male\n1,train,180,False\n",
        ],
    )
    def test_other_labels_are_not_overwritten(
        self, download: Path, tmp_path: Path, labels: str, capsys: pytest.CaptureFixture
    ) -> None:
        path = tmp_path / "out" / "labels.csv"
        (path.parent / "images").mkdir(parents=True)
        path.write_text(labels)
        image = path.parent / "images" / "1377.png"
        image.write_bytes(b"mine")
        assert main(["prepare", "rsna", str(download), "--out", str(path.parent)]) == 2
        assert "out holds a labels.csv of other images" in capsys.readouterr().err
        assert path.read_text() == labels
        assert image.read_bytes() == b"mine"

    def test_labels_of_some_of_the_images_are_completed(
        self, download: Path, tmp_path: Path
    ) -> None:
        command = ["prepare", "rsna", str(download), "--out", str(tmp_path / "out")]
        labels = download / "Validation Dataset.csv"
        labels.rename(tmp_path / "later")
        assert main(command) == 0
        (tmp_path / "later").rename(labels)
        assert main(command) == 0
        assert len(datasets.load(tmp_path / "out").cases) == 4

    def test_everything_in_one_zip(self, download: Path, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
            for path in download.rglob("*"):
                archive.write(path, path.relative_to(download.parent))
        out = tmp_path / "out"
        assert main(["prepare", "rsna", str(tmp_path / "all.zip"), "--out", str(out)]) == 0
        assert len(datasets.load(out).cases) == 4

    def test_archives_of_too_many_files_are_refused_unparsed(
        self,
        download: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("boneage.rsna.MAX_ENTRIES", 0)
        monkeypatch.setattr("zipfile.ZipFile._RealGetContents", lambda _: pytest.fail("parsed"))
        assert main(["prepare", "rsna", str(download), "--out", str(tmp_path / "out")]) == 2
        assert ".zip holds more than 0 entries" in capsys.readouterr().err

    @pytest.mark.parametrize("damage", ["checksum", "encrypted", "bomb"])
    def test_damaged_archives_are_refused(
        self,
        download: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        damage: str,
    ) -> None:
        path = download / "Bone Age Validation Set.zip"
        data = bytearray(path.read_bytes())
        if damage == "checksum":
            data[200] ^= 0xFF
        elif damage == "encrypted":
            data[6] |= 1  # the flag in the member's own header and in the directory
            data[data.rindex(b"PK\x01\x02") + 8] |= 1
        else:
            monkeypatch.setattr("boneage.rsna.MAX_NESTED_BYTES", 1000)
        path.write_bytes(data)
        assert main(["prepare", "rsna", str(download), "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert "boneage-validation-dataset-1.zip" in said
        assert str(tmp_path) not in said

    def test_notes_beside_images_are_passed_over(self, download: Path, tmp_path: Path) -> None:
        image = next(download.rglob("1377.png"))
        image.with_suffix(".aaa").write_text("sorts before .png")
        assert main(["prepare", "rsna", str(download), "--out", str(tmp_path / "out")]) == 0
        assert (tmp_path / "out" / "images" / "1377.png").exists()

    def test_a_sheet_with_rows_of_any_length(self, download: Path, tmp_path: Path) -> None:
        """As programs write it that neither give its dimensions nor empty cells."""
        sheet = download / "Bone age ground truth.xlsx"
        ragged = tmp_path / "ragged.xlsx"
        with zipfile.ZipFile(sheet) as old, zipfile.ZipFile(ragged, "w") as new:
            for name in old.namelist():
                content = old.read(name)
                if name.endswith("sheet1.xml"):
                    content = re.sub(rb"<dimension[^>]*/>", b"", content)
                    content = content.replace(b"</sheetData>", b'<row r="3"/></sheetData>')
                    content = content.replace(
                        b"</sheetData>", b'<row r="4"><c r="A4"/></row></sheetData>'
                    )
                new.writestr(name, content)
        ragged.replace(sheet)
        assert main(["prepare", "rsna", str(download), "--out", str(tmp_path / "out")]) == 0
        assert "4360" in {c.id for c in datasets.load(tmp_path / "out").cases}

    def test_out_is_a_file(
        self, download: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        (tmp_path / "out").write_text("in the way")
        assert main(["prepare", "rsna", str(download), "--out", str(tmp_path / "out")]) == 2
        assert "cannot be used: Not a directory." in capsys.readouterr().err

    def test_a_damaged_image_is_left_out_and_named(
        self, download: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        image = next(download.rglob("1378.png"))
        image.write_bytes(image.read_bytes()[:500])
        assert main(["prepare", "rsna", str(download), "--out", str(tmp_path / "out")]) == 0
        assert "1378: left out." in capsys.readouterr().out
        assert "1378" not in {c.id for c in datasets.load(tmp_path / "out").cases}

    @pytest.mark.parametrize("row", ["1380,old,True", "1380,94,perhaps", "x,94,True", "1380"])
    def test_wrong_labels_are_refused(
        self, download: Path, tmp_path: Path, capsys: pytest.CaptureFixture, row: str
    ) -> None:
        with (download / "boneage-training-dataset.csv").open("a") as file:
            file.write(row + "\n")
        assert main(["prepare", "rsna", str(download), "--out", str(tmp_path / "out")]) == 2
        assert "boneage-training-dataset.csv, row 5, is not valid" in capsys.readouterr().err

    def test_what_is_no_download_is_refused(
        self, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        (tmp_path / "empty").mkdir()
        out = tmp_path / "out"
        assert main(["prepare", "rsna", str(tmp_path / "empty"), "--out", str(out)]) == 2
        assert "is not an RSNA download" in capsys.readouterr().err
        assert main(["prepare", "rsna", str(tmp_path / "gone"), "--out", str(out)]) == 2
        assert not out.exists()


class TestDownloadAsItComes:
    def test_unpacked_images_are_read_in_place(self, download: Path) -> None:
        data = datasets.load(download)
        assert [(c.id, c.split) for c in data.cases] == [("1377", "train"), ("1378", "train")]
        assert data.unit == "months"

    def test_images_in_zips_are_sent_to_prepare(self, download: Path) -> None:
        for image in download.rglob("13*.png"):
            image.unlink()
        with pytest.raises(InputError, match="python -m boneage prepare rsna"):
            datasets.load(download)


def test_labels_of_the_folder_made(download: Path, tmp_path: Path) -> None:
    main(["prepare", "rsna", str(download), "--out", str(tmp_path / "out")])
    with (tmp_path / "out" / "labels.csv").open() as file:
        assert next(csv.reader(file)) == ["id", "split", "boneage", "male"]


NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
)


def nih_row(file: str, patient: int, age: str = "58", sex: str = "M") -> str:
    return f"{file},No Finding,0,{patient},{age},{sex},PA,2682,2749,0.143,0.143,\n"


@pytest.fixture
def nih_download(tmp_path: Path, rsna_test_dir: Path) -> Path:
    """Images in a folder, a zip and a compressed tar file; one image is missing."""
    root = tmp_path / "nih"
    folder = root / "images_001" / "images"
    folder.mkdir(parents=True)
    contents = [png(rsna_test_dir, id) for id in ("4400", "4401", "4402", "4403", "4404")]
    (folder / "00000001_000.png").write_bytes(contents[0])
    (folder / "00000001_001.png").write_bytes(contents[1])
    with zipfile.ZipFile(root / "images_002.zip", "w") as archive:
        archive.writestr("images/00000002_000.png", contents[2])
    with tarfile.open(root / "images_003.tar.gz", "w:gz") as archive:
        for name, content in (
            ("images/00000003_000.png", contents[3]),
            ("images/00000009_000.png", contents[3]),  # without a label
            ("../00000004_000.png", contents[4]),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    (root / "Data_Entry_2017.csv").write_text(
        NIH_HEADER
        + nih_row("00000001_000.png", 1, "60")
        + nih_row("00000001_001.png", 1, "061Y")
        + nih_row("00000002_000.png", 2, "018M", "F")
        + nih_row("00000003_000.png", 3, "414")
        + nih_row("00000004_000.png", 4, "7")
        + nih_row("00000005_000.png", 5, "70")
    )
    (root / "test_list.txt").write_text("00000001_001.png\n")
    (root / "train_val_list.txt").write_text("00000002_000.png\n")
    return root


class TestPrepareNih:
    def test_folders_zips_and_tar_files(
        self, nih_download: Path, tmp_path: Path, rsna_test_dir: Path, capsys: pytest.CaptureFixture
    ) -> None:
        out = tmp_path / "out"
        assert main(["prepare", "nih", str(nih_download), "--out", str(out), "--size", "96"]) == 0
        said = capsys.readouterr().out
        assert "1 images with an age above 100 years were left out" in said
        assert "test: 2 images." in said  # the whole patient
        assert "1 labels without an image were skipped." in said
        data = datasets.load(out)
        assert data.unit == "years"
        assert [(c.id, c.age, c.sex, c.patient) for c in data.cases] == [
            ("00000001_000", 60, "M", "1"),
            ("00000001_001", 61, "M", "1"),
            ("00000002_000", 1.5, "F", "2"),
            ("00000004_000", 7, "M", "4"),
        ]
        assert [c.split for c in data.cases[:2]] == ["test", "test"]
        assert all(c.split == nih.training_split(c.patient) for c in data.cases[2:])
        with (out / "labels.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert {row["view"] for row in rows} == {"PA"}
        made = Image.open(out / "images" / "00000004_000.png")
        original = Image.open(io.BytesIO(png(rsna_test_dir, "4404")))
        assert np.array_equal(made, original.resize((96, 96), Image.Resampling.BILINEAR))
        assert not (tmp_path / "00000004_000.png").exists()

    def test_bundled_patients_are_test_patients(
        self,
        nih_download: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture,
    ) -> None:
        shown = tmp_path / "data" / "nih-chest-test" / "labels.csv"
        shown.parent.mkdir(parents=True)
        shown.write_text("id,split,age,sex,patient,view\n00000002_007,test,1,F,2,PA\n")
        monkeypatch.setattr(bundled, "folder", lambda name: tmp_path / name)
        out = tmp_path / "out"
        assert main(["prepare", "nih", str(nih_download), "--out", str(out)]) == 0
        said = capsys.readouterr().out
        assert "1 patients of the bundled nih-chest-test are in the test split." in said
        splits = {case.id: case.split for case in datasets.load(out).cases}
        assert splits["00000002_000"] == "test"
        shown.unlink()
        with pytest.raises(InputError, match=r"lacks data/nih-chest-test/labels\.csv"):
            nih.Download(nih_download)

    def test_the_bundled_patients(self) -> None:
        assert len(nih.bundled_patients()) == 259

    def test_a_tenth_of_the_patients_is_validation(self) -> None:
        splits = [nih.training_split(str(patient)) for patient in range(5000)]
        assert splits.count("validation") == pytest.approx(500, abs=60)
        assert set(splits) == {"train", "validation"}

    def test_the_later_label_file_and_its_column_names(self, nih_download: Path) -> None:
        text = (nih_download / "Data_Entry_2017.csv").read_text()
        text = text.replace("Patient Gender", "Patient Sex").replace(",1,60,", ",1,59,")
        (nih_download / "Data_Entry_2017_v2020.csv").write_text(text)
        assert nih.Download(nih_download).labels[0].age == 59

    def test_a_damaged_tar_file(
        self, nih_download: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        path = nih_download / "images_003.tar.gz"
        path.write_bytes(path.read_bytes()[:-2000])
        assert main(["prepare", "nih", str(nih_download), "--out", str(tmp_path / "out")]) == 2
        assert "images_003.tar.gz is damaged" in capsys.readouterr().err
        assert not (tmp_path / "out" / "labels.csv").exists()

    @pytest.mark.parametrize(
        ("name", "text", "said"),
        [
            ("test_list.txt", None, "not an NIH ChestX-ray14 download"),
            ("Data_Entry_2017.csv", None, "not an NIH ChestX-ray14 download"),
            ("Data_Entry_2017.csv", "Image Index,Patient ID\n", "lacks the columns Patient Age"),
            ("Data_Entry_2017.csv", NIH_HEADER + nih_row("1.png", 1, "old"), "row 2, is not valid"),
            ("Data_Entry_2017.csv", NIH_HEADER + nih_row("1.png", 1, sex="X"), "row 2"),
            ("Data_Entry_2017.csv", NIH_HEADER + nih_row("1.png", 1), "holds no images"),
        ],
    )
    def test_what_is_no_download_is_refused(
        self,
        nih_download: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture,
        name: str,
        text: str | None,
        said: str,
    ) -> None:
        (nih_download / name).unlink()
        if text is not None:
            (nih_download / name).write_text(text)
        assert main(["prepare", "nih", str(nih_download), "--out", str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err


@pytest.fixture
def scans(tmp_path: Path, repo_root: Path) -> Path:
    """A NIfTI file, a folder of DICOM files, a zip of them, and what is no volume."""
    root = tmp_path / "scans"
    (root / "case 2").mkdir(parents=True)
    shutil.copy(repo_root / "data" / "ct-samples" / "torso_3mm.nii.gz", root / "case 1.nii.gz")
    with zipfile.ZipFile(root / "case3.zip", "w") as archive:
        for path in (repo_root / "tests" / "data" / "ct-series").glob("*.dcm"):
            slice = dcmread(path)
            slice.ImagePositionPatient[2] *= 3  # six slices of 2 mm would be too little to show
            slice.save_as(root / "case 2" / path.name)
            slice.PatientID, slice.PatientAge, slice.PatientSex = "4711", "063Y", "F"
            buffer = io.BytesIO()
            slice.save_as(buffer)
            archive.writestr(path.name, buffer.getvalue())
    (root / "notes.txt").write_text("no volume")
    (root / "broken.nii.gz").write_bytes((root / "case 1.nii.gz").read_bytes()[:9000])
    (root / "labels.csv").write_text(
        "id,age,sex,patient\ncase 1,45.5,Male,P1\ncase 2,8,F,4711\ngone,9,F,\nbroken,9,F,\n"
    )
    for path in root.rglob("*"):
        os.utime(path, (1e9, 1e9))
    return root


class TestPrepareCt:
    def test_an_age_that_cannot_be_is_left_out(
        self, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        for path in (scans / "case 2").iterdir():
            slice = dcmread(path)
            slice.PatientAge = "199Y"
            slice.save_as(path)
        (scans / "labels.csv").write_text("id;age;sex\ncase 1;45,5;M\n")
        assert self.command(scans, tmp_path / "out") == 0
        assert "case 2: left out. Its age is 199 years" in capsys.readouterr().out
        assert sorted(case.age for case in datasets.load(tmp_path / "out").cases) == [45.5, 63]

    def test_a_slice_whose_name_is_no_unicode(self, scans: Path, tmp_path: Path) -> None:
        slice = next((scans / "case 2").iterdir())
        slice.rename(slice.parent / os.fsdecode(b"slice-\xff"))
        assert self.command(scans, tmp_path / "out") == 0
        assert len(datasets.load(tmp_path / "out").cases) == 3

    def command(self, scans: Path, out: Path, *more: str) -> int:
        labels = str(scans / "labels.csv")
        return main(["prepare", "ct", str(scans), "--out", str(out), "--labels", labels, *more])

    def test_labels_from_table_and_tags(
        self, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        out = tmp_path / "out"
        assert self.command(scans, out) == 0
        said = capsys.readouterr().out
        assert "notes.txt: left out. This is not a CT volume." in said
        assert "broken.nii.gz: left out. The NIfTI file is damaged or incomplete." in said
        assert "case_1: kept, though: The volume shows no thorax" in said
        assert "2 rows of labels.csv without a volume were skipped." in said
        assert "labels.csv: left out" not in said
        assert "Names of files and folders are kept as ids" in said
        assert "Patients: 2. Volumes without a patient: 0;" in said
        with (out / "labels.csv").open() as file:
            rows = list(csv.DictReader(file))
        keys = [row.pop("patient") for row in rows]
        assert rows == [
            {"id": "case_1", "age": "45.5", "sex": "M"},
            {"id": "case_2", "age": "8", "sex": "F"},
            {"id": "case3", "age": "63", "sex": "F"},
        ]
        assert all(re.fullmatch("[0-9a-f]{16}", key) for key in keys)
        assert keys[0] != keys[1] == keys[2]  # the table's 4711 is the tag's
        data = datasets.load(out)
        assert (data.unit, len(data.cases)) == ("years", 3)
        splits = {case.id: case.split for case in data.cases}
        assert splits["case_2"] == splits["case3"]
        expected = volumes.project(volumes.read(scans / "case 1.nii.gz"))
        made = images.read(out / "images" / "case_1.png")
        np.testing.assert_array_equal(made.pixels, expected.pixels)
        assert made.pixels.dtype == np.uint16

    def test_nothing_of_the_patient_is_kept(self, scans: Path, tmp_path: Path) -> None:
        keys = []
        for name in ("one", "two"):
            self.command(scans, tmp_path / name)
            with (tmp_path / name / "labels.csv").open() as file:
                keys.append([row["patient"] for row in csv.DictReader(file)])
            for path in (tmp_path / name).rglob("*"):
                assert path.is_dir() or b"4711" not in path.read_bytes()
        assert not set(keys[0]) & set(keys[1])
        assert {path.name for path in (tmp_path / "one").iterdir()} == {"images", "labels.csv"}

    def test_goes_on_where_it_was_interrupted(
        self, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "out"
        assert self.command(scans, out) == 0
        (out / "labels.csv").unlink()
        (out / "images" / "case3.png").unlink()
        (out / "images" / "case_2.png").write_bytes(b"half an ima")
        projected = []
        project = volumes.project

        def recording(volume: volumes.Volume, kind: str, extent: str) -> images.Radiograph:
            projected.append((volume.id, kind))
            return project(volume, kind, extent)

        monkeypatch.setattr(volumes, "project", recording)
        assert self.command(scans, out) == 0
        assert projected == [("case_2", "bone"), ("case3", "bone")]
        assert len(datasets.load(out).cases) == 3
        # Another projection is another data set.
        (out / "labels.csv").unlink()
        assert self.command(scans, out, "--projection", "radiograph") == 0
        assert [kind for _, kind in projected[2:]] == ["radiograph"] * 3

    def test_a_finished_folder_is_not_touched(
        self, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        assert self.command(scans, tmp_path / "out") == 0
        before = (tmp_path / "out" / "labels.csv").read_bytes()
        assert self.command(scans, tmp_path / "out") == 2
        assert "is finished" in capsys.readouterr().err
        assert (tmp_path / "out" / "labels.csv").read_bytes() == before

    def test_help_says_that_names_are_kept(self, capsys: pytest.CaptureFixture) -> None:
        with pytest.raises(SystemExit):
            main(["prepare", "ct", "--help"])
        said = " ".join(capsys.readouterr().out.split())
        assert "Names of files and folders are kept as ids" in said

    def test_ids_that_come_twice_are_refused(
        self, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        for name in ("case3.nii", "Möller.nii", "Müller.zip", "CASE_2.zip"):
            shutil.copy(scans / "case3.zip", scans / name)
        assert self.command(scans, tmp_path / "out") == 2
        said = capsys.readouterr().err
        for names in (
            "CASE_2.zip and case 2",
            "case3.nii and case3.zip",
            "Möller.nii and Müller.zip",
        ):
            assert names in said
        assert not (tmp_path / "out").exists()

    def test_a_table_labels_only_the_very_name(
        self, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        (scans / "case 1.nii.gz").rename(scans / "Möller.nii.gz")
        (scans / "labels.csv").write_text("id,age,sex\nMüller,45,F\n", encoding="utf-8")
        assert self.command(scans, tmp_path / "out") == 0
        assert "Möller.nii.gz: left out. Its age is not known" in capsys.readouterr().out
        assert [c.id for c in datasets.load(tmp_path / "out").cases] == ["case3"]

    def test_another_source_is_not_taken_for_the_one_projected(
        self, scans: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        assert self.command(scans, out) == 0
        (out / "labels.csv").unlink()
        before = (out / "images" / "case_1.png").read_bytes()
        (scans / "case 1.nii.gz").unlink()
        shutil.copy(scans / "case3.zip", scans / "case 1.zip")
        assert self.command(scans, out) == 0
        expected = volumes.project(volumes.read(scans / "case3.zip"))
        made = images.read(out / "images" / "case_1.png")
        np.testing.assert_array_equal(made.pixels, expected.pixels)
        assert (out / "images" / "case_1.png").read_bytes() != before

    def test_volumes_without_a_patient_are_counted(
        self, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        (scans / "labels.csv").write_text("id,age,sex\ncase 1,45,F\n")
        assert self.command(scans, tmp_path / "out") == 0
        assert "Patients: 1. Volumes without a patient: 1;" in capsys.readouterr().out

    def test_unknown_ages_are_left_out_without_a_picture(
        self, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        assert main(["prepare", "ct", str(scans), "--out", str(tmp_path / "out")]) == 0
        said = capsys.readouterr().out
        assert "case 1.nii.gz: left out. Its age is not known" in said
        assert [path.name for path in (tmp_path / "out" / "images").iterdir()] == ["case3.png"]
        assert [c.id for c in datasets.load(tmp_path / "out").cases] == ["case3"]

    @pytest.mark.parametrize(
        ("table", "said"),
        [
            ("id,age\ncase 1,50\n", "lacks the columns sex"),
            ("id,age,sex\ncase 1,old,F\n", "row 2, is not valid"),
            ("id,age,sex\ncase 1,140,F\n", "row 2, is not valid"),
            ("id,age,sex\ncase 1,50,X\n", "row 2, is not valid"),
            ("id,age,sex\n,50,F\n", "row 2, is not valid"),
            ("id,age,sex\ncase 1,50,F\ncase_1,51,F\n", "an id that appears once"),
        ],
    )
    def test_wrong_tables_are_refused(
        self, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture, table: str, said: str
    ) -> None:
        (scans / "labels.csv").write_text(table)
        assert self.command(scans, tmp_path / "out") == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_no_volumes(
        self, tmp_path: Path, rsna_test_dir: Path, capsys: pytest.CaptureFixture
    ) -> None:
        out = ["--out", str(tmp_path / "out")]
        assert main(["prepare", "ct", str(tmp_path / "gone"), *out]) == 2
        assert "There is no folder gone." in capsys.readouterr().err
        assert main(["prepare", "ct", str(rsna_test_dir), *out]) == 2
        assert "holds no volume that could be used" in capsys.readouterr().err
        assert main(["prepare", "ct", str(rsna_test_dir), *out, "--labels", "gone.csv"]) == 2
        assert "gone.csv: there is no such file" in capsys.readouterr().err
