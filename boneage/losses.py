"""What a film loses on its way: noise, lossy files, few grey levels, blur.

All on (H, W) uint8 or uint16. Amounts are measured on the film's own range of grey values, from its
1st to its 99th percentile, since a film may use a small part of its type's.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def noise(pixels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Normal noise of this standard deviation, a share of the film's range; the same type."""
    noisy = pixels + rng.normal(0, share * _range(pixels), pixels.shape)
    return _as(noisy, pixels.dtype)


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    """Written as JPEG of this quality (1 to 95) and read again: uint8, which JPEG needs."""
    if pixels.dtype != np.uint8:
        pixels = _as(pixels * (255 / max(int(pixels.max()), 1)), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def few_levels(pixels: np.ndarray, levels: float) -> np.ndarray:
    """So many grey levels at most within the film's range; the same type."""
    step = max(_range(pixels) / levels, 1)
    return _as(np.floor(pixels / step) * step, pixels.dtype)


def blur(pixels: np.ndarray, radius: float) -> np.ndarray:
    """Blurred by a Gaussian of this standard deviation in px; the same type."""
    from scipy.ndimage import gaussian_filter

    return _as(gaussian_filter(pixels.astype(np.float32), radius), pixels.dtype)


def _range(pixels: np.ndarray) -> float:
    low, high = np.percentile(pixels, (1, 99))
    return max(float(high - low), 1.0)


def _as(values: np.ndarray, kind: np.dtype | type) -> np.ndarray:
    return np.rint(values).clip(0, np.iinfo(kind).max).astype(kind)
