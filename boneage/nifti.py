"""CT volumes in NIfTI files: one file, header and voxels, compressed or not.

The header is nibabel's; the voxels are read here, a few slices at a time, so that neither a
compressed nor a floating-point file is ever in memory as a whole. NIfTI names no modality, so what
is no CT is told by its values.
"""

import gzip
import zlib
from typing import BinaryIO

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from boneage.errors import InputError
from boneage.volumes import AIR, Volume, check_size, describe, orient

MAX_OFFSET = 64 * 2**20
"""Where the voxels may begin at the latest: extensions of the header come before."""
BLOCK_BYTES = 16 * 2**20
"""About how much is read at once."""
SAMPLES = 2_000_000
"""About how many voxels are looked at to tell a CT."""


def read(file: BinaryIO, id: str) -> Volume:
    """Read a NIfTI-1 or NIfTI-2 file.

    Args:
        file: opened at its beginning.
        id: the name to show.

    Raises:
        InputError: damaged, beyond the limits of :mod:`boneage.volumes`, or no CT volume.
    """
    is_compressed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    stream = gzip.GzipFile(fileobj=file) if is_compressed else file
    try:
        header = _header(stream)
        hu = _voxels(stream, header)
    except (zlib.error, EOFError, OSError):
        raise InputError(_DAMAGED) from None
    _check_is_ct(hu)
    affine, notes = _affine(header)
    view, spacing, turned = orient(hu, affine)
    described = describe("NIfTI", view.shape, spacing)
    return Volume(view, spacing, id, described, warnings=(*notes, *turned))


_DAMAGED = "The NIfTI file is damaged or incomplete."
_KINDS = "expected one CT volume of real numbers"


def _header(stream: BinaryIO) -> Nifti1Header:
    """The header of either version, checked; the stream is left at the first voxel."""
    head = stream.read(348)
    if int.from_bytes(head[:4], "little") == 540 or int.from_bytes(head[:4], "big") == 540:
        head += stream.read(540 - 348)
        kind = Nifti2Header
    else:
        kind = Nifti1Header
    try:
        header = kind(head, check=False)
        dtype = header.get_data_dtype()
        shape = header.get_data_shape()
    except (WrapStructError, HeaderDataError, KeyError, ValueError):
        raise InputError(_DAMAGED) from None
    if header["magic"].item()[:3] in (b"ni1", b"ni2"):
        raise InputError(
            "The NIfTI header's voxels lie in another file; save both as one .nii or .nii.gz file."
        )
    if dtype.names or dtype.kind not in "iuf":
        raise InputError(f"The NIfTI file holds colour or other compound values; {_KINDS}.")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if min(shape, default=0) < 1:
        raise InputError(_DAMAGED)
    if len(shape) != 3:
        raise InputError(f"The NIfTI file holds {len(shape)}-dimensional data; {_KINDS}.")
    check_size(shape, dtype.itemsize)
    offset = float(header["vox_offset"])
    if not len(head) <= offset <= MAX_OFFSET:
        raise InputError(_DAMAGED)
    remaining = int(offset) - len(head)
    if len(stream.read(remaining)) < remaining:
        raise EOFError
    if not np.isfinite([header["scl_slope"], header["scl_inter"]]).all():
        raise InputError(_DAMAGED)
    return header


def _voxels(stream: BinaryIO, header: Nifti1Header) -> np.ndarray:
    """(i, j, k) int16 Hounsfield units; reads as many bytes as the header promises, no more."""
    ni, nj, nk = header.get_data_shape()[:3]
    dtype = header.get_data_dtype()
    slope, intercept = header.get_slope_inter()
    slope, intercept = slope or 1.0, intercept or 0.0
    hu = np.empty((nk, nj, ni), np.int16)
    slices = max(1, BLOCK_BYTES // (ni * nj * dtype.itemsize))
    for first in range(0, nk, slices):
        part = hu[first : first + slices]
        data = stream.read(part.size * dtype.itemsize)
        if len(data) < part.size * dtype.itemsize:
            raise EOFError
        stored = np.frombuffer(data, dtype).reshape(part.shape)
        if stored.dtype.newbyteorder("=") == np.int16 and (slope, intercept) == (1, 0):
            np.maximum(stored, AIR, out=part)
        else:
            part[:] = to_hu(stored, slope, intercept)
    return hu.transpose()


def to_hu(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Rescale to int16 Hounsfield units; padding and what is no number become air."""
    with np.errstate(all="ignore"):  # what overflows is clipped below
        values = stored.astype(np.float32)
        values *= slope
        values += intercept
    np.nan_to_num(values, copy=False, nan=AIR)
    return np.clip(np.rint(values, out=values), AIR, 32767).astype(np.int16)


def _affine(header: Nifti1Header) -> tuple[np.ndarray, tuple[str, ...]]:
    """From indices to mm in RAS+, and warnings."""
    try:
        affine = np.asarray(header.get_best_affine(), float)
    except (HeaderDataError, ValueError):  # no rotation in the quaternion, or negative distances
        raise InputError(_DAMAGED) from None
    unit = int(header["xyzt_units"]) & 7  # 1 metre, 2 millimetre, 3 micrometre, 0 unknown
    affine = affine * {1: 1000.0, 3: 0.001}.get(unit, 1.0)
    if header["sform_code"] > 0 or header["qform_code"] > 0:
        return affine, ()
    return affine, (
        "The file does not state the patient's orientation; the usual order of axes was assumed, "
        "and left and right may be swapped.",
    )


def _check_is_ct(hu: np.ndarray) -> None:
    """Refuse values that cannot be Hounsfield units of a body.

    A CT of a body has air around or inside it, bone, and more soft tissue than bone. MR, PET, label
    masks and unscaled CT have no negative values; normalised images no bone.

    Raises:
        InputError: one of the three is missing.
    """
    step = max(1, round((hu.size / SAMPLES) ** (1 / 3)))
    sample = hu[::step, ::step, ::step]
    bone = np.mean(sample > 150)
    if np.mean(sample < -300) < 1e-3 or bone < 1e-4 or bone > np.mean(np.abs(sample) <= 150):
        raise InputError(
            "The NIfTI file's values are not the Hounsfield units of a CT: air (about -1000), "
            "soft tissue (about 0) and bone (above 200) are expected."
        )
