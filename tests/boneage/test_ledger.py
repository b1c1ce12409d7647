"""``assess`` of many files: zips, tables of sexes, and runs that are stopped and go on."""

from __future__ import annotations

import csv
import io
import json
import shutil
import zipfile
from pathlib import Path

import pytest

from boneage import hub
from boneage.__main__ import main
from boneage.ledger import FAILURES, LEDGER, Ledger
from boneage.predictor import Predictor


@pytest.fixture
def folder(tmp_path: Path, rsna_test_dir: Path) -> Path:
    """Four radiographs, one below, and one file that is none."""
    root = tmp_path / "films"
    (root / "more").mkdir(parents=True)
    for name in ("4400", "4401", "4402"):
        shutil.copy(rsna_test_dir / "images" / f"{name}.webp", root)
    shutil.copy(rsna_test_dir / "images" / "4403.webp", root / "more")
    (root / "letter.txt").write_text("Not a radiograph.\n")
    return root


@pytest.fixture
def assessed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids that the network has seen."""
    seen: list[str] = []
    assess = Predictor.assess

    def noted(self: Predictor, radiographs: list, *args: object, **options: object) -> list:
        seen.extend(radiograph.id for radiograph in radiographs)
        return assess(self, radiographs, *args, **options)

    monkeypatch.setattr(Predictor, "assess", noted)
    return seen


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


class TestResume:
    @pytest.fixture
    def out(self, tmp_path: Path) -> Path:
        return tmp_path / "out"

    @pytest.fixture
    def command(self, folder: Path, out: Path, untrained: Path) -> list[str]:
        weights = ["--weights", str(untrained)]
        return ["assess", str(folder), "--sex", "F", *weights, "--out", str(out)]

    def test_nothing_is_assessed_twice(
        self, command: list[str], out: Path, assessed: list[str], capsys: pytest.CaptureFixture
    ) -> None:
        assert main(command) == 1
        first = capsys.readouterr().out
        assert assessed == ["4400", "4401", "4402", "4403"]
        ledger = (out / LEDGER).read_bytes()
        assert main(command) == 1
        said = capsys.readouterr()
        assert assessed == ["4400", "4401", "4402", "4403"]
        assert "4 of 5 were assessed before" in said.err
        assert said.out == first == (out / "assessments.csv").read_text()
        assert (out / LEDGER).read_bytes() == ledger

    def test_a_killed_run_ends_as_one_that_was_not(
        self, command: list[str], out: Path, assessed: list[str], capsys: pytest.CaptureFixture
    ) -> None:
        main(command)
        whole = {path.name: path.read_bytes() for path in out.iterdir()}
        lines = whole[LEDGER].splitlines(keepends=True)
        (out / LEDGER).write_bytes(b"".join(lines[:2]) + lines[2][:100])
        (out / "assessments.csv").unlink()
        assessed.clear()
        assert main(command) == 1
        assert assessed == ["4402", "4403"]
        again = {path.name: path.read_bytes() for path in out.iterdir()}
        assert again.keys() == whole.keys()
        assert len(again[LEDGER].splitlines()) == 4
        for before, after in zip(
            rows(whole["assessments.csv"].decode()),
            rows(again["assessments.csv"].decode()),
            strict=True,
        ):
            assert after["id"] == before["id"]
            assert float(after["age"]) == pytest.approx(float(before["age"]), abs=0.02)

    def test_results_stream_to_disk(
        self, command: list[str], out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assess = Predictor.assess
        found: list[int] = []

        def looking(self: Predictor, *args: object, **options: object) -> list:
            found.append(len((out / LEDGER).read_text().splitlines()))
            return assess(self, *args, **options)

        monkeypatch.setattr(Predictor, "assess", looking)
        main([*command, "--batch-size", "1"])
        assert found == [0, 1, 2, 3]

    def test_failures_are_tried_again(
        self, command: list[str], out: Path, folder: Path, assessed: list[str]
    ) -> None:
        assert main(command) == 1
        (failure,) = rows((out / FAILURES).read_text())
        assert failure["id"] == "letter"
        assert "text file" in failure["reason"]
        shutil.copy(folder / "4400.webp", folder / "letter.txt")
        assessed.clear()
        assert main(command) == 0
        assert assessed == ["letter"]
        assert not (out / FAILURES).exists()
        assert len(json.loads((out / "assessments.json").read_text())) == 5

    def test_what_changed_is_assessed_again(
        self, command: list[str], out: Path, folder: Path, assessed: list[str]
    ) -> None:
        main(command)
        shutil.copy(folder / "4401.webp", folder / "4400.webp")
        assessed.clear()
        main(command)
        assert assessed == ["4400"]
        results = {r["id"]: r for r in json.loads((out / "assessments.json").read_text())}
        assert results["4400"]["age"] == pytest.approx(results["4401"]["age"], abs=0.02)
        assert len(results) == 4
        assessed.clear()
        main([*command, "--sex", "M"])
        assert sorted(assessed) == ["4400", "4401", "4402", "4403"]
        results = json.loads((out / "assessments.json").read_text())
        assert {result["sex"] for result in results} == {"M"}
        assert sorted(path.name for path in out.glob("*.png")) == [
            f"440{n}.png" for n in range(4)
        ]  # fmt: skip

    def test_other_weights_are_refused(
        self,
        command: list[str],
        out: Path,
        untrained: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture,
    ) -> None:
        main(command)
        before = (out / LEDGER).read_bytes()
        model, config = hub.load(untrained)
        next(model.parameters()).data += 1
        other = hub.save(tmp_path / "other", model, config)
        capsys.readouterr()
        assert main([*command, "--weights", str(other)]) == 2
        said = capsys.readouterr()
        assert said.err.count("\n") == 1
        assert "by the weights tiny, revision" in said.err
        assert "choose another folder" in said.err
        assert (out / LEDGER).read_bytes() == before

    def test_one_run_at_a_time(
        self, command: list[str], out: Path, assessed: list[str], capsys: pytest.CaptureFixture
    ) -> None:
        out.mkdir()
        with Ledger(out, "mine", "0123"):
            assert main(command) == 2
        assert "Another run is writing into" in capsys.readouterr().err
        assert not assessed
        assert main(command) == 1  # a letter lies among the films

    def test_a_damaged_ledger_is_refused(
        self, command: list[str], out: Path, capsys: pytest.CaptureFixture
    ) -> None:
        out.mkdir()
        (out / LEDGER).write_text('{"file": 3}\n')
        assert main(command) == 2
        assert "line 1 is not readable" in capsys.readouterr().err


class TestInputs:
    def test_zip_of_radiographs(
        self, folder: Path, tmp_path: Path, untrained: Path, capsys: pytest.CaptureFixture
    ) -> None:
        with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
            for path in sorted(folder.rglob("*.*")):
                archive.write(path, path.relative_to(tmp_path))
            archive.writestr("__MACOSX/films/._4400.webp", b"junk")
        command = ["assess", "--sex", "M", "--weights", str(untrained)]
        assert main([*command, str(tmp_path / "films.zip")]) == 1
        zipped = capsys.readouterr()
        assert [row["id"] for row in rows(zipped.out)] == ["4400", "4401", "4402", "4403"]
        assert "letter.txt: This is a text file" in zipped.err
        assert "junk" not in zipped.err
        (folder / "letter.txt").unlink()
        assert main([*command, str(folder)]) == 0
        for packed, plain in zip(rows(zipped.out), rows(capsys.readouterr().out), strict=True):
            assert float(packed["age"]) == pytest.approx(float(plain["age"]), abs=0.02)

    def test_table_of_sexes(
        self, folder: Path, tmp_path: Path, untrained: Path, capsys: pytest.CaptureFixture
    ) -> None:
        table = tmp_path / "sexes.csv"
        table.write_text("File;Sex;BoneAge\n4400.webp;F;100,5\n4401;M;\n4499;M;12\n")
        (folder / "letter.txt").unlink()
        command = ["assess", str(folder), "--sexes", str(table), "--weights", str(untrained)]
        assert main(command) == 1
        said = capsys.readouterr()
        found = {row["id"]: (row["sex"], row["reference"]) for row in rows(said.out)}
        assert found == {"4400": ("F", "100.5"), "4401": ("M", "")}
        assert "2 files have no row in the table: 4402.webp, 4403.webp." in said.err
        assert "1 row of the table has no file: 4499." in said.err
        assert said.err.count("The sex for") == 2
        assert main([*command, "--sex", "F"]) == 0
        sexes = [row["sex"] for row in rows(capsys.readouterr().out)]
        assert sexes == ["F", "M", "F", "F"]

    def test_a_wrong_table_stops_before_anything_is_done(
        self, folder: Path, tmp_path: Path, untrained: Path, capsys: pytest.CaptureFixture
    ) -> None:
        table = tmp_path / "sexes.csv"
        table.write_text("id,sex,boneage\n4400,F,9\n4401,F,old\n")
        out = tmp_path / "out"
        command = ["assess", str(folder), "--sexes", str(table), "--weights", str(untrained)]
        assert main([*command, "--out", str(out)]) == 2
        assert "sexes.csv, row 3 (4401): boneage is 'old'" in capsys.readouterr().err
        table.write_text("id,sex\n1,F\n")
        assert main([*command, "--out", str(out)]) == 2
        assert "The table has a row for none of the files" in capsys.readouterr().err
        assert not out.exists()
        assert main([*command[:2], "--sexes", str(tmp_path / "gone.csv")]) == 2
        assert str(tmp_path) not in capsys.readouterr().err

    def test_a_sex_that_is_not_understood_fails_alone(
        self, folder: Path, tmp_path: Path, untrained: Path, capsys: pytest.CaptureFixture
    ) -> None:
        (folder / "letter.txt").unlink()
        table = tmp_path / "sexes.csv"
        command = ["assess", str(folder), "--sexes", str(table), "--weights", str(untrained)]
        command += ["--out", str(tmp_path / "out")]
        table.write_text("id,sex\n4400,F\n4401,M\n4402,F\n4403,F\n")
        assert main(command) == 0
        table.write_text("id,sex\n4400,F\n4401,girlish\n4402,F\n4403,F\n")
        capsys.readouterr()
        assert main([*command, "--sex", "M"]) == 1  # nor does the sex of the others hold for it
        said = capsys.readouterr()
        assert [row["id"] for row in rows(said.out)] == ["4400", "4402", "4403"]
        assert "4401.webp: sexes.csv, row 3: sex is 'girlish'" in said.err

    def test_bad_batch_size(
        self, folder: Path, untrained: Path, capsys: pytest.CaptureFixture
    ) -> None:
        command = ["assess", str(folder), "--sex", "F", "--weights", str(untrained)]
        assert main([*command, "--batch-size", "0"]) == 2
        assert "at least 1" in capsys.readouterr().err

    def test_zipped_ct_series_stays_one_volume(
        self, repo_root: Path, tmp_path: Path, untrained_adult: Path, capsys: pytest.CaptureFixture
    ) -> None:
        with zipfile.ZipFile(tmp_path / "series.zip", "w") as archive:
            for path in sorted((repo_root / "tests" / "data" / "ct-series").glob("*.dcm")):
                archive.write(path, path.name)
        command = ["assess", str(tmp_path / "series.zip"), "--task", "adult"]
        main([*command, "--weights", str(untrained_adult)])
        said = capsys.readouterr()
        assert len(rows(said.out)) + said.err.count("series.zip: ") == 1
