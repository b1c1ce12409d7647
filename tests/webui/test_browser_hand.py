"""The Hand tab's controls as a visitor uses them, in headless Chromium."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from boneage import images
from boneage.framing import Framing

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

    from boneage.predictor import Predictor

AGE = "#hand-result data"


@pytest.fixture
def assessed(page: Page) -> Page:
    """The page with an example's result."""
    page.click("button.example >> nth=3")
    page.wait_for_selector(AGE)
    return page


def test_sex_chosen_while_the_film_is_being_read_stays(page: Page, rsna_test_dir: Path) -> None:
    held: list[Route] = []

    def hold_the_first(route: Route) -> None:
        if held:
            route.continue_()
        else:
            held.append(route)

    page.route("**/queue/join*", hold_the_first)
    with page.expect_request("**/queue/join*"):
        page.set_input_files(
            "#hand-file input[type=file]", str(rsna_test_dir / "images" / "4360.webp")
        )
    with page.expect_response("**/queue/join*"):
        page.get_by_label("Male", exact=True).first.check()
    held[0].continue_()
    page.wait_for_selector(AGE)
    assert page.locator("#hand-sex input:checked").get_attribute("value") == "M"


def test_drawn_rectangle_is_what_is_assessed(assessed: Page, predictor: Predictor) -> None:
    page = assessed
    frame, touch = page.locator("#hand-given .frame"), "e => getComputedStyle(e).touchAction"
    assert frame.evaluate(touch) == "auto"  # a finger scrolls
    page.get_by_text("Turn, crop, invert").click()
    page.wait_for_selector("#hand-crop-left:visible")
    assert frame.evaluate(touch) == "none"  # and draws
    film = frame.locator("img")
    film.scroll_into_view_if_needed()
    box = film.bounding_box()
    assert box

    def at(across: float, down: float) -> tuple[float, float]:
        return box["x"] + across * box["width"], box["y"] + down * box["height"]

    page.mouse.move(*at(0.2, 0.1))
    page.mouse.down()
    page.mouse.move(*at(0.9, 0.8), steps=3)
    page.mouse.up()
    page.wait_for_selector("#hand-result h2:text-is('The radiograph has been changed')")
    page.get_by_role("button", name="Assess", exact=True).click()
    shown = float(page.wait_for_selector(AGE).get_attribute("value") or "nan")

    name = page.inner_text("#hand-given strong")
    film_read = images.read(Path("data/rsna-test/images") / f"{name}.webp")
    framed = Framing(left=0.2, top=0.1, right=0.1, bottom=0.2).apply(film_read)
    (assessment,) = predictor.assess(framed, "M")
    # A pixel of the screen is more than one of the film.
    assert shown == pytest.approx(assessment.age, abs=5)
    whole = predictor.assess(film_read, "M")[0].age
    assert whole is not None
    assert abs(shown - whole) > 1e-3


def test_turned_film_is_shown_and_undone(assessed: Page) -> None:
    page = assessed
    page.get_by_text("Turn, crop, invert").click()
    page.get_by_role("button", name="↻ 90°").click()
    page.wait_for_selector("#hand-given :text('turned by 90° clockwise')")
    assert page.locator(AGE).count() == 0
    page.get_by_role("button", name="Reset all").click()
    page.wait_for_selector("#hand-given :text('turned')", state="detached")
    page.get_by_role("button", name="Assess", exact=True).click()
    page.wait_for_selector(AGE)


def test_film_with_dark_bones_is_refused_until_it_is_inverted(
    page: Page, rsna_test_dir: Path, tmp_path: Path
) -> None:
    film = images.read(rsna_test_dir / "images" / "4360.webp")
    dark = tmp_path / "dark.png"
    Image.fromarray(film.pixels.max() - film.pixels).save(dark)
    page.get_by_label("Male", exact=True).check()
    page.set_input_files("#hand-file input[type=file]", str(dark))
    page.wait_for_selector("#hand-result :text('Turn, crop, invert')")
    page.locator("#hand-framing").get_by_text("Turn, crop, invert").click()
    page.get_by_label("Swap black and white").check()
    page.wait_for_selector("#hand-given :text('black and white swapped')")
    page.get_by_role("button", name="Assess", exact=True).click()
    page.wait_for_selector(AGE)


def unfold_chronological_age(page: Page) -> None:
    """Gradio makes the fields now, and what they are to hold reaches them a moment later."""
    page.get_by_text("Chronological age", exact=True).click()
    page.wait_for_timeout(500)


def test_chronological_age_comes_and_goes_with_the_film(assessed: Page) -> None:
    page = assessed
    unfold_chronological_age(page)
    page.get_by_label("Or the age at examination, years").fill("9.5")
    page.keyboard.press("Tab")
    page.wait_for_selector("#hand-result .comparison:has-text('9 years')")
    page.click("button.example >> nth=1")
    page.wait_for_selector("#hand-result .comparison", state="detached")
    page.wait_for_selector(AGE)
    assert page.get_by_label("Or the age at examination, years").input_value() == ""
    assert page.locator("#hand-result .comparison").count() == 0


def test_a_date_that_cannot_be_read_is_no_date(assessed: Page) -> None:
    page = assessed
    unfold_chronological_age(page)
    page.get_by_label("Date of birth").fill("2003-02-01")
    page.get_by_label("Date of examination").fill("2015-03-01")
    page.keyboard.press("Tab")
    page.wait_for_selector("#hand-result .comparison:has-text('12 years')")
    page.get_by_label("Date of birth").fill("03.04.2006")
    page.keyboard.press("Tab")
    page.wait_for_selector("#hand-result :text('must be written YYYY-MM-DD')")
    assert page.locator("#hand-result .comparison").count() == 0


def test_note_beside_the_sex_goes_with_its_reason(assessed: Page) -> None:
    page = assessed
    assert page.get_by_text("The example's own.").is_visible()
    page.get_by_label("Female", exact=True).check()
    page.get_by_text("The example's own.").wait_for(state="detached")


def test_picture_zooms_and_moves_by_keyboard_and_button(assessed: Page) -> None:
    page = assessed
    picture = page.locator("#hand-result .picture").first
    level = page.locator("#hand-result .zoom output").first
    before = picture.screenshot()
    picture.press("+")
    assert level.inner_text() == "150 %"
    zoomed = picture.screenshot()
    picture.press("ArrowRight")
    assert before != zoomed != picture.screenshot()
    page.locator("#hand-result .zoom button", has_text="Whole").first.click()
    assert level.inner_text() == "100 %"


def test_what_is_not_chosen_is_hidden(assessed: Page) -> None:
    page = assessed
    for label, part in (
        ("Boxes", "img.boxes"),
        ("Heat map", "img.over"),
        ("Component ages", ".votes"),
    ):
        assert page.locator(f"#hand-result {part}").is_visible()
        page.get_by_label(label, exact=True).uncheck()
        page.wait_for_selector(f"#hand-result {part}", state="hidden")
        page.get_by_label(label, exact=True).check()
        page.wait_for_selector(f"#hand-result {part}")


def test_report_is_downloaded(assessed: Page, tmp_path: Path) -> None:
    page = assessed
    name = page.inner_text("#hand-given strong")
    with page.expect_download() as download:
        page.get_by_role("button", name="PDF report").click()
    assert download.value.suggested_filename == f"{name}.pdf"
    download.value.save_as(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF-")


def test_phone_needs_no_scrolling_sideways(phone: Page) -> None:
    phone.click("button.example >> nth=3")
    phone.wait_for_selector(AGE)
    phone.get_by_text("Turn, crop, invert").click()
    phone.get_by_text("Chronological age", exact=True).click()
    phone.wait_for_selector("#hand-crop-left:visible")
    assert phone.evaluate("document.documentElement.scrollWidth") == 390
