"""What of a film is assessed, which way up, bones bright: what a person corrects beforehand."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from boneage.errors import InputError
from boneage.images import MIN_SIDE, Radiograph

MAX_CUT = 0.9
"""The largest share of the width or height that can be cut off in all."""


@dataclass(frozen=True)
class Framing:
    """A rotation, what is then cut off at each edge, and whether black and white are swapped.

    Attributes:
        rotation: degrees clockwise, -180 to 180.
        left, top, right, bottom: shares in [0, 1] of the rotated film's width or height.
        inverted: black and white are swapped, for a film with dark bones.

    Raises:
        InputError: for values outside, or if less than a tenth would be left each way.
    """

    rotation: float = 0.0
    left: float = 0.0
    top: float = 0.0
    right: float = 0.0
    bottom: float = 0.0
    inverted: bool = False

    def __post_init__(self) -> None:
        if not -180 <= self.rotation <= 180:
            raise InputError(f"The rotation is {self.rotation:g} degrees; it can be -180 to 180.")
        cuts = (self.left, self.top, self.right, self.bottom)
        if not all(0 <= cut <= 1 for cut in cuts):
            raise InputError("What is cut off at an edge is a share of 0 to 1.")
        if max(self.left + self.right, self.top + self.bottom) > MAX_CUT + 1e-9:
            raise InputError("At least a tenth of the width and of the height has to remain.")

    def turned(self, quarters: int) -> Framing:
        """The same part of the film, turned by ``quarters`` times 90 degrees clockwise."""
        cuts = [self.left, self.top, self.right, self.bottom]
        for _ in range(quarters % 4):
            cuts = [cuts[3], *cuts[:3]]  # what was below is now at the left
        rotation = (self.rotation + 90 * quarters + 180) % 360 - 180
        return Framing(rotation, *cuts, inverted=self.inverted)

    def within(self, left: float, top: float, right: float, bottom: float) -> Framing:
        """This framing with more cut off: shares of the part that it leaves."""
        width, height = 1 - self.left - self.right, 1 - self.top - self.bottom
        return replace(
            self,
            left=self.left + left * width,
            right=self.right + right * width,
            top=self.top + top * height,
            bottom=self.bottom + bottom * height,
        )

    def apply(self, radiograph: Radiograph) -> Radiograph:
        """The film as it is to be assessed; the film itself where there is nothing to do.

        A turn by other than quarters keeps the film's size; the corners that come in are as grey
        as the film's edge.

        Raises:
            InputError: if a side is left with less than 32 px.
        """
        if self == WHOLE:
            return radiograph
        pixels = _rotated(radiograph.pixels, self.rotation)
        height, width = pixels.shape
        rows = slice(round(self.top * height), round((1 - self.bottom) * height))
        columns = slice(round(self.left * width), round((1 - self.right) * width))
        pixels = pixels[rows, columns]
        if self.inverted:
            pixels = radiograph.pixels.max() - pixels
        if min(pixels.shape) < MIN_SIDE:
            raise InputError(
                f"The remaining part is {pixels.shape[1]} x {pixels.shape[0]} px; its shorter side "
                f"must be at least {MIN_SIDE} px."
            )
        return replace(
            radiograph,
            pixels=np.ascontiguousarray(pixels),
            description=f"{radiograph.description}; {self.description}",
        )

    @property
    def description(self) -> str:
        """What was done, in words; empty where nothing was."""
        across, down = 1 - self.left - self.right, 1 - self.top - self.bottom
        parts = []
        if self.rotation:
            way = "clockwise" if self.rotation > 0 else "anticlockwise"
            parts.append(f"turned by {abs(self.rotation):g}° {way}")
        if self.inverted:
            parts.append("black and white swapped")
        if across < 1 or down < 1:
            parts.append(f"cropped to {across:.0%} of its width and {down:.0%} of its height")
        return ", ".join(parts)


WHOLE = Framing()
"""The whole film as it came."""


def mirrored(pixels: np.ndarray) -> np.ndarray:
    """Left and right swapped, (H, W): the other hand, or a film seen from behind."""
    return np.ascontiguousarray(np.fliplr(pixels))


def _rotated(pixels: np.ndarray, degrees: float) -> np.ndarray:
    # Not round(), which takes 45 and 135 degrees to even numbers: a quarter more is one more.
    quarters = math.floor(degrees / 90 + 0.5)
    pixels = np.rot90(pixels, -quarters)  # numpy's turn is anticlockwise
    rest = degrees - 90 * quarters
    if not rest:
        return pixels
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    image = Image.fromarray(pixels.astype(np.float32))  # Pillow turns no 16-bit images
    image = image.rotate(-rest, Image.Resampling.BILINEAR, fillcolor=float(np.median(edge)))
    return np.rint(np.asarray(image)).astype(pixels.dtype)
