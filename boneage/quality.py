"""What the user should know about a radiograph, and about the ages of its parts."""

from collections.abc import Mapping
from statistics import median

import numpy as np
from PIL import Image

from boneage.images import Radiograph

MIN_GREY_LEVELS = 16
"""Fewer grey levels than this show no trabeculae or growth plates."""
FAR_MONTHS = 24.0
"""From the median of all components; with the released weights a part's age lies farther in 6 of
1,417 validation hands."""

_LOOKED_AT = 512  # px, more of a side are not
_GRID = 64  # the film is looked at on this many columns and rows, whatever its shape
_MARGIN = 4  # columns and rows beside the edge, where collimators and markers lie
_CENTRE = 7  # a gap between two hands is sought this many columns left and right of the middle
_VALLEY = 0.55  # a gap holds less than this part of the structure that either side holds


def warnings_for(
    radiograph: Radiograph, training_resolution: int, task: str = "hand"
) -> tuple[str, ...]:
    """Quality warnings for a radiograph, in plain language; empty if there is none.

    Args:
        radiograph: the film as read.
        training_resolution: the side in pixels that the training images really had.
        task: ``hand`` or ``adult``; only of hands there can be one too many.
    """
    found = []
    shorter = min(radiograph.width, radiograph.height)
    if shorter < training_resolution:
        found.append(
            f"The image is small: {radiograph.width} x {radiograph.height} px; the model was "
            f"trained on images of {training_resolution} px. Fine detail may be missing."
        )
    # Every so many pixels of a large film: enough to tell, in a bounded amount of memory and time.
    step = 1 + max(radiograph.width, radiograph.height) // _LOOKED_AT
    thinned = radiograph.pixels[::step, ::step]
    levels = grey_levels(thinned)
    if levels < MIN_GREY_LEVELS:
        found.append(
            f"The contrast is very low: the image has only {levels} grey levels apart from its "
            "darkest and brightest 1 %."
        )
    if task == "hand" and looks_like_two_hands(thinned):
        found.append(
            "The image seems to show two hands. The assessment expects one; crop it to the left "
            "hand."
        )
    return tuple(found)


def warnings_of_parts(components: Mapping[str, float], unit: str) -> tuple[str, ...]:
    """A warning where a part's age lies far from the median of all components, whose mean it moves.

    Args:
        components: ages by name, the parts' being ``R1``, ``R2``, ...
        unit: of others than ``months`` nothing is said: :data:`FAR_MONTHS` was chosen for hands.
    """
    if unit != "months":
        return ()
    ages = {name: age for name, age in components.items() if name != "assembled"}
    middle = median(ages.values()) if ages else 0.0
    return tuple(
        f"Part {name} alone gives {age:.0f} months, far from the median of all components "
        f"({middle:.0f} months). Its box may show little of the hand, and it moves the assembled "
        "age: look at the box, and compare the age of the whole hand (X)."
        for name, age in ages.items()
        if name.startswith("R") and abs(age - middle) > FAR_MONTHS
    )


def grey_levels(pixels: np.ndarray) -> int:
    """Count the distinct values of a uint8 or uint16 image from its 1st to 99th percentile."""
    histogram = np.bincount(pixels.ravel())
    rank = np.cumsum(histogram)
    lowest, highest = np.searchsorted(rank, [0.01 * pixels.size, 0.99 * pixels.size])
    return np.count_nonzero(histogram[lowest : highest + 1])


def looks_like_two_hands(pixels: np.ndarray) -> bool:
    """Whether a film shows two hands side by side: structure left and right, a gap between.

    Structure is the local change of grey, cut off at a strong edge so that a lead letter counts no
    more than a bone. Straight borders of collimators count nothing: they change their whole row or
    column, of which the median is taken off. Two hands one above the other are not found.

    Args:
        pixels: (H, W) uint8 or uint16, either polarity.
    """
    small = Image.fromarray(pixels).resize((_GRID, _GRID), Image.Resampling.BOX)
    grey = np.asarray(small, np.float32)
    darkest, brightest = np.percentile(grey, [1, 99])
    grey = np.clip(grey, darkest, brightest)
    across = np.abs(np.diff(grey, axis=1))[1:]
    along = np.abs(np.diff(grey, axis=0))[:, 1:]
    across = np.maximum(across - np.median(across, axis=0), 0)
    along = np.maximum(along - np.median(along, axis=1, keepdims=True), 0)
    structure = across + along
    structure = np.minimum(structure, np.percentile(structure, 90))
    profile = structure[_MARGIN:-_MARGIN].mean(axis=0)
    profile = np.convolve(profile, np.ones(5) / 5, "same")
    middle = len(profile) // 2
    left = profile[_MARGIN : middle - _MARGIN].max()
    right = profile[middle + _MARGIN : -_MARGIN].max()
    gap = profile[middle - _CENTRE : middle + _CENTRE].min()
    return bool(gap < _VALLEY * min(left, right))
