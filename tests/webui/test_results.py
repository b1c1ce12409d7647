"""The Results tab: what the bundled evaluation says, and what is served of it."""

from __future__ import annotations

import json
import re
import shutil
from html import unescape
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from boneage import bundled
from boneage.webui import results
from boneage.wording import as_published

TABLES = ("A1", "A2", "A3", "B1", "B2", "B3", "B4", *(f"S{i}" for i in range(1, 10)))


@pytest.fixture(scope="module")
def folder(repo_root: Path) -> Path:
    return repo_root / "results"


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return results.page(folder)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The evaluation's small files, for tests that damage them."""
    for name in (results.TABLES, results.RUN):
        shutil.copy(folder / name, tmp_path)
    return tmp_path


@pytest.fixture
def served(copy: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """The routes alone, on a folder beside a secret."""
    shutil.copytree(copy, copy / "results", ignore=lambda *_: ["results"])
    (copy / "results" / "figures").mkdir()
    (copy / "results" / "figures" / "some.png").write_bytes(b"figure")
    for name in ("secret.txt", "results/cases.csv", "results/assessments.csv"):
        (copy / name).write_text("secret")
    monkeypatch.setattr(bundled, "folder", lambda name: copy / name)
    return TestClient(Starlette(routes=results.routes()))


def rows(page: str) -> list[list[str]]:
    """The texts of all tables' body rows."""
    return [
        [unescape(re.sub("<[^>]+>", "", cell)) for cell in re.findall(r"<td.*?>(.*?)</td>", row)]
        for row in re.findall(r"<tr.*?>(.*?)</tr>", page, re.DOTALL)
    ]


def test_every_table_has_its_heading(page: str) -> None:
    for table in TABLES:
        assert re.search(rf"<h2>{table}\. ", page), table
    assert "<h2>Weights</h2>" in page


def test_every_measured_number_of_the_papers_tables_is_shown(page: str, folder: Path) -> None:
    shown = rows(page)
    records = json.loads((folder / results.RECORDS).read_text())
    for record in (r for r in records if r["table"][0] in "AB"):
        row = next(r for r in shown if r[:2] == [record["row"], record["column"]] and len(r) == 8
                   and r[2] == as_published(record["published"], record["unit"]))  # fmt: skip
        if record["measured"] is None:
            assert row[3:6] == ["-", "", "0"]
        else:
            low, high = record["ci95"]
            measured = [f"{record['measured']:.2f}", f"[{low:.2f}, {high:.2f}]", str(record["n"])]
            assert row[3:6] == measured
            assert row[6] == record["weights"]


def test_recorded_rows_are_marked(page: str, folder: Path) -> None:
    records = json.loads((folder / results.RECORDS).read_text())
    recorded = {r["weights"] for r in records if r["recorded"]}
    assert recorded
    for row in rows(page):
        if len(row) == 8:
            assert (row[6] in recorded) == ("recorded" in row[7])


def test_reasons_are_folded_away(page: str) -> None:
    unfolded = re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL)
    assert "nothing to run" in page
    assert "nothing to run" not in unfolded
    assert "Limits of agreement" in unfolded


def test_command_date_versions_and_hashes(page: str, folder: Path) -> None:
    run = json.loads((folder / results.RUN).read_text())
    assert f"<code>{run['command']}</code> on {run['started'][:10]}" in page
    for name, version in run["versions"].items():
        assert f"{name} {version}" in page
    for part in (*run["weights"], *run["datasets"]):
        assert part["sha256"] in page


def test_figures_are_lazy_named_and_small_in_the_page(page: str, folder: Path) -> None:
    figures = [path.name for path in (folder / "figures").glob("*.png")]
    assert figures
    images = re.findall(r"<img [^>]+>", page)
    assert len(images) == len(figures)
    for image in images:
        assert 'loading="lazy"' in image
        assert re.search(r'width="\d+" height="\d+" alt="[^"]{20,}"', image)
    assert "data:" not in page
    assert len(page) < 150_000


def test_figures_of_further_weights_name_them(copy: Path, folder: Path) -> None:
    (copy / "figures").mkdir()
    further = "figure-2a-rsna-test-other@0123.png"
    shutil.copy(folder / "figures" / "figure-2a.png", copy / "figures" / further)
    page = results.page(copy)
    assert "reference bone age" in page
    assert "(rsna-test-other@0123)" in page
    assert f'src="results/figures/{further.replace("@", "%40")}"' in page


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"started": 3}', '{"started": "today"}'])
def test_tables_without_a_sound_record_of_the_run(copy: Path, damage: str) -> None:
    (copy / results.RUN).write_text(damage)
    page = results.page(copy)
    assert "<h2>A1. " in page
    assert "Made by" not in page


def test_without_results_the_command_is_named(tmp_path: Path) -> None:
    page = results.page(tmp_path / "nothing")
    assert "<code>python -m evaluate --split test</code>" in page
    assert "<table" not in page


def test_no_routes_without_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "folder", lambda name: tmp_path / name)
    assert results.routes() == []


def test_results_are_served(served: TestClient, copy: Path) -> None:
    for name in ("tables.md", "figures/some.png"):
        assert served.get(f"/results/{name}").content == (copy / "results" / name).read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "cases.csv",
        "assessments.csv",
        "run.json",
        "../secret.txt",
        "%2e%2e/secret.txt",
        "..%2fsecret.txt",
        "figures/../../secret.txt",
        "%252e%252e/secret.txt",
        "..%5csecret.txt",
        "/etc/passwd",
        "//etc/passwd",
        "",
    ],
)
def test_nothing_else_is_served(served: TestClient, path: str) -> None:
    answer = served.get(f"/results/{path}")
    assert answer.status_code == 404
    assert "secret" not in answer.text


def test_links_out_of_the_folder_are_not_followed(served: TestClient, copy: Path) -> None:
    (copy / "results" / "link.txt").symlink_to(copy / "secret.txt")
    assert served.get("/results/link.txt").status_code == 404
