"""The NIH ChestX-ray14 download, as it comes: frontal chest radiographs with age and sex.

Wang et al., "ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks", CVPR 2017;
https://nihcc.app.box.com/v/ChestXray-NIHCC.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from boneage import bundled, images
from boneage.errors import InputError
from boneage.rsna import Member, members
from boneage.sex import parse_sex
from boneage.tables import read_csv

MAX_AGE = 100.0
"""The highest age that is believed; the labels hold some of up to 414 years."""
TEST_LIST = "test_list.txt"
COLUMNS = ("Image Index", "Patient ID", "Patient Age", "View Position")
SEX_COLUMNS = ("Patient Gender", "Patient Sex")


@dataclass(frozen=True)
class Label:
    """One row of the label file: age in years."""

    id: str
    split: str
    age: float
    sex: str
    patient: str
    view: str


class Download:
    """What a download holds: the label file, the official test list, and the images.

    Args:
        source: its folder, or one zip.

    Attributes:
        labels: of the images, whose age is believed.
        implausible: how many rows name an age above :data:`MAX_AGE`.
        bundled: how many of its patients are test patients because the bundled test set shows them.

    Raises:
        InputError: if the source or one of the two files is missing or damaged, or an archive is
            damaged or too large.
    """

    def __init__(self, source: Path) -> None:
        if not source.exists():
            raise InputError(f"There is no folder or zip {source.name}.")
        tables: dict[str, Member] = {}
        self._images: dict[str, Member] = {}
        self._tars: list[Path] = []
        for member in members(source):
            if member.name.lower().endswith(".png"):
                self._images.setdefault(member.name[:-4], member)
            elif re.search(r"(?i)\.(tar|tar\.gz|tgz)$", member.name) and member.path:
                self._tars.append(member.path)
            elif re.fullmatch(r"(?i)Data_Entry_2017.*\.csv|test_list\.txt", member.name):
                tables.setdefault(member.name, member)
        # The last is the latest: Data_Entry_2017_v2020.csv beside Data_Entry_2017.csv.
        entries = sorted(name for name in tables if name != TEST_LIST)
        if not entries or TEST_LIST not in tables:
            raise InputError(
                f"{source.name} is not an NIH ChestX-ray14 download: expected "
                f"Data_Entry_2017*.csv, {TEST_LIST} and the images."
            )
        tested = set(tables[TEST_LIST].read().decode("ascii", "replace").split())
        shown = bundled_patients()
        labels = list(_read_labels(tables[entries[-1]], tested, shown))
        self.labels = [label for label in labels if label.age <= MAX_AGE]
        self.implausible = len(labels) - len(self.labels)
        self.bundled = len({label.patient for label in self.labels} & shown)

    def images(self) -> Iterator[tuple[str, Member]]:
        """Each labelled image once with its id: unpacked ones, those in zips, those in tar files.

        An image in a tar file has to be read before the next one is asked for.

        Raises:
            InputError: if a tar file is damaged.
        """
        wanted = {label.id for label in self.labels}
        for id in sorted(wanted & set(self._images)):
            yield id, self._images[id]
        wanted -= set(self._images)
        for path in self._tars:
            for id, member in _tar_members(path):
                if id in wanted:
                    wanted.remove(id)
                    yield id, member


def bundled_patients() -> set[str]:
    """The patients of the bundled test set ``data/nih-chest-test``.

    They follow another split than the official test list. Trained on, they would make every
    evaluation on the bundled set worthless.

    Raises:
        InputError: if they are not known, since this is no whole installation.
    """
    path = bundled.folder("data") / "nih-chest-test" / "labels.csv"
    if not path.exists():
        raise InputError(
            "This installation lacks data/nih-chest-test/labels.csv, whose patients must not be "
            "trained on."
        )
    _, rows = read_csv(path.read_bytes(), path.name)
    return {row["patient"] for _, row in rows}


def _read_labels(table: Member, tested: set[str], shown: set[str]) -> Iterator[Label]:
    """The rows; test patients are those with an image in ``tested``, and those in ``shown``."""
    header, rows = read_csv(table.read(), table.name)
    sex_column = next((name for name in SEX_COLUMNS if name in header), None)
    missing = sorted(set(COLUMNS) - set(header)) + ([] if sex_column else [SEX_COLUMNS[0]])
    if missing:
        raise InputError(f"{table.name} lacks the columns {', '.join(missing)}.")
    listed = {row["Patient ID"] for _, row in rows if row["Image Index"] in tested}
    test_patients = listed | shown
    for line, row in rows:
        file, patient = PurePosixPath(row["Image Index"]).name, row["Patient ID"]
        age, sex = _years(row["Patient Age"]), parse_sex(row[sex_column])
        if age is None or sex is None or not patient or not file.lower().endswith(".png"):
            raise InputError(
                f"{table.name}, row {line}, is not valid: expected an image's name, a patient, "
                "an age and the sex."
            )
        split = "test" if patient in test_patients else training_split(patient)
        yield Label(file[:-4], split, age, sex, patient, row["View Position"])


def _years(text: str) -> float | None:
    """Years from ``58``, or from ``058Y``, ``011M`` and ``013D`` as in the first release."""
    age = re.fullmatch(r"(\d{1,3})([YMD]?)", text)
    return int(age[1]) / {"": 1, "Y": 1, "M": 12, "D": 365.25}[age[2]] if age else None


def training_split(patient: str) -> str:
    """``validation`` for a tenth of the patients, by a hash of the key, else ``train``."""
    share = int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8]) / 2**64
    return "validation" if share < 0.1 else "train"


def _tar_members(path: Path) -> Iterator[tuple[str, Member]]:
    """PNG files in the order in which they lie: going back in a compressed file takes long."""
    try:
        with tarfile.open(path, "r|*") as archive:
            for info in archive:
                name = PurePosixPath(info.name).name
                if info.isfile() and name.lower().endswith(".png") and not name.startswith("."):
                    data = archive.extractfile(info).read(images.MAX_BYTES + 1)
                    yield name[:-4], Member(name, None, lambda data=data: data)
    except (tarfile.TarError, zlib.error, EOFError, OSError):
        raise InputError(f"{path.name} is damaged or no readable tar file.") from None
