"""Frontal projections of a CT volume: the skeleton, and what a radiograph would look like.

A parallel beam passes the body from front to back. The table is removed first, metal is capped, and
the sums along the beam become square pixels of the finer of the two spacings, though never finer
than 0.6 mm (1.8 m of body are then 3000 rows) nor coarser than 1 mm. Volumes are summed a few
slices at a time; what has to be found in them (body, lungs) is found on a coarse copy.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from boneage.errors import InputError
from boneage.images import MIN_SIDE, Radiograph, check_contrast
from boneage.volumes import AIR, MIN_HEIGHT_MM, Volume

KINDS = ("bone", "radiograph")
EXTENTS = ("all", "thorax")

PIXEL_MM = (0.6, 1.0)
"""Side of a pixel: the finer of the volume's two spacings within these."""
GRID_MM = 4.0
"""About the spacing of the coarse copy: fine enough for a finger, coarser than a table's shell."""
MAX_COARSE = 30_000_000
"""Voxels of the coarse copy at most; what is found in it takes some 30 bytes for each."""
SLAB_VOXELS = 4_000_000
"""About how many voxels are summed at once."""

SKIN_HU = -300
"""Between air (or a mattress) and the body."""
SMALLEST_PART = 0.03
"""Parts of this share of the largest one are body too: a leg, an arm beside the trunk."""
LUNG_HU = -500
"""Below it is air; lung in inspiration lies at -700 to -900, gas in the bowel at -1000."""
LUNG_MEAN_HU = (-940, -550)
"""Mean of what is lung, bronchi included."""
LUNG_PIECE_ML = 30
LUNG_ML = 150
"""The least volume of a piece of lung, and of a small child's lungs."""
LUNG_HEIGHT_MM = 80
LUNG_SHARE = 0.15
"""Share of the trunk's cross-section that lungs take where they are widest; bowel takes less."""
CUT_SHARE = 0.25
"""Lungs whose first or last slice has more than this of their largest area go on outside."""
THORAX_MARGIN_MM = {"above": 50.0, "below": 40.0, "beside": 50.0}
"""Around the lungs, as on a chest radiograph: they take some two thirds of its width, and more of
its height with the recesses behind the diaphragm."""

METAL_HU = {"bone": 1500, "radiograph": 2000}
"""Everything above counts as this much: about the densest bone (petrous part, teeth, cortex)."""
BONE_HU = (100, 200)
"""Where bone begins, softly; muscle and most contrast-enhanced organs lie below."""
BONE_SCALE_MM = 6.0
"""Bone (mm of 1000 HU) that turns the picture 63 % of the way to white, before the square root."""
FILM_BLUR_MM = 20.0
FILM_COMPRESSION = 0.5
"""Share taken off the structures coarser than FILM_BLUR_MM, as digital radiography does, so that
lungs and abdomen show on one picture."""
FILM_MEDIAN, FILM_GAMMAS = 0.65, (0.5, 2.0)
"""Median grey of the body, as of real chest radiographs, and the gammas that may bring it about."""
FILM_EDGE_MM = 2.0
"""A beam that passes less water has missed the body."""
FILM_SKIN = 0.05
"""Grey of the thinnest part of the body; around the body it is black."""

_DESCRIPTIONS = {"bone": "frontal bone projection", "radiograph": "frontal radiograph computed"}


@dataclass(frozen=True)
class Thorax:
    """Where the lungs are, in mm from the volume's first slice and its right side.

    Attributes:
        top, bottom, right, left: bounds of the lungs.
        is_two_sided: whether both sides of the trunk hold lung.
    """

    top: float
    bottom: float
    right: float
    left: float
    is_two_sided: bool


@dataclass(frozen=True)
class Coarse:
    """A coarse copy of a volume by leaving out voxels.

    Attributes:
        hu: (z, y, x) int16.
        steps: which voxels were kept: every so many of each axis.
        spacing: of the copy, mm.
    """

    hu: np.ndarray
    steps: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @classmethod
    def of(cls, volume: Volume) -> "Coarse":
        """The copy of about GRID_MM spacing, or of more where it would be too large."""
        steps = tuple(max(1, round(GRID_MM / mm)) for mm in volume.spacing)
        while math.prod(map(math.ceil, np.divide(volume.hu.shape, steps))) > MAX_COARSE:
            steps = tuple(step + 1 for step in steps)
        hu = np.ascontiguousarray(volume.hu[tuple(slice(None, None, step) for step in steps)])
        spacing = tuple(step * mm for step, mm in zip(steps, volume.spacing, strict=True))
        return cls(hu, steps, spacing)

    def nearest(self, axis: int, size: int) -> np.ndarray:
        """The copy's index for each of the volume's indices along an axis."""
        step = self.steps[axis]
        return np.minimum((np.arange(size) + step // 2) // step, self.hu.shape[axis] - 1)


def project(volume: Volume, kind: str, extent: str) -> Radiograph:
    """See :func:`boneage.volumes.project`."""
    if kind not in KINDS or extent not in EXTENTS:
        raise ValueError(f"kind is one of {KINDS}, extent one of {EXTENTS}; not {kind}, {extent}")
    coarse = Coarse.of(volume)
    body = find_body(coarse)
    thorax, unassessable = find_thorax(coarse, body)
    if volume.height_mm < MIN_HEIGHT_MM:
        unassessable = (
            f"The volume covers {volume.height_mm:.0f} mm from head to foot; an age is given from "
            f"{MIN_HEIGHT_MM:.0f} mm."
        )
    depth = sum_along_beam(volume, coarse, body, kind)
    notes = list(volume.warnings)
    rows, columns = slice(None), slice(None)
    if extent == "thorax" and thorax:
        rows, columns = _around(thorax, volume)
        if not thorax.is_two_sided:
            notes.append("Lung was found on one side only.")
    pixel = float(np.clip(min(volume.spacing[0], volume.spacing[2]), *PIXEL_MM))
    depth = _resample(depth[rows, columns], volume.spacing, pixel)
    if min(depth.shape) < MIN_SIDE:
        height, width = (side * pixel for side in depth.shape)
        raise InputError(f"The volume's frontal view is only {width:.0f} x {height:.0f} mm.")
    grey = bone_response(depth) if kind == "bone" else film_response(depth, pixel)
    pixels = np.round(grey * 65535).astype(np.uint16)
    check_contrast(pixels)
    what = f"{_DESCRIPTIONS[kind]}{' of the thorax' if rows != slice(None) else ''}"
    return Radiograph(
        pixels,
        volume.id,
        "CT",
        f"{volume.description}; {what}, {pixels.shape[1]} x {pixels.shape[0]} px",
        sex=volume.sex,
        age_years=volume.age_years,
        warnings=tuple(notes),
        unassessable=unassessable,
    )


# --- What is where ---


def find_body(coarse: Coarse) -> np.ndarray:
    """(z, y, x) bool: the body with what it encloses, without table, mattress and clothes.

    A table's shell is thinner than the coarse grid can hold after an opening, and separate from the
    body; limbs are kept where they are separate.

    Raises:
        InputError: if there is nothing denser than air.
    """
    dense = coarse.hu > SKIN_HU
    # Beyond the first and last slice the body goes on, so these do not wear off.
    opened = ndimage.binary_dilation(ndimage.binary_erosion(dense, border_value=1))
    parts, count = ndimage.label(opened)
    if not count:
        raise InputError("The volume shows no body.")
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    body = (sizes >= SMALLEST_PART * sizes.max())[parts]
    body = ndimage.binary_dilation(body, iterations=2, mask=dense)
    return body | _enclosed(dense, body)


def _enclosed(dense: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Air that the body encloses in its cross-sections, with walls that an opening wore off.

    Lungs lie behind walls that may be thin, in children above all; a table's hollow is bounded by
    its own shell, not by the body.
    """
    air = np.stack([ndimage.binary_fill_holes(cross_section) for cross_section in dense]) & ~dense
    pieces, count = ndimage.label(air)
    numbers = np.arange(1, count + 1)
    rim = air & ndimage.binary_dilation(dense)
    rims = ndimage.sum_labels(rim, pieces, numbers)
    touching = ndimage.sum_labels(rim & ndimage.binary_dilation(body), pieces, numbers)
    kept = np.concatenate([[False], touching > rims / 2])[pieces]
    return kept | (dense & ndimage.binary_dilation(kept, iterations=3))


def find_thorax(coarse: Coarse, body: np.ndarray) -> tuple[Thorax | None, str | None]:
    """The lungs' bounds; or None and the reason why there is no whole thorax."""
    voxel_ml = np.prod(coarse.spacing) / 1000
    pieces, count = ndimage.label((coarse.hu < LUNG_HU) & body)
    numbers = np.arange(count + 1)
    volumes = ndimage.sum_labels(body, pieces, numbers) * voxel_ml
    means = ndimage.mean(coarse.hu, pieces, numbers) if count else np.zeros(1)
    is_lung = (volumes >= LUNG_PIECE_ML) & (means > LUNG_MEAN_HU[0]) & (means < LUNG_MEAN_HU[1])
    is_lung[0] = False
    lungs = is_lung[pieces]
    area, trunk = lungs.sum(axis=(1, 2)), np.maximum(body.sum(axis=(1, 2)), 1)
    rows = np.flatnonzero(area)
    height = (rows[-1] - rows[0] + 1) * coarse.spacing[0] if len(rows) else 0
    if (
        lungs.sum() * voxel_ml < LUNG_ML
        or height < LUNG_HEIGHT_MM
        or (area / trunk).max() < LUNG_SHARE
    ):
        return None, "The volume shows no thorax; an age is given only where the lungs are seen."
    if max(area[0], area[-1]) > CUT_SHARE * area.max():
        return None, (
            "The volume shows a part of the thorax; an age is given only where the lungs are seen "
            "from top to bottom."
        )
    across = np.flatnonzero(lungs.any(axis=(0, 1)))
    trunk_columns = np.flatnonzero(body[rows].any(axis=(0, 1)))
    middle = (trunk_columns[0] + trunk_columns[-1]) // 2
    right = lungs[..., :middle].sum() / lungs.sum()
    dz, _, dx = coarse.spacing
    return Thorax(
        rows[0] * dz, (rows[-1] + 1) * dz, across[0] * dx, (across[-1] + 1) * dx, 0.1 < right < 0.9
    ), None


def _around(thorax: Thorax, volume: Volume) -> tuple[slice, slice]:
    """Rows and columns of the lungs with a margin, as far as the volume goes."""

    def span(low: float, high: float, axis: int) -> slice:
        mm = volume.spacing[axis]
        return slice(max(0, round(low / mm)), min(volume.hu.shape[axis], round(high / mm)))

    margin = THORAX_MARGIN_MM
    rows = span(thorax.top - margin["above"], thorax.bottom + margin["below"], 0)
    return rows, span(thorax.right - margin["beside"], thorax.left + margin["beside"], 2)


# --- From the volume to the picture ---


def sum_along_beam(volume: Volume, coarse: Coarse, body: np.ndarray, kind: str) -> np.ndarray:
    """Sum a function of the Hounsfield units from front to back.

    Returns:
        (z, x) float32 mm: of water for ``radiograph``, of 1000 HU above BONE_HU for ``bone``.
    """
    nz, ny, nx = volume.hu.shape
    table = _contribution(kind)
    # One voxel more, so that the skin is not cut; what is added is air.
    near = ndimage.binary_dilation(body)
    of_z, of_y, of_x = (coarse.nearest(axis, size) for axis, size in enumerate((nz, ny, nx)))
    sums = np.empty((nz, nx), np.float32)
    slices = max(1, SLAB_VOXELS // (ny * nx))
    for first in range(0, nz, slices):
        slab = np.array(volume.hu[first : first + slices], order="C")
        inside = near[of_z[first : first + slices]][:, of_y][:, :, of_x]
        slab[~inside] = AIR
        sums[first : first + slices] = table[slab.view(np.uint16)].sum(axis=1)
    return sums * np.float32(volume.spacing[1])


def _contribution(kind: str) -> np.ndarray:
    """(65536,) float32: what a voxel adds to the beam's sum, by its int16 value seen as uint16."""
    hu = np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.float32)
    hu = np.minimum(hu, METAL_HU[kind])
    if kind == "radiograph":
        return np.maximum(1 + hu / 1000, 0)  # attenuation relative to water
    low, high = BONE_HU
    edge = np.clip(hu - low, 0, high - low) ** 2 / (2 * (high - low))
    return (edge + np.maximum(hu - high, 0)) / 1000


def _resample(image: np.ndarray, spacing: tuple[float, ...], pixel: float) -> np.ndarray:
    """(z, x) to square pixels of so many mm."""
    height, width = (
        max(1, round(n * mm / pixel)) for n, mm in zip(image.shape, spacing[::2], strict=True)
    )
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))


def bone_response(depth: np.ndarray) -> np.ndarray:
    """mm of bone to grey in [0, 1]: thin bones (ribs) still seen, thick ones not all white."""
    return np.sqrt(-np.expm1(-np.maximum(depth, 0) / BONE_SCALE_MM))


def film_response(depth: np.ndarray, pixel: float) -> np.ndarray:
    """mm of water to grey in [0, 1], linear in the logarithm of the intensity, as a detector's.

    Coarse structures are compressed, grey is stretched between percentiles of the body, and a
    gamma gives the body the median grey of a well exposed film.

    Args:
        depth: (h, w) mm of water along the beam.
        pixel: side of a pixel, mm.
    """
    inside = depth > FILM_EDGE_MM
    # Blurred on an eighth of the pixels: the outcome has no fine structure.
    size = tuple(max(1, side // 8) for side in reversed(depth.shape))
    weighted, weight = (
        ndimage.gaussian_filter(
            np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX)),
            FILM_BLUR_MM / pixel / 8,
        )
        for image in (np.where(inside, depth, 0).astype(np.float32), inside.astype(np.float32))
    )
    coarse = Image.fromarray(weighted / np.maximum(weight, 1e-3))
    coarse = np.asarray(coarse.resize(depth.shape[::-1], Image.Resampling.BICUBIC))
    seen = depth - FILM_COMPRESSION * coarse
    if not inside.any():
        raise InputError("The volume shows no body.")
    low, high = np.percentile(seen[inside], (2, 99.7))
    stretched = np.clip((seen - low) / max(high - low, 1e-6), 0, 1)
    median = float(np.clip(np.median(stretched[inside]), 0.01, 0.99))
    exposed = stretched ** np.clip(np.log(FILM_MEDIAN) / np.log(median), *FILM_GAMMAS)
    return np.where(inside, FILM_SKIN + (1 - FILM_SKIN) * exposed, 0)
