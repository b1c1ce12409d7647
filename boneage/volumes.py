"""A CT volume (NIfTI file, DICOM series) becomes a :class:`Volume`, and that a frontal projection.

What a source is, its content decides, never its name. Every limit is checked before a voxel is
decoded, and archives are unpacked as far as the limits go, whatever they promise. NIfTI is read by
:mod:`boneage.nifti`, DICOM by :mod:`boneage.ct_series`, pictures are made by
:mod:`boneage.projection`; each loads only when it is needed.
"""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from boneage.errors import InputError
from boneage.images import Radiograph
from boneage.zips import files_in, open_member, open_zip

MAX_BYTES = 4 * 2**30
"""The most bytes that a volume may unpack to."""
MAX_VOXELS = 1_000_000_000
"""The most voxels that are decoded."""
MAX_SLICES = 5_000
"""The most voxels along one side, and the most slices of a series."""
MAX_ENTRIES = 20_000
"""The most files that a folder or a zip may hold: several series of a whole body."""
MIN_HEIGHT_MM = 150.0
"""The least length of body, head to feet, of which an age is given."""
MIN_SPACING_MM, MAX_SPACING_MM = 0.05, 10.0
"""Distance between voxels: from less than any clinical CT's to the height of an intervertebral
disc; more loses whole structures."""
MAX_LENGTH_MM = 3000.0
"""The longest side; no body is longer, so beyond it the voxel size must be wrong."""
MAX_TURN = 30.0
"""Degrees by which a volume may be turned against the patient's axes: a view turned by more is no
frontal one."""
TURN_SHOWN = 3.0
"""Degrees from which a turn or a gantry tilt is worth a warning."""
AIR = -1024
"""The lowest Hounsfield unit kept; what lies below is padding outside the scanned field."""
ACCEPTED = "a NIfTI file (.nii, .nii.gz), or a folder or a zip of the DICOM files of a CT series"


@dataclass(frozen=True)
class Volume:
    """A CT volume in patient orientation.

    Attributes:
        hu: (z, y, x) int16 Hounsfield units, at least -1024; z from head to feet, y from front to
            back, x from the patient's right to left. A view: no axis need be contiguous.
        spacing: distance of voxels along z, y and x, mm.
        id: the name to show, never a path nor a patient's.
        description: what the source was, in words.
        sex: "F" or "M" from a DICOM header, else None.
        age_years: age at the examination from a DICOM header, else None.
        warnings: what the user should know about the reading, in plain language.
        patient: the DICOM PatientID if there is one; for a salted hash only, never shown or logged.
    """

    hu: np.ndarray = field(repr=False)
    spacing: tuple[float, float, float]
    id: str
    description: str
    sex: str | None = None
    age_years: float | None = None
    warnings: tuple[str, ...] = ()
    patient: str | None = field(default=None, repr=False)

    @property
    def height_mm(self) -> float:
        """Length from head to feet, mm."""
        return self.hu.shape[0] * self.spacing[0]


@dataclass(frozen=True)
class Labels:
    """What a source says of its patient; all None for NIfTI, which says nothing.

    Attributes:
        sex, age_years, patient: as in :class:`Volume`.
    """

    sex: str | None = None
    age_years: float | None = None
    patient: str | None = field(default=None, repr=False)


def is_volume(source: str | Path | bytes) -> bool:
    """Whether the content is a CT volume's: NIfTI, or a zip or folder that holds a DICOM file.

    Cheap: reads beginnings alone. What is encrypted or holds too many files counts, as does a NIfTI
    header whose voxels lie in another file, for :func:`read` says best what is wrong with it. A
    single DICOM file is an image (:mod:`boneage.images`), not a volume.
    """
    try:
        if isinstance(source, bytes):
            return _kind(io.BytesIO(source)) is not None
        path = Path(source)
        if path.is_dir():
            return any(is_dicom(_start(file)) for file in files_of(path))
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return _kind(file) is not None
    except InputError:
        return True
    except Exception:  # damaged archives raise many undocumented types
        return False


def read(source: str | Path | bytes, *, id: str | None = None) -> Volume:
    """Read a CT volume.

    Args:
        source: the path of a NIfTI file, of a zip, or of a folder of DICOM files; or the content
            of such a file.
        id: the name to show; by default the file's or folder's name without ending, or "volume".

    Raises:
        InputError: none of these, damaged or incomplete, beyond the limits of this module, no CT,
            or slices that do not make one regular volume.
    """
    with _open(source) as (data, kind, name):
        id = id or name or "volume"
        if kind == "NIfTI":
            from boneage import nifti

            return nifti.read(data, id)
        from boneage import ct_series

        return ct_series.Series(data).read(id)


def read_labels(source: str | Path | bytes) -> Labels:
    """Sex, age and patient of a volume, without decoding it.

    Raises:
        InputError: as :func:`read`, as far as headers tell.
    """
    with _open(source) as (data, kind, _):
        if kind == "NIfTI":
            return Labels()
        from boneage import ct_series

        return ct_series.Series(data).labels


def project(volume: Volume, kind: str = "bone", extent: str = "all") -> Radiograph:
    """The frontal projection of a volume: what a beam from front to back leaves.

    Head up, the patient's right on the image's left, square pixels; see :mod:`boneage.projection`.
    A volume that is too short or shows no thorax is projected too, but says in ``unassessable``
    why no age may be given of it.

    Args:
        volume: to be projected.
        kind: ``bone`` (bone alone, soft tissue suppressed) or ``radiograph`` (what a radiograph of
            this body would look like).
        extent: ``all``, or ``thorax`` (cropped around the lungs as a chest radiograph is; all where
            there is no thorax).

    Raises:
        InputError: if there is no body in the volume.
    """
    from boneage import projection

    return projection.project(volume, kind, extent)


def name_of(path: Path) -> str:
    """A volume's name: its file's or folder's without the endings of the accepted formats."""
    if path.is_dir():
        return path.resolve().name
    return re.sub(r"(?i)(\.nii)?\.(gz|zip|nii)$", "", path.name)


def files_of(folder: Path) -> Iterator[Path]:
    """Files in a folder and its folders, sorted, but hidden ones.

    Raises:
        InputError: more than :data:`MAX_ENTRIES`.
    """
    found = []
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.is_file():
            found.append(path)
        if len(found) > MAX_ENTRIES:
            raise InputError(f"The folder holds more than {MAX_ENTRIES} files.")
    yield from sorted(found)


def check_size(shape: tuple[int, ...], bytes_per_voxel: int) -> None:
    """Refuse a volume too large to decode, or too small to be one.

    Raises:
        InputError: more than the limits of this module, or a side of one voxel.
    """
    voxels = shape[0] * shape[1] * shape[2]
    if max(shape) > MAX_SLICES:
        raise InputError(f"The volume has more than {MAX_SLICES} slices.")
    if voxels > MAX_VOXELS or voxels * bytes_per_voxel > MAX_BYTES:
        raise InputError(
            f"The volume is too large: at most {MAX_VOXELS // 10**6} million voxels and "
            f"{MAX_BYTES // 2**30} GB unpacked are accepted."
        )
    if min(shape) < 2:
        raise InputError("This is a single slice; a volume of several slices is expected.")


def orient(
    array: np.ndarray, affine: np.ndarray
) -> tuple[np.ndarray, tuple[float, float, float], tuple[str, ...]]:
    """Turn an array into patient orientation by exchanging and flipping axes, without a copy.

    A volume turned a little is taken along its own nearest axes: its picture is turned by as much,
    as that of a patient who lies askew.

    Args:
        array: (i, j, k) of any type.
        affine: (4, 4), from indices to mm to the right, front and head (NIfTI's RAS+).

    Returns:
        The (z, y, x) view of :class:`Volume`, its spacing in mm, and warnings.

    Raises:
        InputError: axes that make no sense, or that are turned by more than :data:`MAX_TURN`.
    """
    axes = np.asarray(affine, float)[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not (np.isfinite(axes).all() and (lengths > 0).all()):
        raise InputError("The volume's orientation is not valid: its voxels have no size.")
    cosines = axes / lengths
    nearest = np.abs(cosines).argmax(axis=0)  # of each array axis: 0 right, 1 front, 2 head
    if sorted(nearest) != [0, 1, 2] or abs(np.linalg.det(cosines)) < 0.5:
        raise InputError(_OBLIQUE)
    turn = float(np.degrees(np.arccos(np.clip(np.abs(cosines).max(axis=0), 0, 1)).max()))
    if turn > MAX_TURN:
        raise InputError(_OBLIQUE)
    order = [int(np.flatnonzero(nearest == world)[0]) for world in (2, 1, 0)]
    spacing = tuple(float(lengths[axis]) for axis in order)
    # Towards the feet, the back and the left: against each of NIfTI's directions.
    flips = tuple(
        slice(None, None, -1 if cosines[world, axis] > 0 else 1)
        for world, axis in zip((2, 1, 0), order, strict=True)
    )
    view = array.transpose(order)[flips]
    if not MIN_SPACING_MM <= min(spacing) <= max(spacing) <= MAX_SPACING_MM:
        distances = " x ".join(f"{mm:.3g}" for mm in reversed(spacing))
        raise InputError(
            f"The voxels lie {distances} mm apart; accepted: {MIN_SPACING_MM:g} to "
            f"{MAX_SPACING_MM:g} mm."
        )
    if max(n * mm for n, mm in zip(view.shape, spacing, strict=True)) > MAX_LENGTH_MM:
        raise InputError("The volume is longer than any body; its voxel size must be wrong.")
    notes = ()
    if turn > TURN_SHOWN:
        notes = (f"The volume is turned or tilted by {turn:.0f}° relative to the patient's axes.",)
    return view, spacing, notes


def describe(format: str, shape: tuple[int, ...], spacing: tuple[float, float, float]) -> str:
    """A volume in words; shape and spacing in the order z, y, x."""
    voxels = " x ".join(str(n) for n in reversed(shape))
    millimetres = " x ".join(f"{mm:.3g}" for mm in reversed(spacing))
    return f"CT, {format}, {voxels} voxels of {millimetres} mm"


_OBLIQUE = (
    "The volume lies too far askew for a frontal view: its axes must be within "
    f"{MAX_TURN:g}° of the patient's."
)


@contextmanager
def _open(source: str | Path | bytes) -> Iterator[tuple[BinaryIO | Path, str, str]]:
    """The source as a file object or a folder, its kind, and its name ("" if it has none).

    Raises:
        InputError: missing, too large or of no accepted kind.
    """
    if not isinstance(source, bytes) and Path(source).is_dir():
        yield Path(source), "DICOM", name_of(Path(source))
        return
    file, name = _file(source)
    with file:
        if file.seek(0, io.SEEK_END) > MAX_BYTES:
            raise InputError(f"The file is larger than {MAX_BYTES // 2**30} GB.")
        file.seek(0)
        try:
            kind = _kind(file)
        except InputError:
            raise
        except Exception:  # damaged archives raise many undocumented types
            raise InputError("The file is damaged or incomplete and cannot be unpacked.") from None
        if kind is None:
            raise InputError(f"This is not a CT volume. Expected: {ACCEPTED}.")
        file.seek(0)
        yield file, kind, name


def _file(source: str | Path | bytes) -> tuple[BinaryIO, str]:
    if isinstance(source, bytes):
        return io.BytesIO(source), ""
    path = Path(source)
    try:
        if not path.is_file():  # also spares devices and pipes, which never end
            raise OSError
        return path.open("rb"), name_of(path)
    except (OSError, ValueError):
        raise InputError(f"{path.name}: there is no such file, or it cannot be read.") from None


def _kind(file: BinaryIO) -> str | None:
    """ "NIfTI" or "DICOM" (in a zip), None for anything else; may raise what unpacking raises."""
    head = file.read(_HEAD)
    if head[:4] in (b"PK\3\4", b"PK\5\6"):
        return "DICOM" if _holds_dicom(file) else None
    if head[:2] == b"\x1f\x8b":
        file.seek(0)
        with gzip.GzipFile(fileobj=file) as unpacked:
            head = unpacked.read(_HEAD)
    return "NIfTI" if _is_nifti(head) else None


_HEAD = 544  # bytes that tell every kind: the longer NIfTI header and its extension flag


def _is_nifti(head: bytes) -> bool:
    one = head[344:348] in (b"n+1\0", b"ni1\0")
    return one or head[4:12] in (b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n")


def is_dicom(head: bytes) -> bool:
    """With its preamble, or beginning with group 0002 or 0008 without one."""
    return head[128:132] == b"DICM" or bool(
        re.match(rb"\x02\0\0\0UL\x04\0|\x08\0.\0([A-Z]{2}|[^\0]\0\0\0)", head, re.DOTALL)
    )


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _holds_dicom(file: BinaryIO) -> bool:
    with open_zip(file, MAX_ENTRIES) as archive:
        for info in files_in(archive):
            if info.flag_bits & 1:  # encrypted
                return True
            with suppress(Exception), open_member(archive, info) as member:  # another may be sound
                if is_dicom(member.read(_HEAD)):
                    return True
    return False
