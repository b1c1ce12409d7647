"""The Batch tab as a visitor sees it, in headless Chromium, with the released weights."""

from __future__ import annotations

import csv
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from boneage import datasets, images
from boneage.webui import batch

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from boneage.predictor import Predictor

FILES = "#batch-file input[type=file]"
DONE = "#batch-progress .done"


@pytest.fixture
def batch_page(page: Page) -> Page:
    """The page with the Batch tab open."""
    return opened(page)


def opened(page: Page) -> Page:
    page.get_by_role("tab", name="Batch").click()
    page.wait_for_selector(FILES, state="attached")
    return page


@pytest.fixture
def films(tmp_path: Path, rsna_test_dir: Path) -> list[Path]:
    """Five radiographs, one that is broken, and one whose name would be a formula and a script."""
    paths = [
        Path(shutil.copy(rsna_test_dir / "images" / f"{id}.webp", tmp_path))
        for id in range(4360, 4365)
    ]
    paths[2].write_bytes(b"\x89PNG\r\n\x1a\n broken")
    name = "=SUM(1)&<b onmouseover=alert(1)>.webp"
    paths.append(Path(shutil.copy(paths[0], tmp_path / name)))
    return paths


def give(page: Page, paths: list[Path]) -> None:
    page.set_input_files(FILES, paths)
    page.wait_for_selector(f"#batch-file :text-matches('{paths[0].stem}')")


def start(page: Page) -> None:
    page.click("#batch-start")


def test_one_broken_file_among_good_ones(
    batch_page: Page, predictor: Predictor, films: list[Path], tmp_path: Path, rsna_test_dir: Path
) -> None:
    sexes = {case.id: case for case in datasets.load(rsna_test_dir).cases}
    table = tmp_path / "sexes.csv"
    table.write_text(
        "id;Sex;BoneAge\n"
        + "".join(f"{n};{sexes[n].sex};{sexes[n].age}\n" for n in map(str, range(4360, 4365)))
    )
    give(batch_page, films)
    batch_page.set_input_files("#batch-table input[type=file]", table)
    batch_page.wait_for_selector("#batch-table :text-matches('sexes')")
    batch_page.locator("#batch-sex").get_by_label("Male", exact=True).check()
    start(batch_page)
    batch_page.wait_for_selector(DONE)
    said = batch_page.inner_text("#batch-progress")
    assert "5 assessed, 1 not" in said
    assert "1 file has no row in the table" in said
    announced = batch_page.inner_text("#batch-announced [aria-live=polite]")
    assert announced == "6 of 6 files done, 1 of them not assessed."
    results = batch_page.inner_text("#batch-results")
    assert "Not assessed: The PNG file is damaged" in results
    assert "4360.webp" in results
    assert batch_page.locator("#batch-results b[onmouseover]").count() == 0
    assert "All\t4\t" in batch_page.inner_text("#batch-comparison table")
    for picture in batch_page.locator("#batch-comparison img").all():
        assert picture.evaluate("image => image.naturalWidth") > 300
        assert picture.get_attribute("alt")

    for name, kind in (("bone-ages.csv", "CSV"), ("bone-ages.json", "JSON")):
        with batch_page.expect_download() as download:
            batch_page.click(f"#batch-downloads >> text=Download as {kind}")
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
    answer = json.loads((tmp_path / "bone-ages.json").read_text())
    assert [failure["id"] for failure in answer["failures"]] == ["4362"]
    with (tmp_path / "bone-ages.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert any(row["file"].startswith("'=SUM") for row in rows.values())
    (alone,) = predictor.assess(images.read(films[1]), sexes["4361"].sex)
    assert float(rows["4361"]["age_months"]) == pytest.approx(alone.age, abs=0.06)
    assert answer["assessments"][1]["age"] == pytest.approx(alone.age, abs=0.02)


def test_cancel_keeps_what_is_done(
    batch_page: Page, films: list[Path], served: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assess, batches, cancelled = served.assess, [], threading.Event()

    def waiting(*arguments: Any, **options: Any) -> list[Any]:
        batches.append(arguments)
        if len(batches) > 1:
            cancelled.wait(60)
        return assess(*arguments, **options)

    monkeypatch.setattr(served, "assess", waiting)
    monkeypatch.setattr(batch, "BATCH_SIZE", 2)
    good = [film for film in films if film.stem != "4362"]
    give(batch_page, good)
    batch_page.locator("#batch-sex").get_by_label("Female", exact=True).check()
    start(batch_page)
    batch_page.wait_for_selector("#batch-progress :text('2 of 5')")
    assert batch_page.locator("#batch-start").is_disabled()
    batch_page.click("#batch-cancel")
    batch_page.wait_for_selector("#batch-cancel:disabled")
    cancelled.set()
    batch_page.wait_for_selector("#batch-progress :text('Stopped after 4 of 5')")
    assert "4 assessed" in batch_page.inner_text("#batch-progress")
    assert batch_page.locator("#batch-start").is_enabled()
    assert not batch_page.locator("#batch-cancel").is_visible()
    assert batch_page.locator("#batch-downloads a").count() == 2


def test_example_api_and_limits_on_the_page(
    batch_page: Page, server: str, predictor: Predictor, films: list[Path]
) -> None:
    from gradio_client import Client, handle_file

    text = batch_page.inner_text("#batch-progress")
    assert "at most 2,000 files, 1 GB in all, 64 MB each" in text
    batch_page.click("#batch-example")
    batch_page.wait_for_selector(DONE)
    assert "12 assessed" in batch_page.inner_text("#batch-progress")
    assert "Female\t6\t" in batch_page.inner_text("#batch-comparison table")
    client = Client(server, verbose=False)
    given = [handle_file(films[0]), handle_file(films[2])]
    answer = client.predict(given, None, "M", api_name="/batch")
    (alone,) = predictor.assess(images.read(films[0]), "M")
    assert answer["assessments"][0]["age"] == pytest.approx(alone.age, abs=0.02)
    assert [failure["id"] for failure in answer["failures"]] == ["4362"]
    assert answer["summary"] is None
    client.close()


def test_nothing_given_is_explained(batch_page: Page) -> None:
    start(batch_page)
    batch_page.wait_for_selector("#batch-progress :text('No file was given')")
    assert batch_page.locator("#batch-start").is_enabled()


def test_fits_a_phone(phone: Page, fits: Callable[[str], None]) -> None:
    opened(phone)
    phone.click("#batch-example")
    phone.wait_for_selector(DONE)
    phone.wait_for_selector("#batch-comparison img")
    assert_framed(phone)
    fits(".card:visible, #batch-results, #batch-downloads a")
    assert_framed(phone)  # in the dark now
    for role in ("button", "radio", "link"):
        for control in phone.get_by_role(role).all():
            assert control.aria_snapshot().partition('"')[2], control


def assert_framed(page: Page) -> None:
    """No picture of the comparison is wider than its frame."""
    for picture in page.locator("#batch-comparison img").all():
        frame = picture.locator("..").bounding_box()
        box = picture.bounding_box()
        assert frame
        assert box
        assert frame["x"] <= box["x"]
        assert box["x"] + box["width"] <= frame["x"] + frame["width"]
