"""The same hand from another scanner: the released weights' age moves less than a tolerance.

Tolerances are in months: what was measured, with a margin.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset

from boneage import datasets, images, losses
from boneage.datasets import Case
from boneage.images import Radiograph
from boneage.predictor import Assessment, Predictor
from evaluate.robustness import white_border

Hand = tuple[Radiograph, str, Assessment]  # with its sex

EVERY = 20  # of the test radiographs
FULL_SIZE = {"1380": "M", "1418": "F"}
# Months by which a film may move where rounding lets another region win.
OTHER_REGION = 2.5


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.load(device="cpu", precision="fp32")  # whatever the processor is fast at


@pytest.fixture(scope="module")
def cases(rsna_test_dir: Path) -> tuple[Case, ...]:
    return datasets.load(rsna_test_dir).cases


@pytest.fixture(scope="module")
def hands(predictor: Predictor, cases: tuple[Case, ...]) -> list[Hand]:
    return assessed(predictor, [(images.read(c.path), c.sex or "") for c in cases[::EVERY]])


@pytest.fixture(scope="module")
def films(predictor: Predictor, rsna_fullsize_dir: Path) -> list[Hand]:
    folder = rsna_fullsize_dir / "images"
    return assessed(
        predictor, [(images.read(folder / f"{i}.png"), s) for i, s in FULL_SIZE.items()]
    )


def assessed(predictor: Predictor, pairs: list[tuple[Radiograph, str]]) -> list[Hand]:
    found = predictor.assess([radiograph for radiograph, _ in pairs], [sex for _, sex in pairs])
    assert all(a.age is not None for a in found), [a.refused for a in found]
    return [(r, sex, a) for (r, sex), a in zip(pairs, found, strict=True)]


def moved(
    predictor: Predictor, hands: list[Hand], change: Callable[[np.ndarray], Radiograph]
) -> np.ndarray:
    """Absolute change of the age in months from each radiograph to its other version."""
    others = assessed(predictor, [(change(r.pixels), sex) for r, sex, _ in hands])
    before, after = (np.array([a.age for _, _, a in found], float) for found in (hands, others))
    return abs(after - before)


def resized(pixels: np.ndarray, factor: float, method: Image.Resampling) -> Radiograph:
    height, width = pixels.shape
    size = (round(width * factor), round(height * factor))
    return images.from_array(np.asarray(Image.fromarray(pixels).resize(size, method)))


def deep_png(pixels: np.ndarray) -> Radiograph:
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint16) * 257).save(file, "PNG", compress_level=1)
    return images.read(file.getvalue())


def inverted_dicom(pixels: np.ndarray) -> Radiograph:
    """The radiograph as MONOCHROME1 of 12 bits, bones dark in the file."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = uid.ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    data.Modality, data.PhotometricInterpretation = "CR", "MONOCHROME1"
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelData = (4095 - 16 * pixels.astype(np.uint16)).astype("<u2").tobytes()
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return images.read(file.getvalue())


def bordered(pixels: np.ndarray) -> Radiograph:
    """Six per cent of white at every edge, as collimators leave it."""
    return images.from_array(white_border(pixels, 0.06))


def marked(pixels: np.ndarray) -> Radiograph:
    """A white L in the upper left corner, a tenth of the film high."""
    image = Image.fromarray(pixels)
    size = len(pixels) // 10
    place, font = (size // 3, size // 3), ImageFont.load_default(size)
    ImageDraw.Draw(image).text(place, "L", fill=255, font=font)
    return images.from_array(np.asarray(image))


def test_16_bits_give_the_age_of_8(
    predictor: Predictor, hands: list[Hand], films: list[Hand]
) -> None:
    assert deep_png(hands[0][0].pixels).pixels.dtype == np.uint16
    assert moved(predictor, hands, deep_png).max() < 0.5
    assert moved(predictor, films, deep_png).max() < OTHER_REGION


def test_8_bits_of_16_give_the_same_age(predictor: Predictor, films: list[Hand]) -> None:
    """Of films that really have more levels than 8 bits can tell."""
    deep = [
        (images.from_array(losses.blur(film.pixels.astype(np.uint16) * 257, 1)), sex)
        for film, sex, _ in films
    ]
    assert all(len(np.unique(radiograph.pixels)) > 1000 for radiograph, _ in deep)

    def of_8_bits(pixels: np.ndarray) -> Radiograph:
        return images.from_array((pixels >> 8).astype(np.uint8))

    assert moved(predictor, assessed(predictor, deep), of_8_bits).max() < OTHER_REGION


@pytest.mark.parametrize("quality", [90, 75, 50])
def test_a_film_saved_as_jpeg(predictor: Predictor, films: list[Hand], quality: int) -> None:
    change = moved(predictor, films, lambda p: images.from_array(losses.jpeg(p, quality)))
    assert change.max() < OTHER_REGION


def test_an_inverted_dicom_gives_the_age_of_the_picture(
    predictor: Predictor, hands: list[Hand], films: list[Hand]
) -> None:
    assert moved(predictor, hands, inverted_dicom).max() < 0.5
    assert moved(predictor, films, inverted_dicom).max() < OTHER_REGION


@pytest.mark.parametrize("factor", [2, 4])
def test_enlarged_by_interpolation(predictor: Predictor, hands: list[Hand], factor: int) -> None:
    """The most a single age moves is large, since other regions may be chosen."""
    change = moved(predictor, hands, lambda p: resized(p, factor, Image.Resampling.BICUBIC))
    assert np.median(change) < 1.5
    assert change.max() < 6


@pytest.mark.parametrize("factor", [2, 4])
def test_a_film_scanned_finer_gives_the_age_of_its_reduction(
    predictor: Predictor, films: list[Hand], factor: int
) -> None:
    change = moved(predictor, films, lambda p: resized(p, 1 / factor, Image.Resampling.BILINEAR))
    assert change.max() < OTHER_REGION


@pytest.mark.parametrize("name", ["BOX", "BICUBIC", "LANCZOS"])
def test_another_filter_that_shrank_the_film(
    predictor: Predictor, films: list[Hand], name: str
) -> None:
    """Training knows one resampling filter only; the augmentation of fine detail the others."""

    def shrunk(pixels: np.ndarray) -> Radiograph:
        small = Image.fromarray(pixels).resize((299, 299), Image.Resampling[name])
        return images.from_array(np.asarray(small))

    assert moved(predictor, films, shrunk).max() < OTHER_REGION


def test_a_white_collimation_border(predictor: Predictor, cases: tuple[Case, ...]) -> None:
    """It hides a part of the film; on dark films it must not take their grey range as well."""
    every = [(images.read(case.path), case.sex or "") for case in cases[::10]]
    change = moved(predictor, assessed(predictor, every), bordered)
    assert np.median(change) < 1
    assert change.max() < 4


def test_a_side_marker_in_a_corner(
    predictor: Predictor, hands: list[Hand], films: list[Hand]
) -> None:
    assert moved(predictor, hands + films, marked).max() < 1
