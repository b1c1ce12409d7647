"""The Batch tab's functions, without a browser."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import threading
import zipfile
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from boneage import datasets
from boneage.errors import InputError
from boneage.predictor import Predictor
from boneage.webui import batch, batch_cards
from boneage.webui.batch import SHOWN, Visit
from boneage.webui.batch_cards import Case


@pytest.fixture(scope="module")
def tiny(untrained: Path) -> Predictor:
    return Predictor.load(untrained)


@pytest.fixture
def films(tmp_path: Path, rsna_test_dir: Path) -> list[str]:
    """Nine radiographs, the fifth broken."""
    paths = []
    for case in datasets.load(rsna_test_dir).cases[:9]:
        paths.append(Path(shutil.copy(case.path, tmp_path)))
    paths[4].write_bytes(b"RIFF1234WEBP broken")
    return [str(path) for path in paths]


@pytest.fixture
def table(tmp_path: Path, rsna_test_dir: Path) -> str:
    """Sexes and references of the first seven, and a row without a file."""
    lines = ["id;male;boneage", "lost;True;60"]
    for case in datasets.load(rsna_test_dir).cases[:7]:
        lines.append(f"{case.id};{case.sex == 'M'};{case.age}")
    path = tmp_path / "sexes.csv"
    path.write_text("\n".join(lines))
    return str(path)


def named(updates: tuple[Any, ...]) -> dict[str, Any]:
    """What the updates change."""
    return {n: u for n, u in zip(SHOWN, updates, strict=True) if u != gr.skip()}


def case(**changes: Any) -> Case:
    whole = {
        "file": "1.png", "id": "1", "sex": "F", "age": 120.04, "reference": None, "warnings": (),
        "failure": None, "assessment": {"model": {"id": "w", "revision": "0123"}, "age": 120.04},
    }  # fmt: skip
    return Case(**(whole | changes))


def readers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "boneage-reader"]


def wait_for_readers() -> None:
    for thread in readers():
        thread.join(timeout=60)
    assert not readers()


class TestRun:
    def test_from_files_to_results(self, tiny: Predictor, films: list[str], table: str) -> None:
        visit = Visit()
        begun = named(batch.begin(visit))
        assert begun["cancel"]["visible"]
        assert not begun["start"]["interactive"]
        updates = [named(u) for u in batch.run_files(tiny, visit, films, table, "F")]
        assert (
            [
                re.search(r"<strong>(\d+) of 9", u["progress"])[1]  # type: ignore[index]
                for u in updates[:-1]
            ]
            == ["0", "4", "8"]
        )
        end = updates[-1]
        assert end["start"]["interactive"]
        assert not end["cancel"]["visible"]
        rows = end["table"]["value"]["data"]
        assert [row[0] for row in rows] == [Path(film).name for film in films]
        assert "Not assessed" in rows[4][-1]
        assert [row[2] is None for row in rows] == [n == 4 for n in range(9)]
        for row, known in zip(rows, [True] * 7 + [False] * 2, strict=True):
            assert (row[4] is not None) == known
        assert "8 assessed, 1 not" in end["progress"]
        assert "2 files have no row in the table" in end["progress"]
        assert "1 row of the table has no file: lost" in end["progress"]
        assert "9 of 9 files done, 1 of them not assessed." in end["announced"]
        assert '<th scope="row">All</th><td>6</td>' in end["comparison"]
        assert end["comparison"].count("data:image/png") == 2
        wait_for_readers()

    def test_numbers_are_the_predictors(self, tiny: Predictor, films: list[str]) -> None:
        from boneage import images

        visit = Visit(wanted=True)
        *_, end = batch.run_files(tiny, visit, films[:3], None, "M")
        for row, film in zip(named(end)["table"]["value"]["data"], films, strict=False):
            (alone,) = tiny.assess(images.read(film), "M")
            assert row[2] == pytest.approx(alone.age, abs=0.06)
        assert named(end)["comparison"] == ""
        assert named(end)["table"]["value"]["headers"] == [
            "File", "Sex", "Age (months)", "Years and months", "Notes",
        ]  # fmt: skip
        assert named(end)["table"]["datatype"] == ["str", "str", "number", "str", "str"]

    def test_cancel_keeps_what_is_done(self, tiny: Predictor, films: list[str]) -> None:
        visit = Visit(wanted=True)
        updates = []
        for update in batch.run_files(tiny, visit, films, None, "F"):
            updates.append(named(update))
            if "4 of 9" in updates[-1]["progress"]:
                assert not batch.cancel(visit)["interactive"]
        end = updates[-1]
        assert "Stopped after 8 of 9" in end["progress"]
        assert len(end["table"]["value"]["data"]) == 8
        assert "Download as CSV" in end["downloads"]
        wait_for_readers()

    def test_cancel_before_its_turn(self, tiny: Predictor, films: list[str]) -> None:
        visit = Visit()
        batch.begin(visit)
        batch.cancel(visit)
        (end,) = batch.run_files(tiny, visit, films, None, "F")
        assert "cancelled" in named(end)["progress"]
        assert named(end)["start"]["interactive"]

    def test_closing_stops_the_work(self, tiny: Predictor, films: list[str]) -> None:
        many = films * 30
        running = batch.run_files(tiny, Visit(wanted=True), many, None, "F")
        next(running)
        assert "4 of 270" in named(next(running))["progress"]
        assert readers()
        running.close()  # what Gradio does when the browser's tab is closed
        wait_for_readers()

    def test_nothing_given_is_explained(self, tiny: Predictor) -> None:
        (end,) = batch.run_files(tiny, Visit(wanted=True), None, None, "")
        assert "No file was given" in named(end)["progress"]
        assert named(end)["start"]["interactive"]

    def test_example_has_reference_ages(self, tiny: Predictor) -> None:
        given = batch.example(tiny)
        assert len(given.items) == batch.EXAMPLES
        assert all(item.reference and item.sex for item in given.items)
        assert {item.sex for item in given.items} == {"F", "M"}


class TestGather:
    def test_zip_and_files(self, films: list[str], tmp_path: Path) -> None:
        path = tmp_path / "films.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(films[0], "../one.webp")
            archive.writestr("__MACOSX/._one.webp", b"junk")
        given = batch.gather([str(path), films[1]], None, "girl")
        assert [item.source.file for item in given.items] == ["one.webp", Path(films[1]).name]
        assert {item.sex for item in given.items} == {"F"}

    def test_junk_is_left_out(self, films: list[str], tmp_path: Path) -> None:
        junk = tmp_path / "Thumbs.db"
        junk.write_bytes(b"junk")
        given = batch.gather([str(junk), films[0]], None, "F")
        assert [item.source.file for item in given.items] == [Path(films[0]).name]
        with pytest.raises(InputError, match="no radiograph among the files"):
            batch.gather([str(junk)], None, "F")

    def test_limits(
        self, films: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(batch, "MAX_FILES", 8)
        with pytest.raises(InputError, match="more than 8 files"):
            batch.gather(films, None, "F")
        monkeypatch.setattr(batch, "MAX_BYTES", 2**10)
        with pytest.raises(InputError, match="GB in all"):
            batch.gather(films[:2], None, "F")

    def test_what_is_wrong_is_named(self, films: list[str], tmp_path: Path) -> None:
        table = tmp_path / "sexes.csv"
        table.write_text("id,sex\n1,F\n")
        for arguments, reason in (
            ((films, str(table), ""), "no row for any of the files: its rows are 1;"),
            ((films, None, "diverse"), "'diverse'"),
            ((films, str(tmp_path / "gone.csv"), ""), "deleted within an hour"),
            (([], None, "F"), "No file"),
        ):
            with pytest.raises(InputError, match=reason) as error:
                batch.gather(*arguments)
            assert str(tmp_path) not in str(error.value)


class TestApi:
    def test_answer(self, tiny: Predictor, films: list[str], table: str) -> None:
        answer = batch.assess_files(tiny, films, table, "")
        assert [a["id"] for a in answer["assessments"]] == [
            Path(film).stem for n, film in enumerate(films[:7]) if n != 4
        ]
        reasons = {failure["id"]: failure["reason"] for failure in answer["failures"]}
        assert reasons.keys() == {Path(films[n]).stem for n in (4, 7, 8)} | {"lost"}
        assert "damaged" in reasons[Path(films[4]).stem]
        told = [record["file"] for kind in ("assessments", "failures") for record in answer[kind]]
        assert sorted(told[:-1]) == [Path(film).name for film in films]
        assert told[-1] is None  # of a row without a file
        assert "needs it: F or M" in reasons[Path(films[7]).stem]
        assert answer["summary"]["all"]["n"] == 6
        assert answer["summary"]["unit"] == "months"
        json.dumps(answer)

    def test_without_references_there_is_no_summary(
        self, tiny: Predictor, films: list[str]
    ) -> None:
        assert batch.assess_files(tiny, films[:1], None, "F")["summary"] is None

    def test_refusal(self, tiny: Predictor) -> None:
        with pytest.raises(gr.Error, match="No file"):
            batch.assess_files(tiny, None, None, "F")


def test_a_table_cannot_write_into_the_page(
    tiny: Predictor, films: list[str], tmp_path: Path
) -> None:
    evil = tmp_path / "evil.csv"
    evil.write_text("<img src=x onerror=alert(1)>,foo\n1,2\n")
    visit = batch.Visit(wanted=True)
    (shown,) = batch.run_files(tiny, visit, films[:1], str(evil), "F")
    told = [part for part in map(str, shown) if "onerror" in part]
    assert len(told) == 2  # the card and what is announced
    assert not any("<img" in part for part in told)


class TestCards:
    def test_csv_begins_no_formula(self) -> None:
        evil = ["=1+1.png", "+1.png", "-1.png", "@SUM(A1).png"]
        cases = [case(file=name, id=name[:-4]) for name in evil]
        cases.append(case(failure="=cmd", age=None, assessment=None, reference=9.0))
        cases.append(case(reference=130.0))
        rows = list(csv.DictReader(io.StringIO(batch_cards.as_csv(cases, "months"))))
        assert [row["file"] for row in rows[:4]] == [f"'{name}" for name in evil]
        assert [row["id"] for row in rows[:4]] == [f"'{name[:-4]}" for name in evil]
        assert rows[4]["failure"] == "'=cmd"
        assert rows[5]["difference_months"] == "-10.0"
        assert rows[5]["age"] == "10 y 0 m"
        assert rows[5]["revision"] == "0123"
        assert rows[5]["low_months"] == rows[5]["coverage"] == ""

    def test_prediction_intervals(self) -> None:
        interval = {"low": 110.26, "high": 129.84, "coverage": 0.9}
        model = {"id": "w", "revision": "0123"}
        cases = [case(assessment={"model": model, "interval": interval}), case(assessment=None)]
        (row, without) = csv.DictReader(io.StringIO(batch_cards.as_csv(cases, "months")))
        assert (row["low_months"], row["high_months"], row["coverage"]) == ("110.3", "129.8", "0.9")
        assert without["low_months"] == ""
        table = batch_cards.table(cases, "months")
        place = table["headers"].index("90 % interval (months)")
        assert [row[place] for row in table["data"]] == ["110.3 to 129.8", ""]

    def test_ages_are_sorted_as_numbers_and_shown_with_one_decimal(self) -> None:
        table = batch_cards.table([case(age=120.0, reference=99.0), case(age=None)], "months")
        assert [row[2] for row in table["data"]] == [120.0, None]
        shown = table["metadata"]["display_value"]
        assert [row[2] for row in shown] == ["120.0", ""]
        assert shown[0][4:6] == ["99.0", "21.0"]

    def test_downloads_hold_the_results(self) -> None:
        cases = [case(file="Jörg.png", reference=130.0)]
        html = batch_cards.downloads(cases, "months", ["lost"])
        table, answer = (
            base64.b64decode(data).decode("utf-8-sig")
            for data in re.findall(r"base64,([^\"]+)", html)
        )
        assert "Jörg.png,1,F,120.0" in table
        found = json.loads(answer)
        assert found["assessments"] == [{"file": "Jörg.png", **(cases[0].assessment or {})}]
        assert found["failures"][0]["id"] == "lost"
        assert found["summary"]["all"]["bias"] == -9.96
        assert batch_cards.downloads([], "months") == ""

    def test_names_are_escaped(self) -> None:
        evil = "<img src=x onerror=alert(1)>"
        html = batch_cards.ended([case(file=evil)], 1, [f"1 file has no row: {evil}."])
        assert "<img" not in html
        assert "&lt;img" in html

    @pytest.mark.parametrize(
        ("elapsed", "done", "words"),
        [
            (5, 0, ""),
            (1, 1, "about 2 minutes left"),
            (10, 50, "less than a minute left"),
            (60, 50, "about 1 minute left"),
        ],
    )
    def test_time_left(self, elapsed: float, done: int, words: str) -> None:
        assert batch_cards.time_left(elapsed, done, 100) == words

    def test_announcements_are_few(self) -> None:
        said = {batch_cards.announcement(done, 2000) for done in range(0, 2001, 4)}
        assert len(said) == 11

    def test_years_and_months_and_sex_in_words(self) -> None:
        (row,) = batch_cards.table([case()], "months")["data"]
        assert row == ["1.png", "Female", 120.0, "10\xa0y\xa00\xa0m", ""]


def test_tab_builds_and_names_its_endpoint(tiny: Predictor) -> None:
    with gr.Blocks(analytics_enabled=False) as page:
        batch.build(tiny)
    endpoints = page.get_api_info()["named_endpoints"]
    assert list(endpoints) == ["/batch"]
    assert [p["label"] for p in endpoints["/batch"]["parameters"]] == ["files", "table", "sex"]
    groups = {fn.concurrency_id for fn in page.fns.values()}
    assert "batch" in groups
    assert "model" not in groups
