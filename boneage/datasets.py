"""Labelled folders of images, and the published data sets' own layouts.

A labelled folder is ``labels.csv`` beside ``images/<id>.<any supported ending>``. Columns: ``id``,
``split`` (train, validation, test), the age as ``boneage`` (months) or ``age`` (years), ``male``
(True or False) or ``sex`` (F or M), optionally ``patient``.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from boneage import rsna
from boneage.errors import InputError
from boneage.sex import MALE_SPELLINGS, SEX_SPELLINGS

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


@dataclass(frozen=True)
class LabelledFolder:
    """Cases in sorted order and what their labels mean.

    Attributes:
        name: the folder's name, shown in tables.
        task: ``hand`` (column ``boneage``) or ``adult`` (column ``age``).
        unit: ``months`` or ``years``.
        cases: sorted by id.
    """

    root: Path
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
    if not labels.is_file() and any(rsna.find_label_file(root, f) for f in rsna.LABEL_FILES):
        return _load_rsna(root)
    if not labels.is_file():
        raise InputError(
            f"{root.name or 'The folder'} is no labelled folder: it has no labels.csv. Expected "
            "are labels.csv (id, split, boneage or age, male or sex) and images/."
        )
    with labels.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        rows = list(reader)
    age_column = next((c for c in AGE_COLUMNS if c in columns), None)
    sex_column = next((c for c in ("sex", "male") if c in columns), None)
    for name, found in (
        ("id", "id" in columns),
        ("split", "split" in columns),
        ("boneage (months) or age (years)", age_column),
        ("sex or male", sex_column),
    ):
        if not found:
            raise InputError(f"labels.csv has no column {name}; it has: {', '.join(columns)}.")
    assert age_column is not None
    assert sex_column is not None
    _, unit, oldest = AGE_COLUMNS[age_column]
    spellings = MALE_SPELLINGS if sex_column == "male" else SEX_SPELLINGS
    images = find_images(root / "images")

    cases: dict[str, Case] = {}
    for line, row in enumerate(rows, start=2):
        id = row["id"].strip()
        where = f"labels.csv line {line} ({id})"
        try:
            age = float(row[age_column])
        except (TypeError, ValueError):
            age = math.nan
        if not 0 <= age <= oldest:
            raise InputError(
                f"{where}: {age_column} is {row[age_column]!r}; expected are {unit}, 0 to "
                f"{oldest:g}."
            )
        if row["split"] not in SPLITS:
            raise InputError(f"{where}: split is {row['split']!r}; known are {', '.join(SPLITS)}.")
        if id in cases:
            raise InputError(f"{where}: this id comes twice.")
        if id not in images:
            raise InputError(f"{where}: images/ has no file of that name.")
        sex = spellings.get((row[sex_column] or "").strip().lower())
        patient = (row.get("patient") or "").strip() or None
        cases[id] = Case(id, images[id], row["split"], age, sex, patient)
    _refuse_patients_in_two_splits(cases)
    return _folder(root, age_column, cases)


def _load_rsna(root: Path) -> LabelledFolder:
    available = rsna.unpacked_images(root)
    cases = [
        Case(id, available[id], split, float(age), MALE_SPELLINGS[male.lower()])
        for label_file in rsna.LABEL_FILES
        if (path := rsna.find_label_file(root, label_file))
        for id, split, age, male in rsna.read_labels(path, label_file)
        if id in available
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
    return LabelledFolder(root, root.resolve().name, task, unit, ordered)


def find_images(folder: Path) -> dict[str, Path]:
    """Files of a folder by their name without ending; hidden files are left out.

    Raises:
        InputError: if the folder is missing or two files differ in their ending alone.
    """
    if not folder.is_dir():
        raise InputError(f"The folder {folder.name} is missing.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            if path.stem in found:
                raise InputError(f"{folder.name} holds two files for the id {path.stem}.")
            found[path.stem] = path
    return found


def _refuse_patients_in_two_splits(cases: dict[str, Case]) -> None:
    splits: dict[str, str] = {}
    for case in cases.values():
        if case.patient and splits.setdefault(case.patient, case.split) != case.split:
            raise InputError(
                f"Patient {case.patient} is in the splits {splits[case.patient]} and {case.split}; "
                "a patient may be in one only."
            )
