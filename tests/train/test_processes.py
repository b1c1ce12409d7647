"""Training in several processes, with the launcher and gloo.

This file is also the program of those processes: see :func:`launched`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from boneage import datasets, hub
from boneage.augmentation import Augmentation
from boneage.calibration import calibrates
from boneage.errors import InputError
from boneage.predictor import released
from boneage.transforms import Preprocess
from train import data, loop
from train.__main__ import main
from train.data import Batches, build_cache
from train.dropout import Places, share_dropout

ROOT = Path(__file__).resolve().parents[2]
STOP = 6  # steps after which runs are as if stopped, in the middle of an epoch
GRADIENT = "norm of the gradient"
# Two processes take 1 and 2 of a step's 3 images, and one image at a time. Rounding grows from step
# to step: at a learning rate of 1e-4 from 1e-6 to 1e-3 in 13 of them.
RECIPE = """
summary = "A recipe that trains within seconds"
architecture = "arcnn"

[arguments]
backbone = "mobilenet_v2"
size = 64
part_size = 32
parts = 4
dropout = 0.2

[preprocess]
size = 64

[augmentation]
rotation = 10
flip = 0.5
border = 0.2

[optimisation]
epochs = 2
batch_size = 3
learning_rate = 3e-5
accumulate = 3
freeze_batch_norm = true
frozen = ["recognition.backbone.features.0"]
"""


def train(arguments: list[str], *stopped: str) -> list[dict[str, float]]:
    """Train in this process or in all that were launched; losses and gradient of every step.

    Args:
        arguments: of the command line.
        stopped: names of copies of the run as it is when stopped.
    """
    losses: list[dict[str, float]] = []
    norms: list[float] = []
    original, clip = loop.Trainer.train_step, Accelerator.clip_grad_norm_

    def note_norm(self: Accelerator, parameters: Any, limit: float) -> torch.Tensor:
        norm = clip(self, parameters, limit)
        norms.append(norm.item())
        return norm

    def step(self: loop.Trainer, batch: data.Batch) -> dict[str, torch.Tensor]:
        if stopped and self.step == STOP:
            self.save_checkpoint()
            if self.accelerator.is_main_process:
                for name in stopped:
                    shutil.copytree(self.out, self.out.with_name(name))
        found = original(self, batch)
        losses.append({k: self.accelerator.reduce(v).item() for k, v in found.items()})
        losses[-1][GRADIENT] = norms[-1]
        return found

    loop.Trainer.train_step, Accelerator.clip_grad_norm_ = step, note_norm
    try:
        assert main(arguments) == 0
    finally:
        loop.Trainer.train_step, Accelerator.clip_grad_norm_ = original, clip
    return losses


def arguments(folder: Path, images: Path, name: str, *options: str) -> list[str]:
    """The command line of the run ``folder/name``."""
    # From a trained network: a random one would answer rounding with other ages.
    start = released("hand") / hub.TENSORS
    places = ["--data", str(images), "--out", str(folder / name), "--init", str(start)]
    # A seed whose validation images have no two regions that score alike: rounding would choose.
    return [str(folder / "tiny.toml"), *places, "--precision", "no", "--seed", "1", *options]


def launched(folder: Path, images: Path) -> None:
    """What each launched process does: train, and note the losses and what it writes."""
    rank, written = os.environ["RANK"], []

    def note(event: str, values: tuple) -> None:
        writes = event == "open" and set(str(values[1])) & set("wax+")
        if writes or event in ("os.mkdir", "os.rename", "os.remove"):
            written.extend(str(x) for x in values[:2] if isinstance(x, str | Path))

    sys.addaudithook(note)
    losses = {"two": train(arguments(folder, images, "two"), "two, then two", "two, then one")}
    for name in ("two, then two", "one, then two"):
        losses[name] = train(arguments(folder, images, name, "--resume"))
    # Rank 1 finds no checkpoint there, as on a machine that does not share the folder.
    apart = "two" if rank == "0" else "nowhere"
    with redirect_stderr(StringIO()) as refusal:
        assert main(arguments(folder, images, apart, "--resume")) == 2
    report = {
        "losses": losses,
        "written": [path for path in written if str(folder) in path],
        "refusal": refusal.getvalue(),
    }
    (folder / f"rank{rank}.json").write_text(json.dumps(report))


@dataclass
class Runs:
    """Trainings of the same recipe; ``folder`` holds one folder for each.

    Attributes:
        losses: of every step, by the run's name.
        ranks: what each of two processes reported.
        output: what both printed.
    """

    folder: Path
    losses: dict[str, list[dict[str, float]]]
    ranks: list[dict]
    output: str

    def records(self, name: str) -> list[dict]:
        lines = (self.folder / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def state(self, name: str) -> dict[str, Any]:
        """The checkpoint at the end, in fp32."""
        return torch.load(self.folder / name / loop.CHECKPOINT, weights_only=True)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def runs(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "tiny.toml").write_text(RECIPE)
    losses = {"one": train(arguments(folder, small_folder, "one"), "one, then two")}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launcher, "--nproc_per_node", "2", __file__, str(folder), str(small_folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    losses |= ranks[0]["losses"]
    losses["two, then one"] = train(arguments(folder, small_folder, "two, then one", "--resume"))
    for name in ("one, then two", "two, then one", "two, then two"):
        losses[name] = losses[name.split(",")[0]][:STOP] + losses[name]
    return Runs(folder, losses, ranks, done.stdout)


@pytest.mark.parametrize("name", ["two", "one, then two", "two, then one"])
def test_losses_and_errors_are_those_of_one_process(runs: Runs, name: str) -> None:
    assert len(runs.losses["one"]) == len(runs.losses[name]) == 8
    for one, other in zip(runs.losses["one"], runs.losses[name], strict=True):
        assert set(one) == {"recognition", "attention", GRADIENT}
        for term, value in one.items():
            tolerance = {"rel": 0.01} if term == GRADIENT else {"abs": 1e-3}
            assert other[term] == pytest.approx(value, **tolerance), term
    for one, other in zip(runs.records("one"), runs.records(name), strict=True):
        maes = {key: value for key, value in one.items() if key.startswith("validation")}
        assert len(maes) == 9  # six components, two sexes, and the one to choose by
        assert {key: other[key] for key in maes} == pytest.approx(maes, abs=0.02)


def test_epoch_losses_are_of_all_processes(runs: Runs) -> None:
    for epoch, record in enumerate(runs.records("two")):
        for term in ("recognition", "attention"):
            steps = [losses[term] for losses in runs.losses["two"][4 * epoch : 4 * epoch + 4]]
            assert record[f"loss_{term}"] == pytest.approx(np.mean(steps), abs=1e-4)


def test_two_processes_resumed_end_with_the_same_weights(runs: Runs) -> None:
    whole, resumed = runs.state("two"), runs.state("two, then two")
    for part in ("model", "ema"):
        assert whole[part].keys() == resumed[part].keys()
        for name, tensor in whole[part].items():
            assert torch.equal(tensor, resumed[part][name]), name


def test_only_the_main_process_writes(runs: Runs) -> None:
    written = [[Path(path) for path in rank["written"]] for rank in runs.ranks]
    assert {"metrics.jsonl", loop.CHECKPOINT, hub.CONFIG} <= {path.name for path in written[0]}
    assert written[1] == []
    printed = [json.loads(line) for line in runs.output.splitlines() if line.startswith("{")]
    assert [record["epoch"] for record in printed] == [1, 2, 2, 2]


def test_processes_that_see_different_checkpoints_are_refused(runs: Runs) -> None:
    for rank in runs.ranks:
        assert "must be the same for all" in rank["refusal"]


def rank_of(rank: int, processes: int) -> Accelerator:
    """Stands in for one of several processes."""
    return SimpleNamespace(
        process_index=rank,
        num_processes=processes,
        is_main_process=rank == 0,
        wait_for_everyone=lambda: None,
    )


def test_processes_share_every_batch(small_folder: Path, tmp_path: Path) -> None:
    training = datasets.load(small_folder).split("train")
    cache = build_cache(training, Preprocess(64, 64), tmp_path, rank_of(0, 1))
    augmentation = Augmentation(rotation=10)
    (one,) = Batches(training, cache, ["F", "M"], 11, augmentation, seed=3)
    shares = [
        next(iter(Batches(training, cache, ["F", "M"], 11, augmentation, 3, rank, 4)))
        for rank in range(4)
    ]
    assert sorted(len(share.ages) for share in shares) == [2, 3, 3, 3]
    for name, tensor in vars(one).items():
        assert torch.equal(torch.cat([getattr(share, name) for share in shares]), tensor), name
    with pytest.raises(InputError, match="13 processes cannot share batches of 11"):
        Batches(training, cache, ["F", "M"], 11, augmentation, 3, 0, 13)


def test_augmentation_follows_the_image_not_its_place(small_folder: Path, tmp_path: Path) -> None:
    training = datasets.load(small_folder).split("train")
    fewer = replace(training, cases=training.cases[1:])
    drawn = []
    for split in (training, fewer):
        cache = build_cache(split, Preprocess(64, 64), tmp_path, rank_of(0, 1))
        batches = Batches(split, cache, ["F", "M"], len(split.cases), Augmentation(), seed=3)
        (batch,) = batches
        ids = [split.cases[index].id for index in batches.order]
        drawn.append(dict(zip(ids, batch.draws.tolist(), strict=True)))
    every, left = drawn
    assert left == {case.id: every[case.id] for case in fewer.cases}


def test_half_of_the_validation_images_chooses(small_folder: Path, tmp_path: Path) -> None:
    split = datasets.load(small_folder).split("train")
    cache = build_cache(split, Preprocess(64, 64), tmp_path, rank_of(0, 1))
    choosing = Batches(split, cache, ["F", "M"], 4).choosing
    assert choosing.tolist() == [not calibrates(case) for case in split.cases]
    assert 0 < choosing.sum() < len(choosing)
    alone = replace(split, cases=tuple(case for case in split.cases if calibrates(case)))
    assert Batches(alone, cache, ["F", "M"], 4).choosing.all()  # where there is no other


def test_processes_decode_a_share_each(
    small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, preprocess = datasets.load(small_folder).split("train"), Preprocess(64, 64)
    whole = build_cache(training, preprocess, tmp_path / "whole", rank_of(0, 1))
    monkeypatch.setattr(data, "CACHED", 5)
    folder = tmp_path / "shared"
    made = []

    def other_process() -> None:
        """While this one waits the other does all of its work, at the first time."""
        if not made:
            made.append(rank_of(1, 2))
            with suppress(FileNotFoundError):  # it cannot wait for this one's files
                build_cache(training, preprocess, folder, made[0])
            made.extend(folder.iterdir())

    waiting = rank_of(0, 2)
    waiting.wait_for_everyone = other_process
    shared = build_cache(training, preprocess, folder, waiting)
    assert [len(file) for file in shared.files] == [5, 5, 2]
    assert len(made[1:]) == 1
    assert len(list(folder.iterdir())) == 3
    for index in range(12):
        assert np.array_equal(shared[index], whole[index])


def test_the_mask_of_dropout_depends_on_the_place_alone() -> None:
    places = Places(6)
    network = nn.Sequential(nn.Identity(), nn.Dropout(0.5))
    share_dropout(network, places)
    images = torch.ones(6, 4, 32)
    masks = []
    for cut in ([6], [1, 5], [2, 2, 2]):
        kept = []
        for index in torch.arange(6).split(cut):
            torch.manual_seed(0)
            places.index = index
            kept.append(network(images[index]))
        masks.append(torch.cat(kept))
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])
    assert set(masks[0].unique().tolist()) == {0, 2}
    assert masks[0].mean().item() == pytest.approx(1, abs=0.1)
    assert not torch.equal(masks[0][0], masks[0][1])
    assert torch.equal(network.eval()(images), images)


if __name__ == "__main__":
    launched(Path(sys.argv[1]), Path(sys.argv[2]))
