"""The Adult tab's functions and cards, without a browser."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest

from boneage import bundled, explain, hub, images, volumes
from boneage.errors import InputError
from boneage.images import Radiograph
from boneage.measured import measured_error
from boneage.predictor import NOT_CT, Assessment, Interval, ModelReference, Predictor
from boneage.refusal import NOT_FRONTAL
from boneage.views import PROJECTIONS
from boneage.webui import adult, adult_cards, cards, page, tab
from boneage.webui.regions import Regions

HOSTILE = '<img src=x onerror="alert(1)">'
WHOLE = np.array([0.0, 0, 1, 1])


@pytest.fixture(scope="module")
def upper(untrained_adult: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights, said to be for the upper half."""
    folder = shutil.copytree(untrained_adult, tmp_path_factory.mktemp("weights") / "tiny-upper")
    config = hub.load_config(folder)
    config["preprocess"]["region"] = "upper"
    (folder / hub.CONFIG).write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def regions(untrained_adult: Path, upper: Path) -> Regions:
    return Regions({"upper": upper, "whole": untrained_adult})


@pytest.fixture
def film(nih_fullsize_dir: Path) -> str:
    return str(nih_fullsize_dir / "images" / "00002819_000.png")


@pytest.fixture
def letter(tmp_path: Path) -> str:
    path = tmp_path / "letter.txt"
    path.write_text("Not a radiograph.\n")
    return str(path)


@pytest.fixture
def radiograph() -> Radiograph:
    pixels = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)
    return Radiograph(pixels, HOSTILE, "PNG", "PNG, 48 x 64 px")


@pytest.fixture
def assessment() -> Assessment:
    return Assessment(
        id=HOSTILE,
        task="adult",
        sex=None,
        age=47.26,
        unit="years",
        interval=None,
        components={"X": 47.26, "assembled": 47.26},
        boxes=(),
        warnings=(HOSTILE,),
        refused=None,
        model=ModelReference("weights", "0123"),
        heat_map=np.eye(4, dtype=np.float32),
    )


class TestRegions:
    def test_released_ones_are_found(
        self, untrained_adult: Path, upper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bundled, "folder", lambda _: tmp_path)
        assert Regions.released().names == ()
        shutil.copytree(upper, tmp_path / "a")
        assert Regions.released().names == ("upper",)
        shutil.copytree(untrained_adult, tmp_path / "b")
        assert Regions.released().names == ("whole", "upper")

    def test_weights_are_loaded_when_needed_and_once(
        self, regions: Regions, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loaded = []
        load = Predictor.load
        monkeypatch.setattr(
            Predictor, "load", lambda path, **kw: loaded.append(path) or load(path, **kw)
        )
        fresh = Regions(regions.folders)
        assert loaded == []
        with ThreadPoolExecutor(4) as pool:
            predictors = list(pool.map(fresh.predictor, ["whole", "upper"] * 4))
        assert sorted(loaded) == sorted(regions.folders.values())
        assert len(set(map(id, predictors))) == 2
        assert fresh.predictor("upper").preprocess.region == "upper"

    def test_unknown_region_is_named(self, regions: Regions) -> None:
        with pytest.raises(InputError, match="'middle'; known: whole, upper"):
            regions.predictor("middle")

    def test_projection_of_the_weights(self, regions: Regions) -> None:
        assert regions.projection == "thorax"

    def test_they_refuse_where_all_of_them_do(self, regions: Regions) -> None:
        released = Regions.released()
        assert released.refuses
        assert not regions.refuses
        assert not Regions({**released.folders, "upper": regions.folders["upper"]}).refuses


class TestMeasuredError:
    def record(self, predictor: Predictor, **changes: Any) -> dict[str, Any]:
        return {
            "table": "S1",
            "row": "MAE",
            "column": "all",
            "measured": 6.518,
            "n": 1068,
            "ci95": [6.1, 6.93],
            "unit": "years",
            "dataset": "nih-chest-test/test",
            "weights": f"{predictor.id}@{predictor.revision}",
            **changes,
        }

    def test_on_test_images(self, regions: Regions) -> None:
        predictor = regions.predictor("whole")
        women = self.record(predictor, column="female", measured=5.0)
        paper = self.record(predictor, table="B4", row="female", column="MAE", measured=5.0)
        whole = self.record(predictor)
        own = self.record(predictor, table="S4", row=predictor.id, column="MAE")
        for overall in (whole, own):
            sentence = measured_error(predictor, [women, paper, overall])
            assert "1,068 images of nih-chest-test (test split)" in sentence
            assert "6.52 years (95 % interval 6.10 to 6.93)" in sentence

    def test_on_validation_images_where_these_weights_have_no_test(self, regions: Regions) -> None:
        predictor = regions.predictor("whole")
        others = self.record(predictor, weights=f"{predictor.id}@0123")
        unmeasured = self.record(predictor, measured=None, ci95=None)
        sentence = measured_error(predictor, [others, unmeasured])
        assert "5 validation images of nih-chest-128" in sentence
        assert "9.90 years" in sentence
        assert "On test images it was not measured" in sentence

    def test_never_measured(self, regions: Regions, monkeypatch: pytest.MonkeyPatch) -> None:
        predictor = regions.predictor("whole")
        monkeypatch.setitem(predictor.config, "provenance", {})
        assert "not measured" in measured_error(predictor, [])


def test_examples_are_sorted_by_age() -> None:
    examples = adult.bundled_examples()
    ages = [case.age for case in examples]
    assert len(examples) == 8
    assert ages == sorted(ages)


def test_the_ct_examples_picture_is_its_projection(ct_sample: Path) -> None:
    picture = images.read(ct_sample.with_name(adult.CT_PICTURE)).pixels
    made = volumes.project(volumes.read(ct_sample), *PROJECTIONS["thorax"])
    made = np.asarray(explain.display_image(made.pixels).convert("L"), float)
    assert picture.shape == made.shape
    assert np.abs(picture - made).mean() < 1


def test_take_starts_the_assessment(film: str) -> None:
    visit = adult.Visit("before", 30.0)
    card, remove, result = adult.take(visit, film)
    assert card == ""
    assert remove["visible"]
    assert result == cards.BUSY
    assert (visit.path, visit.reference, visit.turn) == (film, None, 1)


def test_assess(regions: Regions, film: str) -> None:
    visit = adult.Visit()
    adult.take(visit, film, 54.0)
    card, remove, result = adult.assess(regions, visit, "whole")
    predictor = regions.predictor("whole")
    (assessment,) = predictor.assess(predictor.read(film))
    assert f'<data value="{assessment.age:.2f}">' in result
    assert "9.90 years" in result
    assert 'class="over"' in result
    assert "half" not in result
    assert "00002819_000" in card
    assert "54 years" in card
    assert remove["visible"]


def test_assess_another_region(regions: Regions, film: str) -> None:
    visit = adult.Visit()
    assert adult.choose(visit) == gr.skip()
    adult.take(visit, film)
    assert adult.choose(visit) == cards.BUSY
    assert "upper half" in adult.assess(regions, visit, "upper")[-1]


def test_ct_gets_an_age_and_is_told_apart(regions: Regions, trunk_ct: Path) -> None:
    visit = adult.Visit()
    adult.take(visit, str(trunk_ct))
    card, _, result = adult.assess(regions, visit, "whole")
    assert "of the thorax" in card
    assert result.count(NOT_CT) == 1
    assert result.index(NOT_CT) < result.index("<data")


def test_ct_without_a_thorax_is_shown_and_refused(regions: Regions, ct_sample: Path) -> None:
    visit = adult.Visit()
    adult.take(visit, str(ct_sample))
    card, _, result = adult.assess(regions, visit, "whole")
    assert "CT, NIfTI" in card
    assert "No age is given" in result
    assert "no thorax" in result
    assert result.count(NOT_CT) == 1
    assert '<img src="data:image/jpeg' in result
    assert "<data" not in result
    assert adult.choose(visit) == cards.BUSY


def test_unreadable_file_is_explained(regions: Regions, letter: str) -> None:
    visit = adult.Visit()
    adult.take(visit, letter)
    card, remove, result = adult.assess(regions, visit, "whole")
    assert card == ""
    assert not remove["visible"]
    assert "text file" in result
    assert letter not in result
    assert visit.path is None
    assert adult.choose(visit) == gr.skip()


def test_remove_and_too_large_leave_nothing(regions: Regions, film: str) -> None:
    visit = adult.Visit()
    for change in (lambda: adult.remove("start", visit), lambda: adult.refuse_large(visit)):
        adult.take(visit, film, 54.0)
        card, remove, result = change()
        assert (card, remove["visible"]) == ("", False)
        assert (visit.path, visit.reference) == (None, None)
        assert adult.assess(regions, visit, "whole") == gr.skip()
    assert "larger than 1 GB" in result


def test_overtaken_assessment_is_not_shown(
    regions: Regions, film: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = regions.predictor("whole")
    read = predictor.read
    visit = adult.Visit()
    adult.take(visit, film)
    monkeypatch.setattr(predictor, "read", lambda path: adult.take(visit, film) and read(path))
    assert adult.assess(regions, visit, "whole") == gr.skip()


def test_overtaken_refusal_leaves_the_next_file(
    regions: Regions, film: str, letter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = regions.predictor("whole")
    read = predictor.read
    visit = adult.Visit()
    adult.take(visit, letter)
    monkeypatch.setattr(predictor, "read", lambda path: adult.take(visit, film) and read(path))
    assert adult.assess(regions, visit, "whole") == gr.skip()
    assert visit.path == film


def test_file_deleted_meanwhile_is_explained(regions: Regions, tmp_path: Path) -> None:
    visit = adult.Visit()
    adult.take(visit, str(tmp_path / "gone.png"))
    assert tab.GONE in adult.assess(regions, visit, "whole")[-1]


def test_api_answers_with_the_assessment(regions: Regions, film: str) -> None:
    whole = adult.assess_file(regions, film, "")
    assert (whole["task"], whole["unit"], whole["sex"]) == ("adult", "years", None)
    assert whole["model"]["id"] == "tiny-adult"
    assert adult.assess_file(regions, film, "upper")["model"]["id"] == "tiny-upper"


def test_a_hand_gets_no_age(rsna_test_dir: Path) -> None:
    answer = adult.assess_file(Regions.released(), str(rsna_test_dir / "images" / "4360.webp"), "")
    assert answer["refused"] == NOT_FRONTAL
    assert answer["age"] is None


def test_api_names_what_is_wrong(regions: Regions, film: str, letter: str) -> None:
    for file, region, reason in (
        (letter, "", "text file"),
        (film, "middle", "'middle'"),
        (None, "", "No file"),
    ):
        with pytest.raises(gr.Error, match=reason):
            adult.assess_file(regions, file, region)


def test_start_promises_ct_only_where_it_is_taken() -> None:
    assert "NIfTI" in adult_cards.start("1 GB", takes_ct=True, refuses=True)
    assert "CT" not in adult_cards.start("1 GB", takes_ct=False, refuses=True)
    cannot = [
        "cannot tell" in adult_cards.start("1 GB", takes_ct=True, refuses=refuses)
        for refuses in (True, False)
    ]
    assert cannot == [False, True]


def test_names_from_files_are_escaped(radiograph: Radiograph, assessment: Assessment) -> None:
    for one in (assessment, replace(assessment, age=None, refused=HOSTILE)):
        html = adult_cards.result(radiograph, one, "whole", WHOLE, HOSTILE)
        assert HOSTILE not in html
        assert "&lt;img" in html


def test_notice_of_ct_leaves_other_warnings(radiograph: Radiograph, assessment: Assessment) -> None:
    told = replace(assessment, warnings=("Small.", NOT_CT))
    html = adult_cards.result(radiograph, told, "whole", WHOLE, "Errs.")
    assert html.count(NOT_CT) == 1
    assert "<li>Small.</li>" in html
    told = replace(assessment, warnings=("Small.",))
    assert "not on CT" not in adult_cards.result(radiograph, told, "whole", WHOLE, "Errs.")


def test_result_shows_interval_reference_and_model(
    radiograph: Radiograph, assessment: Assessment
) -> None:
    assessment = replace(assessment, interval=Interval(37.0, 57.0, 0.9))
    html = adult_cards.result(radiograph, assessment, "whole", WHOLE, "Errs.", reference=54.0)
    assert '<data value="47.26">47.3 years</data>' in html
    assert "90 % prediction interval: 37.0 to 57.0 years" in html
    assert "6.7 years below" in html
    assert "Errs." in html
    assert "weights" in html
    assert "0123" in html


def test_what_the_network_does_not_see_is_darkened() -> None:
    from PIL import Image

    picture = Image.new("RGB", (40, 80), (200, 200, 200))
    darkened = np.asarray(adult_cards._darkened(picture, np.array([0.1, 0.0, 0.9, 0.5])))
    assert (darkened[:40, 4:36] == 200).all()
    assert (darkened[40:] == 80).all()
    assert (darkened[:, :4] == 80).all()


def test_page_without_adult_weights_has_no_tab_for_them() -> None:
    class Hands:
        sexes = ("F", "M")

    def tabs(blocks: gr.Blocks) -> list[str]:
        return [block.label for block in blocks.blocks.values() if isinstance(block, gr.Tab)]

    assert "Adult" not in tabs(page.build(Hands(), Regions({})))


def test_choice_of_region_is_shown_only_where_there_is_one(
    regions: Regions, untrained_adult: Path
) -> None:
    def radio(regions: Regions) -> gr.Radio:
        with gr.Blocks() as blocks:
            adult.build(regions)
        return next(block for block in blocks.blocks.values() if isinstance(block, gr.Radio))

    both, one = radio(regions), radio(Regions({"whole": untrained_adult}))
    assert both.visible
    assert [value for _, value in both.choices] == ["whole", "upper"]
    assert not one.visible
    assert one.value == "whole"


def test_examples_offer_ct_only_where_it_is_taken() -> None:
    assert [label for label, *_ in adult._examples("thorax")][-1] == "CT without lungs: no age"
    assert not any("CT" in label for label, *_ in adult._examples(None))


def test_limits_of_the_tabs_reach_the_script() -> None:
    script = page.script()
    for limit in ('"hand-file": 67108864', '"adult-file": 1073741824'):
        assert limit in script
