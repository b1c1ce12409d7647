"""One page and one browser for all tests of the web page."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

    from boneage.predictor import Predictor

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Far more than needed, so that a slow machine cannot fail a test.
PATIENCE = 60_000  # ms
PHONE = 390  # px


@pytest.fixture(scope="session")
def predictor() -> Predictor:
    """What the page's numbers are compared with; where precision is measured, it could differ."""
    from boneage.predictor import Predictor

    return Predictor.load(precision="fp32")


@pytest.fixture(scope="session")
def served() -> Predictor:
    """The page's own: a test must not use it while the page does."""
    from boneage.predictor import Predictor

    return Predictor.load(precision="fp32")


@pytest.fixture(scope="session")
def adult_predictor(untrained_adult: Path) -> Predictor:
    """What the Adult tab's numbers are compared with."""
    from boneage.predictor import Predictor

    return Predictor.load(untrained_adult, task="adult", precision="fp32")


@pytest.fixture(scope="session")
def trunk_ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A NIfTI file of a body phantom with lungs, 450 mm from head to foot."""
    import nibabel
    import numpy as np

    from benchmarks.phantom import axial_slices

    spacing = (5.0, 4.0, 4.0)  # from head to feet, front to back, right to left
    hu = np.stack(list(axial_slices((90, 64, 90), spacing, lungs=(40.0, 320.0))))
    path = tmp_path_factory.mktemp("ct") / "trunk.nii.gz"
    affine = np.diag([*(-mm for mm in reversed(spacing)), 1])
    nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0), affine), path)
    return path


@pytest.fixture(scope="session")
def server(served: Predictor, untrained_adult: Path) -> Iterator[str]:
    """Address of the page."""
    from boneage.webui import page
    from boneage.webui.regions import Regions

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    blocks = page.build(served, Regions({"whole": untrained_adult}, "fp32"))
    yield page.launch(blocks, "127.0.0.1", port, block=False)
    blocks.close(verbose=False)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    if not shutil.which(CHROMIUM):
        pytest.fail("These tests need Chromium: apt-get install chromium", pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PATIENCE)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, server: str) -> Iterator[Page]:
    """The page, open; fails a test in which it asks any other host or reports a script error."""
    page = context.new_page()
    foreign: list[str] = []
    errors: list[str] = []
    page.on(
        "request",
        lambda request: (
            foreign.append(request.url)
            if not request.url.startswith((server, "data:", "blob:"))
            else None
        ),
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server)
    page.wait_for_selector("button.example")
    yield page
    page.close()
    assert foreign == []
    assert errors == []


@pytest.fixture
def phone(browser: Browser, server: str) -> Iterator[Page]:
    """The page on a phone."""
    context = browser.new_context(viewport={"width": PHONE, "height": 844})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(server)
    page.wait_for_selector("button.example")
    yield page
    context.close()


@pytest.fixture
def fits(phone: Page) -> Callable[[str], None]:
    """Asserts that the phone shows these elements in full, in both themes, without scrolling."""

    def fits(selector: str) -> None:
        for theme in ("light", "dark"):
            phone.emulate_media(color_scheme=theme)
            phone.wait_for_selector(f"body{'.dark' if theme == 'dark' else ':not(.dark)'}")
            assert phone.evaluate("document.documentElement.scrollWidth") <= PHONE
            for element in phone.locator(selector).all():
                box = element.bounding_box()
                assert box
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= PHONE

    return fits
