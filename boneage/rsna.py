"""The official download of the RSNA Pediatric Bone Age Challenge 2017, as it comes.

Label files and images named ``<id>.png``, in folders, zips or zips inside zips; Halabi et al., "The
RSNA Pediatric Bone Age Machine Learning Challenge", Radiology 2019; 290(2):498-503.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from boneage import images
from boneage.errors import InputError
from boneage.sex import parse_sex
from boneage.tables import filled_rows, read_csv
from boneage.zips import open_member, open_zip

MAX_ENTRIES = 200_000
"""The most files an archive may hold; one zip of NIH ChestX-ray14 holds 112,120 images."""
MAX_NESTED_BYTES = 16 * 2**30
"""The most an archive inside an archive may unpack to; the challenge's largest holds 9 GB."""
ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".dcm", ".dicom")


COPIES = ".copies"
"""A file in a folder of shrunk copies, finished or not, which are no images of a download."""


@dataclass(frozen=True)
class LabelFile:
    """One label file of the challenge.

    Attributes:
        name: file name in the download.
        split: of its cases.
        id, sex, age: column names; ``male`` asks "male?", others hold the sex itself.
    """

    name: str
    split: str
    id: str
    sex: str
    age: str


LABEL_FILES = (
    LabelFile("boneage-training-dataset.csv", "train", "id", "male", "boneage"),
    LabelFile("Validation Dataset.csv", "validation", "Image ID", "male", "Bone Age (months)"),
    LabelFile(
        "Bone age ground truth.xlsx", "test", "Case ID", "Sex", "Ground truth bone age (months)"
    ),
)


@dataclass(frozen=True)
class Member:
    """A file of the download, wherever it lies.

    Attributes:
        name: its own name, without folders.
        path: where it lies if it is unpacked.
        read: gives its content; raises :class:`InputError` if it is damaged or too large.
    """

    name: str
    path: Path | None
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Label:
    """One row of a label file: bone age in months."""

    id: str
    split: str
    age: float
    sex: str


class Download:
    """What a download holds.

    Args:
        source: its folder, or one zip.

    Attributes:
        images: by id; an unpacked image goes before one in a zip.
        labels: label files by their split.

    Raises:
        InputError: if the source is missing or an archive is damaged or too large.
    """

    def __init__(self, source: Path) -> None:
        if not source.exists():
            raise InputError(f"There is no folder or zip {source.name}.")
        self.images: dict[str, Member] = {}
        self.labels: dict[str, Member] = {}
        names = {_plain(file.name): file.split for file in LABEL_FILES}
        for member in members(source):
            stem, ending = PurePosixPath(member.name).stem, PurePosixPath(member.name).suffix
            if split := names.get(_plain(member.name)):
                self.labels.setdefault(split, member)
            elif stem.isdecimal() and ending.lower() in ENDINGS:
                self.images.setdefault(stem, member)

    def read_labels(self, label_file: LabelFile) -> list[Label]:
        """The rows of one label file, CSV or XLSX.

        Raises:
            InputError: if a column is missing or a value cannot be understood; names the row.
        """
        content = self.labels[label_file.split].read()
        table = _xlsx if label_file.name.endswith(".xlsx") else read_csv
        header, rows = table(content, label_file.name)
        missing = {label_file.id, label_file.sex, label_file.age} - set(header)
        if missing:
            raise InputError(
                f"{label_file.name} lacks the columns {', '.join(sorted(missing))}; it has "
                f"{', '.join(header)}."
            )
        labels = []
        for line, row in rows:
            sex = parse_sex(row[label_file.sex], asks_male=label_file.sex == "male")
            try:
                number, months = float(row[label_file.id]), float(row[label_file.age])
                if sex is None or not 0 <= months <= 240 or number != int(number):
                    raise ValueError
            except (ValueError, OverflowError):  # the latter for an infinite id
                values = ", ".join(row.values())
                raise InputError(
                    f"{label_file.name}, row {line}, is not valid: {values}. Expected an id, a "
                    "bone age in months from 0 to 240, and the sex."
                ) from None
            labels.append(Label(str(int(number)), label_file.split, months, sex))
        return labels


def is_download(folder: Path) -> bool:
    """Whether one of the label files lies in a folder, or right below it."""
    names = {_plain(file.name) for file in LABEL_FILES}
    return any(_plain(path.name) in names for path in (*folder.glob("*"), *folder.glob("*/*")))


def _plain(name: str) -> str:
    # Mirrors of the download vary in case, spaces and underscores.
    return name.lower().replace(" ", "").replace("_", "")


def _xlsx(content: bytes, name: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    from openpyxl import load_workbook

    try:
        workbook = load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        table = list(workbook.worksheets[0].iter_rows(values_only=True))
    except Exception:  # openpyxl lets its zip and XML readers' errors through
        raise InputError(f"{name} is not a readable XLSX file.") from None
    texts = [["" if cell is None else str(cell).strip() for cell in row] for row in table]
    header = texts[0] if texts else []
    return header, list(filled_rows(header, texts[1:]))


def members(source: Path) -> Iterator[Member]:
    """Every file of a folder or of one zip, those in zips last.

    The images of labelled folders inside the source are left out: shrunk copies, made of it before.

    Raises:
        InputError: if an archive is damaged or too large.
    """
    paths = sorted(source.rglob("*")) if source.is_dir() else [source]
    copies = {path.parent / "images" for path in paths if path.name == "labels.csv"}
    copies |= {path.parent for path in paths if path.name == COPIES}
    files = [
        path
        for path in paths
        if copies.isdisjoint(path.parents) and path.is_file() and not path.name.startswith(".")
    ]
    for path in files:
        if path.suffix.lower() != ".zip":
            yield Member(path.name, path, path.read_bytes)
    for path in files:
        if path.suffix.lower() == ".zip":
            yield from _zip_members(_open(path, path.name), path.name)


def _open(file: Path | io.IOBase, name: str) -> zipfile.ZipFile:
    try:
        return open_zip(file, MAX_ENTRIES, name)
    except (zipfile.BadZipFile, OSError):
        raise InputError(f"{name} is not a readable zip file.") from None


def _zip_members(archive: zipfile.ZipFile, name: str) -> Iterator[Member]:
    for info in archive.infolist():
        inner = PurePosixPath(info.filename).name
        if info.is_dir() or inner.startswith("."):  # macOS' resource forks
            continue
        if inner.lower().endswith(".zip"):
            # Unpacked to disk: seeking back inside a compressed member would unpack it anew.
            unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the archive
            for block in _blocks(archive, info, MAX_NESTED_BYTES):
                unpacked.write(block)
            yield from _zip_members(_open(unpacked, inner), inner)
        else:
            yield Member(
                inner, None, lambda i=info: b"".join(_blocks(archive, i, images.MAX_BYTES))
            )


def _blocks(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> Iterator[bytes]:
    """The content of a member, piece by piece, as far as it is allowed to go."""
    name = PurePosixPath(info.filename).name
    size = 0
    try:
        with open_member(archive, info) as file:
            while block := file.read(2**20):
                size += len(block)
                if size > most:
                    raise InputError(f"{name} unpacks to more than {most / 2**20:g} MB.")
                yield block
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError):
        raise InputError(f"{name} is damaged inside its zip.") from None
    except (RuntimeError, NotImplementedError):  # encrypted, or an unknown compression
        raise InputError(f"{name} is encrypted or compressed in an unknown way.") from None
