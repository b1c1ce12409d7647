"""DICOM projection images, read by an allow-list of tags.

Of the patient nothing but age and sex is read, and nothing of the header is kept but what
:class:`~boneage.images.Radiograph` shows. Grey values go through the modality LUT, then the VOI LUT
(DICOM PS3.3 C.11.1 and C.11.2), then MONOCHROME1 is inverted. Compressed pixels are decoded by
imagecodecs, whose codecs raise on damaged streams where others end the process.

:func:`decode` serves any single frame, of a CT slice too.
"""

import io
import itertools
import math
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import imagecodecs
import numpy as np
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset
from pydicom.pixels import get_decoder
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from boneage.errors import InputError
from boneage.images import (
    MAX_PIXELS,
    ROWS,
    Radiograph,
    check_size,
    has_contrast,
    in_turn,
    luma,
)

MODALITIES = ("CR", "DX", "RG", "RF", "XA", "MG", "IO", "OT", "SC")
"""Modalities that a projection radiograph may carry. MG: hands are also taken on mammography
units. OT and SC: digitised films and secondary captures."""

MAX_INFLATED = 2 * MAX_PIXELS
"""The most bytes that a deflated data set may unpack to: the largest 16-bit grey image."""

ONE_GREY = 0.95
"""Share of pixels that are plain black, or plain white, where a window shows little ..."""
FEW_VALUES = 0.2
"""... if less than this share of the values that the image holds lies inside it."""
MOSTLY_WHITE = 0.5
"""Share of plain white pixels above which one is warned of a window."""

PIXEL_KEYWORDS = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleIntercept",
    "RescaleSlope",
    "PixelData",
)
"""What decoding the pixels and rescaling them takes."""

MAX_ELEMENTS = 20_000
"""The most elements outside sequences that are passed over; films have some hundred."""
_LAST = tag_for_keyword("PixelData")

_ALLOWED = [
    tag_for_keyword(keyword)
    for keyword in (
        "Modality",
        "PatientSex",
        "PatientAge",
        "PatientBirthDate",
        "AcquisitionDate",
        "StudyDate",
        *PIXEL_KEYWORDS,
        "ModalityLUTSequence",
        "VOILUTSequence",
        "VOILUTFunction",
        "WindowCenter",
        "WindowWidth",
    )
]


def read(data: bytes, id: str) -> Radiograph:
    """Read a DICOM file's content; may raise whatever pydicom and the codecs raise.

    Colour becomes grey without any LUT. Of several frames the first is read, with a warning. A
    window that makes no sense, or leaves hardly any contrast, is passed over with a warning.

    Args:
        data: the whole file, with or without preamble and file meta group.
        id: the name to show.

    Raises:
        InputError: no image, no projection radiograph, a header that makes no sense or exceeds the
            limits of :mod:`boneage.images`, or a compression that cannot be decoded.
    """
    dataset, syntax = parse(data)
    if "PixelData" not in dataset and _COMPRESSED_PIXELS.search(data):
        # Without their end pydicom leaves them out.
        raise InputError(_INCOMPLETE)
    modality = text(dataset, "Modality")
    if modality and modality not in MODALITIES:
        named = f"modality {modality}" if re.fullmatch("[A-Z]{2,6}", modality) else "its modality"
        raise InputError(
            "The DICOM file is not a projection radiograph, judging by "
            f"{named}; expected one of {', '.join(MODALITIES)}."
        )
    _check_header(dataset)
    with in_turn(dataset.Rows * dataset.Columns):
        return _radiograph(dataset, syntax, modality, id)


def _radiograph(dataset: Dataset, syntax: UID, modality: str, id: str) -> Radiograph:
    stored = decode(dataset, syntax)
    notes = []
    if _frames(dataset) > 1:
        notes.append(f"Only the first of {_frames(dataset)} frames was read.")
    if stored.ndim == 2 and dataset.SamplesPerPixel == 3:
        pixels = stored  # the luminance of compressed colour
    elif stored.ndim == 3:
        is_luminance = dataset.PhotometricInterpretation in ("YBR_FULL", "YBR_FULL_422")
        pixels = stored[..., 0] if is_luminance else luma(stored)
    else:
        pixels, ignored = _shown(stored, dataset)
        notes += ignored
    described = ", ".join(
        (
            f"DICOM {modality}".strip(),
            f"{stored.shape[1]} x {stored.shape[0]} px",
            f"{dataset.BitsStored} bit",
            str(dataset.PhotometricInterpretation),
            _COMPRESSIONS[syntax][0] if syntax in _COMPRESSIONS else "uncompressed",
        )
    )
    return Radiograph(
        np.ascontiguousarray(pixels),
        id,
        "DICOM",
        described,
        sex=sex(dataset),
        age_years=age_years(dataset),
        warnings=tuple(notes),
    )


def decode(dataset: Dataset, syntax: UID, frame: int = 0) -> np.ndarray:
    """Decode the stored values of one frame, before any LUT.

    Args:
        dataset: the image pixel module and the pixel data.
        syntax: the transfer syntax of the file it comes from.
        frame: which frame, from 0.

    Returns:
        (rows, columns) or (rows, columns, 3), 8 or 16 bit, signed where PixelRepresentation is 1,
        with the bits outside BitsStored cleared. Compressed YBR colour comes as RGB or as its
        luminance alone.

    Raises:
        InputError: no pixel data, a header that makes no sense or exceeds the limits of
            :mod:`boneage.images`, or a compression that cannot be decoded.
    """
    _check_header(dataset)
    shape = (dataset.Rows, dataset.Columns)
    if syntax in _COMPRESSIONS:
        count = _frames(dataset)
        stream = get_frame(dataset.PixelData, frame, number_of_frames=count)
        values = _COMPRESSIONS[syntax][1](stream, dataset)
    elif syntax in _UNCOMPRESSED:
        decoder = get_decoder(syntax)
        values, _ = decoder.as_array(
            dataset, index=frame, raw=True, view_only=True, correct_unused_bits=False
        )
    else:
        known = f"as {syntax.name} " if syntax.name != str(syntax) else ""
        readable = sorted({name for name, _ in _COMPRESSIONS.values()})
        raise InputError(
            f"The DICOM file's pixels are stored {known}in a way that cannot be read. "
            f"Readable: uncompressed, {', '.join(readable)}."
        )
    if values.shape not in (shape, (*shape, 3)) or values.dtype.itemsize > 2:
        raise InputError(_MISMATCH)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    stored = min(dataset.BitsStored, 8 * values.dtype.itemsize)
    high_bit = dataset.get("HighBit", stored - 1)
    if syntax in _COMPRESSIONS and syntax != RLELossless:  # the stream knows its depth
        if values.dtype.kind == "u":
            stored = max(stored, int(values.max()).bit_length())
        high_bit = stored - 1
    return _significant(values, stored, high_bit, dataset.PixelRepresentation == 1)


_COMPRESSED_PIXELS = re.compile(rb"\xe0\x7f\x10\0O[BW]\0\0\xff{4}")
_INCOMPLETE = "The DICOM file's pixel data are incomplete."
_MISMATCH = "The DICOM file's pixels do not have the size or form that its header says."
_UNCOMPRESSED = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
)


def parse(
    data: bytes,
    tags: Sequence[int] = _ALLOWED,
    until: int = _LAST,
    most: int | None = None,
) -> tuple[Dataset, UID]:
    """Parse the allow-listed elements of a file.

    Args:
        data: the whole file, or as much as holds the elements, with or without preamble and file
            meta group.
        tags: of the elements to read; by default those of a projection image.
        until: the last tag that is looked at; by default the pixel data's.
        most: bytes that a deflated file may unpack to; :data:`MAX_INFLATED` if left out.

    Returns:
        The elements, and the transfer syntax of the file. May raise whatever pydicom raises.

    Raises:
        InputError: a deflated file that unpacks to more than is accepted, or more elements.
    """
    file = io.BytesIO(data)
    if data[128:132] == b"DICM":
        file.seek(132)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    if "TransferSyntaxUID" in meta:
        syntax = UID(meta.TransferSyntaxUID)
    else:  # no meta group: the first element shows whether it carries its type
        explicit = re.fullmatch(rb"[A-Z]{2}", data[file.tell() + 4 : file.tell() + 6])
        syntax = ExplicitVRLittleEndian if explicit else ImplicitVRLittleEndian
    if syntax == DeflatedExplicitVRLittleEndian:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        limit = MAX_INFLATED if most is None else most
        inflated = inflater.decompress(data[file.tell() :], limit)
        if inflater.unconsumed_tail:
            raise InputError("The deflated DICOM file unpacks to more than is accepted.")
        file = io.BytesIO(inflated)
    dataset = read_dataset(
        file,
        syntax == ImplicitVRLittleEndian,
        syntax != ExplicitVRBigEndian,
        specific_tags=list(tags),
        stop_when=_stop_after(until),
    )
    return dataset, syntax


def _stop_after(last: int) -> Callable[[Any, Any, Any], bool]:
    """What pydicom asks before each element; it takes microseconds for one, however short it is."""
    seen = itertools.count(1)

    def stop(tag: int, vr: str | None, length: int) -> bool:
        if next(seen) > MAX_ELEMENTS:
            raise InputError(f"The DICOM header has more than {MAX_ELEMENTS:,} elements.")
        return tag > last

    return stop


def _frames(dataset: Dataset) -> int:
    return max(int(dataset.get("NumberOfFrames") or 1), 1)


def _check_header(dataset: Dataset) -> None:
    if "PixelData" not in dataset or not dataset.PixelData:
        raise InputError("The DICOM file holds no image.")
    keywords = ["Rows", "Columns", "BitsAllocated", "BitsStored", "SamplesPerPixel"]
    if "HighBit" in dataset:  # usual, but not needed
        keywords.append("HighBit")
    for keyword in keywords:
        if not isinstance(dataset.get(keyword), int):
            raise InputError(f"The DICOM header has no valid {keyword}.")
    check_size(dataset.Columns, dataset.Rows, _frames(dataset))
    allocated, stored = dataset.BitsAllocated, dataset.BitsStored
    high_bit = dataset.get("HighBit", stored - 1)
    if allocated not in (8, 16) or not 1 <= stored <= high_bit + 1 <= allocated:
        raise InputError(
            f"The DICOM header says {allocated} bits allocated, {stored} stored, high bit "
            f"{high_bit}; accepted: 8 or 16 allocated, and stored bits within them."
        )
    interpretation = dataset.get("PhotometricInterpretation")
    if (dataset.SamplesPerPixel, interpretation) not in _INTERPRETATIONS:
        raise InputError(
            "The DICOM header's photometric interpretation or samples per pixel are not accepted; "
            "accepted: MONOCHROME1 and MONOCHROME2 with one sample, RGB and YBR with three."
        )
    if "PixelRepresentation" not in dataset:  # it should be, but nearly all films are unsigned
        dataset.PixelRepresentation = 0
    if dataset.PixelRepresentation not in (0, 1):
        raise InputError("The DICOM header has no valid PixelRepresentation.")


_INTERPRETATIONS = (
    (1, "MONOCHROME1"),
    (1, "MONOCHROME2"),
    (3, "RGB"),
    (3, "YBR_FULL"),
    (3, "YBR_FULL_422"),
    (3, "YBR_ICT"),
    (3, "YBR_RCT"),
)


def _significant(values: np.ndarray, stored: int, high_bit: int, signed: bool) -> np.ndarray:
    """Keep the stored bits alone, and extend their sign.

    Files may carry overlays or rubbish in the other bits, and a codestream may be unsigned where
    the header says signed, or the other way round (DICOM PS3.5 8.1.1, 8.2.4).
    """
    size = values.dtype.itemsize
    values = values.view(f"u{size}")
    if not (high_bit == stored - 1 and values.max() < 1 << (stored - signed)):
        values = values << (8 * size - 1 - high_bit)
        values = (values.view(f"i{size}") if signed else values) >> (8 * size - stored)
    return values.view(f"i{size}") if signed else values


# --- Compressed streams ---


def _check_stream(stream: bytes, dataset: Dataset) -> bytes:
    """The codestream alone, complete and of the size that the header promises.

    Decoders allocate what the stream says, and some fill a missing end with grey.
    """
    if stream[:12] == b"\0\0\0\x0cjP  \r\n\x87\n":  # a JP2 file, against PS3.5 A.4.4 but seen
        stream = stream[max(stream.find(b"\xff\x4f\xff\x51"), 0) :]
    height, width, samples = _stream_size(stream)
    if (height, width, samples) != (dataset.Rows, dataset.Columns, dataset.SamplesPerPixel):
        raise InputError(_MISMATCH)
    if stream.rfind(b"\xff\xd9", -64) < 0:  # every JPEG family ends so, padding aside
        raise InputError(_INCOMPLETE)
    return stream


def _stream_size(stream: bytes) -> tuple[int, int, int]:
    """Height, width and samples from a JPEG, JPEG-LS or JPEG 2000 header; zeros where absent."""
    if stream[:4] == b"\xff\x4f\xff\x51":
        right, bottom, left, top = struct.unpack(">4I", stream[8:24])
        return bottom - top, right - left, struct.unpack(">H", stream[40:42])[0]
    position = 2
    while position + 10 <= len(stream) and stream[position] == 0xFF:
        marker = stream[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return struct.unpack(">HHB", stream[position + 5 : position + 10])
        else:
            position += 2 + struct.unpack(">H", stream[position + 2 : position + 4])[0]
    return 0, 0, 0


def _jpeg(stream: bytes, dataset: Dataset) -> np.ndarray:
    stream = _check_stream(stream, dataset)
    if dataset.SamplesPerPixel == 1:
        return imagecodecs.jpeg8_decode(stream)
    # Without an Adobe marker the codec takes three components for YCbCr, whatever the header says.
    is_rgb = dataset.PhotometricInterpretation == "RGB" and b"Adobe\0" not in stream[:1024]
    return imagecodecs.jpeg8_decode(
        stream, colorspace="RGB" if is_rgb else None, outcolorspace="GRAYSCALE"
    )


def _jpeg_lossless(stream: bytes, dataset: Dataset) -> np.ndarray:
    return imagecodecs.jpeg8_decode(_check_stream(stream, dataset))


def _jpeg_ls(stream: bytes, dataset: Dataset) -> np.ndarray:
    return imagecodecs.jpegls_decode(_check_stream(stream, dataset))


def _jpeg_2000(stream: bytes, dataset: Dataset) -> np.ndarray:
    return imagecodecs.jpeg2k_decode(_check_stream(stream, dataset))


def _rle(stream: bytes, dataset: Dataset) -> np.ndarray:
    shape = (dataset.SamplesPerPixel, dataset.Rows, dataset.Columns)
    size = dataset.BitsAllocated // 8
    planes = imagecodecs.dicomrle_decode(stream, f"<u{size}", out=size * math.prod(shape))
    planes = np.frombuffer(planes, f"<u{size}").reshape(shape)
    return planes[0] if shape[0] == 1 else np.moveaxis(planes, 0, -1)


# High-throughput JPEG 2000 is left out, though imagecodecs has a decoder: damaged streams end the
# process in it, or leave part of the image unwritten without an error.
_COMPRESSIONS: dict[UID, tuple[str, Callable[[bytes, Dataset], np.ndarray]]] = {
    RLELossless: ("RLE", _rle),
    JPEGBaseline8Bit: ("JPEG baseline", _jpeg),
    JPEGExtended12Bit: ("JPEG extended", _jpeg),
    JPEGLossless: ("JPEG lossless", _jpeg_lossless),
    JPEGLosslessSV1: ("JPEG lossless", _jpeg_lossless),
    JPEGLSLossless: ("JPEG-LS", _jpeg_ls),
    JPEGLSNearLossless: ("JPEG-LS", _jpeg_ls),
    JPEG2000Lossless: ("JPEG 2000", _jpeg_2000),
    JPEG2000: ("JPEG 2000", _jpeg_2000),
}


# --- From stored values to grey ---


def _shown(stored: np.ndarray, dataset: Dataset) -> tuple[np.ndarray, list[str]]:
    """Grey as it is meant to be seen, uint8 or uint16, and what had to be passed over.

    All steps work on single values, so they are done once for each value that can be stored, and
    the image is looked up in the outcome.
    """
    signed = stored.dtype.kind == "i"
    farthest = [int(stored.max())] + [-1 - int(stored.min())] * signed
    bits = max(dataset.BitsStored, *(value.bit_length() + signed for value in farthest))
    lowest = -(1 << (bits - 1)) if signed else 0
    levels = np.arange(lowest, lowest + (1 << bits))
    measured = _modality(levels, dataset)
    notes = []
    try:
        seen = _voi(measured, dataset)
    except (ValueError, TypeError, IndexError, AttributeError, struct.error):
        seen = None
        notes.append("The file's window or VOI LUT is not valid and was not applied.")
    if seen is not None:
        pixels = _look_up(stored, levels, seen, np.uint16, dataset)
        white = float(np.mean(pixels == 65535))
        if has_contrast(pixels) and not _shows_little(pixels, stored, white):
            if white > MOSTLY_WHITE:
                notes.append(f"The file's window makes {white:.0%} of the image plain white.")
            return pixels, notes
        notes.append("The file's window leaves hardly any contrast and was not applied.")
    untouched = bits <= 8 and measured is levels
    return _look_up(stored, levels, measured, np.uint8 if untouched else np.uint16, dataset), notes


def _shows_little(pixels: np.ndarray, stored: np.ndarray, white: float) -> bool:
    """Whether a window makes nearly all of an image one grey, and not since it shows a small part.

    A small hand on a large plate leaves most of it black: its window holds most of the values.
    """
    if max(white, float(np.mean(pixels == 0))) < ONE_GREY:
        return False
    inside = stored[(pixels > 0) & (pixels < 65535)]
    return len(np.unique(inside)) < FEW_VALUES * len(np.unique(stored))


def _look_up(
    stored: np.ndarray, levels: np.ndarray, seen: np.ndarray, dtype: Any, dataset: Dataset
) -> np.ndarray:
    """The image in grey: ``seen`` is what each of ``levels`` looks like, in any linear scale."""
    top = np.iinfo(dtype).max
    darkest, brightest = float(seen.min()), float(seen.max())
    if not np.isfinite(brightest - darkest):
        raise InputError("The DICOM header's rescale values are not finite.")
    scale = top / (brightest - darkest) if brightest > darkest else 0.0
    grey = np.round((seen - darkest) * scale)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        grey = top - grey
    padding = dataset.get("PixelPaddingValue")
    if isinstance(padding, int):  # outside the exposed field: black, whatever it is stored as
        limit = dataset.get("PixelPaddingRangeLimit")
        limit = limit if isinstance(limit, int) else padding
        grey[(levels >= min(padding, limit)) & (levels <= max(padding, limit))] = 0
    unsigned = stored.dtype.str.replace("i", "u")
    table = np.zeros(1 << (8 * stored.dtype.itemsize), dtype)
    table[levels.astype(unsigned)] = grey
    pixels = np.empty(stored.shape, dtype)
    # NumPy widens indices to 64 bit: of the whole image they would take four times its memory.
    for row in range(0, len(stored), ROWS):
        rows = slice(row, row + ROWS)
        table.take(stored[rows].view(unsigned), out=pixels[rows], mode="clip")
    return pixels


def _modality(levels: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Modality LUT or rescale (PS3.3 C.11.1); ``levels`` itself where there is neither."""
    if dataset.get("ModalityLUTSequence"):
        return _apply_lut(levels, dataset.ModalityLUTSequence[0], dataset)
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is None or intercept is None or (slope, intercept) == (1, 0):
        return levels
    return levels * float(slope) + float(intercept)


def _voi(values: np.ndarray, dataset: Dataset) -> np.ndarray | None:
    """First VOI LUT, else first window (PS3.3 C.11.2); None where there is neither."""
    if dataset.get("VOILUTSequence"):
        return _apply_lut(values, dataset.VOILUTSequence[0], dataset)
    centres, widths = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    if centres is None or widths is None:
        return None
    centre, width = (float(np.ravel(value)[0]) for value in (centres, widths))
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise ValueError(function)
    if not np.isfinite(centre) or not (width >= 1 if function == "LINEAR" else 0 < width < np.inf):
        raise ValueError(width)
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return 1 / (1 + np.exp(-4 * (values - centre) / width))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    # A width of 1 is a threshold: the slope is infinite, its ends alone are used.
    return np.clip((values - (centre - 0.5)) / max(width - 1, 1e-9) + 0.5, 0, 1)


def _apply_lut(values: np.ndarray, item: Dataset, dataset: Dataset) -> np.ndarray:
    """Look values up in a LUT item: below the first mapped value its first entry, above its last.

    Raises:
        ValueError: the data do not have the length that the descriptor says.
    """
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    entries = entries or 1 << 16
    if first > 0x7FFF and dataset.get("PixelRepresentation", 0) == 1:
        first -= 1 << 16  # its type is ambiguous, and was taken for unsigned
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if dataset.original_encoding[1] else ">"
        data = np.frombuffer(data, "u1" if bits <= 8 and len(data) <= entries + 1 else f"{order}u2")
    data = np.asarray(data)
    if len(data) < entries:
        raise ValueError(len(data))
    return data[np.clip(values - first, 0, entries - 1).astype(np.intp)]


# --- The patient: age and sex alone ---


def text(dataset: Dataset, keyword: str) -> str:
    """An element's text as it lies in the file, or "": pydicom would log what it finds invalid."""
    element = dataset.get_item(keyword) if keyword in dataset else None
    value = element.value if element is not None else b""
    return value.decode("ascii", "replace").strip(" \0") if isinstance(value, bytes) else ""


def sex(dataset: Dataset) -> str | None:
    """PatientSex: F, M, or None for anything else."""
    value = text(dataset, "PatientSex").upper()
    return value if value in ("F", "M") else None


def age_years(dataset: Dataset) -> float | None:
    """PatientAge, or the time from birth to the image where that is the same but more exact.

    PatientAge mostly is in whole years; dates may have been changed to hide who the patient is, so
    that they count alone only where there is no PatientAge. Zero is taken for "not known".
    """
    between = _years_between(
        text(dataset, "PatientBirthDate"),
        text(dataset, "AcquisitionDate") or text(dataset, "StudyDate"),
    )
    age = re.fullmatch(r"(\d{3})([DWMY])", text(dataset, "PatientAge"))
    if not age or int(age[1]) == 0:
        return between
    unit = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}[age[2]]
    years = int(age[1]) * unit
    # Rounded down, or else to the nearest; months and years differ in their days.
    agree = between is not None and years - unit < between < years + unit + 2 / 365.25
    return between if agree else years


def _years_between(born: str, taken: str) -> float | None:
    try:
        days = (datetime.strptime(taken, "%Y%m%d") - datetime.strptime(born, "%Y%m%d")).days
    except ValueError:
        return None
    return days / 365.25 if 0 < days < 130 * 365.25 else None
