"""The controls that turn and cut the film."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import gradio as gr
import pytest

from boneage import images
from boneage.framing import WHOLE, Framing
from boneage.images import Radiograph
from boneage.webui import cards, framing, hand, hand_cards


@pytest.fixture
def visit(rsna_test_dir: Path) -> hand.Visit:
    visit = hand.Visit()
    hand.take(visit, str(rsna_test_dir / "images" / "4360.webp"), "M")
    return visit


def test_moved_fields_reframe_the_film(visit: hand.Visit) -> None:
    card, result, *fields = framing.move(visit, -90, 10, 0, 0, 25, False)
    assert fields == [gr.skip()] * 6  # they are where they are to be
    assert visit.framing == Framing(-90, left=0.1, bottom=0.25)
    assert "turned by 90° anticlockwise" in card
    assert "90% of its width and 75% of its height" in card
    assert result == hand_cards.FRAMED


def test_buttons_turn_and_undo(visit: hand.Visit) -> None:
    framing.move(visit, 5, 10, 0, 0, 0, True)
    _, _, *fields = framing.turn(1, visit)
    assert fields == [95, 0, 10, 0, 0, True]
    _, _, *fields = framing.undo(visit)
    assert fields == [0, 0, 0, 0, 0, False]
    assert visit.framing == WHOLE


def test_impossible_fields_go_back(visit: hand.Visit) -> None:
    framing.move(visit, 0, 60, 0, 0, 0, False)
    _, result, *fields = framing.move(visit, 0, 60, 0, 60, 0, False)
    assert "cannot be framed" in result
    assert fields == [0, 60, 0, 0, 0, False]


def test_rectangles_are_drawn_within_what_is_shown(visit: hand.Visit) -> None:
    framing.draw(visit, "0.5 0 0 0 1")
    _, _, *fields = framing.draw(visit, "0 0.25 0.5 0 1")
    assert fields == [0, 50, 25, 25, 0, False]


@pytest.mark.parametrize("drawn", ["", "0.1 0.2", "a b c d 1", "0.5 0 0.5 0 1", "0 -1 0 0 1"])
def test_impossible_framing_is_explained_and_changes_nothing(visit: hand.Visit, drawn: str) -> None:
    framing.move(visit, 0, 10, 0, 0, 0, False)
    _, result, *fields = framing.draw(visit, drawn)
    assert "cannot be framed" in result
    assert fields == [0, 10, 0, 0, 0, False]


def test_quick_clicks_add_up(visit: hand.Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the film is being read for both at once."""
    both, read = Barrier(2), images.read
    monkeypatch.setattr(images, "read", lambda path: (both.wait(60), read(path))[1])
    with ThreadPoolExecutor(2) as pool:
        shown = list(pool.map(lambda _: framing.turn(1, visit), range(2)))
    assert visit.framing == Framing(-180)
    assert [-180, 0, 0, 0, 0, False] in [list(fields) for _, _, *fields in shown]


@pytest.mark.parametrize("drawn", ["0.5 0 0 0 1", "impossible"])
def test_the_next_film_is_not_framed_as_the_one_before(
    visit: hand.Visit, monkeypatch: pytest.MonkeyPatch, drawn: str
) -> None:
    path, read = visit.path, images.read

    def slowly(film: str) -> Radiograph:
        monkeypatch.setattr(images, "read", read)
        hand.take(visit, path, "F")
        return read(film)

    monkeypatch.setattr(images, "read", slowly)
    assert framing.draw(visit, drawn) == (gr.skip(),) * 8
    assert visit.framing == WHOLE


@pytest.fixture
def while_shown(visit: hand.Visit, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Has something happen to the visit while the framed film is made a card."""
    given = hand_cards.given

    def during(change: Callable[[hand.Visit], Any]) -> None:
        monkeypatch.setattr(
            hand_cards, "given", lambda *arguments: (change(visit), given(*arguments))[1]
        )

    return during


def test_a_sex_chosen_meanwhile_keeps_its_assessment(
    visit: hand.Visit, while_shown: Callable[[Any], None]
) -> None:
    while_shown(hand.choose)
    card, result, *fields = framing.turn(1, visit)
    assert "turned by 90° clockwise" in card
    assert result == gr.skip()
    assert fields[0] == 90


def test_undo_does_not_bring_back_a_film_that_was_removed(
    visit: hand.Visit, while_shown: Callable[[Any], None]
) -> None:
    while_shown(hand.remove)
    assert framing.undo(visit) == (gr.skip(),) * 8


def test_without_a_film_nothing_happens() -> None:
    visit = hand.Visit()
    given, result, *fields = framing.turn(1, visit)
    assert given == result == gr.skip()
    assert fields == [0, 0, 0, 0, 0, False]
    assert framing.begin(visit, "F") == gr.skip()


def test_assessment_begins_when_asked_for(visit: hand.Visit) -> None:
    assert framing.begin(visit, "F") == cards.BUSY
    assert framing.begin(visit, None) == hand_cards.SEX_MISSING
