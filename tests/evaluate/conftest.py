"""A stand-in for the predictor, and small labelled folders of real radiographs."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boneage import datasets
from boneage.errors import InputError
from boneage.images import Radiograph
from boneage.models.registry import UNITS
from boneage.predictor import Assessment, Box, Interval, ModelReference
from evaluate.run import Dataset

DATA = Path(__file__).resolve().parents[2] / "data" / "rsna-test"
FILLS = ["A1:male:K=3", "A2", "A3:AR-CNN"]
OFFSETS = {"X": 6.0, "C": -5.0, "R1": 7.0, "R2": -8.0, "R3": 9.0, "assembled": 4.0}


class StubPredictor:
    """Assesses every hand as its reference age plus a constant for each component."""

    def __init__(
        self,
        cases: Sequence[datasets.Case],
        *,
        id: str = "stub",
        sexes: Sequence[str] = ("F", "M"),
        fills: Sequence[str] = FILLS,
        offsets: dict[str, float] = OFFSETS,
        refuse: Sequence[str] = (),
        fail: Sequence[str] = (),
        task: str = "hand",
    ) -> None:
        self.id, self.revision = id, "0123456789ab"
        self.config: dict[str, Any] = {
            "task": task,
            "sexes": list(sexes),
            "fills": list(fills),
            "sha256": "0" * 64,
            "provenance": {"seed": 0, "commit": "abc"},
        }
        self.ages = {case.id: case.age for case in cases}
        self.offsets, self.refuse, self.fail = offsets, refuse, fail
        self.batches: list[list[str]] = []

    def assess(
        self,
        radiographs: Sequence[Radiograph],
        sex: Sequence[str | None],
        *,
        batch_size: int,
        heat_map: bool = False,
    ) -> list[Assessment]:
        self.batches.append([radiograph.id for radiograph in radiographs])
        assert len(radiographs) == len(sex) <= batch_size
        if any(radiograph.id in self.fail for radiograph in radiographs):
            raise InputError("The sex is missing; this model needs it: F or M.")
        return [
            self._one(radiograph, s, heat_map)
            for radiograph, s in zip(radiographs, sex, strict=True)
        ]

    def _one(self, radiograph: Radiograph, sex: str | None, heat_map: bool) -> Assessment:
        refused = radiograph.id in self.refuse
        components = {
            name: self.ages[radiograph.id] + offset for name, offset in self.offsets.items()
        }
        age = components["assembled"]
        side = radiograph.width / 4
        boxes = [
            Box(i * side, side, (i + 1) * side, 2 * side, 1.0 - i, components[f"R{i + 1}"])
            for i in range(3)
            if f"R{i + 1}" in components
        ]
        return Assessment(
            id=radiograph.id,
            task=self.config["task"],
            sex=sex,
            age=None if refused else age,
            unit=UNITS[self.config["task"]],
            interval=None if refused else Interval(age - 10, age + 2, 0.9),
            components={} if refused else components,
            boxes=() if refused else tuple(boxes),
            warnings=(),
            refused="This is no hand." if refused else None,
            model=ModelReference(self.id, self.revision),
            heat_map=np.eye(4, dtype=np.float32) if heat_map else None,
        )


def _copy(folder: Path, ids: Sequence[str], patients: dict[str, str] | None = None) -> Path:
    (folder / "images").mkdir(parents=True)
    with (DATA / "labels.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["id"] in ids]
    for row in rows:
        shutil.copy(DATA / "images" / f"{row['id']}.webp", folder / "images")
        if patients:
            row["patient"] = patients[row["id"]]
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture(autouse=True)
def unpainted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures have few pixels, and are painted only for modules that set ``PAINTED``.

    The others look at something else: an empty file stands for each.
    """
    monkeypatch.setattr("evaluate.figures.DPI", 30)
    if not getattr(request.module, "PAINTED", False):
        touch = "matplotlib.figure.Figure.savefig"
        monkeypatch.setattr(touch, lambda self, path, **_: Path(path).touch())


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a labelled folder from some of the bundled cases."""

    def make(
        ids: Sequence[str], patients: dict[str, str] | None = None, name: str = "hands"
    ) -> Path:
        return _copy(tmp_path / name, ids, patients)

    return make


@pytest.fixture(scope="session")
def hands(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Six boys and six girls of the bundled test set."""
    by_sex: dict[str | None, list[str]] = {}
    for case in datasets.load(DATA).cases:
        by_sex.setdefault(case.sex, []).append(case.id)
    folder = _copy(tmp_path_factory.mktemp("data") / "hands", by_sex["F"][:6] + by_sex["M"][:6])
    return Dataset("hands/test", datasets.load(folder))


@pytest.fixture(scope="session")
def adults(nih_test_dir: Path) -> Dataset:
    """Every thirtieth of the bundled chest radiographs."""
    folder = datasets.load(nih_test_dir)
    return Dataset("nih-chest/test", replace(folder, cases=folder.cases[::30]))


@pytest.fixture
def stub(hands: Dataset) -> Callable[..., StubPredictor]:
    """Makes predictors of the cases of ``hands``."""
    return lambda **options: StubPredictor(hands.folder.cases, **options)


@pytest.fixture
def stub_for() -> Callable[..., StubPredictor]:
    """Makes predictors of other cases."""
    return StubPredictor
