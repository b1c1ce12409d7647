"""A file (PNG, JPEG, TIFF, WebP, BMP or DICOM) becomes a :class:`Radiograph`.

What a file is, its content decides, never its name. Every limit is checked before a pixel is
decoded, and whatever is refused raises one :class:`~boneage.errors.InputError` whose message holds
no path. DICOM is read by :mod:`boneage.dicom`, which loads only when a DICOM file comes.
"""

import io
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from boneage.errors import InputError

MAX_BYTES = 64 * 2**20
"""The largest file that is read."""
MAX_PIXELS = 100_000_000
"""The most pixels (width x height x frames) that are decoded."""
LARGE_PIXELS = 20_000_000
"""More than nearly all radiographs have."""
ROWS = 64
"""Rows of an image that are computed with at a time."""
_LARGE = threading.Lock()
MIN_SIDE = 32
"""The shortest side, in pixels, that can show a skeleton at all."""
ACCEPTED = "PNG, JPEG, TIFF, WebP, BMP and DICOM"


@dataclass(frozen=True)
class Radiograph:
    """One radiograph, grey, with bones bright.

    Only relative grey values matter: whatever reads the pixels stretches them between percentiles,
    so a linear change of brightness or contrast changes nothing.

    Attributes:
        pixels: (H, W) uint8 or uint16, read-only, upright, brighter where more was absorbed.
        id: the name shown to the user (a file's stem), never a path.
        format: "PNG", "JPEG", "TIFF", "WebP", "BMP", "DICOM", "CT" or "array".
        description: what the source was, in words.
        sex: "F" or "M" from a DICOM header, else None.
        age_years: chronological age from a DICOM header, else None.
        warnings: what the user should know about the reading, in plain language.
        unassessable: why no age may be given though the picture can be shown, in plain language.
    """

    pixels: np.ndarray
    id: str
    format: str
    description: str
    sex: str | None = None
    age_years: float | None = None
    warnings: tuple[str, ...] = ()
    unassessable: str | None = None

    def __post_init__(self) -> None:
        if self.pixels.ndim != 2 or self.pixels.dtype not in (np.uint8, np.uint16):
            raise InputError(
                "A radiograph holds a 2-D array of uint8 or uint16, not "
                f"{self.pixels.ndim}-D {self.pixels.dtype}."
            )
        view = self.pixels.view()  # so that the caller's own array stays writeable
        view.setflags(write=False)
        object.__setattr__(self, "pixels", view)

    @property
    def width(self) -> int:
        """Width of the source in pixels, after any EXIF rotation."""
        return self.pixels.shape[1]

    @property
    def height(self) -> int:
        """Height of the source in pixels, after any EXIF rotation."""
        return self.pixels.shape[0]


def read(
    source: str | Path | bytes | BinaryIO, *, id: str | None = None, accepted: str = ACCEPTED
) -> Radiograph:
    """Read one radiograph.

    Colour becomes luma (ITU-R BT.601), transparency is laid on black, EXIF orientation is applied.
    8-bit pixels stay uint8, deeper ones become uint16. Of several frames or pages the first is
    read, with a warning. 16-bit colour is reduced to 8 bit, with a warning.

    Args:
        source: a path, a file's content, or a file object opened in binary mode (read from where
            it stands).
        id: the name to show; by default that of the file without its ending, or "image".
        accepted: the formats that are named where it is of none.

    Raises:
        InputError: no such file, not one of the accepted formats, damaged or incomplete, more than
            64 MB or 100 megapixels, a side below 32 px, no contrast at all, or a DICOM image that
            is no projection radiograph.
    """
    data, name = _content(source)
    id = id or without_ending(name) or "image"
    kind = _kind(data, accepted)
    if kind == "DICOM":
        from boneage import dicom
    try:
        with quiet():
            radiograph = dicom.read(data, id) if kind == "DICOM" else _read_picture(data, kind, id)
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(_TOO_LARGE) from None
    except Exception:  # decoders raise many undocumented types on hostile or damaged input
        raise InputError(
            f"The {kind} file is damaged, incomplete or of an unusual kind, and cannot be decoded."
        ) from None
    check_contrast(radiograph.pixels)
    return radiograph


def without_ending(name: str) -> str:
    """A file's name without its ending; one of digits alone is the last number of a DICOM UID."""
    path = Path(name)
    return name if path.suffix[1:].isdecimal() else path.stem


def projection_of(path: Path) -> str | None:
    """The projection that ``boneage prepare ct`` made an image by; ``None`` for other images."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.info.get("projection")
    except (OSError, UnidentifiedImageError):
        return None


def from_array(pixels: np.ndarray, *, id: str = "array") -> Radiograph:
    """Make a radiograph of an array in memory; the array is copied.

    Args:
        pixels: (H, W) or (H, W, 1) grey, (H, W, 3) RGB, or (H, W, 4) RGBA. uint8 and uint16 are
            taken as they are; other integers and floats are scaled so that their smallest value
            becomes 0 and their largest 65535. RGBA must be uint8 or uint16.
        id: the name to show.

    Raises:
        InputError: another shape or type, NaN or infinity, or a size or contrast that
            :func:`read` would refuse too.
    """
    pixels = np.asarray(pixels)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim != 2 and not (pixels.ndim == 3 and pixels.shape[2] in (3, 4)):
        shape = " x ".join(map(str, pixels.shape)) or "a single number"
        raise InputError(f"An image array is H x W, H x W x 3 or H x W x 4, not {shape}.")
    if pixels.dtype.kind not in "uif":
        raise InputError(f"An image array holds integers or floats, not {pixels.dtype}.")
    check_size(pixels.shape[1], pixels.shape[0])
    described = f"array, {pixels.shape[1]} x {pixels.shape[0]} px, {pixels.dtype}"
    if pixels.dtype not in (np.uint8, np.uint16):
        if pixels.ndim == 3 and pixels.shape[2] == 4:
            raise InputError(f"An RGBA array must be uint8 or uint16, not {pixels.dtype}.")
        pixels = stretch_to_uint16(pixels)
    grey = np.array(pixels) if pixels.ndim == 2 else luma(pixels)
    check_contrast(grey)
    return Radiograph(grey, id, "array", described)


def check_size(width: int, height: int, frames: int = 1) -> None:
    """Refuse an image too large to decode or too small to show anything.

    Raises:
        InputError: more than ``MAX_PIXELS`` in all frames, or a side below ``MIN_SIDE``.
    """
    if width * height * frames > MAX_PIXELS:
        raise InputError(_TOO_LARGE)
    if min(width, height) < MIN_SIDE:
        raise InputError(
            f"The image is only {width} x {height} px; each side must have at least {MIN_SIDE} px."
        )


def in_turn(pixels: int) -> AbstractContextManager[Any]:
    """Context in which an image of so many pixels is decoded: large ones one after the other.

    Decoding takes a multiple of an image's memory, and many visitors may give one at once.
    """
    return _LARGE if pixels > LARGE_PIXELS else nullcontext()


def check_contrast(pixels: np.ndarray) -> None:
    """Refuse an image whose pixels all have one value.

    Raises:
        InputError: the image is constant.
    """
    if not has_contrast(pixels):
        raise InputError("All pixels of the image have the same value; it shows nothing.")


def has_contrast(pixels: np.ndarray) -> bool:
    """Whether pixels (H, W) have more than one value; a few of them are nearly always enough."""
    return any(some.min() < some.max() for some in (pixels[::16, ::16], pixels))


def luma(pixels: np.ndarray) -> np.ndarray:
    """Grey of colour: (H, W, 3) RGB or (H, W, 4) RGBA, uint8 or uint16, to (H, W) of that type.

    ITU-R BT.601 weights in 16-bit fixed point, so equal channels keep their value exactly. Alpha
    is laid on black.
    """
    red, green, blue = (pixels[..., channel].astype(np.uint32) for channel in range(3))
    grey = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    if pixels.shape[2] == 4:
        top = np.iinfo(pixels.dtype).max
        grey = (grey * pixels[..., 3] + top // 2) // top
    return grey.astype(pixels.dtype)


def stretch_to_uint16(values: np.ndarray) -> np.ndarray:
    """Scale integers or floats of any range so that the smallest is 0 and the largest 65535.

    Raises:
        InputError: a value is not finite, or the range is beyond what floats can hold.
    """
    lowest, highest = float(values.min()), float(values.max())  # NaN wins either
    if not np.isfinite(highest - lowest):
        raise InputError("The image holds values that are not finite numbers.")
    scale = 65535 / (highest - lowest) if highest > lowest else 0.0
    stretched = np.empty(values.shape, np.uint16)
    for row in range(0, len(values), ROWS):  # in float64 the whole would take many times its size
        rows = slice(row, row + ROWS)
        stretched[rows] = np.round((values[rows] - np.float64(lowest)) * scale)
    return stretched


_TOO_LARGE = f"The image has more than {MAX_PIXELS // 10**6} megapixels."
_NOT_A_FILE = "{name}: there is no such file, or it cannot be read."


def _content(source: str | Path | bytes | BinaryIO) -> tuple[bytes, str]:
    """Bytes of the source, at most MAX_BYTES, and its file name without the folder ("" if none)."""
    name = ""
    if isinstance(source, str | Path):
        name = _file_name(str(source))
        try:
            path = Path(source)
            if path.is_dir():
                raise InputError(f"{name}: this is a folder; one image file is expected.")
            if not path.is_file():  # also spares devices and pipes, which never end
                raise InputError(_NOT_A_FILE.format(name=name))
            _check_bytes(path.stat().st_size)
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(_NOT_A_FILE.format(name=name)) from None
    elif isinstance(source, bytes | bytearray | memoryview):
        _check_bytes(memoryview(source).nbytes)
        data = bytes(source)
    elif hasattr(source, "read"):
        if isinstance(getattr(source, "name", None), str):
            name = _file_name(source.name)
        try:
            data = source.read(MAX_BYTES + 1)
        except (OSError, ValueError):  # ValueError: closed, or text that is no UTF-8
            raise InputError("The file object cannot be read.") from None
        if not isinstance(data, bytes):
            raise InputError("The file object must be opened in binary mode.")
    else:
        raise InputError(
            "An image is given as a path, as bytes or as a binary file object, not as "
            f"{type(source).__name__}."
        )
    _check_bytes(len(data))
    return data, name


def _check_bytes(size: int) -> None:
    if size > MAX_BYTES:
        raise InputError(f"The file is larger than {MAX_BYTES // 2**20} MB.")
    if size == 0:
        raise InputError("The file is empty.")


def _file_name(path: str) -> str:
    """Last part of a path of any system: uploads may name a file as the sender's system did."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


# (offset, first bytes, name); the accepted formats first. DICOM leads, because its preamble may
# make the file a TIFF as well. A DICOM file may also lack the preamble: it then begins with group
# 0002 or 0008.
_SIGNATURES = (
    (128, rb"DICM", "DICOM"),
    (0, rb"\x89PNG\r\n\x1a\n", "PNG"),
    (0, rb"\xff\xd8\xff", "JPEG"),
    (0, rb"II[*+]\0|MM\0[*+]", "TIFF"),
    (0, rb"RIFF....WEBP", "WebP"),
    (0, rb"\x02\0\0\0UL\x04\0|\x08\0.\0([A-Z]{2}|[^\0]\0\0\0)", "DICOM"),
    (0, rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", "BMP"),
    (0, rb"GIF8", "a GIF"),
    (0, rb"%PDF", "a PDF"),
    (0, rb"PK[\x03\x05]", "a ZIP archive (or an Office document)"),
    (0, rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!", "a compressed archive"),
    (4, rb"ftyp(hei|hev|mif|msf)", "a HEIC photo"),
    (4, rb"ftypavi", "an AVIF image"),
    (4, rb"ftyp|moov", "a video"),
    (0, rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 image outside DICOM"),
    (0, rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL image"),
    (0, rb"8BPS", "a Photoshop document"),
    (0, rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript document"),
    (0, rb"\x93NUMPY", "a NumPy array"),
    (344, rb"n[+i]1\0", "a NIfTI volume"),
    (0, rb"\x5c\x01\0\0|\0\0\x01\x5c", "a NIfTI volume"),
    (0, rb"(?i)(\xef\xbb\xbf)?\s*(<\?xml.{0,500}?)?<svg", "an SVG drawing"),
    (0, rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype html|html)", "a web page"),
)


def _kind(data: bytes, accepted: str) -> str:
    """The accepted format that the content is.

    Raises:
        InputError: it is something else, named where it is recognised.
    """
    head = data[:1024]
    for offset, pattern, name in _SIGNATURES:
        if re.match(pattern, head[offset:], re.DOTALL):
            if name in ("PNG", "JPEG", "TIFF", "WebP", "BMP", "DICOM"):
                return name
            raise InputError(f"This is {name}. Accepted: {accepted}.")
    if not re.search(rb"[^\t\n\f\r\x20-\x7e\x80-\xff]", head):
        raise InputError(f"This is a text file. Accepted: {accepted}.")
    raise InputError(f"The file is not in a known image format. Accepted: {accepted}.")


_COLOURS = {
    "1": "black and white",
    "P": "palette",
    "PA": "palette with alpha",
    "LA": "grey with alpha",
    "La": "grey with alpha",
    "RGBa": "RGBA",
}
_DEPTH_OF_MODE = {"1": 1, "I;16": 16, "I;16B": 16, "I": 32, "F": 32}


def _read_picture(data: bytes, kind: str, id: str) -> Radiograph:
    """Read what Pillow decodes; may raise whatever its decoders raise."""
    is_inverted = False
    if kind == "TIFF":
        data, is_inverted = _black_is_zero(data)
    with Image.open(io.BytesIO(data), formats=[kind.upper()]) as image:
        check_size(*image.size)
        # Pillow's view of a TIFF's tags changes with loading, so they are taken before.
        tags = dict(image.tag_v2) if kind == "TIFF" else {}
        several = image.tag_v2.next > 0 if kind == "TIFF" else getattr(image, "n_frames", 1) > 1
        bits = _DEPTH_OF_MODE.get(image.mode, 8)
        if kind == "TIFF":
            bits = tags.get(258, (bits,))[0]
        elif kind == "PNG":
            bits = data[24]
        notes = []
        if several:
            notes.append("The file holds several images; only the first was read.")
        is_grey = image.mode in _DEPTH_OF_MODE or image.mode == "L"
        if bits == 16 and not is_grey:
            notes.append("16-bit colour was reduced to 8 bit.")
        colour = "grey" if is_grey and image.mode != "1" else _COLOURS.get(image.mode, image.mode)
        with in_turn(image.width * image.height):
            image.load()
            pixels = _grey(image, bits, is_signed=tags.get(339, (1,))[0] == 2)
            if is_inverted:
                pixels = np.iinfo(pixels.dtype).max - pixels
            pixels = np.ascontiguousarray(_upright(pixels, _orientation(image)))
    described = f"{kind}, {pixels.shape[1]} x {pixels.shape[0]} px, {bits} bit {colour}"
    return Radiograph(pixels, id, kind, described, warnings=tuple(notes))


def _black_is_zero(data: bytes) -> tuple[bytes, bool]:
    """A TIFF whose first image has black as zero, and whether white was (tag 262 is 0).

    Pillow reads WhiteIsZero in few layouts, and inverts it in fewer.
    """
    order = "<" if data[:2] == b"II" else ">"
    is_big = 43 in data[2:4]  # BigTIFF
    (start,) = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", data, 8 if is_big else 4)
    (count,) = struct.unpack_from(f"{order}{'Q' if is_big else 'H'}", data, start)
    first, size, value = (start + 8, 20, 12) if is_big else (start + 2, 12, 8)
    for entry in range(first, first + count * size, size):
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        if tag == 262:
            place, number = entry + value, f"{order}{'I' if kind == 4 else 'H'}"
            if struct.unpack_from(number, data, place) == (0,):
                one = struct.pack(number, 1)
                return data[:place] + one + data[place + len(one) :], True
            break
    return data, False


def _grey(image: Image.Image, bits: int, *, is_signed: bool = False) -> np.ndarray:
    """(H, W) uint8, or uint16 where the image is deeper than 8 bit.

    Args:
        image: as Pillow decodes it, which takes 8 bit for unsigned and 32 bit for signed.
        bits: of a value in the file.
        is_signed: whether the values there are.
    """
    if image.mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.uint16, copy=False)
        if bits < 16:
            pixels = (pixels * np.uint32(65535) // (2**bits - 1)).astype(np.uint16)
        return pixels
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        if image.mode == "I" and bits == 32 and not is_signed:
            values = values.view(np.uint32)
        return stretch_to_uint16(values)
    if image.mode == "L" and is_signed:
        return np.asarray(image) ^ np.uint8(0x80)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    elif image.mode == "LAB":
        image = image.getchannel("L")
    return np.asarray(image if image.mode == "L" else image.convert("L"))


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # broken EXIF beside sound pixels is no reason to refuse the image
        return 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (JEITA CP-3451, tag 0x0112); unknown values mean upright."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.T
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


class _Quiet:
    """Silences Python warnings while at least one thread is inside.

    ``warnings.catch_warnings`` alone may leave its filter behind when threads overlap: the first
    one in saves the filters, the last one out restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved: warnings.catch_warnings

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._inside == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._saved.__exit__(None, None, None)


quiet = _Quiet()
"""Context in which decoders' Python warnings are silenced, in all threads."""
