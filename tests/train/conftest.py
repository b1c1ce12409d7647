from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

RECIPE = """
summary = "A recipe that trains within seconds"
architecture = "{architecture}"
fills = {fills}

[arguments]
backbone = "mobilenet_v2"
dropout = 0.2
{arguments}

[preprocess]
size = 64

[augmentation]
rotation = 10
flip = 0.5
border = 0.2

[optimisation]
epochs = 2
batch_size = 4
accumulate = {accumulate}
learning_rate = 1e-3
schedule = "{schedule}"
freeze_batch_norm = {freeze}
"""


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory, rsna_test_dir: Path) -> Path:
    """Eighteen real radiographs as a labelled folder with all three splits."""
    root = tmp_path_factory.mktemp("data") / "small"
    (root / "images").mkdir(parents=True)
    with (rsna_test_dir / "labels.csv").open(newline="") as file:
        labels = list(csv.DictReader(file))
    girls, boys = ([row for row in labels if row["male"] == male] for male in ("False", "True"))
    # By turns, so that every split has both sexes.
    rows = [row for pair in zip(girls[::10][:9], boys[::10][:9], strict=True) for row in pair]
    with (root / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        for number, row in enumerate(rows):
            split = "train" if number < 12 else "validation" if number < 16 else "test"
            writer.writerow(row | {"split": split})
            shutil.copy(rsna_test_dir / "images" / f"{row['id']}.webp", root / "images")
    return root


@pytest.fixture(scope="session")
def small_adults(tmp_path_factory: pytest.TempPathFactory, nih_test_dir: Path) -> Path:
    """Twelve real chest radiographs as a labelled folder; sexes of some unknown."""
    root = tmp_path_factory.mktemp("data") / "adults"
    (root / "images").mkdir(parents=True)
    with (nih_test_dir / "labels.csv").open(newline="") as file:
        labels = list(csv.DictReader(file))
    patients = {row["patient"]: row for row in labels}  # one image each
    rows = list(patients.values())[:12]
    with (root / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        for number, row in enumerate(rows):
            split = "train" if number < 8 else "validation"
            writer.writerow(row | {"split": split, "sex": row["sex"] if number % 2 else ""})
            shutil.copy(nih_test_dir / "images" / f"{row['id']}.webp", root / "images")
    return root


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[..., Path]:
    """Writes a recipe that trains within seconds."""

    def write(
        architecture: str = "finetuned",
        schedule: str = "cosine",
        freeze: str = "false",
        accumulate: int = 1,
    ) -> Path:
        arguments = {
            "arcnn": "size = 64\npart_size = 32\nparts = 4",
            "hierarchical": "size = 64\nunits = 8\nhidden = 8",
        }.get(architecture, "")
        path = tmp_path / "tiny.toml"
        path.write_text(
            RECIPE.format(
                architecture=architecture,
                arguments=arguments,
                schedule=schedule,
                freeze=freeze,
                accumulate=accumulate,
                fills=["B2:Early fusion"] if architecture == "hierarchical" else [],
            )
        )
        return path

    return write
