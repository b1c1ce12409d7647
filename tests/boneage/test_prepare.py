from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from openpyxl import Workbook
from PIL import Image

from boneage import datasets
from boneage.__main__ import main
from boneage.errors import InputError


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

    def test_everything_in_one_zip(self, download: Path, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
            for path in download.rglob("*"):
                archive.write(path, path.relative_to(download.parent))
        out = tmp_path / "out"
        assert main(["prepare", "rsna", str(tmp_path / "all.zip"), "--out", str(out)]) == 0
        assert len(datasets.load(out).cases) == 4

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
        assert "is no RSNA download" in capsys.readouterr().err
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
