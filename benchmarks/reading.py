"""From a file to the small image that a network is given, beside its decoder alone."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import Measurement, Outcome, alternate
from boneage.memory import keep_freed_memory

FILM = Path(__file__).parents[1] / "data" / "rsna-fullsize" / "images"
SIZE = (1500, 2000)  # width and height
SIDE = 299  # px that released weights want
TARGET = 1.3


def run(repeats: int = 25) -> Iterator[Outcome]:
    """A radiograph as PNG, JPEG and DICOM, whole files in memory."""
    from boneage import images
    from boneage.transforms import Preprocess

    # As `boneage assess` does. Else it is chance which of the two gets its memory anew.
    keep_freed_memory()
    preprocess = Preprocess(size=256, resolution=SIDE)
    with Image.open(min(FILM.iterdir())) as film:
        grey = film.convert("L").resize(SIZE)
    for name, (content, decode) in files(grey).items():

        def read(content: bytes = content) -> np.ndarray:
            return preprocess.shrink(images.read(content).pixels)

        def floor(content: bytes = content, decode: Callable[..., Any] = decode) -> Image.Image:
            image = decode(content)
            return image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)

        seconds = alternate({"read": read, "floor": floor}, repeats)
        yield Outcome(
            f"{name}, {SIZE[0]} x {SIZE[1]} px",
            Measurement(f"read and shrunk to {SIDE} px", seconds["read"]),
            Measurement("decoded and resized by Pillow", seconds["floor"])
            if "DICOM" not in name
            else Measurement("decoded by pydicom and its codec, resized", seconds["floor"]),
            at_most=TARGET,
        )


def files(grey: Image.Image) -> dict[str, tuple[bytes, Callable[[bytes], Image.Image]]]:
    """The radiograph as files, and for each what decodes it and does nothing else."""
    import imagecodecs
    from pydicom.uid import ExplicitVRLittleEndian, JPEGLosslessSV1

    deep = np.asarray(grey).astype(np.uint16) * 16  # 12 bit
    return {
        "PNG, 8 bit": (_picture(grey, "PNG"), _by_pillow),
        "PNG, 16 bit": (_picture(Image.fromarray(deep), "PNG"), _by_pillow),
        "JPEG": (_picture(grey, "JPEG"), _by_pillow),
        "DICOM, 12 bit, JPEG lossless": (
            dicom_file(deep, JPEGLosslessSV1, imagecodecs.ljpeg_encode(deep, bitspersample=12)),
            _by_codec,
        ),
        "DICOM, 12 bit, uncompressed": (
            dicom_file(deep, ExplicitVRLittleEndian, deep.tobytes()),
            _by_pydicom,
        ),
    }


def dicom_file(pixels: np.ndarray, syntax: Any, data: bytes) -> bytes:
    """A radiograph of 12 bit with a window, as DICOM."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import DigitalXRayImageStorageForPresentation, generate_uid

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = generate_uid()
    dataset.Modality = "DX"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4000
    dataset.PixelData = encapsulate([data]) if syntax.is_compressed else data
    dataset["PixelData"].VR = "OB" if syntax.is_compressed else "OW"
    content = io.BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    return content.getvalue()


def _picture(image: Image.Image, kind: str) -> bytes:
    content = io.BytesIO()
    image.save(content, kind)
    return content.getvalue()


def _by_pillow(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def _by_codec(content: bytes) -> Image.Image:
    import imagecodecs
    from pydicom import dcmread
    from pydicom.encaps import get_frame

    stream = get_frame(dcmread(io.BytesIO(content)).PixelData, 0, number_of_frames=1)
    return Image.fromarray(imagecodecs.jpeg8_decode(stream))


def _by_pydicom(content: bytes) -> Image.Image:
    from pydicom import dcmread

    return Image.fromarray(dcmread(io.BytesIO(content)).pixel_array)
