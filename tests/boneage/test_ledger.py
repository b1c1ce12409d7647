"""``assess`` of many files: zips, tables of sexes, and runs that are stopped and go on."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import sys
import unicodedata
import zipfile
from collections.abc import Iterator
from copy import copy
from functools import cache
from pathlib import Path

import pytest
from pydicom import dcmread

from boneage import assess_files, hub
from boneage.__main__ import main
from boneage.batch import Item, Outcome, Source
from boneage.errors import InputError
from boneage.ledger import FAILURES, LEDGER, MAX_NAME, Ledger, Places, replacing
from boneage.predictor import Assessment, ModelReference, Predictor


@pytest.fixture(autouse=True, scope="module")
def loaded_once() -> Iterator[None]:
    """Weights are read once, however many commands are run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Predictor, "load", cache(Predictor.load))
        yield


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

    def test_it_goes_on_in_the_precision_it_began_with(
        self, command: list[str], out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the choice is measured, and would be another now."""
        assert main([*command, "--precision", "bf16"]) == 1
        (out / "assessments.jsonl").write_bytes(
            (out / "assessments.jsonl").read_bytes().partition(b"\n")[0] + b"\n"
        )
        monkeypatch.setattr(Predictor, "load", Predictor.load.__wrapped__)  # a new network
        monkeypatch.setattr("boneage.precision.fast_bf16", lambda _: False)  # and choice
        assert main(command) == 1
        settings = {
            json.loads(line)["settings"]
            for line in (out / "assessments.jsonl").read_text().splitlines()
        }
        assert len(settings) == 1
        assert len(rows((out / "assessments.csv").read_text())) == 4

    def test_names_cannot_steer_tables_and_terminals(
        self, command: list[str], out: Path, folder: Path, capsys: pytest.CaptureFixture
    ) -> None:
        (folder / "4400.webp").rename(folder / "=1+1\r\x1b[2J.webp")
        (folder / "letter.txt").rename(folder / "=letter\x1b[2J.txt")
        assert main([*command[:1], "=1+1\r\x1b[2J.webp", *command[2:]]) == 2  # there is none here
        assert main(command) == 1
        said = capsys.readouterr()
        assert "\x1b" not in said.err + said.out
        table = rows((out / "assessments.csv").read_text())
        assert "'=1+1\ufffd\ufffd[2J" in {row["id"] for row in table}
        (failure,) = rows((out / FAILURES).read_text())
        assert failure["id"] == "'=letter\ufffd[2J"

    def test_other_files_of_the_folder_are_told(
        self, command: list[str], folder: Path, out: Path, capsys: pytest.CaptureFixture
    ) -> None:
        assert main(command) == 1
        assert "listed only in" not in capsys.readouterr().err
        command[1] = str(folder / "more")
        assert main(command) == 0
        said = capsys.readouterr()
        assert "3 assessed there before are listed only in assessments.jsonl" in said.err
        assert [row["id"] for row in rows(said.out)] == ["4403"]

    def test_a_killed_run_ends_as_one_that_was_not(
        self, command: list[str], out: Path, assessed: list[str], capsys: pytest.CaptureFixture
    ) -> None:
        main(command)
        whole = {path.name: path.read_bytes() for path in out.iterdir()}
        lines = whole[LEDGER].splitlines(keepends=True)
        (out / LEDGER).write_bytes(b"".join(lines[:2]) + lines[2][:100])
        (out / "assessments.csv").unlink()
        for name in ("4402.png", "4403.png"):  # named when the line is written
            (out / name).unlink()
            (out / f".{name}.part").write_bytes(whole[name][:100])
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
        with Ledger(out, "mine", "0123", "4567"):
            assert main(command) == 2
        assert "Another run is writing into" in capsys.readouterr().err
        assert not assessed
        assert main(command) == 1  # a letter lies among the films

    def test_other_settings_of_the_same_weights_are_refused(
        self,
        command: list[str],
        out: Path,
        untrained: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture,
    ) -> None:
        main(command)
        before = (out / LEDGER).read_bytes()
        other = Path(shutil.copytree(untrained, tmp_path / "other"))
        config = hub.load_config(other)
        config["age"]["mean"] += 1
        (other / hub.CONFIG).write_text(json.dumps(config))
        capsys.readouterr()
        assert main([*command, "--weights", str(other)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "by the same weights with another configuration or precision" in said
        assert (out / LEDGER).read_bytes() == before

    def test_a_killed_run_leaves_no_picture_without_a_line(
        self, command: list[str], out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        draw = assess_files.draw

        def killed(outcome: Outcome, path: Path) -> None:
            draw(outcome, path)
            if outcome.item.source.id == "4401":
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(assess_files, "draw", killed)
            assert main(command) == 130
        assert [path.name for path in out.glob("[!.]*.png")] == ["4400.png"]
        assert len((out / LEDGER).read_bytes().splitlines()) == 1
        main(command)
        assert sorted(path.name for path in out.glob("[!.]*.png")) == [
            f"440{n}.png" for n in range(4)
        ]  # fmt: skip
        assert not list(out.glob(".*.part"))

    def test_a_killed_run_leaves_whole_tables(
        self, command: list[str], out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        main(command)
        names = ("assessments.csv", "assessments.json")
        before = [(out / name).read_bytes() for name in names]

        def killed(lines: object, file: io.TextIOBase) -> None:
            file.write("[")
            raise KeyboardInterrupt

        monkeypatch.setattr("boneage.assess_files.write_json", killed)
        assert main(command) == 130
        assert [(out / name).read_bytes() for name in names] == before

    def test_a_picture_that_cannot_be_made_is_a_failure(
        self,
        command: list[str],
        out: Path,
        assessed: list[str],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture,
    ) -> None:
        draw, errors = assess_files.draw, {
            "4401": ValueError("secret detail"), "4402": OSError(errno.ENOSPC, "No space left"),
        }  # fmt: skip

        def failing(outcome: Outcome, path: Path) -> None:
            draw(outcome, path)
            if error := errors.get(outcome.item.source.id):
                raise error

        with monkeypatch.context() as patched:
            patched.setattr(assess_files, "draw", failing)
            assert main(command) == 1
        reasons = {row["id"]: row["reason"] for row in rows((out / FAILURES).read_text())}
        assert reasons.keys() == {"letter", "4401", "4402"}
        assert reasons["4401"] == "Its picture cannot be made (ValueError)."
        assert reasons["4402"] == "Its picture cannot be written: No space left."
        said = capsys.readouterr()
        assert f"boneage: 4401.webp: {reasons['4401']}" in said.err
        assert [row["id"] for row in rows(said.out)] == ["4400", "4403"]
        assert sorted(path.name for path in out.glob("*.png*")) == ["4400.png", "4403.png"]
        assert not list(out.glob(".*.part"))
        assessed.clear()
        main(command)
        assert assessed == ["4401", "4402"]

    def test_a_ledger_that_cannot_be_written_ends_the_run(
        self,
        command: list[str],
        out: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture,
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left")

        monkeypatch.setattr(Ledger, "add", full)
        assert main(command) == 2
        assert capsys.readouterr().err == "boneage: A file cannot be used: No space left.\n"

    def test_a_file_that_goes_after_it_was_read_stays_in_the_tables(
        self,
        command: list[str],
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture,
    ) -> None:
        assess = Predictor.assess

        def late(self: Predictor, *args: object, **options: object) -> list:
            (folder / "4400.webp").unlink(missing_ok=True)
            return assess(self, *args, **options)

        monkeypatch.setattr(Predictor, "assess", late)
        main(command)
        ids = [row["id"] for row in rows(capsys.readouterr().out)]
        assert ids == ["4400", "4401", "4402", "4403"]

    def test_a_file_replaced_after_it_was_read_is_assessed_again(
        self,
        command: list[str],
        folder: Path,
        assessed: list[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        read = Predictor.read

        def followed(self: Predictor, source: Path, **options: str) -> object:
            radiograph = read(self, source, **options)
            if source.name == "4400.webp":
                shutil.copy(folder / "4401.webp", source)
            return radiograph

        with monkeypatch.context() as patched:
            patched.setattr(Predictor, "read", followed)
            main(command)
        assessed.clear()
        main(command)
        assert assessed == ["4400"]

    def test_a_file_is_assessed_once_whatever_it_is_called_by(
        self,
        command: list[str],
        folder: Path,
        assessed: list[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture,
    ) -> None:
        monkeypatch.chdir(folder)
        names = ["4400.webp", "more/../4400.webp", str(folder / "more")]
        assert main([command[0], *names, *command[2:]]) == 0
        said = capsys.readouterr()
        assert sorted(assessed) == ["4400", "4403"]
        assert "1 file was named more than once" in said.err
        files = [row["file"] for row in rows(said.out)]
        assert files == ["4400.webp", (folder / "more" / "4403.webp").as_posix()]
        (tmp_path / "linked").symlink_to(folder)
        assessed.clear()
        main([command[0], str(tmp_path / "linked"), *command[2:]])
        said = capsys.readouterr()
        assert sorted(assessed) == ["4401", "4402"]
        assert rows(said.out)[0]["file"] == (tmp_path / "linked" / "4400.webp").as_posix()

    def test_results_inside_are_left_out_later(
        self, command: list[str], folder: Path, capsys: pytest.CaptureFixture
    ) -> None:
        main([*command, "--out", str(folder / "more" / "first")])
        before = capsys.readouterr()
        assert "left out" not in before.err
        main([*command, "--out", str(folder / "second")])
        said = capsys.readouterr()
        assert "boneage: 1 folder was left out as earlier results: first.\n" in said.err
        assert [row["id"] for row in rows(said.out)] == [row["id"] for row in rows(before.out)]

    @pytest.mark.skipif(sys.platform != "linux", reason="names are text there")
    def test_names_that_are_not_utf8(
        self, command: list[str], folder: Path, out: Path, capfd: pytest.CaptureFixture
    ) -> None:
        (folder / "4400.webp").rename(folder / os.fsdecode(b"a\xff.webp"))
        (folder / os.fsdecode(b"b\xff.png")).write_text("Not a radiograph.")
        assert main([*command, "--report"]) == 1
        printed = capfd.readouterr().out
        assert printed == (out / "assessments.csv").read_text()
        assert [row["id"] for row in rows(printed)] == ["4401", "4402", "a\\udcff", "4403"]
        failed = [row["id"] for row in rows((out / FAILURES).read_text())]
        assert failed == ["b\\udcff", "letter"]
        assert main([*command, "--json"]) == 1
        ids = [result["id"] for result in json.loads(capfd.readouterr().out)]
        assert ids == ["4401", "4402", "a\udcff", "4403"]

    @pytest.mark.parametrize("lacking", ["revision", "interval", "stamp"])
    def test_a_damaged_ledger_is_refused(self, tmp_path: Path, lacking: str) -> None:
        line = entered(tmp_path)
        for part in (line, line["assessment"], line["assessment"]["model"]):
            part.pop(lacking, None)
        (tmp_path / LEDGER).write_text(f"{json.dumps(line)}\n")
        with pytest.raises(InputError, match="line 1 is not readable"):
            Ledger(tmp_path, "stub", "0123", "4567")

    @pytest.mark.parametrize("text", ['{"file": 3}', "3", "[]", "no JSON"])
    def test_another_ledger_is_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / LEDGER).write_text(f"{text}\n")
        with pytest.raises(InputError, match="line 1 is not readable"):
            Ledger(tmp_path, "stub", "0123", "4567")

    def test_a_ledger_that_tells_no_settings_is_refused(self, tmp_path: Path) -> None:
        line = entered(tmp_path)
        for old in ("settings", "beside"):
            line.pop(old)
        (tmp_path / LEDGER).write_text(f"{json.dumps(line)}\n")
        with pytest.raises(InputError, match="another configuration or precision"):
            Ledger(tmp_path, "stub", "0123", "4567")

    @pytest.mark.parametrize("name", ["assessments.csv", "assessments.json", FAILURES])
    def test_tables_of_others_are_not_overwritten(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("somebody's own\n")
        with pytest.raises(InputError, match=f"holds a file {name}, but no {LEDGER}"):
            Ledger(tmp_path, "stub", "0123", "4567")
        assert [path.name for path in tmp_path.iterdir()] == [name]


def entered(folder: Path) -> dict:
    """The line of a ledger with one assessment in this folder."""
    with Ledger(folder, "stub", "0123", "4567") as ledger:
        enter(ledger, Source(folder / "film.png", "film"))
    return json.loads((folder / LEDGER).read_text())


def enter(ledger: Ledger, source: Source) -> None:
    """Enter an assessment, with what is wanted beside it."""
    (item,) = ledger.stamped([Item(source, "F")])
    assessment = Assessment(
        id=source.id, task="hand", sex="F", age=100.0, unit="months", interval=None,
        components={"assembled": 100.0}, boxes=(), warnings=(), refused=None,
        model=ModelReference("stub", "0123"),
    )  # fmt: skip
    picture = None
    if ledger.wanted:
        picture = ledger.picture(source)
        for ending in ledger.wanted:
            ledger.part(picture, ending).write_text("its own")
        ledger.keep(picture)
    ledger.add(Outcome(item, assessment), picture)


class TestPictures:
    def open(self, folder: Path, *wanted: str) -> Ledger:
        return Ledger(folder, "stub", "0123", "4567", wanted)

    def test_other_files_are_not_overwritten(self, tmp_path: Path) -> None:
        film = tmp_path / "a.png"
        film.write_text("a film")
        (tmp_path / "a-2.pdf").write_text("a letter")
        for _ in range(2):
            with self.open(tmp_path, ".png") as ledger:
                for item in ledger.pending([Item(Source(film, "a"), "F")]):
                    enter(ledger, item.source)
        assert sorted(path.name for path in tmp_path.glob("a*")) == [
            "a-2.pdf", "a-3.png", "a.png", LEDGER,
        ]  # fmt: skip
        assert (film.read_text(), (tmp_path / "a-2.pdf").read_text()) == ("a film", "a letter")

    def test_nor_is_one_that_came_after_the_picture(self, tmp_path: Path) -> None:
        (tmp_path / "films").mkdir()
        film, letter = tmp_path / "films" / "a.png", tmp_path / "a.pdf"
        film.write_text("a film")
        item = Item(Source(film, "a"), "F")
        with self.open(tmp_path, ".png") as ledger:
            enter(ledger, item.source)
        letter.write_text("a letter")
        with self.open(tmp_path, ".png", ".pdf") as ledger:
            assert ledger.pending([item]) == [item]
            enter(ledger, item.source)
        assert letter.read_text() == "a letter"
        assert (tmp_path / "a-2.pdf").read_text() == "its own"

    def test_names_are_taken_once_and_kept(self, tmp_path: Path) -> None:
        films = [Source(tmp_path / str(n) / "a.png", "a") for n in range(3)]
        with self.open(tmp_path, ".png") as ledger:
            assert [ledger.picture(film) for film in films] == ["a", "a-2", "a-3"]
            enter(ledger, Source(tmp_path / "b.png", "b"))
        with self.open(tmp_path, ".png") as ledger:
            assert ledger.picture(Source(tmp_path / "c" / "b.png", "b")) == "b-2"
            assert ledger.picture(Source(tmp_path / "b.png", "b")) == "b"

    def test_names_that_some_file_systems_take_for_one(self, tmp_path: Path) -> None:
        names = ("Ä", "ä", "a\N{COMBINING DIAERESIS}")
        films = [Source(tmp_path / str(n) / f"{name}.png", name) for n, name in enumerate(names)]
        with self.open(tmp_path, ".png") as ledger:
            found = {unicodedata.normalize("NFC", ledger.picture(film)).lower() for film in films}
        assert found == {"ä", "ä-2", "ä-3"}

    def test_long_names_are_shortened(self, tmp_path: Path) -> None:
        name = "a" + "ä" * 124
        with self.open(tmp_path, ".png") as ledger:
            for n in range(2):
                enter(ledger, Source(tmp_path / str(n) / f"{name}.png", name))
        short = "a" + "ä" * ((MAX_NAME - 1) // 2)
        found = sorted(path.name for path in tmp_path.glob("*.png"))
        assert found == [f"{short}-2.png", f"{short}.png"]


class TestPending:
    def test_a_series_changes_with_its_files(self, tmp_path: Path) -> None:
        series, out = tmp_path / "series", tmp_path / "out"
        (series / "more").mkdir(parents=True)
        out.mkdir()
        (series / "more" / "1.dcm").write_text("a slice")
        item = Item(Source(series, "series"), "F")

        def is_pending() -> bool:
            with Ledger(out, "stub", "0123", "4567") as ledger:
                pending = ledger.pending([item])
                if pending:
                    enter(ledger, item.source)
                return bool(pending)

        assert is_pending()
        assert not is_pending()
        with (series / "more" / "1.dcm").open("a") as file:
            file.write(" more")  # which leaves the folders' dates
        assert is_pending()
        (series / "results").mkdir()
        entered(series / "results")
        assert not is_pending()
        (series / "more" / "1.dcm").rename(series / "more" / "2.dcm")
        assert is_pending()

    def test_what_is_outdated_has_no_line(self, tmp_path: Path) -> None:
        sources = [Source(tmp_path / f"{name}.png", name) for name in "ab"]
        items = [Item(source, "F") for source in sources]
        for source in sources:
            source.path.write_text("a film")
        with Ledger(tmp_path, "stub", "0123", "4567") as ledger:
            for source in sources:
                enter(ledger, source)
            assert ledger.pending(items) == []
            assert [item for item, _ in ledger.lines(items)] == items
            sources[0].path.write_text("another film")
            sources[1].path.unlink()
            assert ledger.pending(items) == items
            assert list(ledger.lines(items)) == []
            enter(ledger, sources[1])  # read, but gone before it could be told from another
            assert ledger.pending(items[1:]) == items[1:]

    def test_a_member_of_the_same_name_has_no_line(self, tmp_path: Path) -> None:
        path = tmp_path / "films.zip"
        info = zipfile.ZipInfo("a.png")
        info.CRC = 7
        items = [
            Item(Source(path, "a", info), "F"),
            Item(Source(path, "a", info, problem="There is another."), "F"),
        ]
        with Ledger(tmp_path, "stub", "0123", "4567") as ledger:
            enter(ledger, items[0].source)
            assert ledger.pending(items) == items[1:]
            assert [item for item, _ in ledger.lines(items)] == items[:1]


class TestPlaces:
    def test_names_of_one_file_are_one_place(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "films" / "more").mkdir(parents=True)
        (tmp_path / "link").symlink_to("films")
        monkeypatch.chdir(tmp_path / "films")
        places = Places(tmp_path / "out")
        for name in ("a.png", "more/../a.png", "../link/a.png", tmp_path / "films" / "a.png"):
            assert places.of(Path(name)) == "../films/a.png"
        for name in ("more", "more/.", "more/../more", "../link/more"):
            assert places.of(Path(name)) == "../films/more"
        for name in (".", "more/..", tmp_path / "films"):
            assert places.of(Path(name)) == "../films"
        assert places.of(tmp_path / "out" / "a.png") == "a.png"


def test_a_table_is_replaced_when_it_is_whole(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("before")
    with replacing(table) as file:
        file.write("after")
        file.flush()
        assert table.read_text() == "before"
    assert table.read_text() == "after"
    assert list(tmp_path.iterdir()) == [table]


def test_settings_tell_configuration_and_precision(untrained: Path) -> None:
    predictor = copy(Predictor.load(untrained, precision="fp32"))
    settings = predictor.settings
    assert len(settings) == 12
    predictor.config = dict(reversed(predictor.config.items()))
    assert predictor.settings == settings
    predictor.config["interval"] = {"coverage": 0.9, "bands": [{"from": 0, "half_width": 10}]}
    assert predictor.settings != settings
    assert Predictor.load(untrained, precision="bf16").settings != settings


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
        assert "The table has no row for any of the files" in capsys.readouterr().err
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

    def test_bad_options_lose_nothing(
        self, folder: Path, untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        (tmp_path / FAILURES).write_text("of an earlier run")
        command = ["assess", str(folder), "--sex", "F", "--weights", str(untrained)]
        with pytest.raises(SystemExit) as end:
            main([*command, "--batch-size", "0", "--out", str(tmp_path)])
        assert end.value.code == 2
        assert "must be at least 1" in capsys.readouterr().err
        assert (tmp_path / FAILURES).read_text() == "of an earlier run"
        assert main([*command, "--report"]) == 2
        assert "give one with --out" in capsys.readouterr().err

    def test_a_zip_of_radiographs_as_dicom_is_none(
        self, repo_root: Path, tmp_path: Path, untrained_adult: Path, capsys: pytest.CaptureFixture
    ) -> None:
        film = dcmread(sorted((repo_root / "tests" / "data" / "ct-series").glob("*.dcm"))[0])
        film.Modality = "DX"
        with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
            for name in ("1.dcm", "2.dcm"):
                film.save_as(tmp_path / name)
                archive.write(tmp_path / name, name)
        command = ["assess", str(tmp_path / "films.zip"), "--task", "adult"]
        assert main([*command, "--weights", str(untrained_adult)]) == 0
        assert [row["id"] for row in rows(capsys.readouterr().out)] == ["1", "2"]

    def test_a_damaged_zip_among_volumes_is_told(
        self, tmp_path: Path, untrained_adult: Path, capsys: pytest.CaptureFixture
    ) -> None:
        with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
            archive.writestr("\u00e9.dcm", b"")
        content = (tmp_path / "films.zip").read_bytes().replace(b"\xc3\xa9", b"\xff\xff")
        (tmp_path / "films.zip").write_bytes(content)  # a name that is not UTF-8, as it says
        command = ["assess", str(tmp_path / "films.zip"), "--task", "adult"]
        assert main([*command, "--weights", str(untrained_adult)]) == 1
        assert "films.zip: This is not a readable zip file." in capsys.readouterr().err

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
