from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

import boneage
from boneage import bundled, explain, hub, images
from boneage.__main__ import main
from boneage.predictor import Predictor
from boneage.report import HEAT_MAP_OPACITY


@pytest.fixture(autouse=True, scope="module")
def loaded_once() -> Iterator[None]:
    """Weights are read once, however many commands are run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Predictor, "load", cache(Predictor.load))
        yield


@pytest.fixture
def folder(tmp_path: Path, rsna_test_dir: Path) -> Path:
    root = tmp_path / "radiographs"
    (root / "second").mkdir(parents=True)
    shutil.copy(rsna_test_dir / "images" / "4400.webp", root)
    shutil.copy(rsna_test_dir / "images" / "4401.webp", root / "second")
    (root / ".hidden").write_text("not looked at")
    return root


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


class TestAssess:
    def test_same_number_as_python(
        self, folder: Path, untrained: Path, capsys: pytest.CaptureFixture
    ) -> None:
        file = folder / "4400.webp"
        (expected,) = Predictor.load(untrained).assess(images.read(file), "F")
        command = ["assess", str(file), "--sex", "F", "--weights", str(untrained)]
        assert main(command) == 0
        (row,) = rows(capsys.readouterr().out)
        assert float(row["age"]) == round(expected.age, 2)
        assert float(row["R1"]) == round(expected.components["R1"], 2)
        assert row["low"] == row["high"] == row["coverage"] == ""  # these weights carry none
        assert "picture" not in row
        assert main([*command, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == [
            {"file": file.as_posix(), **expected.to_dict()}
        ]

    def test_folders_and_annotated_pictures(
        self, folder: Path, untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        out = tmp_path / "out"
        code = main(
            ["assess", str(folder), "--sex", "M", "--weights", str(untrained), "--out", str(out)]
        )
        assert code == 0
        printed = capsys.readouterr().out
        first, second = rows(printed)
        assert (first["id"], second["id"]) == ("4400", "4401")
        assert first["file"] == (folder / "4400.webp").as_posix()
        assert second["file"] == (folder / "second" / "4401.webp").as_posix()
        assert second["picture"] == "4401.png"
        assert (out / "assessments.csv").read_text() == printed
        assert len(json.loads((out / "assessments.json").read_text())) == 2
        picture = Image.open(out / "4401.png")
        assert picture.size == (299, 299)
        colours = {pixel for _, pixel in picture.convert("RGB").getcolors(maxcolors=100_000)}
        assert any(max(c) - min(c) > 100 for c in colours)  # boxes are coloured, films are not

    def test_its_own_output_is_not_assessed(
        self,
        folder: Path,
        untrained: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture,
    ) -> None:
        monkeypatch.chdir(folder)
        command = ["assess", ".", "--sex", "M", "--weights", str(untrained), "--out"]
        for _ in range(2):
            assert main([*command, "second/out"]) == 0
            assert [row["id"] for row in rows(capsys.readouterr().out)] == ["4400", "4401"]
        assert main([*command, str(folder)]) == 2
        assert "--out is the folder that is assessed" in capsys.readouterr().err

    def test_prediction_interval(
        self, folder: Path, untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        weights = Path(shutil.copytree(untrained, tmp_path / "tiny"))
        config = hub.load_config(weights)
        config["interval"] = {"coverage": 0.9, "bands": [{"from": 0, "half_width": 10}]}
        (weights / hub.CONFIG).write_text(json.dumps(config))
        command = ["assess", str(folder / "4400.webp"), "--sex", "F", "--weights", str(weights)]
        assert main(command) == 0
        (row,) = rows(capsys.readouterr().out)
        assert float(row["low"]) < float(row["age"]) < float(row["high"])
        assert row["coverage"] == "0.9"

    def test_files_of_one_name_keep_their_pictures(
        self, folder: Path, untrained: Path, tmp_path: Path
    ) -> None:
        shutil.copy(folder / "4400.webp", folder / "second")
        out = tmp_path / "out"
        main(["assess", str(folder), "--sex", "M", "--weights", str(untrained), "--out", str(out)])
        assert sorted(p.name for p in out.glob("*.png")) == ["4400-2.png", "4400.png", "4401.png"]

    def test_a_broken_file_does_not_stop_the_others(
        self, folder: Path, untrained: Path, capsys: pytest.CaptureFixture
    ) -> None:
        (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
        code = main(["assess", str(folder), "--sex", "M", "--weights", str(untrained)])
        said = capsys.readouterr()
        assert code == 1
        assert len(rows(said.out)) == 2
        assert "broken" in said.err
        assert "Traceback" not in said.err
        assert str(folder) not in said.err

    def test_a_closed_folder_and_a_dead_link_do_not_stop_the_others(
        self,
        folder: Path,
        untrained: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture,
    ) -> None:
        (folder / "gone.png").symlink_to("nowhere.png")
        iterdir = Path.iterdir

        def closed(self: Path) -> Iterator[Path]:  # to root no folder is
            if self == folder / "second":
                raise PermissionError(13, "Permission denied", str(self))
            return iterdir(self)

        monkeypatch.setattr(Path, "iterdir", closed)
        code = main(["assess", str(folder), "--sex", "M", "--weights", str(untrained)])
        said = capsys.readouterr()
        assert code == 1
        assert [row["id"] for row in rows(said.out)] == ["4400"]
        assert "boneage: second: The folder cannot be read.\n" in said.err
        # Once by name, though the reason names it too.
        assert "boneage: gone.png: there is no such file, or it cannot be read.\n" in said.err
        assert said.err.count("\n") == 2

    def test_missing_sex_is_asked_for(
        self, folder: Path, untrained: Path, capsys: pytest.CaptureFixture
    ) -> None:
        assert main(["assess", str(folder / "4400.webp"), "--weights", str(untrained)]) == 1
        assert "F or M" in capsys.readouterr().err

    @pytest.mark.parametrize("path", ["gone.png", "empty"])
    def test_nothing_to_assess(
        self, tmp_path: Path, capsys: pytest.CaptureFixture, path: str
    ) -> None:
        (tmp_path / "empty").mkdir()
        assert main(["assess", str(tmp_path / path), "--sex", "F"]) == 2
        said = capsys.readouterr().err
        assert path in said
        assert str(tmp_path) not in said


class TestAssessAdult:
    @pytest.fixture
    def film(self, nih_fullsize_dir: Path) -> Path:
        return nih_fullsize_dir / "images" / "00002819_000.png"

    def test_picture_with_heat_map(
        self, film: Path, untrained_adult: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        out = tmp_path / "out"
        command = ["assess", str(film), "--task", "adult", "--weights", str(untrained_adult)]
        assert main([*command, "--out", str(out)]) == 0
        radiograph = images.read(film)
        predictor = Predictor.load(untrained_adult, task="adult")
        (expected,) = predictor.assess(radiograph, heat_map=True)
        (row,) = rows(capsys.readouterr().out)
        assert float(row["age"]) == round(expected.age, 2)
        plain = explain.display_image(radiograph.pixels)
        mapped = explain.overlay_heat_map(plain, expected.heat_map, HEAT_MAP_OPACITY)
        assert mapped.tobytes() != plain.tobytes()
        assert Image.open(out / f"{film.stem}.png").tobytes() == mapped.tobytes()

    def test_refused_volume_has_a_picture_without_heat_map(
        self, ct_sample: Path, untrained_adult: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        command = ["assess", str(ct_sample), "--task", "adult", "--weights", str(untrained_adult)]
        for _ in range(2):  # the second run has nothing to assess, and says the same
            assert main([*command, "--out", str(tmp_path)]) == 1
            said = capsys.readouterr()
            (row,) = rows(said.out)
            assert row["age"] == ""
            assert "no thorax" in row["refused"]
            assert f"boneage: {ct_sample.name}: {row['refused']}" in said.err
        assert not (tmp_path / "failures.csv").exists()
        (picture,) = tmp_path.glob("*.png")
        red, green, blue = Image.open(picture).split()
        assert red.tobytes() == green.tobytes() == blue.tobytes()

    def test_reports_are_written_beside_the_pictures(
        self, film: Path, untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        command = ["assess", str(film), "--sex", "F", "--weights", str(untrained), "--report"]
        assert main([*command, "--out", str(tmp_path)]) == 0
        assert (tmp_path / f"{film.stem}.pdf").read_bytes().startswith(b"%PDF-")
        assert (tmp_path / f"{film.stem}.png").is_file()
        assert main(command) == 2
        assert "--out" in capsys.readouterr().err

    def test_reports_and_pictures_that_are_missing_are_written_later(
        self, film: Path, untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        command = ["assess", str(film), "--sex", "F", "--weights", str(untrained)]
        command += ["--out", str(tmp_path)]
        report, picture = (tmp_path / f"{film.stem}{ending}" for ending in (".pdf", ".png"))
        assert main(command) == 0
        assert not report.exists()
        assert main([*command, "--report"]) == 0
        assert report.is_file()
        assert "were assessed before" not in capsys.readouterr().err
        picture.unlink()
        assert main(command) == 0
        assert picture.is_file()
        capsys.readouterr()
        assert main([*command, "--report"]) == 0
        assert "1 of 1 were assessed before" in capsys.readouterr().err

    def test_region_chooses_the_released_weights(
        self,
        film: Path,
        untrained_adult: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture,
    ) -> None:
        upper = Path(shutil.copytree(untrained_adult, tmp_path / "tiny-upper"))
        config = hub.load_config(upper)
        config["preprocess"]["region"] = "upper"
        (upper / hub.CONFIG).write_text(json.dumps(config))
        shutil.copytree(untrained_adult, tmp_path / "tiny-whole")
        monkeypatch.setattr(bundled, "folder", lambda _: tmp_path)
        command = ["assess", str(film), "--task", "adult"]
        for region, model in (([], "tiny-whole"), (["--region", "upper"], "tiny-upper")):
            assert main([*command, *region]) == 0
            assert rows(capsys.readouterr().out)[0]["model"] == model
        assert main([*command, "--region", "lower"]) == 2
        assert "lower half" in capsys.readouterr().err

    def test_region_that_the_given_weights_do_not_see_is_refused(
        self, film: Path, untrained_adult: Path, capsys: pytest.CaptureFixture
    ) -> None:
        command = ["assess", str(film), "--task", "adult", "--weights", str(untrained_adult)]
        assert main([*command, "--region", "upper"]) == 2
        assert "see the region whole, not upper" in capsys.readouterr().err

    def test_help_names_volumes_and_the_heat_map(self, capsys: pytest.CaptureFixture) -> None:
        with pytest.raises(SystemExit):
            main(["assess", "--help"])
        printed = capsys.readouterr().out
        assert all(word in printed for word in ("NIfTI", "DICOM series", "heat map"))


class TestCard:
    def test_names_the_weights_and_measured_results(self, untrained: Path, tmp_path: Path) -> None:
        weights = Path(shutil.copytree(untrained, tmp_path / "tiny"))
        config = json.loads((weights / "config.json").read_text())
        config["provenance"] = {
            "data": "some-data", "validation_images": 7, "recipe": "r",
            "initialisation": {"file": "x", "source": "Keras MobileNetV2"},
            "metrics": {"validation_mae": 7.5, "validation_mae_X": 8.25},
        }  # fmt: skip
        (weights / "config.json").write_text(json.dumps(config))
        record = {
            "table": "A3", "row": "AR-CNN", "column": "MAE", "published": 4.38, "measured": 6.5,
            "n": 200, "ci95": [6.0, 7.0], "unit": "months", "dataset": "rsna-test/test",
            "weights": f"tiny@{config['sha256'][:12]}", "refused": 0,
        }  # fmt: skip
        others = [
            record | {"weights": "other@abc", "measured": 99.5},
            record | {"table": "S1", "measured": 99.5},
            record | {"measured": None},
        ]
        (tmp_path / "metrics.json").write_text(json.dumps([record, *others]))
        assert main(["card", str(weights), "--results", str(tmp_path)]) == 0
        card = (weights / "README.md").read_text()
        assert card.startswith("---\n")
        assert "| A3 AR-CNN MAE | 4.38 | 6.50 | 6.00 to 7.00 | 200 | 0 |" in card
        assert "| X | 8.25 |" in card
        assert "99.5" not in card
        assert "Keras' MobileNetV2" in card
        assert "Not a medical device" in card

    def test_missing_results_are_refused(
        self, untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        assert main(["card", str(untrained), "--results", str(tmp_path)]) == 2
        assert "no readable metrics.json" in capsys.readouterr().err


class TestStart:
    def test_version(self, capsys: pytest.CaptureFixture) -> None:
        with pytest.raises(SystemExit) as end:
            main(["--version"])
        assert end.value.code == 0
        assert capsys.readouterr().out == f"boneage {boneage.__version__}\n"

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            ([], "required"),
            ([""], "the name is empty"),  # which would be the working directory
            (["film.png", "--out", ""], "the name is empty"),
        ],
    )
    def test_bad_arguments_exit_with_2(
        self, arguments: list[str], reason: str, capsys: pytest.CaptureFixture
    ) -> None:
        with pytest.raises(SystemExit) as end:
            main(["assess", *arguments])
        assert end.value.code == 2
        assert reason in capsys.readouterr().err

    @pytest.mark.parametrize("module", ["boneage", "boneage.__main__", "boneage.models.registry"])
    def test_nothing_heavy_is_imported(self, repo_root: Path, module: str) -> None:
        code = f"import sys, {module}; print(*sys.modules)"
        loaded = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repo_root
        ).stdout.split()
        heavy = {"torch", "torchvision", "gradio", "pydicom", "matplotlib", "numpy", "PIL"}
        assert not heavy & set(loaded)
