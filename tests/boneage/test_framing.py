"""Turning and cutting a film."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from boneage import images
from boneage.errors import InputError
from boneage.framing import Framing
from boneage.images import Radiograph


@pytest.fixture
def film() -> Radiograph:
    """40 x 60 px whose values tell row and column."""
    rows, columns = np.mgrid[:60, :40]
    return images.from_array((rows * 100 + columns).astype(np.uint16))


def test_nothing_to_do_is_the_film_itself(film: Radiograph) -> None:
    assert Framing().apply(film) is film


def test_quarter_turns_are_exact(film: Radiograph) -> None:
    clockwise = Framing(90).apply(film)
    assert (clockwise.width, clockwise.height) == (60, 40)
    assert clockwise.pixels[0, -1] == film.pixels[0, 0]  # top left has gone to top right
    for rotation in (180, -180):
        assert (Framing(rotation).apply(film).pixels == film.pixels[::-1, ::-1]).all()
    assert (Framing(-90).apply(clockwise).pixels == film.pixels).all()


def test_cuts_are_shares_of_the_turned_film(film: Radiograph) -> None:
    cut = Framing(left=0.1, top=0.2, bottom=0.25).apply(film)
    assert (cut.pixels == film.pixels[12:45, 4:]).all()
    turned = Framing(90, left=0.25).apply(film)  # what was below is at the left
    assert (turned.pixels == np.rot90(film.pixels[:45], -1)).all()


def test_what_was_done_is_said(film: Radiograph) -> None:
    said = Framing(90, left=0.25).apply(film).description
    done = "turned by 90° clockwise, cropped to 75% of its width and 100% of its height"
    assert said == f"{film.description}; {done}"
    assert Framing(0, top=0.5).description == "cropped to 100% of its width and 50% of its height"


def test_inverted(film: Radiograph) -> None:
    inverted = Framing(inverted=True).apply(film)
    assert inverted.pixels.dtype == film.pixels.dtype
    assert (inverted.pixels == film.pixels.max() - film.pixels).all()
    assert inverted.description == f"{film.description}; black and white swapped"
    assert Framing(inverted=True).turned(1).inverted


def test_turning_keeps_the_part(film: Radiograph) -> None:
    framing = Framing(left=0.1, bottom=0.25)
    before = framing.apply(film).pixels
    for quarters in (1, 2, 3, -1):
        after = framing.turned(quarters).apply(film).pixels
        assert (after == np.rot90(before, -quarters)).all()
    assert framing.turned(4) == framing
    assert Framing(170).turned(1).rotation == -100


@pytest.mark.parametrize("rotation", [-135, -45, 44, 45, 46, 135])
def test_a_quarter_more_is_one_more_from_any_turn(film: Radiograph, rotation: float) -> None:
    framing = Framing(rotation, left=0.2, bottom=0.1)
    before, after = (each.apply(film).pixels for each in (framing, framing.turned(1)))
    assert after.shape == before.shape[::-1]


def test_cutting_within_a_part(film: Radiograph) -> None:
    framing = Framing(left=0.1, top=0.2).within(0.5, 0, 0, 0.5)
    cuts = (framing.left, framing.top, framing.right, framing.bottom)
    assert cuts == pytest.approx((0.55, 0.2, 0, 0.4))


def test_small_turn_keeps_size_and_type_and_turns_clockwise(film: Radiograph) -> None:
    pixels = np.zeros((101, 101), np.uint16)
    pixels[48:53, 60:90] = 60_000  # a bar to the right of the middle
    turned = Framing(30).apply(images.from_array(pixels)).pixels
    assert turned.shape == (101, 101)
    assert turned.dtype == np.uint16
    assert turned[62:82, 65:85].mean() > 5 * turned[20:40, 65:85].mean()  # it points downwards


def test_corners_that_come_in_are_as_the_edge() -> None:
    pixels = np.full((64, 64), 200, np.uint8)
    pixels[16:48, 16:48] = np.arange(32)
    assert Framing(20).apply(images.from_array(pixels)).pixels[0, 0] == 200


def test_a_turned_hand_can_be_righted(rsna_test_dir: Path) -> None:
    film = images.read(rsna_test_dir / "images" / "4360.webp")
    tilted = Framing(25).apply(film)
    righted = Framing(-25).apply(tilted).pixels[75:225, 75:225].astype(float)
    assert np.corrcoef(righted.ravel(), film.pixels[75:225, 75:225].ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    "arguments",
    [
        {"rotation": 200},
        {"rotation": float("nan")},
        {"left": -0.1},
        {"left": 0.5, "right": 0.5},
        {"top": 2},
    ],
)
def test_impossible_framings_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Framing(**arguments)


def test_too_small_a_part_is_refused(film: Radiograph) -> None:
    with pytest.raises(InputError, match="20 x 60 px"):
        Framing(left=0.5).apply(film)
