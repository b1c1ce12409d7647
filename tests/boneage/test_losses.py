from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from boneage import images, losses


@pytest.fixture
def film(rsna_test_dir: Path) -> np.ndarray:
    return images.read(rsna_test_dir / "images" / "4360.webp").pixels


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_noise_is_a_share_of_the_films_own_range(kind: type) -> None:
    film = np.full((200, 200), 100, kind)
    film[:100] = 150  # a range of 50
    noisy = losses.noise(film, 0.1, np.random.default_rng(0))
    assert noisy.dtype == kind
    assert (noisy[:100].astype(float) - 150).std() == pytest.approx(5, rel=0.05)


def test_jpeg_of_any_depth_is_of_eight_bits(film: np.ndarray) -> None:
    fine, coarse = losses.jpeg(film, 95), losses.jpeg(film, 20)
    assert fine.dtype == coarse.dtype == np.uint8
    errors = [abs(lossy.astype(int) - film).mean() for lossy in (fine, coarse)]
    assert 0 < errors[0] < errors[1] / 2
    deep = losses.jpeg(film.astype(np.uint16) * 100, 95)
    assert deep.dtype == np.uint8
    assert np.corrcoef(deep.ravel(), film.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("factor", [1, 200])
def test_few_levels(film: np.ndarray, factor: int) -> None:
    deep = film.astype(np.uint16) * factor
    few = losses.few_levels(deep, 16)
    low, high = np.percentile(deep, (1, 99))
    inside = few[(few >= low) & (few <= high)]
    assert len(np.unique(inside)) <= 17
    assert abs(few.astype(int) - deep).max() <= np.ceil((high - low) / 16)


def test_blur_takes_fine_detail(film: np.ndarray) -> None:
    blurred = losses.blur(film, 1)
    assert blurred.dtype == film.dtype
    assert abs(np.diff(blurred.astype(int))).mean() < abs(np.diff(film.astype(int))).mean()
    assert blurred.mean() == pytest.approx(film.mean(), abs=0.1)


def test_a_flat_image_has_a_range_too() -> None:
    flat = np.full((40, 40), 7, np.uint8)
    assert (losses.few_levels(flat, 8) == flat).all()
    assert losses.noise(flat, 0.1, np.random.default_rng(0)).dtype == np.uint8
