"""CT series: many DICOM files, one slice each, in a folder or a zip, to one volume.

Slices are ordered by where they lie in the patient, never by name or number. Of the patient age and
sex are read, and an identity that is only ever compared (see :mod:`boneage.dicom`).
"""

import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword

from boneage import dicom, images
from boneage.errors import InputError
from boneage.nifti import to_hu
from boneage.volumes import (
    ACCEPTED,
    AIR,
    MAX_BYTES,
    MAX_ENTRIES,
    MAX_SLICES,
    MAX_SPACING_MM,
    Labels,
    Volume,
    check_size,
    describe,
    files_of,
    is_dicom,
    orient,
)
from boneage.zips import files_in, open_member, open_zip

MAX_SLICE = 16 * 2**20
"""Bytes that a deflated slice may unpack to: twice those of 2048 x 2048 values."""

_PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_HEADER = [
    tag_for_keyword(keyword)
    for keyword in (
        *_PLACE,
        "SOPClassUID",
        "ImageType",
        "Modality",
        "SeriesInstanceUID",
        "AcquisitionNumber",
        "PatientID",
        "PatientSex",
        "PatientAge",
        "PatientBirthDate",
        "AcquisitionDate",
        "StudyDate",
        "NumberOfFrames",
        "Rows",
        "Columns",
        "RescaleType",
    )
]
_START = 2**16  # bytes of a file that hold its modality
_FIRST = [tag_for_keyword(keyword) for keyword in ("ImageType", "Modality")]
_PIXELS = [tag_for_keyword(keyword) for keyword in dicom.PIXEL_KEYWORDS]
_ENHANCED = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
"""Enhanced and legacy-converted enhanced CT: a whole series in one file."""
_NO_SLICE = {
    "LOCALIZER", "MIP", "MINIP", "PROJECTION IMAGE", "VOLUME RENDERING", "VRT", "SSD",
    "SCREEN SAVE", "DOSE_INFO", "REPORT", "BONE DENSITY", "Z_EFFECTIVE",
}  # fmt: skip
"""Values of ImageType that no slice of Hounsfield units carries."""
SAME_PLACE_MM = 0.01
EVEN_MM = 0.1
"""By how much distances of slices may differ and still be the same."""


@dataclass(frozen=True)
class Slice:
    """One slice before it is decoded.

    Attributes:
        read: gives the file's content.
        position: (3,) mm, centre of the first pixel, DICOM's patient coordinates.
        acquisition: number of the scan, "" if unknown.
        header: what was read of it.
    """

    read: Callable[[], bytes]
    position: np.ndarray
    acquisition: str
    header: Dataset = field(repr=False)


class Series:
    """The CT series of a folder or zip; of several the one with most slices.

    Args:
        source: a folder, or a zip opened at its beginning.

    Attributes:
        labels: what the headers say of the patient.

    Raises:
        InputError: no CT slices, slices that do not make one volume, an archive that is damaged,
            encrypted or too large, or the limits of :mod:`boneage.volumes` exceeded.
    """

    def __init__(self, source: Path | BinaryIO) -> None:
        with images.quiet():
            slices, self._notes = _select(_files(source))
        self._axes = _axes(slices[0].header)
        self._slices, self._along, notes = _arrange(slices, normal=self._axes[2])
        self._notes += notes
        first = slices[0].header
        self.labels = Labels(
            dicom.sex(first), dicom.age_years(first), dicom.text(first, "PatientID") or None
        )

    def read(self, id: str) -> Volume:
        """Decode the slices into one volume.

        Raises:
            InputError: a slice is damaged or of a kind that cannot be read.
        """
        first = self._slices[0].header
        step = _step(self._along)
        count = round((self._along[-1] - self._along[0]) / step) + 1
        shape = (count, int(first.Rows), int(first.Columns))
        check_size(shape, 2)
        hu = np.empty(shape, np.int16)
        targets = np.linspace(self._along[0], self._along[-1], count)
        _fill(hu, targets, self._along, self._decoded())
        view, spacing, turned = orient(hu, self._affine(targets))
        described = describe("DICOM", view.shape, spacing)
        return Volume(
            view,
            spacing,
            id,
            described,
            self.labels.sex,
            self.labels.age_years,
            (*self._notes, *turned),
            self.labels.patient,
        )

    def _decoded(self) -> Iterator[np.ndarray]:
        for number, slice in enumerate(self._slices, start=1):
            try:
                with images.quiet():
                    hu = _decode(slice.read())
                if hu.shape != (slice.header.Rows, slice.header.Columns):
                    raise InputError("Its size is not the header's.")
            except InputError as error:
                raise InputError(f"Slice {number} of {len(self._slices)}: {error}") from None
            except Exception:  # decoders raise many undocumented types on damaged input
                raise InputError(
                    f"Slice {number} of {len(self._slices)} is damaged or incomplete."
                ) from None
            yield hu

    def _affine(self, targets: np.ndarray) -> np.ndarray:
        """From (slice, row, column) to mm in RAS+; sheared where the gantry was tilted."""
        across_rows, across_columns, _ = self._axes
        path = self._slices[-1].position - self._slices[0].position
        affine = np.eye(4)
        affine[:3, 0] = path / (len(targets) - 1)
        affine[:3, 1], affine[:3, 2] = across_rows, across_columns
        affine[:2] *= -1  # DICOM's coordinates go to the left and the back
        return affine


# --- Files ---


def holds_slices(source: Path) -> bool:
    """Whether the files of a folder, not those in folders below, or of a zip include CT slices."""
    for start in _starts(source):
        with suppress(Exception), images.quiet():  # damaged ones raise many undocumented types
            if is_dicom(start):
                header, _ = dicom.parse(start, _FIRST, until=_FIRST[-1])
                if dicom.text(header, "Modality") == "CT" and not _kinds(header) & _NO_SLICE:
                    return True
    return False


def _starts(source: Path) -> Iterator[bytes]:
    """The first bytes of each file; of those that cannot be read, none."""
    if source.is_dir():
        for path in sorted(source.iterdir()):
            if not path.name.startswith(".") and path.is_file():
                with suppress(OSError), path.open("rb") as file:
                    yield _start_of(file)
        return
    # An InputError is a ValueError, and so is a name that cannot be decoded.
    with suppress(ValueError, OSError, zipfile.BadZipFile), open_zip(source, MAX_ENTRIES) as zipped:
        for info in files_in(zipped):
            with suppress(Exception), zipped.open(info) as member:  # encrypted, damaged, ...
                yield _start_of(member)


def _start_of(file: IO[bytes]) -> bytes:
    start = file.read(132)
    return start + file.read(_START) if is_dicom(start) else start


def _files(source: Path | BinaryIO) -> Iterator[Callable[[], bytes]]:
    """A function for each file that gives its content; sorted by name."""
    if isinstance(source, Path):
        # Where its own files are slices, those of folders below are other volumes.
        own = (path for path in files_of(source) if path.parent == source)
        for path in own if holds_slices(source) else files_of(source):
            yield lambda path=path: _read_file(path)
        return
    archive = open_zip(source, MAX_ENTRIES)  # readable: its kind was told by its members
    for info in files_in(archive):
        yield lambda info=info: _read_member(archive, info)


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        if not is_dicom(file.read(132)):
            return b""
        file.seek(0)
        data = file.read(images.MAX_BYTES + 1)
    return _limited(data)


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        with open_member(archive, info) as member:
            data = member.read(132)
            if is_dicom(data):
                data += member.read(images.MAX_BYTES + 1 - len(data))
    except (RuntimeError, NotImplementedError):
        raise InputError("The zip is encrypted or compressed in an unknown way.") from None
    except Exception:  # the decoders raise many undocumented types on damaged input
        raise InputError("A file in the zip is damaged.") from None
    return _limited(data)


def _limited(data: bytes) -> bytes:
    if len(data) > images.MAX_BYTES:
        raise InputError(f"A slice's file is larger than {images.MAX_BYTES // 2**20} MB.")
    return data


# --- Which slices ---


def _select(files: Iterator[Callable[[], bytes]]) -> tuple[list[Slice], tuple[str, ...]]:
    """The slices of the largest series, and what was left out."""
    series: dict[tuple, list[Slice]] = defaultdict(list)
    others: Counter[str] = Counter()
    unpacked = 0
    for read in files:
        data = read()
        unpacked += len(data)
        if unpacked > MAX_BYTES:
            raise InputError(f"The files unpack to more than {MAX_BYTES // 2**30} GB.")
        if not is_dicom(data):
            continue
        try:
            header, _ = dicom.parse(data, _HEADER, most=MAX_SLICE)
            if reason := _why_no_slice(header):
                others[reason] += 1
                continue
            position = np.array(header.ImagePositionPatient, float).reshape(3)
            acquisition = dicom.text(header, "AcquisitionNumber")
            series[_series_key(header)].append(Slice(read, position, acquisition, header))
        except Exception:  # pydicom raises many undocumented types on damaged input
            others["a damaged header"] += 1
    if not series:
        found = ", ".join(sorted(others))
        raise InputError(
            f"No CT slices were found{f', but {found}' if found else ''}. Expected: {ACCEPTED}."
        )
    slices = max(series.values(), key=len)
    if len(slices) > MAX_SLICES:
        raise InputError(f"The series has more than {MAX_SLICES} slices.")
    if len(slices) < 2:
        raise InputError("This is a single slice; a series of several slices is expected.")
    notes = []
    if len(series) > 1:
        left = len(series) - 1
        notes.append(
            f"The series with most slices was taken; {left} other series "
            f"{'was' if left == 1 else 'were'} left out."
        )
    if damaged := others["a damaged header"]:
        notes.append(f"{damaged} damaged files were left out.")
    return slices, tuple(notes)


def _kinds(header: Dataset) -> set[str]:
    return {value.strip().upper() for value in dicom.text(header, "ImageType").split("\\")}


def _why_no_slice(header: Dataset) -> str | None:
    modality = dicom.text(header, "Modality")
    if modality != "CT":
        return f"modality {modality}" if modality.isalpha() and len(modality) < 7 else "no modality"
    if dicom.text(header, "SOPClassUID") in _ENHANCED or int(header.get("NumberOfFrames") or 1) > 1:
        return "enhanced CT (a whole series in one file), which cannot be read"
    if _kinds(header) & _NO_SLICE:
        return "localizers and derived pictures"
    if any(not header.get(keyword) for keyword in _PLACE):
        return "images that do not say where they lie"
    if dicom.text(header, "RescaleType") not in ("", "HU", "US"):
        return "values that are no Hounsfield units"
    return None


def _series_key(header: Dataset) -> tuple:
    """Equal for slices that may make one volume."""
    return (
        dicom.text(header, "PatientID"),
        dicom.text(header, "SeriesInstanceUID"),
        header.Rows,
        header.Columns,
        *np.round(np.array(header.ImageOrientationPatient, float).reshape(6), 3),
        *np.round(np.array(header.PixelSpacing, float).reshape(2), 4),
    )


# --- Where they lie ---


def _axes(header: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """mm from a row to the next, from a column to the next, and the slices' normal."""
    cosines = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = np.array(header.PixelSpacing, float)
    normal = np.cross(*cosines)
    length = float(np.linalg.norm(normal))
    if not 0.99 < length < 1.01 or min(between_rows, between_columns) <= 0:
        raise InputError("The slices' orientation or pixel spacing is not valid.")
    return cosines[1] * between_rows, cosines[0] * between_columns, normal / length


def _arrange(
    slices: list[Slice], normal: np.ndarray
) -> tuple[list[Slice], np.ndarray, tuple[str, ...]]:
    """Slices in the order of their places, one a place; their places along the normal; warnings.

    A gap of up to :data:`~boneage.volumes.MAX_SPACING_MM` is filled by interpolation, as thick
    slices would be accepted; in a larger one whole structures may be missing.
    """
    along = np.array([float(slice.position @ normal) for slice in slices])
    if not np.isfinite(along).all():
        raise InputError("The slices' positions are not valid.")
    notes = []
    kept: list[int] = []
    for index in np.argsort(along, kind="stable"):
        if kept and along[index] - along[kept[-1]] < SAME_PLACE_MM:
            if slices[index].acquisition != slices[kept[-1]].acquisition:
                raise InputError(
                    "The series holds several scans of the same place (phases, or a repetition); "
                    "give the files of one."
                )
            continue
        kept.append(int(index))
    if len(kept) < 2:
        raise InputError("All slices lie at the same place; they make no volume.")
    if twice := len(slices) - len(kept):
        notes.append(f"{twice} slices came twice; the first of each was taken.")
    slices, along = [slices[index] for index in kept], along[kept]
    distances = np.diff(along)
    if distances.max() > MAX_SPACING_MM:
        raise InputError(
            f"The slices have a gap of {distances.max():.0f} mm; up to {MAX_SPACING_MM:g} mm are "
            "accepted, so that no structure is lost in it."
        )
    step = _step(along)
    steps = np.maximum(np.round(distances / step), 1)
    is_even = np.abs(distances - steps * step) <= EVEN_MM
    if missing := int(np.sum(steps[is_even] - 1)):
        notes.append(f"{missing} slices are missing and were interpolated.")
    if not is_even.all():
        notes.append("The slices are not evenly spaced and were interpolated.")
    return slices, along, tuple(notes)


def _step(along: np.ndarray) -> float:
    """The usual distance of slices, mm."""
    return float(np.median(np.diff(along)))


# --- Voxels ---


def _fill(
    hu: np.ndarray, targets: np.ndarray, along: np.ndarray, decoded: Iterator[np.ndarray]
) -> None:
    """Put slices that come in order at even places; where none lies, between its neighbours.

    Only two slices are held at a time.
    """
    if len(targets) == len(along) and np.abs(targets - along).max() <= EVEN_MM:
        for place, slice in zip(hu, decoded, strict=True):
            place[:] = slice
        return
    before, after, index = next(decoded), next(decoded), 0
    for target, place in zip(targets, hu, strict=True):
        while target > along[index + 1] and index + 2 < len(along):
            before, after, index = after, next(decoded), index + 1
        share = np.float32((target - along[index]) / (along[index + 1] - along[index]))
        place[:] = np.rint(before + share * (after.astype(np.float32) - before))


def _decode(data: bytes) -> np.ndarray:
    """One slice in int16 Hounsfield units."""
    dataset, syntax = dicom.parse(data, _PIXELS, most=MAX_SLICE)
    stored = dicom.decode(dataset, syntax)
    if stored.ndim != 2:
        raise InputError("It is in colour, which CT is not.")
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is None or intercept is None:
        raise InputError("It does not say how its values become Hounsfield units.")
    hu = to_hu(stored, float(slope), float(intercept))
    padding = dataset.get("PixelPaddingValue")
    if isinstance(padding, int):  # outside the scanned field
        limit = dataset.get("PixelPaddingRangeLimit")
        limit = limit if isinstance(limit, int) else padding
        low, high = sorted((padding, limit))
        hu[(stored >= low) & (stored <= high)] = AIR
    return hu
