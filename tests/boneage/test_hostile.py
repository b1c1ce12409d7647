"""Files made to harm: each is refused in a sentence or read, in little memory, and nothing runs.

What a single damaged field does is in ``test_images.py``, ``test_dicom.py`` and the tests of CT.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import JPEG2000, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from boneage import images
from boneage.errors import InputError

GREY = np.add.outer(np.arange(64, dtype=np.uint8), np.arange(48, dtype=np.uint8))
# More than any of these files needs to be refused, far less than what they claim to hold.
PEAK_MB = 700
READ_ALL = """
import json, re, sys
from pathlib import Path
from boneage import dicom, images
from boneage.errors import InputError
def peak_mb():
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1000
before = peak_mb()
outcomes = {}
for path in sys.argv[1:]:
    try:
        images.read(path)
        outcomes[path] = "read"
    except InputError as error:
        outcomes[path] = str(error)
print(json.dumps({"outcomes": outcomes, "peak_mb": peak_mb() - before}))
"""


def encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(*chunks: bytes) -> bytes:
    """A sound PNG with chunks put in after its header."""
    data = encoded("PNG")
    return data[:33] + b"".join(chunks) + data[33:]


def large_png(side: int) -> bytes:
    """A PNG of all its pixels, all zero, in few bytes."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(1)
    row = bytes(side + 1)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@cache
def packed(megabytes: int) -> bytes:
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(megabytes)) + packer.flush()


def jpeg_with_profile(megabytes: int) -> bytes:
    """A JPEG whose ICC profile claims to go on over hundreds of segments."""
    data = encoded("JPEG")
    part = b"ICC_PROFILE\0" + bytes([1, 255]) + bytes(65_000)
    segment = b"\xff\xe2" + struct.pack(">H", len(part) + 2) + part
    return data[:2] + segment * (megabytes * 16) + data[2:]


def tiff(tags: dict[int, tuple[int, int, int]], following: int = 0) -> bytes:
    """A TIFF of one strip; tags are (type, count, value), and a directory follows at an offset."""
    base = {
        256: (4, 1, 48),
        257: (4, 1, 64),
        258: (3, 1, 8),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, 1, 2048),
        278: (4, 1, 64),
        279: (4, 1, GREY.size),
        **tags,
    }
    entries = b"".join(struct.pack("<HHII", tag, *value) for tag, value in sorted(base.items()))
    directory = struct.pack("<H", len(base)) + entries + struct.pack("<I", following)
    return (b"II*\0" + struct.pack("<I", 8) + directory).ljust(2048, b"\0") + GREY.tobytes()


def dicom(syntax: str = ExplicitVRLittleEndian, **tags: object) -> bytes:
    film = Dataset()
    film.SOPClassUID = DigitalXRayImageStorageForPresentation
    film.SOPInstanceUID = "1.2.3"
    film.Modality = "DX"
    film.Rows, film.Columns = GREY.shape
    film.SamplesPerPixel = 1
    film.PhotometricInterpretation = "MONOCHROME2"
    film.BitsAllocated = film.BitsStored = 8
    film.HighBit = 7
    film.PixelRepresentation = 0
    film.PixelData = GREY.tobytes()
    film["PixelData"].VR = "OW"
    for keyword, value in tags.items():
        setattr(film, keyword, value)
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = syntax
    film.file_meta.MediaStorageSOPClassUID = film.SOPClassUID
    film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID
    buffer = io.BytesIO()
    dcmwrite(buffer, film, enforce_file_format=True)
    return buffer.getvalue()


def dicom_with_pixels(length: int, content: bytes) -> bytes:
    """Encapsulated pixel data of a length and content that no writer makes."""
    data = dicom()
    start = data.index(b"\xe0\x7f\x10\0OW")
    data = data[:start].replace(ExplicitVRLittleEndian.encode(), JPEG2000.encode().ljust(19, b"\0"))
    # The meta group's length stays: both identifiers take 20 bytes or fewer, padded alike.
    return data + b"\xe0\x7f\x10\0OB\0\0" + struct.pack("<I", length) + content


def item(length: int, content: bytes = b"") -> bytes:
    return b"\xfe\xff\0\xe0" + struct.pack("<I", length) + content


def dicom_element(vr: bytes, length: int) -> bytes:
    """A film whose first element claims a length that the file does not have."""
    data = dicom()
    start = data.index(b"\x08\0\x60\0CS")
    return data[:start] + b"\x08\0\x05\0" + vr + b"\0\0" + struct.pack("<I", length) + data[start:]


class Runs:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return exec, ("raise SystemExit('a pickle was run')",)


# What must be refused, with a word of the reason.
REFUSED = {
    "png of 20,000 x 20,000": (lambda: large_png(20_000), "megapixels"),
    "png with a text that unpacks to 300 MB": (
        lambda: png(chunk(b"iTXt", b"k\0\1\0\0\0" + packed(300))),
        "damaged",
    ),
    "tiff of 2^32 samples": (lambda: tiff({277: (3, 1, 65_535), 256: (4, 1, 40_000)}), "damaged"),
    "tiff of 400 megapixels": (
        lambda: tiff({256: (4, 1, 20_000), 257: (4, 1, 20_000)}),
        "megapixels",
    ),
    "tiff of endless strips": (lambda: tiff({273: (4, 2**31, 8), 279: (4, 2**31, 8)}), "damaged"),
    "gif of many frames": (
        lambda: encoded(
            "GIF", save_all=True, append_images=[Image.fromarray(GREY + n) for n in range(1, 60)]
        ),
        "a GIF",
    ),
    "dicom of a million frames": (lambda: dicom(NumberOfFrames=1_000_000), "megapixels"),
    "dicom of frames beyond all numbers": (lambda: dicom(NumberOfFrames=10**11), "megapixels"),
    "dicom of 65,535 x 65,535": (lambda: dicom(Rows=65_535, Columns=65_535), "megapixels"),
    "dicom of 9,999 x 9,999 without them": (lambda: dicom(Rows=9_999, Columns=9_999), "damaged"),
    "dicom element of 4 GB": (lambda: dicom_element(b"UN", 0xFFFFFFF0), "no image|damaged"),
    "dicom sequence of 4 GB": (lambda: dicom_element(b"SQ", 0xFFFFFFF0), "no image|damaged"),
    "dicom pixels without end": (
        lambda: dicom_with_pixels(0xFFFFFFFF, item(0) + item(0xFFFFFFF0, bytes(99))),
        "damaged|incomplete|no image",
    ),
    "dicom pixels in a million empty items": (
        lambda: dicom_with_pixels(0xFFFFFFFF, item(0) * 1_000_000),
        "damaged|incomplete|no image|size or form",
    ),
    "a pickle": (lambda: pickle.dumps(Runs()), "not in a known image format|text file"),
    "a pickled array": (
        lambda: b"\x93NUMPY\x01\0" + pickle.dumps(Runs()),
        "a NumPy array",
    ),
}
# What is sound enough to be read, as long as the rest is not.
READ = {
    "png with a profile that unpacks to 300 MB": lambda: png(
        chunk(b"iCCP", b"p\0\0" + packed(300))
    ),
    "jpeg with a profile of 30 MB": lambda: jpeg_with_profile(30),
    "tiff whose next page is itself": lambda: tiff({}, following=8),
    "webp of many frames": lambda: encoded(
        "WEBP", save_all=True, append_images=[Image.fromarray(GREY + n) for n in range(1, 60)]
    ),
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> dict:
    """All files read by one process that measures its memory."""
    folder = tmp_path_factory.mktemp("hostile")
    makers = {name: make for name, (make, _) in REFUSED.items()} | READ
    paths = {}
    for number, (name, make) in enumerate(makers.items()):
        paths[name] = folder / f"{number}.bin"
        paths[name].write_bytes(make())
    run = [sys.executable, "-c", READ_ALL, *map(str, paths.values())]
    done = subprocess.run(run, cwd=repo_root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    result["outcomes"] = {name: result["outcomes"][str(path)] for name, path in paths.items()}
    result["said"] = done.stderr
    return result


@pytest.mark.parametrize("name", REFUSED)
def test_refused(outcome: dict, name: str) -> None:
    sentence = outcome["outcomes"][name]
    assert re.search(REFUSED[name][1], sentence), sentence
    assert sentence.endswith(".")
    assert "/" not in sentence


@pytest.mark.parametrize("name", READ)
def test_read_or_refused(outcome: dict, name: str) -> None:
    assert outcome["outcomes"][name] == "read" or "damaged" in outcome["outcomes"][name]


def test_in_little_memory_and_without_a_trace(outcome: dict) -> None:
    assert 0 < outcome["peak_mb"] < PEAK_MB
    assert "Traceback" not in outcome["said"]
    assert ".bin" not in outcome["said"]


def test_the_page_of_a_loop_is_read_once(tmp_path: Path) -> None:
    radiograph = images.read(tiff({}, following=8))
    np.testing.assert_array_equal(radiograph.pixels, GREY)


def test_only_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to("/dev/zero")
    for path in (tmp_path / "link.png", "/dev/stdin", "/proc/self/mem", "\0", "x" * 5000):
        with pytest.raises(InputError):
            images.read(path)
