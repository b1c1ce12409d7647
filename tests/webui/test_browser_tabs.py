"""The tabs of documents as a visitor sees them, in headless Chromium, and a page that is full."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TABS = ("Results", "About")


@pytest.fixture
def errors(page: Page) -> list[str]:
    """What the page writes to the console as an error, from now on."""
    written: list[str] = []
    page.on("console", lambda m: written.append(m.text) if m.type == "error" else None)
    return written


def open_tab(page: Page, name: str) -> None:
    tab = page.get_by_role("tab", name=name)
    if tab.is_visible():
        tab.click()
    else:  # where the row is too narrow for all
        page.click(".overflow-menu > button")
        page.click(f".overflow-dropdown button:has-text('{name}')")
    page.wait_for_selector(f"#{name.lower()} .document", state="visible")


def test_results_show_tables_and_load_figures_when_seen(page: Page, errors: list[str]) -> None:
    loaded: list[str] = []
    page.on("response", lambda r: loaded.append(f"{r.status}") if "/figures/" in r.url else None)
    open_tab(page, "Results")
    assert page.get_by_role("heading", name="A2. AR-CNN").is_visible()
    assert page.get_by_role("cell", name="7.04").first.is_visible()
    assert loaded == []
    figure = page.locator("#results figure img").first
    figure.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('#results figure img').naturalWidth > 1000")
    assert set(loaded) == {"200"}
    assert errors == []


def test_reasons_unfold(page: Page, errors: list[str]) -> None:
    open_tab(page, "Results")
    reason = page.locator("#results details :text('nothing to run')").first
    assert not reason.is_visible()
    page.locator("#results summary:has-text('Remarks')").first.click()
    assert reason.is_visible()
    assert errors == []


def test_about_unfolds_the_cards(page: Page, errors: list[str]) -> None:
    open_tab(page, "About")
    assert page.get_by_role("heading", name="Privacy").is_visible()
    training = page.locator("#about details h3:has-text('Training')").first
    assert not training.is_visible()
    page.locator("#about summary").first.click()
    assert training.is_visible()
    assert page.get_by_role("link", name="ChestXray-NIHCC").first.is_visible()
    assert errors == []


def test_wide_tables_scroll_in_their_own_box(phone: Page, fits: Callable[[str], None]) -> None:
    for name in TABS:
        open_tab(phone, name)
        fits(f"#{name.lower()} .card")
    open_tab(phone, "Results")
    table = phone.locator("#results .scroll").first
    assert table.evaluate("box => box.scrollWidth > box.clientWidth")
    table.focus()
    phone.keyboard.press("ArrowRight")
    phone.wait_for_function("document.querySelector('#results .scroll').scrollLeft > 0")


def test_text_and_figures_can_be_read_in_either_theme(phone: Page) -> None:
    open_tab(phone, "Results")
    for theme, body in (("light", "body:not(.dark)"), ("dark", "body.dark")):
        phone.emulate_media(color_scheme=theme)
        phone.wait_for_selector(body)
        paper = phone.locator("#results figure img").first.evaluate(
            "image => getComputedStyle(image).backgroundColor"
        )
        assert paper == "rgb(255, 255, 255)"
        for selector in ("#results td", "#results p", "#results summary", "#results h2"):
            assert contrast(phone, selector) >= 4.5, selector


def test_buttons_and_the_open_tab_can_be_read_in_either_theme(page: Page) -> None:
    page.get_by_role("tab", name="Batch").click()
    start, tab = "button.primary:visible", "button[role=tab][aria-selected=true]"
    for theme, body in (("light", "body:not(.dark)"), ("dark", "body.dark")):
        page.emulate_media(color_scheme=theme)
        page.wait_for_selector(body)
        page.wait_for_timeout(500)  # colours fade
        assert contrast(page, start, start) >= 4.5, theme
        assert contrast(page, tab, "body") >= 4.5, theme
    page.emulate_media(color_scheme="light")


def contrast(page: Page, selector: str, behind: str = ".card") -> float:
    """WCAG 2's contrast of an element's text to what is behind it, or itself."""
    colours = page.locator(selector).first.evaluate(
        "(e, behind) => [getComputedStyle(e).color, "
        "getComputedStyle(e.closest(behind)).backgroundColor]",
        behind.removesuffix(":visible"),
    )
    lighter, darker = sorted(map(luminance, colours), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    """Of ``rgb(r, g, b)``."""
    channels = [int(part) / 255 for part in colour[4:-1].split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_full_page_says_how_many_wait(
    browser: Browser, untrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from boneage.predictor import Predictor
    from boneage.webui import guard, page
    from boneage.webui.regions import Regions

    predictor, go = Predictor.load(untrained), threading.Event()
    assess = predictor.assess

    def wait(*arguments: Any, **options: Any) -> Any:
        go.wait(60)
        return assess(*arguments, **options)

    monkeypatch.setattr(predictor, "assess", wait)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    blocks = page.build(predictor, Regions({}), queue=1)
    url = page.launch(blocks, "127.0.0.1", port, block=False)
    context = browser.new_context()
    context.set_default_timeout(60_000)
    try:
        tabs = [context.new_page() for _ in range(3)]
        for tab in tabs:  # the first is assessed, the second waits
            tab.goto(url)
            tab.click("button.example >> nth=0")
            tab.wait_for_selector("#hand-result .busy, #hand-result .problem, .toast-body")
        sentence = guard.BUSY.format(waiting=1)
        tabs[2].wait_for_selector(f".toast-body:has-text('{sentence}')")
        go.set()
        tabs[0].wait_for_selector("#hand-result data")
    finally:
        go.set()
        context.close()
        blocks.close(verbose=False)
