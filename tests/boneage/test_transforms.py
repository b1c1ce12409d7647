from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from boneage import images
from boneage.errors import InputError
from boneage.transforms import (
    Preprocess,
    grey_percentiles,
    inside_white_border,
)


@pytest.fixture
def radiograph(rsna_test_dir: Path) -> np.ndarray:
    return np.asarray(Image.open(rsna_test_dir / "images" / "4400.webp").convert("L"))


class TestPreprocess:
    def test_shape_and_range(self, radiograph: np.ndarray) -> None:
        image = Preprocess(size=128, resolution=299)([radiograph])[0]
        assert image.shape == (3, 128, 128)
        assert image.min() == -1
        assert image.max() == 1
        assert torch.equal(image[0], image[2])

    def test_grey_scale_does_not_matter(self, radiograph: np.ndarray) -> None:
        preprocess = Preprocess(size=128, resolution=299)
        reference = preprocess([radiograph])[0]
        assert torch.allclose(
            preprocess([radiograph.astype(np.uint16) * 257])[0], reference, atol=1e-5
        )
        shifted = (radiograph.astype(np.uint16) * 16) + 1000
        assert torch.allclose(preprocess([shifted])[0], reference, atol=1e-5)

    def test_deep_pixels_keep_their_depth(self) -> None:
        """A 12-bit film has more than 256 grey levels to tell bones by."""
        rng = np.random.default_rng(0)
        film = rng.integers(1000, 1200, (299, 299)).astype(np.uint16)  # of 65536
        stretched = Preprocess(size=299, resolution=299).stretch(film)
        assert len(np.unique(stretched)) > 150

    def test_full_size_equals_its_small_copy(self, rsna_fullsize_dir: Path) -> None:
        preprocess = Preprocess(size=256, resolution=299)
        full = np.asarray(Image.open(rsna_fullsize_dir / "images" / "1418.png").convert("L"))
        small = np.asarray(Image.fromarray(full).resize((299, 299), Image.Resampling.BILINEAR))
        assert torch.equal(preprocess([full])[0], preprocess([small])[0])

    def test_16_bit_is_shrunk_like_8_bit(self, rsna_fullsize_dir: Path) -> None:
        preprocess = Preprocess(size=256, resolution=299)
        full = np.asarray(Image.open(rsna_fullsize_dir / "images" / "1418.png").convert("L"))
        difference = preprocess([full.astype(np.uint16) * 257])[0] - preprocess([full])[0]
        assert difference.abs().max() < 0.04  # the 8-bit image is rounded twice on its way

    def test_margin_is_cut_off_the_resized_image(self, radiograph: np.ndarray) -> None:
        cut = Preprocess(size=224, resolution=299, margin=16)([radiograph])[0]
        whole = Preprocess(size=256, resolution=299)([radiograph])[0]
        assert torch.equal(cut, whole[:, 16:240, 16:240])

    @pytest.mark.parametrize(("region", "rows"), [("upper", slice(80)), ("lower", slice(80, 161))])
    def test_regions_are_halves(self, radiograph: np.ndarray, region: str, rows: slice) -> None:
        odd = radiograph[:161]
        half = Preprocess(size=64, resolution=80, region=region)([odd])[0]
        assert torch.equal(half, Preprocess(size=64, resolution=80)([odd[rows]])[0])

    def test_refuses_another_region(self) -> None:
        with pytest.raises(InputError, match="known: whole, upper, lower"):
            Preprocess(size=64, resolution=64, region="left")

    def test_boxes_are_located_in_the_image(self) -> None:
        boxes = np.array([[0.0, 0, 64, 64], [32, 16, 64, 32]])
        whole = Preprocess(size=64, resolution=64)
        assert whole.locate(boxes).tolist() == [[0, 0, 1, 1], [0.5, 0.25, 1, 0.5]]
        lower = Preprocess(size=64, resolution=64, margin=8, region="lower")
        assert lower.locate(boxes)[0] == pytest.approx([0.1, 0.55, 0.9, 0.95])

    def test_heat_map_over_a_region_covers_the_image(self) -> None:
        heat_map = np.ones((4, 4), np.float32)
        assert Preprocess(size=64, resolution=64).unfold(heat_map) is heat_map
        lower = Preprocess(size=64, resolution=64, region="lower").unfold(heat_map)
        assert lower[: len(lower) // 2].max() == 0
        assert lower[len(lower) // 2 :].min() == 1

    def test_nearly_blank_image_stays_finite(self) -> None:
        pixels = np.zeros((64, 64), np.uint8)
        pixels[0, 0] = 1
        assert Preprocess(size=64, resolution=64)([pixels])[0].isfinite().all()


@pytest.mark.parametrize("highest", [1, 200, 255, 60_000])
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (299, 298)])
def test_percentiles_are_those_of_numpy(shape: tuple[int, int], highest: int) -> None:
    rng = np.random.default_rng(highest)
    pixels = rng.integers(0, highest, shape, endpoint=True)
    pixels = pixels.astype(np.uint16 if highest > 255 else np.uint8)
    wanted = np.percentile(pixels, [0, 1, 37.5, 99, 100])
    assert grey_percentiles(pixels, [0, 1, 37.5, 99, 100]) == pytest.approx(wanted, abs=1e-9)


class TestWhiteBorder:
    def test_the_film_inside_is_found(self) -> None:
        film = np.random.default_rng(0).integers(20, 60, (100, 120)).astype(np.uint8)
        film[3, 4] = 250  # a marker is no border
        framed = np.full_like(film, 255)
        framed[10:-7, 5:] = film[10:-7, 5:]
        assert inside_white_border(framed).shape == (100 - 11 - 8, 120 - 6)
        assert inside_white_border(film) is not film
        assert inside_white_border(film).shape == film.shape

    def test_noise_and_a_marker_do_not_end_it(self) -> None:
        rng = np.random.default_rng(0)
        framed = np.clip(rng.normal(252, 1, (100, 100)), 0, 255)
        framed[2, 40:43] = 0
        framed[20:80, 20:80] = rng.integers(20, 60, (60, 60))
        assert inside_white_border(framed.astype(np.uint8)).shape == (58, 58)

    def test_black_borders_and_white_films_stay(self) -> None:
        film = np.zeros((80, 80), np.uint16)
        film[20:60, 20:60] = np.arange(40) * 1000
        assert inside_white_border(film).shape == (80, 80)
        assert min(inside_white_border(np.full((80, 80), 9, np.uint8)).shape) >= 38

    @pytest.mark.parametrize("id", ["4371", "4420", "4500"])
    def test_a_border_changes_little_of_a_real_film(self, rsna_test_dir: Path, id: str) -> None:
        pixels = np.array(images.read(rsna_test_dir / "images" / f"{id}.webp").pixels)
        preprocess = Preprocess(size=256, resolution=299)
        bordered = pixels.copy()
        for edge in (np.s_[:15], np.s_[-15:], np.s_[:, :15], np.s_[:, -15:]):
            bordered[edge] = 255
        inner = np.s_[20:-20, 20:-20]
        before, after = preprocess.stretch(pixels)[inner], preprocess.stretch(bordered)[inner]
        assert np.abs(before - after).mean() < 0.1
