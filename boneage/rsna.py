"""The official download of the RSNA Pediatric Bone Age Challenge 2017, as it comes.

Label files beside folders or zips of ``<id>.png``; Halabi et al., "The RSNA Pediatric Bone Age
Machine Learning Challenge", Radiology 2019; 290(2):498-503.
"""

from __future__ import annotations

import csv
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from boneage import images
from boneage.errors import InputError
from boneage.sex import MALE_SPELLINGS, SEX_SPELLINGS


@dataclass(frozen=True)
class LabelFile:
    """One label file of the RSNA Pediatric Bone Age Challenge 2017.

    Attributes:
        name: file name in the download.
        split: of its cases.
        id, sex, age: column names; the sex column holds what ``spellings`` knows.
    """

    name: str
    split: str
    id: str
    sex: str
    age: str
    spellings: Mapping[str, str]


LABEL_FILES = (
    LabelFile("boneage-training-dataset.csv", "train", "id", "male", "boneage", MALE_SPELLINGS),
    LabelFile(
        "Validation Dataset.csv",
        "validation",
        "Image ID",
        "male",
        "Bone Age (months)",
        MALE_SPELLINGS,
    ),
    LabelFile(
        "Bone age ground truth.xlsx",
        "test",
        "Case ID",
        "Sex",
        "Ground truth bone age (months)",
        SEX_SPELLINGS,
    ),
)

# Opens one image of the download, wherever it lies.
Opener = Callable[[], bytes]


def find_label_file(source: Path, label_file: LabelFile) -> Path | None:
    """Where a label file lies in a download; its case and spaces vary between mirrors."""

    def plain(name: str) -> str:
        return name.lower().replace(" ", "")

    wanted = plain(label_file.name)
    return next((path for path in sorted(source.rglob("*")) if plain(path.name) == wanted), None)


def read_labels(path: Path, label_file: LabelFile) -> Iterator[tuple[str, str, str, str]]:
    """Rows ``(id, split, age in months, male)`` of one label file, CSV or XLSX.

    Raises:
        InputError: if a column is missing or a value cannot be understood; names the row.
    """
    rows = _xlsx_rows(path) if path.suffix.lower() == ".xlsx" else _csv_rows(path)
    header = [str(cell).strip() for cell in next(rows, [])]
    try:
        columns = [header.index(name) for name in (label_file.id, label_file.age, label_file.sex)]
    except ValueError:
        raise InputError(
            f"{label_file.name} needs the columns {label_file.id}, {label_file.sex} and "
            f"{label_file.age}; it has {', '.join(header)}."
        ) from None
    for line, row in enumerate(rows, start=2):
        if not any(cell not in (None, "") for cell in row):
            continue
        try:
            id, age, sex = (row[column] for column in columns)
            months = float(age)
            male = label_file.spellings[str(sex).strip().lower()] == "M"
            yield str(int(float(id))), label_file.split, f"{months:g}", str(male)
        except (ValueError, KeyError, IndexError, TypeError):
            raise InputError(f"{label_file.name}, row {line}, is not valid: {row}.") from None


def _csv_rows(path: Path) -> Iterator[list[object]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        yield from csv.reader(file)


def _xlsx_rows(path: Path) -> Iterator[list[object]]:
    from openpyxl import load_workbook

    try:
        workbook = load_workbook(path, read_only=True, data_only=True)
    except Exception:  # openpyxl lets its zip and XML readers' errors through
        raise InputError(f"{path.name} is not a readable XLSX file.") from None
    yield from (list(row) for row in workbook.worksheets[0].iter_rows(values_only=True))
    workbook.close()


def unpacked_images(source: Path) -> dict[str, Path]:
    """Every image of a download that lies in a folder, by its id."""
    paths = (p for p in sorted(source.rglob("*")) if p.stem.isdigit() and p.is_file())
    return {p.stem: p for p in paths if p.suffix.lower() != ".zip"}


def index_images(source: Path) -> dict[str, Opener]:
    """Every image of a download by its id; an unpacked one goes before one in a zip.

    Raises:
        InputError: for a damaged zip, or a member that unpacks to more than an image may have.
    """
    found: dict[str, Opener] = {id: p.read_bytes for id, p in unpacked_images(source).items()}
    for path in sorted(source.rglob("*")):
        if path.suffix.lower() == ".zip":
            for id, opener in _zip_images(path):
                found.setdefault(id, opener)
    return found


def _zip_images(path: Path) -> Iterator[tuple[str, Opener]]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError):
        raise InputError(f"{path.name} is not a readable zip file.") from None
    yield from _members(archive, path.name)


def _members(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[str, Opener]]:
    for member in archive.infolist():
        inner = Path(member.filename)
        if inner.name.startswith("."):  # macOS' resource forks
            continue
        if inner.suffix.lower() == ".zip":
            # Unpacked to disk: seeking back inside a compressed member would unpack it anew.
            unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the archive
            with archive.open(member) as compressed:
                shutil.copyfileobj(compressed, unpacked)
            try:
                nested = zipfile.ZipFile(unpacked)
            except zipfile.BadZipFile:
                raise InputError(f"{inner.name} in {name} is not a readable zip file.") from None
            yield from _members(nested, inner.name)
        elif inner.stem.isdigit() and not member.is_dir():
            if member.file_size > images.MAX_BYTES:
                raise InputError(f"{inner.name} in {name} unpacks to more than an image may have.")
            yield inner.stem, lambda m=member: archive.read(m)
