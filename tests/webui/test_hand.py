"""The Hand tab's functions, without a browser or a network."""

from __future__ import annotations

import base64
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import gradio as gr
import numpy as np
import pytest

from boneage import datasets, images
from boneage.datasets import Case
from boneage.errors import InputError
from boneage.images import Radiograph
from boneage.predictor import Assessment, Box, ModelReference
from boneage.webui import cards, chronology, framing, hand, hand_cards, tab

NO_AGE = (None, None, None)  # what the fields of the chronological age hold at first


class FakePredictor:
    """Says 120 months to girls and 132 to boys; ``meanwhile`` runs while it computes."""

    sexes: tuple[str, ...] = ("F", "M")
    id, revision = "fake", "0123"
    config: ClassVar[dict[str, Any]] = {"unit": "months", "provenance": {}}

    def __init__(self, meanwhile: Any = None) -> None:
        self.meanwhile = meanwhile

    def assess(
        self, radiograph: Radiograph, sex: str | None, heat_map: bool = False
    ) -> list[Assessment]:
        if sex not in self.sexes:
            raise InputError(f"The sex is {sex!r}; this model needs it: F or M.")
        if self.meanwhile:
            self.meanwhile()
        age = 120.0 if sex == "F" else 132.0
        return [
            Assessment(
                id=radiograph.id,
                task="hand",
                sex=sex,
                age=age,
                unit="months",
                interval=None,
                components={"X": age, "R1": age, "assembled": age},
                boxes=(Box(10, 10, 90, 90, 0.5, age),),
                warnings=radiograph.warnings,
                refused=None,
                model=ModelReference("fake", "0123"),
                heat_map=np.ones((4, 4), np.float32) if heat_map else None,
            )
        ]


@pytest.fixture
def film(rsna_test_dir: Path) -> str:
    return str(rsna_test_dir / "images" / "4360.webp")


@pytest.fixture
def letter(tmp_path: Path) -> str:
    path = tmp_path / "letter.txt"
    path.write_text("Not a radiograph.\n")
    return str(path)


def test_examples_spread_over_ages_and_sexes(rsna_test_dir: Path) -> None:
    cases = datasets.load(rsna_test_dir).cases
    examples = hand.choose_examples(cases)
    ages = [case.age for case in examples]
    assert [case.sex for case in examples].count("F") == 3
    assert ages == sorted(ages)
    assert ages[-1] - ages[0] > 96
    assert len({case.id for case in examples}) == 6
    assert hand.choose_examples(tuple(reversed(cases))) == examples


def test_examples_of_one_sex() -> None:
    cases = tuple(Case(str(i), Path(), "test", float(i), "M") for i in range(12))
    assert [case.age for case in hand.choose_examples(cases)] == [1, 3, 5, 7, 9, 11]


def test_take_without_sex_asks_for_it(film: str) -> None:
    visit = hand.Visit()
    card, remove, sex, result = hand.take(visit, film, None)
    assert "4360" in card
    assert remove["visible"]
    assert "value" not in sex
    assert result == hand_cards.SEX_MISSING
    assert visit.path == film


def test_take_keeps_a_chosen_sex_and_says_so(film: str) -> None:
    _, _, sex, result = hand.take(hand.Visit(), film, "M")
    assert "value" not in sex
    assert "check" in sex["info"]
    assert result == cards.BUSY


def test_example_fills_its_sex_and_the_next_radiograph_drops_it(film: str) -> None:
    visit = hand.Visit()
    case = Case("4360", Path(film), "test", 168.93, "M")
    card, _, sex, _ = hand.take(visit, film, None, case)
    assert sex["value"] == "M"
    assert "168.9 months" in card
    assert visit.reference == 168.93
    _, _, sex, result = hand.take(visit, film, "M")
    assert sex["value"] is None
    assert result == hand_cards.SEX_MISSING
    assert visit.reference is None


@pytest.mark.parametrize("readable", [True, False])
def test_sex_chosen_while_the_next_film_is_being_read_stays(
    film: str, letter: str, monkeypatch: pytest.MonkeyPatch, readable: bool
) -> None:
    visit = hand.Visit()
    hand.take(visit, film, None, Case("4360", Path(film), "test", 168.93, "M"))
    read = images.read
    monkeypatch.setattr(images, "read", lambda path: (hand.choose(visit), read(path))[1])
    _, _, sex, _ = hand.take(visit, film if readable else letter, "M")
    assert "value" not in sex


@pytest.mark.parametrize("example", [Case("4360", Path("4360.webp"), "test", 168.93, "M"), None])
def test_sex_chosen_for_a_film_is_not_the_next_patients(film: str, example: Case | None) -> None:
    visit = hand.Visit()
    hand.take(visit, film, None, example)
    hand.choose(visit)
    _, _, sex, result = hand.take(visit, film, "F")
    assert sex["value"] is None
    assert result == hand_cards.SEX_MISSING


def test_the_film_given_last_is_the_one_that_stays(
    film: str, letter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though one given before it takes longer to read."""
    visit, read = hand.Visit(), images.read

    def slowly(path: str) -> Radiograph:
        monkeypatch.setattr(images, "read", read)
        hand.take(visit, film, None, Case("4360", Path(film), "test", 168.93, "M"))
        return read(path)

    for other in (film, letter):
        monkeypatch.setattr(images, "read", slowly)
        assert hand.renew(hand.take)(visit, other, "F") == (visit, *(gr.skip(),) * 13)
        assert visit.path == film
        assert visit.reference == 168.93


def test_nor_does_the_sex_of_the_film_before_both_stay(
    film: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    visit, read, updates = hand.Visit(), images.read, []

    def slowly(path: str) -> Radiograph:
        monkeypatch.setattr(images, "read", read)
        updates.append(hand.take(visit, film, "F"))
        return read(path)

    hand.take(visit, film, "F")
    monkeypatch.setattr(images, "read", slowly)
    assert hand.take(visit, film, "F") == hand.OVERTAKEN
    ((_, _, sex, result),) = updates
    assert sex["value"] is None
    assert result == hand_cards.SEX_MISSING


def test_weights_of_one_sex(film: str) -> None:
    visit, girls = hand.Visit(), ("F",)
    case = Case("4360", Path(film), "test", 168.93, "M")
    _, _, sex, result = hand.take(visit, film, None, case, served=girls)
    assert sex["value"] is None
    assert "patient is male; these weights are for female cases only" in result
    _, _, sex, result = hand.take(visit, film, None, replace(case, sex="F"), served=girls)
    assert sex["value"] == "F"
    assert result == cards.BUSY
    predictor = FakePredictor()
    predictor.sexes = girls
    assert {case.sex for case in hand.examples(predictor)} == {"F"}


def test_weights_that_need_no_sex(film: str) -> None:
    class Without(FakePredictor):
        sexes = ()

        def assess(self, radiograph: Radiograph, sex: str | None, **options: Any) -> list[Any]:
            assert sex is None
            (found,) = FakePredictor().assess(radiograph, "F", **options)
            return [replace(found, sex=None)]

    visit = hand.Visit()
    case = Case("4360", Path(film), "test", 168.93, "M")
    for example in (case, None):
        _, _, sex, result = hand.take(visit, film, None, example, served=())
        assert sex.get("value") is None  # the choice is not there
        assert result == cards.BUSY
    assert '<data value="120.00">' in hand.assess(Without(), visit, None, *NO_AGE)
    assert framing.begin(visit, None, needs_sex=False) == cards.BUSY
    assert framing.begin(visit, None) == hand_cards.SEX_MISSING
    assert {case.sex for case in hand.examples(Without())} == {"F", "M"}


@pytest.mark.parametrize("sexes", [("F", "M"), ("F",), ()])
def test_what_needs_the_sex_is_there_for_weights_that_know_it(sexes: tuple[str, ...]) -> None:
    predictor = FakePredictor()
    predictor.sexes = sexes
    with gr.Blocks() as page:
        hand.build(predictor)
    parts = {block.elem_id: block for block in page.blocks.values()}
    assert parts["hand-sex"].visible == parts["hand-chronology"].visible == bool(sexes)


def test_nor_after_a_film_that_is_too_large(film: str) -> None:
    visit = hand.Visit()
    hand.take(visit, film, "F")
    _, _, sex, _ = hand.refuse_large(visit)
    assert sex["value"] is None


def test_refused_file_leaves_nothing(film: str, letter: str) -> None:
    visit = hand.Visit()
    hand.take(visit, film, "F")
    card, remove, sex, result = hand.take(visit, letter, "F")
    assert card == ""
    assert not remove["visible"]
    assert sex["value"] is None
    assert "text file" in result
    assert letter not in result
    assert visit.path is None
    assert hand.assess(FakePredictor(), visit, "F", *NO_AGE) == gr.skip()


def test_assess(film: str) -> None:
    visit = hand.Visit()
    hand.take(visit, film, "M")
    assert '<data value="132.00">' in hand.assess(FakePredictor(), visit, "M", *NO_AGE)
    assert '<data value="120.00">' in hand.assess(FakePredictor(), visit, "F", *NO_AGE)
    assert hand.assess(FakePredictor(), visit, None, *NO_AGE) == gr.skip()


def test_sex_chosen_when_the_film_is_gone_clears_the_result() -> None:
    _, result = hand.choose(hand.Visit())
    assert result == hand_cards.START


@pytest.mark.parametrize("change", [hand.remove, hand.refuse_large, hand.choose])
def test_overtaken_assessment_is_not_shown(film: str, change: Any) -> None:
    visit = hand.Visit()
    hand.take(visit, film, "F")
    assert hand.assess(FakePredictor(lambda: change(visit)), visit, "F", *NO_AGE) == gr.skip()
    assert visit.assessment is None
    assert hand.compare(FakePredictor(), visit, None, None, 11.0) == gr.skip()
    with pytest.raises(gr.Error):
        hand.report(FakePredictor(), visit, *NO_AGE)


def test_file_deleted_meanwhile_is_explained(tmp_path: Path, film: str) -> None:
    path = tmp_path / "film.webp"
    path.write_bytes(Path(film).read_bytes())
    visit = hand.Visit()
    hand.take(visit, str(path), "F")
    path.unlink()
    assert tab.GONE in hand.assess(FakePredictor(), visit, "F", *NO_AGE)


def test_error_of_the_predictor_is_explained(film: str) -> None:
    visit = hand.Visit()
    hand.take(visit, film, "X")
    assert "this model needs it" in hand.assess(FakePredictor(), visit, "X", *NO_AGE)


def test_api_answers_with_the_assessment(film: str) -> None:
    answer = hand.assess_file(FakePredictor(), film, "girl")
    assert answer["age"] == 120.0
    assert answer["sex"] == "F"


def test_api_names_what_is_wrong(film: str, letter: str) -> None:
    for file, sex, reason in (
        (letter, "F", "text file"),
        (film, "diverse", "'diverse'"),
        (None, "F", "No file"),
    ):
        with pytest.raises(gr.Error, match=reason):
            hand.assess_file(FakePredictor(), file, sex)


def test_new_film_brings_its_own_fields(film: str, tmp_path: Path) -> None:
    visit = hand.Visit()
    hand.take(visit, film, "F")
    framing.turn(1, visit)
    renewed = hand.renew(hand.take)(visit, film, "F")
    assert renewed[0] is visit
    assert renewed[1:10] == (0, 0, 0, 0, 0, False, None, None, None)
    assert len(renewed) == 14


def test_chronological_age_stands_beside_the_bone_age(film: str) -> None:
    visit = hand.Visit()
    hand.take(visit, film, "F")
    card = hand.assess(FakePredictor(), visit, "F", "2010-01-01", "2019-07-01", None)
    assert "6.0 months (0.5 SD) above the chronological age" in card  # 120 beside 114
    assert "chronological age of" not in hand.compare(FakePredictor(), visit, *NO_AGE)
    assert "12.0 months (1.0 SD) below" in hand.compare(FakePredictor(), visit, None, None, 11.0)
    assert "also needs the date of birth" in hand.compare(
        FakePredictor(), visit, None, "2019-07-01", None
    )


def test_chronological_age_filled_in_during_the_assessment_counts(film: str) -> None:
    visit = hand.Visit()
    hand.take(visit, film, "F")
    later = FakePredictor(lambda: hand.compare(FakePredictor(), visit, None, None, 11.0))
    assert "12.0 months (1.0 SD) below" in hand.assess(later, visit, "F", *NO_AGE)
    hand.take(visit, film, "F")
    assert "chronological age of" not in hand.assess(FakePredictor(), visit, "F", *NO_AGE)


def test_so_does_one_that_is_filled_in_while_the_result_is_drawn(
    film: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    visit, draw = hand.Visit(), hand_cards.result

    def slowly(*arguments: Any, **options: Any) -> str:
        monkeypatch.setattr(hand_cards, "result", draw)
        hand.compare(FakePredictor(), visit, None, None, 11.0)
        return draw(*arguments, **options)

    hand.take(visit, film, "F")
    monkeypatch.setattr(hand_cards, "result", slowly)
    assert "12.0 months (1.0 SD) below" in hand.assess(FakePredictor(), visit, "F", *NO_AGE)


def test_nor_does_one_that_is_filled_in_while_the_next_film_is_read(
    film: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    visit, read = hand.Visit(), images.read

    def slowly(path: str) -> Radiograph:
        hand.compare(FakePredictor(), visit, None, None, 11.0)
        return read(path)

    monkeypatch.setattr(images, "read", slowly)
    hand.take(visit, film, "F")
    monkeypatch.setattr(images, "read", read)
    assert "chronological age of" not in hand.assess(FakePredictor(), visit, "F", *NO_AGE)


def test_ages_of_adults_are_not_filled_in() -> None:
    assert chronology.known(9.5) == 9.5
    assert chronology.known(45.0) is None
    assert chronology.known(None) is None


def test_nothing_is_compared_before_an_assessment(film: str) -> None:
    visit = hand.Visit()
    hand.take(visit, film, "F")
    assert hand.compare(FakePredictor(), visit, None, None, 11.0) == gr.skip()


def test_film_stands_among_others_of_its_sex(film: str) -> None:
    visit = hand.Visit()
    hand.take(visit, film, "M")
    card = hand.assess(FakePredictor(), visit, "M", *NO_AGE)
    assert card.count("<figcaption><strong>Reference") == 4
    assert card.count('<figure class="own">') == 1
    assert "radiographs of boys" in card


def test_framed_film_is_what_is_assessed(film: str) -> None:
    sizes = []

    class Measuring(FakePredictor):
        def assess(self, radiograph: Radiograph, *args: Any, **options: Any) -> list[Assessment]:
            sizes.append((radiograph.width, radiograph.height))
            return super().assess(radiograph, *args, **options)

    visit = hand.Visit()
    hand.take(visit, film, "M")
    framing.move(visit, 0, 50, 0, 0, 20, False)
    hand.assess(Measuring(), visit, "M", *NO_AGE)
    assert sizes == [(149, 239)]


def test_report_is_a_pdf_of_the_assessment_shown(film: str) -> None:
    visit = hand.Visit()
    hand.take(visit, film, "M")
    with pytest.raises(gr.Error, match="gone"):
        hand.report(FakePredictor(), visit, *NO_AGE)
    hand.assess(FakePredictor(), visit, "M", *NO_AGE)
    name, address = hand.report(FakePredictor(), visit, *NO_AGE)
    assert name == "4360.pdf"
    assert base64.b64decode(address.removeprefix("data:application/pdf;base64,"))[:5] == b"%PDF-"


def test_no_report_of_a_file_that_goes_while_it_is_read(
    film: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visit = hand.Visit()
    uploaded = Path(shutil.copy(film, tmp_path))
    hand.take(visit, str(uploaded), "M")
    hand.assess(FakePredictor(), visit, "M", *NO_AGE)
    uploaded.unlink()
    monkeypatch.setattr("pathlib.Path.is_file", lambda path: True)
    with pytest.raises(gr.Error, match="gone"):
        hand.report(FakePredictor(), visit, *NO_AGE)
