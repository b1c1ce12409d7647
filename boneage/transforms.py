"""From a radiograph to what a network sees: square resize, contrast stretch.

Training and assessment share :class:`Preprocess`, so they cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from boneage.errors import InputError
from boneage.views import REGIONS

if TYPE_CHECKING:
    from torch import Tensor

CHANGES = 1
"""To be raised with every change of what becomes of an image here or as it is read: training does
not use what it decoded before."""
WHITE = 0.03  # of the range of grey values
NEARLY_ALL = 0.95  # so that neither noise nor a marker on the border ends it
UNFOLDED = 256  # px, side of a heat map over an image of which the network sees a part


@dataclass(frozen=True)
class Preprocess:
    """How a radiograph becomes network input.

    A radiograph is first shrunk to the resolution that the training images had, whatever its own,
    so that a full-size film and its small copy look the same to the network; then its grey values
    are stretched between two percentiles; then it is resized to the network's input.

    Args:
        size: side of the network's square input, px.
        resolution: side of the training images, px.
        percentiles: grey values below the first become 0, above the second 1.
        mean: subtracted from the stretched values in [0, 1].
        std: divides the result.
        margin: px that are cut from each side of the resized image, whose side is
            ``size + 2 * margin``; in training the cut is at random instead (16 makes the 224 px of
            256, and the 299 px of 331).
        region: ``whole`` for all of the image, ``upper`` or ``lower`` for half of it.

    Raises:
        InputError: for another region.
    """

    size: int
    resolution: int
    percentiles: tuple[float, float] = (1.0, 99.0)
    mean: float = 0.5
    std: float = 0.5
    margin: int = 0
    region: str = "whole"

    def __post_init__(self) -> None:
        if self.region not in REGIONS:
            raise InputError(f"Unknown region {self.region!r}; known: {', '.join(REGIONS)}.")

    def shrink(self, pixels: np.ndarray) -> np.ndarray:
        """Squash (H, W) uint8 or uint16 to (resolution, resolution), same type, antialiased."""
        top, bottom = REGIONS[self.region]
        rows = slice(round(top * len(pixels)), round(bottom * len(pixels)))
        side = (self.resolution, self.resolution)
        return np.asarray(Image.fromarray(pixels[rows]).resize(side, Image.Resampling.BILINEAR))

    def stretch(self, shrunk: np.ndarray) -> np.ndarray:
        """Grey values of any depth to float32 in [0, 1] between the percentiles, same shape.

        The percentiles are those of the film inside a white border, if it has one.
        """
        low, high = grey_percentiles(inside_white_border(shrunk), self.percentiles)
        stretched = (shrunk.astype(np.float32) - np.float32(low)) / max(high - low, 1)
        return stretched.clip(0, 1, dtype=np.float32)

    def resize(self, stretched: Tensor) -> Tensor:
        """To the network's input: (N, 1, resolution, resolution) -> (N, 1, size, size)."""
        from torch.nn import functional as F

        margin, side = self.margin, self.size + 2 * self.margin
        resized = F.interpolate(stretched, (side, side), mode="bilinear", align_corners=False)
        return resized[..., margin : side - margin, margin : side - margin]

    def finish(self, stretched: Tensor) -> Tensor:
        """Normalise values in [0, 1] and give them three channels: (N, 1, S, S) -> (N, 3, S, S)."""
        return ((stretched - self.mean) / self.std).expand(-1, 3, -1, -1)

    def __call__(self, images: Sequence[np.ndarray]) -> Tensor:
        """N images (H, W) of any sizes, uint8 or uint16 -> (N, 3, size, size) float32."""
        import torch

        stretched = np.stack([self.stretch(self.shrink(pixels)) for pixels in images])
        return self.finish(self.resize(torch.from_numpy(stretched)[:, None]))

    @property
    def view(self) -> np.ndarray:
        """What the network sees of an image: (x0, y0, x1, y1) as shares of its width and height."""
        top, bottom = REGIONS[self.region]
        side = self.size + 2 * self.margin
        near, far = self.margin / side, (self.size + self.margin) / side
        return np.array([near, top + near * (bottom - top), far, top + far * (bottom - top)])

    def locate(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (..., 4) in pixels of the network's input as shares of the image's sides."""
        x0, y0, x1, y1 = self.view
        return np.array([x0, y0, x0, y0]) + boxes / self.size * np.tile([x1 - x0, y1 - y0], 2)

    def unfold(self, heat_map: np.ndarray) -> np.ndarray:
        """A heat map (h, w) over the network's input as one over the image, 0 where it sees none.

        Where it sees all of it the map stays as it is.
        """
        if (self.view == (0, 0, 1, 1)).all():
            return heat_map
        canvas = np.zeros((UNFOLDED, UNFOLDED), np.float32)
        x0, y0, x1, y1 = np.rint(self.view * UNFOLDED).astype(int)
        seen = Image.fromarray(heat_map).resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR)
        canvas[y0:y1, x0:x1] = seen
        return canvas


def grey_percentiles(pixels: np.ndarray, percentiles: Sequence[float]) -> np.ndarray:
    """What ``np.percentile`` gives, of uint8 or uint16 of any shape, from their histogram.

    That takes a fraction of the time of putting the pixels in order.
    """
    counts = np.cumsum(np.bincount(pixels.ravel()))
    places = (pixels.size - 1) * np.asarray(percentiles) / 100
    first = np.floor(places)
    low, high = (np.searchsorted(counts, place, side="right") for place in (first, np.ceil(places)))
    return low + (high - low) * (places - first)


def inside_white_border(pixels: np.ndarray) -> np.ndarray:
    """The view of an image without the rows and columns of white at its edges.

    What a collimator or a print left white around a dark film would otherwise be the film's white
    point, and the film itself nearly black. A row or column counts as white if nearly all of it is
    within :data:`WHITE` of the brightest pixel; of a side at most a quarter is taken off.

    Args:
        pixels: (H, W), any type.
    """
    lowest, highest = float(pixels.min()), float(pixels.max())
    white = pixels >= highest - WHITE * (highest - lowest)
    spans = []
    for axis in (1, 0):
        lines = white.mean(axis=axis) > NEARLY_ALL
        most = len(lines) // 4
        first = next((i for i in range(most) if not lines[i]), most)
        last = next((i for i in range(most) if not lines[-1 - i]), most)
        # The line next to the border is part border where the image was shrunk.
        spans.append(slice(first + (first > 0), len(lines) - last - (last > 0)))
    return pixels[spans[0], spans[1]]
