"""Quality warnings, on real radiographs and on films made of two of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boneage import images, quality

NOISE = np.random.default_rng(2).integers(0, 256, (600, 500), dtype=np.uint8)


@pytest.fixture(scope="module")
def hands(rsna_test_dir: Path) -> list[np.ndarray]:
    """The bundled test radiographs, neighbours alike in size (sorted by bone age)."""
    rows = [line.split(",") for line in (rsna_test_dir / "labels.csv").read_text().split()]
    column = rows[0].index("boneage")
    rows = sorted(rows[1:], key=lambda row: float(row[column]))
    folder = rsna_test_dir / "images"
    return [images.read(folder / f"{row[0]}.webp").pixels for row in rows]


def side_by_side(left: np.ndarray, right: np.ndarray, gap: float, grey: int = 0) -> np.ndarray:
    """Two hands on one film, the right one mirrored; the gap is a part of the width."""
    columns = round(gap * (left.shape[1] + right.shape[1]))
    band = np.full((len(left), columns), grey, left.dtype)
    return np.hstack([left, band, right[:, ::-1]])


def share(films: list[np.ndarray]) -> float:
    return float(np.mean([quality.looks_like_two_hands(film) for film in films]))


class TestTwoHands:
    def test_single_hands_raise_no_alarm(self, hands: list[np.ndarray]) -> None:
        assert len(hands) == 200
        assert share(hands) <= 0.01
        assert share([film[:, ::-1] for film in hands]) <= 0.01

    @pytest.mark.parametrize("gap", [0.0, 0.05, 0.1])
    @pytest.mark.parametrize("thumbs_inward", [True, False])
    def test_two_hands_are_found(
        self, hands: list[np.ndarray], gap: float, thumbs_inward: bool
    ) -> None:
        pairs = zip(hands[::2], hands[1::2], strict=True)
        films = [side_by_side(left, right, gap) for left, right in pairs]
        if not thumbs_inward:
            films = [np.hstack(np.array_split(film, 2, axis=1)[::-1]) for film in films]
        assert share(films) >= 0.9

    def test_a_gap_of_any_grey_and_hands_of_different_brightness(
        self, hands: list[np.ndarray]
    ) -> None:
        pairs = list(zip(hands[::2], hands[1::2], strict=True))
        grey = [int(np.median(left[:, -3:])) for left, _ in pairs]
        films = [
            side_by_side(left, right // 2, 0.06, level)
            for (left, right), level in zip(pairs, grey, strict=True)
        ]
        assert share(films) >= 0.9

    def test_full_size_films(self, rsna_fullsize_dir: Path) -> None:
        films = [images.read(path).pixels for path in (rsna_fullsize_dir / "images").glob("*.png")]
        assert share(films) == 0
        upright = [film for film in films if film.shape[0] > film.shape[1]]
        assert upright
        for film in upright:
            both = side_by_side(film, film, 0.03)
            assert quality.looks_like_two_hands(both)
            assert quality.looks_like_two_hands(both.astype(np.uint16) * 16)

    def test_white_collimation_and_a_letter_are_no_second_hand(
        self, hands: list[np.ndarray]
    ) -> None:
        framed = []
        for hand in hands[::4]:
            film = np.pad(hand, ((20, 20), (30, 30)), constant_values=255)
            film[100:130, 40:52] = 255
            framed.append(film)
        assert share(framed) <= 0.04

    def test_an_empty_or_flat_film_is_not_two_hands(self) -> None:
        assert not quality.looks_like_two_hands(np.zeros((64, 64), np.uint8))
        speck = np.zeros((600, 600), np.uint8)
        speck[300, 300] = 255
        assert not quality.looks_like_two_hands(speck)
        assert not quality.looks_like_two_hands(NOISE)


class TestGreyLevels:
    def test_counted_between_the_percentiles(self) -> None:
        ramp = np.arange(256, dtype=np.uint8).repeat(100).reshape(160, 160)
        assert quality.grey_levels(ramp) == 252
        assert quality.grey_levels(ramp.astype(np.uint16) * 257) == 252  # gaps do not count
        assert quality.grey_levels(np.full((40, 40), 7, np.uint8)) == 1

    def test_outliers_do_not_hide_low_contrast(self) -> None:
        film = NOISE % 8
        film[0, :20] = np.arange(100, 240, 7)
        assert quality.grey_levels(film) == 8

    def test_every_bundled_radiograph_has_enough(self, hands: list[np.ndarray]) -> None:
        levels = [quality.grey_levels(hand) for hand in hands]
        assert min(levels) >= quality.MIN_GREY_LEVELS


class TestWarnings:
    def test_a_good_film_has_none(self, rsna_fullsize_dir: Path) -> None:
        path = next((rsna_fullsize_dir / "images").glob("*.png"))
        assert quality.warnings_for(images.read(path), 512) == ()

    def test_size_counts_on_the_shorter_side(self) -> None:
        small = images.from_array(np.asarray(Image.fromarray(NOISE).resize((900, 298))))
        assert "900 x 298 px" in quality.warnings_for(small, 299)[0]
        assert quality.warnings_for(small, 298) == ()

    def test_low_contrast(self, hands: list[np.ndarray]) -> None:
        (warning,) = quality.warnings_for(images.from_array(hands[100] >> 5), 299)
        assert "contrast is very low" in warning

    def test_two_hands(self, hands: list[np.ndarray]) -> None:
        film = images.from_array(side_by_side(hands[100], hands[101], 0.05))
        (warning,) = quality.warnings_for(film, 299)
        assert "two hands" in warning


PARTS = {"X": 33.0, "C": 41.0, "R1": 23.0, "R2": 22.0, "R3": 144.0, "assembled": 52.6}


class TestParts:
    def test_a_part_far_from_the_others_is_named(self) -> None:
        (warning,) = quality.warnings_of_parts(PARTS, "months")
        assert warning.startswith("Part R3 alone gives 144 months, far from")
        assert "median of all components (33 months)" in warning

    @pytest.mark.parametrize(
        "components",
        [
            {},
            {"assembled": 80.0},
            {**PARTS, "R3": 57.0},  # 24 from the median
            {**PARTS, "R3": 30.0, "X": 90.0},  # the whole hand is no part
        ],
    )
    def test_otherwise_nothing_is_said(self, components: dict[str, float]) -> None:
        assert quality.warnings_of_parts(components, "months") == ()

    def test_of_ages_in_years_nothing_is_said(self) -> None:
        assert quality.warnings_of_parts(PARTS, "years") == ()
