"""Rows measured earlier with weights that are not shipped: ``evaluate/recorded/<row>/``.

Such a folder is what ``python -m evaluate --weights DIR --out evaluate/recorded/<row>`` writes for
one weights folder (``cases.csv``, ``run.json``), and the training's ``recipe.json`` and
``metrics.jsonl``. Its cases are used only where they are cases of the data set evaluated, with the
same reference ages. ``robustness`` is what :mod:`evaluate.robustness` writes, with shipped weights:
its cases are used only beside these weights.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boneage.errors import InputError
from evaluate.cases import CASES, RECORDED, CaseRow, read_cases
from evaluate.published import FURTHER, TABLES
from evaluate.robustness import TABLE as ROBUSTNESS

if TYPE_CHECKING:
    from boneage.datasets import Case

FOLDER = Path(__file__).parent / "recorded"
RUN = "run.json"
NEEDED = (CASES, RUN)
OF_TRAINING = ("recipe.json", "metrics.jsonl")  # a late fusion has none of its own


@dataclass(frozen=True)
class RecordedRow:
    """The cases of one recorded folder.

    Attributes:
        name: of the folder.
        cases: their weights marked as recorded.
        provenance: of the weights.
        sha256: of the weights.
    """

    name: str
    cases: tuple[CaseRow, ...]
    provenance: Mapping[str, Any]
    sha256: str

    def fitting(
        self, dataset: str, cases: tuple[Case, ...], weights: Collection[str]
    ) -> tuple[CaseRow, ...]:
        """Its cases on a data set.

        Args:
            dataset: its name.
            cases: its cases.
            weights: SHA-256 of those that are evaluated.

        Raises:
            InputError: if the data set of that name now has other cases or reference ages.
        """
        known = {case.id: (case.sex, round(case.age, 2)) for case in cases}
        found = tuple(
            row
            for row in self.cases
            if row.dataset == dataset and (row.table != ROBUSTNESS or self.sha256 in weights)
        )
        for row in found:
            if known.get(row.id) != (row.sex, round(row.age, 2)):
                raise InputError(
                    f"The recorded row {self.name} holds case {row.id}, which {dataset} does not "
                    "have with that sex and age: it was recorded on other data of that name. Give "
                    "the folder of the data another name."
                )
        return found


def load(folder: Path = FOLDER) -> list[RecordedRow]:
    """All recorded rows, by name.

    Raises:
        InputError: if one lacks a file, or its ``run.json`` does not name exactly one set of
            weights with SHA-256, seed and commit.
    """
    return [
        _load(path) for path in sorted(folder.glob("*/")) if not path.name.startswith(("_", "."))
    ]


def _demand(folder: Path, names: tuple[str, ...]) -> None:
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise InputError(f"The recorded row {folder.name} has no {', '.join(missing)}.")


def _load(folder: Path) -> RecordedRow:
    _demand(folder, NEEDED)
    try:
        (weights,) = json.loads((folder / RUN).read_text(encoding="utf-8"))["weights"]
        provenance = weights["provenance"]
        complete = bool(weights["sha256"]) and {"seed", "commit"} <= provenance.keys()
    except (ValueError, KeyError, TypeError, AttributeError):
        complete = False
    if not complete:
        raise InputError(
            f"{RUN} of the recorded row {folder.name} does not name one set of weights with "
            "sha256, seed and commit."
        )
    known = {FURTHER, ROBUSTNESS, *(table.id for table in TABLES)}
    cases = tuple(
        replace(row, weights=RECORDED + row.weights)
        for row in read_cases(folder / CASES)
        # An evaluation's cases hold those of the rows recorded before it.
        if row.table in known and not row.weights.startswith(RECORDED)
    )
    # Shipped weights need no recipe here, and a late fusion has none.
    if {row.table for row in cases} != {ROBUSTNESS} and "members" not in provenance:
        _demand(folder, OF_TRAINING)
    return RecordedRow(folder.name, cases, provenance, weights["sha256"])
