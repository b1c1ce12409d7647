from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pydicom import dcmread

from boneage import volumes
from boneage.errors import InputError
from boneage.ledger import LEDGER
from boneage.listing import list_files


@pytest.fixture
def study(tmp_path: Path, repo_root: Path, rsna_test_dir: Path) -> Path:
    """Two series in folders of their own, and beside them two DX files and a picture."""
    study = tmp_path / "study"
    for patient in ("one", "two"):
        shutil.copytree(repo_root / "tests" / "data" / "ct-series", study / patient)
        radiograph = dcmread(next((study / patient).glob("*.dcm")))
        radiograph.Modality = "DX"
        radiograph.save_as(study / f"{patient}.dcm")
    shutil.copy(rsna_test_dir / "images" / "4400.webp", study)
    return study


def test_a_folder_with_slices_of_its_own_is_a_volume(study: Path) -> None:
    found = [path.relative_to(study).as_posix() for path in list_files([study], volumes=True).paths]
    assert found == ["4400.webp", "one", "one.dcm", "two", "two.dcm"]
    assert list_files([study / "one"], volumes=True).paths == [study / "one"]


def test_folders_below_a_volume_are_judged_too(study: Path) -> None:
    (study / "two").rename(study / "one" / "two")
    shutil.copy(study / "4400.webp", study / "one" / "two" / "4400.webp")
    found = [path.name for path in list_files([study / "one"], volumes=True).paths]
    assert found == ["one", "two"]


def test_a_volume_holds_no_slices_of_folders_below(study: Path) -> None:
    """Though these have more."""
    shutil.copytree(study / "two", study / "one" / "two")
    for path in sorted((study / "one").glob("*.dcm"))[3:]:
        path.unlink()
    volume, below = (volumes.read(path) for path in list_files([study / "one"], volumes=True).paths)
    assert (len(volume.hu), len(below.hu)) == (3, 6)
    assert volume.warnings == ()


def test_a_table_is_no_film(study: Path) -> None:
    table = study / "one" / "sexes.csv"
    table.write_text("id,sex\n4400,F\n")
    assert table in list_files([study]).paths
    assert table not in list_files([study], table=table).paths
    assert list_files([table], table=table).paths == [table]
    table.rename(study.parent / "ages.csv")
    table.symlink_to(study.parent / "ages.csv")
    assert table not in list_files([study], table=table).paths


def test_a_shell_names_results_and_table_too(study: Path) -> None:
    """As ``assess films/* --out films/out`` does from its second run on."""
    films = set(list_files([study]).paths)
    (study / "sexes.csv").write_text("id,sex\n4400,F\n")
    for name in ("out", "before"):
        (study / name).mkdir()
        (study / name / LEDGER).touch()
        (study / name / "picture.png").touch()
    given = sorted(study.iterdir())
    found = list_files(given, out=study / "out", table=study / "sexes.csv")
    assert set(found.paths) == films
    assert found.notes() == ["1 folder was left out as earlier results: before."]
    with pytest.raises(InputError, match="no radiographs among these"):
        list_files(
            [study / "out", study / "sexes.csv"], out=study / "out", table=study / "sexes.csv"
        )


def test_a_shell_names_pictures_beside_the_films_too(study: Path) -> None:
    """As ``assess films/* --out films`` does from its second run on."""
    films = set(list_files([study]).paths)
    (study / LEDGER).write_text('{"beside": ["4400.png"]}\nhalf a li')
    for name in ("4400.png", "assessments.csv"):
        (study / name).touch()
    found = list_files(sorted(study.iterdir()), out=study)
    assert set(found.paths) == films
    (study / "one" / "4400.png").touch()  # of the same name, but not written there
    assert study / "one" / "4400.png" in list_files(sorted(study.iterdir()), out=study).paths


def test_a_localizer_is_no_volume(study: Path) -> None:
    """What lies beside folders of series hides none of them."""
    scout = dcmread(next((study / "two").glob("*.dcm")))
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    shutil.rmtree(study / "one")
    for path in study.glob("*.*"):
        path.unlink()
    scout.save_as(study / "scout.dcm")
    assert [path.name for path in list_files([study], volumes=True).paths] == ["scout.dcm", "two"]
    assert len(volumes.read(study).hu) == 6


def test_without_volumes_every_file_counts(study: Path) -> None:
    files = {path for path in study.rglob("*") if path.is_file()}
    assert set(list_files([study]).paths) == files


def test_junk_is_left_out_of_folders_alone(tmp_path: Path) -> None:
    names = ("film.png", ".hidden.png", "Thumbs.db", "__MACOSX/film.png")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    named = [tmp_path / name for name in names]
    assert list_files([tmp_path]).paths == named[:1]
    assert list_files(named).paths == named


def test_links(study: Path, tmp_path: Path) -> None:
    (study / "gone.png").symlink_to("nowhere")
    (study / "up").symlink_to(study)
    (study / "two" / "over").symlink_to(study / "one")
    found = list_files([study], volumes=True)
    assert study / "gone.png" in found.paths
    assert len(found.paths) == 6
    assert found.notes() == ["2 linked folders were not followed."]
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "study").symlink_to(study)
    with pytest.raises(InputError, match=r"links holds no files\. 1 linked folder was not"):
        list_files([tmp_path / "links"])


def test_what_was_named_twice_is_told(study: Path) -> None:
    found = list_files([study / "4400.webp", study, study / "one"])
    assert len(found.paths) == len(set(found.paths))
    assert found.paths[0] == study / "4400.webp"
    slices = len(list((study / "one").iterdir()))
    assert found.notes() == [f"{slices + 1} files were named more than once, and taken once."]
