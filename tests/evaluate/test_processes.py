"""An evaluation in several processes, with the launcher and gloo."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from boneage import hub
from boneage.predictor import released
from evaluate.__main__ import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As many as each of the launched processes has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The released weights, without the refusal, whose own test images take long."""
    folder = shutil.copytree(released("hand"), tmp_path / "trained")
    config = json.loads((folder / hub.CONFIG).read_text())
    (folder / hub.CONFIG).write_text(json.dumps(config | {"refusal": None}))
    return folder


def test_two_processes_write_the_bytes_of_one(
    make_folder: Callable[..., Path], weights: Path, tmp_path: Path
) -> None:
    folder = make_folder([str(id) for id in range(4360, 4372)])
    (folder / "images" / "4366.webp").write_bytes(b"no image")
    # Of three batches one process takes two, the other one and then waits.
    places = ["--data", str(folder), "--weights", str(weights)]
    arguments = ["--split", "test", *places, "--batch-size", "5", "--out"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*arguments, str(one)]) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launcher, "--nproc_per_node", "2", "-m", "evaluate", *arguments, str(two)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"Written to {two}") == 1
    with (one / "cases.csv").open(newline="") as file:
        assert len({row["assessed"] for row in csv.DictReader(file)}) > 50
    for name in ("cases.csv", "assessments.csv", "boxes.csv", "metrics.json", "tables.md"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    assert json.loads((two / "run.json").read_text())["processes"] == 2
