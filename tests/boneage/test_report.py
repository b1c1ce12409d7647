"""Reports of real radiographs, read back and measured by the library that Chromium draws with."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import numpy as np
import pypdfium2
import pytest

import boneage
from boneage import growth, images, report
from boneage.images import Radiograph
from boneage.predictor import Assessment, Interval, Predictor

DAY = date(2026, 11, 21)
ERROR = "Mean absolute error of these weights on 200 images: 6.16 months."
WARNINGS = tuple(f"Warning {i}: " + "the image is small. " * (1 + 5 * (i % 3)) for i in range(10))
LONG = "x" * 300


@dataclasses.dataclass(frozen=True)
class Page:
    """What a reader of the file finds.

    Attributes:
        text: of the page, its lines joined by blanks.
        characters: (n, 4) left, bottom, right, top in points.
        pictures: (n, 4) likewise.
        metadata: of the file.
    """

    text: str
    characters: np.ndarray
    pictures: np.ndarray
    metadata: dict[str, str]


def read(pdf: bytes) -> Page:
    """Read the file's one page."""
    document = pypdfium2.PdfDocument(pdf)
    assert len(document) == 1
    page = document[0]
    assert page.get_size() == pytest.approx((595.28, 841.89), abs=0.01)
    text = page.get_textpage()
    characters = [text.get_charbox(i) for i in range(text.count_chars())]
    pictures = [o.get_bounds() for o in page.get_objects() if isinstance(o, pypdfium2.PdfImage)]
    return Page(
        " ".join(text.get_text_bounded().split()),
        np.array([box for box in characters if box[2] > box[0] and box[3] > box[1]]),
        np.array(pictures),
        document.get_metadata_dict(),
    )


def overlaps(a: np.ndarray, b: np.ndarray, least: float) -> np.ndarray:
    """(n, m): whether boxes overlap by more than ``least`` points both ways."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return ((high - low) > least).all(axis=2)


def check_layout(page: Page) -> None:
    """Everything is inside the margins, and nothing lies on anything else."""
    for boxes in (page.characters, page.pictures):
        assert boxes[:, 0].min() >= 50
        assert boxes[:, 2].max() <= 595.28 - 50
        # Inside US Letter (792 points) too, from the lower edge or from the upper.
        assert boxes[:, 1].min() >= 841.89 - 792
        assert boxes[:, 3].max() <= 792
    assert not overlaps(page.characters, page.pictures, 0.1).any()
    assert not np.triu(overlaps(page.pictures, page.pictures, 0.1), 1).any()
    assert not np.triu(overlaps(page.characters, page.characters, 1.2), 1).any()


@pytest.fixture(scope="module")
def predictor(untrained: Path) -> Predictor:
    return Predictor.load(untrained, device="cpu")


@pytest.fixture(scope="module")
def radiograph(rsna_test_dir: Path) -> Radiograph:
    return images.read(rsna_test_dir / "images" / "4400.webp")


@pytest.fixture(scope="module")
def assessment(predictor: Predictor, radiograph: Radiograph) -> Assessment:
    (assessment,) = predictor.assess(radiograph, "F", heat_map=True)
    return dataclasses.replace(assessment, age=124.3)


class TestText:
    def test_holds_what_was_assessed(self, assessment: Assessment, radiograph: Radiograph) -> None:
        full = dataclasses.replace(
            assessment, interval=Interval(110.2, 138.4, 0.9), warnings=("Look twice.",)
        )
        compared = growth.compare(124.3, 110.5, "F")
        page = read(report.to_pdf(full, radiograph, growth=compared, error=ERROR, created=DAY))
        check_layout(page)
        for part in (
            "Bone age report", "Report created on 2026-11-21", "4400", "Female",
            radiograph.description,
            "10 years 4 months", "124.3 months",
            "90 % prediction interval: 9 years 2 months to 11 years 6 months "
            "(110.2 to 138.4 months)",
            ERROR, compared.sentence, compared.reading, growth.CAUTION,
            "Where the network looked", "What raised the age", "Caution • Look twice.",
            "For research, not for diagnosis", f"tiny, revision {assessment.model.revision}",
        ):  # fmt: skip
            assert " ".join(part.split()) in page.text, part
        for name, age in full.components.items():
            assert name in page.text
            assert f"{age:.1f}" in page.text
        assert len(page.pictures) == 2

    def test_says_nothing_of_what_is_not_there(
        self, assessment: Assessment, radiograph: Radiograph
    ) -> None:
        plain = dataclasses.replace(assessment, heat_map=None, boxes=())
        page = read(report.to_pdf(plain, radiograph))
        check_layout(page)
        for part in ("interval", "chronological", "Mean absolute", "Caution", "raised", "looked"):
            assert part not in page.text
        assert f"Report created on {date.today().isoformat()}" in page.text
        assert len(page.pictures) == 1

    def test_refusal(self, assessment: Assessment, radiograph: Radiograph) -> None:
        refused = dataclasses.replace(
            assessment, age=None, components={}, boxes=(), heat_map=None, refused="No hand is seen."
        )
        page = read(report.to_pdf(refused, radiograph, error=ERROR))
        check_layout(page)
        assert "No age is given for this image No hand is seen." in page.text
        assert "component" not in page.text
        assert ERROR not in page.text
        assert len(page.pictures) == 1

    def test_adults(self, untrained_adult: Path, nih_fullsize_dir: Path) -> None:
        adults = Predictor.load(untrained_adult, task="adult", device="cpu")
        film = adults.read(nih_fullsize_dir / "images" / "00002819_000.png")
        (assessment,) = adults.assess(film, heat_map=True)
        page = read(report.to_pdf(assessment, film))
        check_layout(page)
        assert page.text.startswith("Age report ")
        assert f"Age {assessment.age:.1f} years" in page.text
        assert "month" not in page.text
        assert len(page.pictures) == 2

    def test_projection_of_a_ct(self, assessment: Assessment, radiograph: Radiograph) -> None:
        projection = dataclasses.replace(radiograph, format="CT")
        page = read(report.to_pdf(dataclasses.replace(assessment, boxes=()), projection))
        assert "Projection" in page.text


class TestLayout:
    @pytest.mark.parametrize(
        ("shape", "notes"),
        [
            ((300, 300), WARNINGS),
            ((300, 300), ()),
            ((2000, 64), WARNINGS),
            ((64, 2000), WARNINGS * 4),
            ((64, 2000), ()),
            ((300, 900), ()),
            ((900, 300), ()),
        ],
    )
    def test_nothing_overflows(
        self, predictor: Predictor, shape: tuple[int, int], notes: tuple[str, ...]
    ) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        film = dataclasses.replace(images.from_array(pixels, id=LONG), description=LONG)
        (assessment,) = predictor.assess(film, "M", heat_map=True)
        long = dataclasses.replace(
            assessment,
            interval=Interval(123.4, 234.5, 0.95),
            warnings=notes,
            model=dataclasses.replace(assessment.model, id=LONG, revision=LONG),
        )
        assert long.age is not None
        compared = growth.compare(long.age, 110.5, "M")
        check_layout(read(report.to_pdf(long, film, growth=compared, error=LONG)))

    def test_warnings_without_room_are_counted(
        self, assessment: Assessment, radiograph: Radiograph
    ) -> None:
        page = read(
            report.to_pdf(dataclasses.replace(assessment, warnings=WARNINGS * 4), radiograph)
        )
        shown = page.text.count("Warning ")
        assert 3 <= shown < 40
        assert f"and {40 - shown} more; the JSON holds them all." in page.text

    def test_a_long_refusal(self, assessment: Assessment, radiograph: Radiograph) -> None:
        refused = dataclasses.replace(
            assessment, age=None, components={}, boxes=(), heat_map=None, refused="why " * 500
        )
        page = read(report.to_pdf(refused, radiograph))
        check_layout(page)
        assert "why why why" in page.text
        assert "…" in page.text


class TestNames:
    @pytest.mark.parametrize(
        ("id", "shown"),
        [
            ("ακτινογραφία χεριού", "ακτινογραφία χεριού"),
            ("Рука ребёнка, Ärm & <b>", "Рука ребёнка, Ärm & <b>"),
            ("手のレントゲン写真", "手のレントゲン写真"),
            ("レントケ\N{COMBINING KATAKANA-HIRAGANA VOICED SOUND MARK}ン", "レントゲン"),  # macOS
            ("简体汉字骨龄", "简体汉字骨龄"),
            ("繁體漢字骨齡", "繁體漢字骨齡"),
            ("뼈나이 보고서", "뼈나이 보고서"),
            ("יד", "\N{REPLACEMENT CHARACTER}" * 2),
            ("a\N{GRINNING FACE}b\ud800c\x00d", "a\ufffdb\ufffdc\ufffdd"),
            ("two\nlines", "two lines"),
            ("", "File Sex"),
        ],
    )
    def test_in_any_script(
        self, assessment: Assessment, radiograph: Radiograph, id: str, shown: str
    ) -> None:
        page = read(report.to_pdf(dataclasses.replace(assessment, id=id), radiograph))
        assert shown in page.text

    def test_metadata_hold_the_id_alone(
        self, assessment: Assessment, radiograph: Radiograph
    ) -> None:
        named = dataclasses.replace(assessment, id="יד 手")
        metadata = read(report.to_pdf(named, radiograph)).metadata
        assert metadata.pop("CreationDate").startswith("D:")
        assert metadata.pop("ModDate").startswith("D:")
        assert {key: value for key, value in metadata.items() if value} == {
            "Title": "Bone age report: יד 手",
            "Creator": "boneage",
            "Producer": f"boneage {boneage.__version__}",
        }


class TestFile:
    def test_nothing_is_written(
        self,
        assessment: Assessment,
        radiograph: Radiograph,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        assert report.to_pdf(assessment, radiograph).startswith(b"%PDF-")
        assert list(tmp_path.iterdir()) == []

    def test_threads_share_the_fonts(self, assessment: Assessment, radiograph: Radiograph) -> None:
        names = [f"Film {i} ακτίνα {chr(0x400 + 7 * i)}" for i in range(8)]

        with ThreadPoolExecutor(4) as pool:
            pdfs = pool.map(
                lambda name: report.to_pdf(dataclasses.replace(assessment, id=name), radiograph),
                names,
            )
        for name, pdf in zip(names, pdfs, strict=True):
            assert name in read(pdf).text

    def test_pictures_are_those_of_the_assessment(
        self, assessment: Assessment, radiograph: Radiograph
    ) -> None:
        """The box's orange is on the first, the heat map's yellow on the second."""
        document = pypdfium2.PdfDocument(report.to_pdf(assessment, radiograph))
        boxes, heat = (
            np.asarray(o.get_bitmap().to_pil().convert("RGB"), np.int16)
            for o in document[0].get_objects()
            if isinstance(o, pypdfium2.PdfImage)
        )
        orange = np.abs(boxes - [0xE6, 0x9F, 0x00]).max(axis=2) < 24
        assert orange.sum() > 1000
        assert not (np.abs(heat - [0xE6, 0x9F, 0x00]).max(axis=2) < 24).any()
        assert (heat[..., 0] - heat[..., 2]).max() > 40  # the radiograph itself is grey


def test_json_is_the_assessments(assessment: Assessment) -> None:
    text = report.to_json(assessment)
    assert json.loads(text) == json.loads(json.dumps(assessment.to_dict()))
    assert text.endswith("}\n")
