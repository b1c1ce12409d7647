"""Labelled folders of images, and the published data sets' own layouts.

A labelled folder is ``labels.csv`` beside ``images/<id>.<any supported ending>``. Columns: ``id``,
``split`` (train, validation, test), the age as ``boneage`` (months) or ``age`` (years), ``male``
(True or False) or ``sex`` (F or M), optionally ``patient``. Without ``split`` patients are split at
random, always in the same way, 70 to 30 into training and test as by Nguyen and Kim; a seventh of
the training side is held out for validation, of which the paper says nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from unicodedata import normalize

from boneage import images, rsna
from boneage.errors import InputError
from boneage.sex import parse_sex
from boneage.tables import number, read_csv

SPLITS = ("train", "validation", "test")
AGE_COLUMNS = {"boneage": ("hand", "months", 240.0), "age": ("adult", "years", 120.0)}


@dataclass(frozen=True)
class Case:
    """One labelled image.

    Attributes:
        id: name of the image without ending.
        path: the image file.
        split: ``train``, ``validation`` or ``test``.
        age: reference age in the folder's unit.
        sex: ``F``, ``M``, or ``None`` where unknown.
        patient: key of the patient, ``None`` where the labels have none.
    """

    id: str
    path: Path
    split: str
    age: float
    sex: str | None
    patient: str | None = None


def read(case: Case) -> images.Radiograph:
    """The image of a case.

    Raises:
        InputError: if it cannot be read; it names the case.
    """
    try:
        return images.read(case.path, id=case.id)
    except InputError as error:
        raise InputError(f"Image {case.id}: {error}") from None


@dataclass(frozen=True)
class LabelledFolder:
    """Cases in sorted order and what their labels mean.

    Attributes:
        name: the folder's name, shown in tables.
        task: ``hand`` (column ``boneage``) or ``adult`` (column ``age``).
        unit: ``months`` or ``years``.
        cases: sorted by id.
    """

    name: str
    task: str
    unit: str
    cases: tuple[Case, ...]

    def split(self, name: str) -> LabelledFolder:
        """The cases of one split.

        Raises:
            InputError: for a split that is not there; names those that are.
        """
        return self.where(lambda case: case.split == name, f"of the split {name!r}")

    def of_sex(self, sex: str) -> LabelledFolder:
        """The cases of one sex, ``F`` or ``M``.

        Raises:
            InputError: if there are none.
        """
        return self.where(lambda case: case.sex == sex, f"of sex {sex}")

    def where(self, condition: Callable[[Case], bool], what: str) -> LabelledFolder:
        """The cases that meet ``condition``; ``what`` describes them if there are none."""
        cases = tuple(filter(condition, self.cases))
        if not cases:
            splits = ", ".join(s for s in SPLITS if any(c.split == s for c in self.cases))
            raise InputError(f"{self.name} has no cases {what}; its splits are: {splits}.")
        return replace(self, cases=cases)


def load(folder: str | Path) -> LabelledFolder:
    """Read a labelled folder, or an unpacked RSNA download, and find every image.

    Raises:
        InputError: if the file, a needed column or an image is missing, an age is no number or out
            of range, an id comes twice, or a patient is in two splits.
    """
    root = Path(folder)
    labels = root / "labels.csv"
    if not labels.is_file():
        if rsna.is_download(root):
            return _load_rsna(root)
        raise InputError(
            f"{root.name or 'The folder'} is not a labelled folder: it has no labels.csv. Expected "
            "labels.csv (id, split, boneage or age, male or sex) and images/."
        )
    columns, rows = read_csv(labels.read_bytes(), labels.name)
    age_column = next((c for c in AGE_COLUMNS if c in columns), None)
    sex_column = next((c for c in ("sex", "male") if c in columns), None)
    if "id" not in columns or not age_column or not sex_column:
        raise InputError(
            f"labels.csv has the columns {', '.join(columns)}; it needs id, boneage (months) or "
            "age (years), sex or male, and may have split and patient."
        )
    if not rows:
        raise InputError("labels.csv names no image below its columns.")
    _, unit, oldest = AGE_COLUMNS[age_column]
    images = find_images(root / "images")

    cases: dict[str, Case] = {}
    for line, row in rows:
        id = normalize("NFC", row["id"])
        where = f"labels.csv line {line} ({id})"
        try:
            age = number(row[age_column])
        except ValueError:
            age = math.nan
        if not 0 <= age <= oldest:
            raise InputError(
                f"{where}: {age_column} is {row[age_column]!r}; expected {unit}, 0 to {oldest:g}."
            )
        patient = row.get("patient") or None
        split = row["split"] if "split" in columns else random_split(patient or id)
        if split not in SPLITS:
            raise InputError(f"{where}: split is {split!r}; known: {', '.join(SPLITS)}.")
        if id in cases:
            raise InputError(f"{where}: this id appears twice.")
        if id not in images:
            raise InputError(f"{where}: images/ has no file of that name.")
        sex = parse_sex(row[sex_column], asks_male=sex_column == "male")
        if sex is None and row[sex_column]:
            raise InputError(
                f"{where}: {sex_column} is {row[sex_column]!r}; expected "
                f"{'True or False' if sex_column == 'male' else 'F or M'}, or nothing if unknown."
            )
        cases[id] = Case(id, images[id], split, age, sex, patient)
    _refuse_patients_in_two_splits(cases)
    return _folder(root, age_column, cases)


def random_split(patient: str) -> str:
    """The split of a patient, from a hash of the key: 60 % train, 10 % validation, 30 % test."""
    share = int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8]) / 2**64
    return "test" if share < 0.3 else "validation" if share < 0.4 else "train"


def _load_rsna(root: Path) -> LabelledFolder:
    download = rsna.Download(root)
    cases = [
        Case(label.id, path, label.split, label.age, label.sex)
        for file in rsna.LABEL_FILES
        if file.split in download.labels
        for label in download.read_labels(file)
        if label.id in download.images and (path := download.images[label.id].path)
    ]
    if not cases:
        raise InputError(
            "The images of this RSNA download are still in zips. Unpack them, or make a labelled "
            "folder with: python -m boneage prepare rsna SOURCE --out DIR"
        )
    return _folder(root, "boneage", {case.id: case for case in cases})


def _folder(root: Path, age_column: str, cases: dict[str, Case]) -> LabelledFolder:
    task, unit, _ = AGE_COLUMNS[age_column]
    ordered = tuple(cases[id] for id in sorted(cases))
    return LabelledFolder(root.resolve().name, task, unit, ordered)


def find_images(folder: Path) -> dict[str, Path]:
    """Images of a folder by their name without ending; other and hidden files are left out.

    Raises:
        InputError: if the folder is missing or two files differ in their ending alone.
    """
    if not folder.is_dir():
        raise InputError(f"The folder {folder.name} is missing.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in rsna.ENDINGS and not path.name.startswith("."):
            id = normalize("NFC", path.stem)  # some systems take letters and accents apart
            if id in found:
                raise InputError(f"{folder.name} holds two files for the id {id}.")
            found[id] = path
    return found


def _refuse_patients_in_two_splits(cases: dict[str, Case]) -> None:
    splits: dict[str, str] = {}
    for case in cases.values():
        if case.patient and splits.setdefault(case.patient, case.split) != case.split:
            raise InputError(
                f"Patient {case.patient} is in the splits {splits[case.patient]} and {case.split}; "
                "a patient may be in one only."
            )
