"""The page as a visitor sees it, in headless Chromium, with the released weights."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from boneage import datasets, images

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from boneage.predictor import Assessment, Predictor

AGE = "#hand-result data"
# Notes every moment at which a result stands beside another radiograph's card.
WATCH = """() => {
  window.mismatches = [];
  new MutationObserver(() => {
    const given = document.querySelector("#hand-given strong")?.textContent;
    const shown = document.querySelector("#hand-result [data-turn]:not([hidden])");
    const result = shown?.querySelector("a.download")?.download;
    if (result && result !== `${given}.json`) window.mismatches.push([given, result]);
  }).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""


@pytest.fixture(scope="session")
def full_size(rsna_fullsize_dir: Path) -> Path:
    return rsna_fullsize_dir / "images" / "1380.png"


@pytest.fixture(scope="session")
def small(rsna_test_dir: Path) -> Path:
    return rsna_test_dir / "images" / "4360.webp"


def expected(predictor: Predictor, path: Path, sex: str) -> Assessment:
    (assessment,) = predictor.assess(images.read(path), sex)
    return assessment


def give(page: Page, path: Path) -> None:
    page.set_input_files("#hand-file input[type=file]", path)
    page.wait_for_selector(f"#hand-given strong:text-is('{path.stem}')")


def choose(page: Page, sex: str) -> None:
    page.get_by_label(sex, exact=True).check()


def shown_age(page: Page, sex: str) -> float:
    page.wait_for_selector(f"#hand-result strong:text-is('{sex.lower()}')")
    return float(page.get_attribute(AGE, "value") or "nan")


def checked(page: Page) -> list[str]:
    return [s for s in ("Female", "Male") if page.get_by_label(s, exact=True).is_checked()]


def test_page_api_and_predictor_give_one_age(
    page: Page, server: str, predictor: Predictor, full_size: Path
) -> None:
    from gradio_client import Client, handle_file

    assessment = expected(predictor, full_size, "F")
    give(page, full_size)
    assert page.locator(AGE).count() == 0  # the sex is missing
    choose(page, "Female")
    assert shown_age(page, "Female") == pytest.approx(assessment.age, abs=0.01)
    for i in range(1, 4):
        assert page.get_by_role("rowheader", name=f"R{i} part {i}").is_visible()

    client = Client(server, verbose=False)
    answer = client.predict(handle_file(full_size), "F", api_name="/hand")
    assert answer["age"] == pytest.approx(assessment.age, abs=0.01)
    assert answer.keys() == assessment.to_dict().keys()
    client.close()


def test_sex_chosen_first_and_changed_later(page: Page, predictor: Predictor, small: Path) -> None:
    choose(page, "Female")
    give(page, small)
    female = shown_age(page, "Female")
    choose(page, "Male")
    assert shown_age(page, "Male") == pytest.approx(expected(predictor, small, "M").age, abs=0.01)
    assert female == pytest.approx(expected(predictor, small, "F").age, abs=0.01)


def test_changes_in_quick_succession_end_in_the_last(
    page: Page, predictor: Predictor, small: Path
) -> None:
    give(page, small)
    for sex in ("Female", "Male", "Female", "Male", "Female"):
        choose(page, sex)
    age = expected(predictor, small, "F").age
    # Results of the choices before may be seen on the way, so it has to stay for a while.
    page.wait_for_function(
        f"""() => {{
          const right = Math.abs(document.querySelector('{AGE}')?.value - {age}) < 0.01
            && !document.querySelector('#hand-result .busy');
          window.since = right ? (window.since ?? Date.now()) : undefined;
          return right && Date.now() - window.since > 1500;
        }}"""
    )
    assert shown_age(page, "Female") == pytest.approx(age, abs=0.01)


def test_example(page: Page, predictor: Predictor, rsna_test_dir: Path) -> None:
    page.click("button.example >> nth=1")
    page.wait_for_selector(AGE)
    case = next(
        case
        for case in datasets.load(rsna_test_dir).cases
        if case.id == page.inner_text("#hand-given strong")
    )
    assert checked(page) == [{"F": "Female", "M": "Male"}[case.sex or ""]]
    assessment = expected(predictor, case.path, case.sex or "")
    assert float(page.get_attribute(AGE, "value") or "nan") == pytest.approx(
        assessment.age, abs=0.01
    )
    assert f"{case.age:.1f} months" in page.inner_text("#hand-given")


def test_dicom_offers_sex_and_age(
    page: Page, predictor: Predictor, small: Path, tmp_path: Path
) -> None:
    path = tmp_path / "film.dcm"
    write_dicom(path, images.read(small).pixels)
    give(page, path)
    page.wait_for_selector(AGE)
    assert checked(page) == ["Female"]
    assert "from the file" in page.inner_text("#hand-sex")
    assert "10.3 years at examination" in page.inner_text("#hand-given")
    assert "DICOM" in page.inner_text("#hand-given")
    assert shown_age(page, "Female") == pytest.approx(expected(predictor, path, "F").age, abs=0.01)
    give(page, small)  # the sex was the file's, so it goes with it
    page.wait_for_selector("text=Choose the sex")
    assert checked(page) == []
    assert page.locator(AGE).count() == 0


def write_dicom(path: Path, pixels: np.ndarray) -> None:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    film.SOPClassUID = meta.MediaStorageSOPClassUID
    film.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    film.Modality = "CR"
    film.PatientName = "Unread^Name"
    film.PatientSex = "F"
    film.PatientAge = "124M"
    film.Rows, film.Columns = pixels.shape
    film.SamplesPerPixel = 1
    film.PhotometricInterpretation = "MONOCHROME2"
    film.BitsAllocated = film.BitsStored = 8
    film.HighBit = 7
    film.PixelRepresentation = 0
    film.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
    film.save_as(path, enforce_file_format=True)


def test_refused_file_is_explained_and_the_page_goes_on(
    page: Page, small: Path, tmp_path: Path
) -> None:
    page.click("button.example >> nth=0")
    page.wait_for_selector(AGE)
    text = tmp_path / "letter.txt"
    text.write_text("Not a radiograph.\n")
    page.set_input_files("#hand-file input[type=file]", text)
    page.wait_for_selector("#hand-result .problem")
    explanation = page.inner_text("#hand-result")
    assert "text file" in explanation
    assert "DICOM" in explanation
    assert str(tmp_path) not in explanation
    assert page.locator(AGE).count() == 0
    assert page.locator("#hand-given img").count() == 0
    give(page, small)
    choose(page, "Male")
    assert shown_age(page, "Male") > 0


def test_file_over_the_limit_is_explained(page: Page, small: Path, tmp_path: Path) -> None:
    page.click("button.example >> nth=0")
    page.wait_for_selector(AGE)
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(images.MAX_BYTES + 1)
    page.set_input_files("#hand-file input[type=file]", tmp_path / "large.png")
    page.wait_for_selector("#hand-result :text('larger than 64 MB')")
    assert page.locator(AGE).count() == 0
    give(page, small)


def test_no_result_beside_another_radiograph(
    page: Page, predictor: Predictor, small: Path, full_size: Path
) -> None:
    page.evaluate(WATCH)
    choose(page, "Male")
    give(page, small)
    shown_age(page, "Male")
    give(page, full_size)
    choose(page, "Male")
    page.wait_for_selector(f"a.download[download='{full_size.stem}.json']")
    assert shown_age(page, "Male") == pytest.approx(
        expected(predictor, full_size, "M").age, abs=0.01
    )
    # Given while the one before is still being assessed.
    for path in (small, full_size, small):
        give(page, path)
        choose(page, "Male")
    page.wait_for_selector(f"a.download[download='{small.stem}.json']")
    page.wait_for_timeout(1000)
    assert page.inner_text("#hand-given strong") == small.stem
    assert page.locator(f"a.download[download='{small.stem}.json']").count() == 1
    assert page.evaluate("window.mismatches") == []


@pytest.mark.parametrize("late", ["result", "another", "removed"])
def test_a_late_result_is_not_shown(page: Page, small: Path, late: str) -> None:
    choose(page, "Male")
    give(page, small)
    shown_age(page, "Male")
    page.evaluate(
        """(late) => {
          if (late === "removed") return document.querySelector("#hand-given [data-turn]").remove();
          const result = document.querySelector("#hand-result [data-turn]");
          const earlier = document.querySelector("#hand-given [data-turn]").dataset.turn - 1;
          if (late === "another") return (result.dataset.turn = earlier); // changed in its place
          result.outerHTML = result.outerHTML.replace(/data-turn="\\d+"/, `data-turn="${earlier}"`);
        }""",
        late,
    )
    page.wait_for_selector(AGE, state="hidden")
    page.get_by_label("Female", exact=True).check()
    if late != "removed":
        shown_age(page, "Female")


def test_remove_clears_everything(page: Page) -> None:
    page.click("button.example >> nth=2")
    page.wait_for_selector(AGE)
    page.click("#hand-remove")
    page.wait_for_selector("text=Give a radiograph")
    assert page.locator(AGE).count() == 0
    assert page.locator("#hand-given img").count() == 0
    assert checked(page) == []
    assert not page.locator("#hand-remove").is_visible()


def paste(page: Page, path: Path) -> None:
    page.evaluate(
        """(content) => {
          const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
          const clipboard = new DataTransfer();
          clipboard.items.add(new File([bytes], "pasted.webp", { type: "image/webp" }));
          document.body.dispatchEvent(
            new ClipboardEvent("paste", { clipboardData: clipboard, bubbles: true })
          );
        }""",
        base64.b64encode(path.read_bytes()).decode(),
    )


def test_paste(page: Page, small: Path) -> None:
    paste(page, small)
    page.wait_for_selector("#hand-given strong:text-is('pasted')")


def test_drop(page: Page, small: Path) -> None:
    transfer = page.evaluate_handle(
        """(content) => {
          const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
          const data = new DataTransfer();
          data.items.add(new File([bytes], "dropped.webp", { type: "image/webp" }));
          return data;
        }""",
        base64.b64encode(small.read_bytes()).decode(),
    )
    page.dispatch_event("#hand-file button", "drop", {"dataTransfer": transfer})
    page.wait_for_selector("#hand-given strong:text-is('dropped')")


def test_keyboard_alone(page: Page) -> None:
    page.focus("button.example >> nth=0")
    page.keyboard.press("Enter")
    page.wait_for_selector(AGE)
    other = next(s for s in ("Female", "Male") if s not in checked(page))
    page.get_by_label(other, exact=True).focus()
    page.keyboard.press("Space")
    shown_age(page, other)
    slider = page.get_by_label("Heat map opacity")
    slider.focus()
    before = slider.input_value()
    page.keyboard.press("ArrowRight")
    assert int(slider.input_value()) > int(before)


def test_opacity_changes_the_picture(page: Page) -> None:
    page.click("button.example >> nth=3")
    slider = page.get_by_label("Heat map opacity")
    pictures = []
    for opacity in ("0", "100"):
        slider.fill(opacity)
        pictures.append(page.locator(".picture:has(.over)").screenshot())
        assert f"{opacity} %" in page.inner_text(".slider")
    assert pictures[0] != pictures[1]


def test_download_is_the_assessment(
    page: Page, predictor: Predictor, small: Path, tmp_path: Path
) -> None:
    give(page, small)
    choose(page, "Female")
    with page.expect_download() as download:
        page.click("text=Download as JSON")
    assert download.value.suggested_filename == "4360.json"
    download.value.save_as(tmp_path / "assessment.json")
    answer = json.loads((tmp_path / "assessment.json").read_text())
    assert_same(answer, expected(predictor, small, "F").to_dict())


def assert_same(answer: Any, reference: Any) -> None:
    """Equal, numbers up to the last digit that is written."""
    if isinstance(reference, dict):
        assert answer.keys() == reference.keys()
        for key, value in reference.items():
            assert_same(answer[key], value)
    elif isinstance(reference, list):
        assert len(answer) == len(reference)
        for mine, other in zip(answer, reference, strict=True):
            assert_same(mine, other)
    elif isinstance(reference, float):
        assert answer == pytest.approx(reference, abs=0.11)
    else:
        assert answer == reference


def test_fits_a_phone(phone: Page, fits: Callable[[str], None]) -> None:
    fits(".card")
    phone.click("button.example >> nth=4")
    phone.wait_for_selector(AGE)
    fits(".card")


def test_every_picture_and_control_has_a_name(page: Page) -> None:
    page.click("button.example >> nth=5")
    page.wait_for_selector(AGE)
    page.get_by_text("Chronological age", exact=True).click()
    page.get_by_text("Turn, crop, invert").click()
    page.wait_for_selector("#hand-crop-left:visible")
    for role in ("button", "radio", "slider", "link", "textbox", "spinbutton", "checkbox", "tab"):
        for control in page.get_by_role(role).all():
            assert control.aria_snapshot().partition('"')[2], control
    evidence = page.locator("#hand-result .evidence img:not([alt=''])")
    assert evidence.count() == 2
    assert page.locator("#hand-result .neighbours img[alt^='The radiograph']").count() == 5
    assert "R3: " in (evidence.first.get_attribute("alt") or "")


def test_visitors_do_not_see_each_other(browser: Browser, server: str, page: Page) -> None:
    page.click("button.example >> nth=0")
    page.wait_for_selector(AGE)
    other = browser.new_page()
    other.goto(server)
    other.wait_for_selector("button.example", timeout=60_000)
    assert other.locator(AGE).count() == 0
    assert other.locator("#hand-given img").count() == 0
    other.close()


def test_api(server: str, tmp_path: Path, small: Path) -> None:
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(server, verbose=False)
    api = client.view_api(print_info=False, return_format="dict")
    assert list(api["named_endpoints"]) == ["/hand", "/batch", "/adult"]
    text = tmp_path / "letter.txt"
    text.write_text("Not a radiograph.\n")
    with pytest.raises(AppError, match="text file"):
        client.predict(handle_file(text), "F", api_name="/hand")
    with pytest.raises(AppError, match="missing"):
        client.predict(handle_file(small), "", api_name="/hand")
    with pytest.raises(AppError, match="'diverse'"):
        client.predict(handle_file(small), "diverse", api_name="/hand")
    client.close()


def test_api_without_sex_takes_the_files_own(
    server: str, predictor: Predictor, tmp_path: Path, small: Path
) -> None:
    from gradio_client import Client, handle_file

    path = tmp_path / "film.dcm"
    write_dicom(path, images.read(small).pixels)
    client = Client(server, verbose=False)
    answer = client.predict(handle_file(path), api_name="/hand")
    assert answer["sex"] == "F"
    assert answer["age"] == pytest.approx(expected(predictor, small, "F").age, abs=0.01)
    client.close()


def test_unforeseen_failure_is_no_endless_wait(
    page: Page, served: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(served, "assess", fail)
    page.click("button.example >> nth=0")
    page.wait_for_selector("#hand-result .problem")
    assert "try again" in page.inner_text("#hand-result")
    assert "secret" not in page.inner_text("body")


def test_api_reads_uploaded_files_only(server: str, small: Path) -> None:
    import httpx

    file = {"path": str(small), "meta": {"_type": "gradio.FileData"}}
    answer = httpx.post(f"{server}gradio_api/call/hand", json={"data": [file, "F"]})
    assert answer.status_code == 400
    assert "event_id" not in answer.text


ADULT_AGE = "#adult-result data"
ADULT_FILE = "#adult-file input[type=file]"


@pytest.fixture
def adult_page(page: Page) -> Page:
    """The page with the Adult tab open."""
    page.get_by_role("tab", name="Adult").click()
    page.wait_for_selector(ADULT_FILE, state="attached")
    page.wait_for_selector("button.example:visible:has-text('CT')")
    return page


def assess_example(page: Page, number: int = 5) -> None:
    page.click(f"button.example:visible >> nth={number}")
    page.wait_for_selector(ADULT_AGE)


def test_adult_page_api_and_predictor_give_one_age(
    adult_page: Page, server: str, adult_predictor: Predictor, nih_fullsize_dir: Path
) -> None:
    from gradio_client import Client, handle_file

    assess_example(adult_page)
    assert adult_page.inner_text("#adult-given strong") == "00002819_000"
    assert "54 years" in adult_page.inner_text("#adult-given")
    assert "9.90 years" in adult_page.inner_text("#adult-result")
    path = nih_fullsize_dir / "images" / "00002819_000.png"
    (assessment,) = adult_predictor.assess(adult_predictor.read(path))
    shown = float(adult_page.get_attribute(ADULT_AGE, "value") or "nan")
    assert shown == pytest.approx(assessment.age, abs=0.01)

    client = Client(server, verbose=False)
    answer = client.predict(handle_file(path), api_name="/adult")
    assert answer["age"] == pytest.approx(assessment.age, abs=0.01)
    assert answer.keys() == assessment.to_dict().keys()
    client.close()


def test_adult_ct_is_projected_and_told_apart(
    adult_page: Page, adult_predictor: Predictor, trunk_ct: Path
) -> None:
    adult_page.set_input_files(ADULT_FILE, trunk_ct)
    adult_page.wait_for_selector("#adult-given strong:text-is('trunk')")
    assert "CT, NIfTI" in adult_page.inner_text("#adult-given")
    assert "trained on real chest radiographs, not on CT" in adult_page.inner_text("#adult-result")
    (assessment,) = adult_predictor.assess(adult_predictor.read(trunk_ct))
    shown = float(adult_page.get_attribute(ADULT_AGE, "value") or "nan")
    assert shown == pytest.approx(assessment.age, abs=0.01)


def test_adult_ct_without_a_thorax_is_shown_and_refused(adult_page: Page) -> None:
    assess_example(adult_page)
    adult_page.click("button.example:visible:has-text('CT')")
    adult_page.wait_for_selector("#adult-result :text('no thorax')")
    assert adult_page.locator(ADULT_AGE).count() == 0
    assert adult_page.locator("#adult-result img").count() == 1
    assert adult_page.locator("#adult-given img").count() == 1


def test_adult_refused_file_clears_the_result(adult_page: Page, tmp_path: Path) -> None:
    assess_example(adult_page)
    text = tmp_path / "letter.txt"
    text.write_text("Not a radiograph.\n")
    adult_page.set_input_files(ADULT_FILE, text)
    adult_page.wait_for_selector("#adult-result :text('text file')")
    assert adult_page.locator(ADULT_AGE).count() == 0
    assert adult_page.locator("#adult-given img").count() == 0


def test_adult_file_over_the_limit_is_explained(adult_page: Page, tmp_path: Path) -> None:
    from boneage.webui import adult

    assess_example(adult_page)
    with (tmp_path / "large.nii").open("wb") as file:
        file.truncate(adult.MAX_BYTES + 1)
    adult_page.set_input_files(ADULT_FILE, tmp_path / "large.nii")
    adult_page.wait_for_selector("#adult-result :text('larger than 1 GB')")
    assert adult_page.locator(ADULT_AGE).count() == 0


def test_adult_and_hand_keep_their_state(adult_page: Page, small: Path) -> None:
    hand, adult = (adult_page.get_by_role("tab", name=name) for name in ("Hand", "Adult"))
    hand.click()
    give(adult_page, small)
    choose(adult_page, "Male")
    age = shown_age(adult_page, "Male")
    adult.click()
    assess_example(adult_page)
    adult_page.click("#adult-remove")
    adult_page.wait_for_selector("#adult-result :text('Give a chest radiograph')")
    assert adult_page.locator("#adult-given img").count() == 0
    hand.click()
    assert shown_age(adult_page, "Male") == age
    assert adult_page.inner_text("#hand-given strong") == small.stem
    assert checked(adult_page) == ["Male"]


def test_adult_paste_goes_to_the_open_tab(adult_page: Page, small: Path) -> None:
    paste(adult_page, small)
    adult_page.wait_for_selector("#adult-given strong:text-is('pasted')")
    assert adult_page.locator("#hand-given img").count() == 0


def test_adult_keyboard_names_and_download(adult_page: Page, tmp_path: Path) -> None:
    adult_page.focus("button.example:visible >> nth=0")
    adult_page.keyboard.press("Enter")
    adult_page.wait_for_selector(ADULT_AGE)
    slider = adult_page.get_by_label("Heat map opacity")
    slider.focus()
    before = slider.input_value()
    adult_page.keyboard.press("ArrowRight")
    assert int(slider.input_value()) > int(before)
    for role in ("button", "radio", "slider", "link"):
        for control in adult_page.get_by_role(role).all():
            assert control.aria_snapshot().partition('"')[2], control
    with adult_page.expect_download() as download:
        adult_page.click("text=Download as JSON >> visible=true")
    download.value.save_as(tmp_path / "assessment.json")
    answer = json.loads((tmp_path / "assessment.json").read_text())
    assert (answer["id"], answer["task"], answer["unit"]) == ("00001807_000", "adult", "years")


def test_adult_fits_a_phone(phone: Page, fits: Callable[[str], None]) -> None:
    phone.get_by_role("tab", name="Adult").click()
    phone.wait_for_selector("button.example:visible:has-text('CT')")
    assess_example(phone)
    fits(".card:visible")
