"""A training's step with everything around it, beside the bare step on tensors in memory."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import Measurement, Outcome, alternate

if TYPE_CHECKING:
    from train.loop import Trainer

DATA = Path(__file__).parents[1] / "data" / "rsna-test"
RECIPES = {"arcnn_mobilenetv2_256": "AR-CNN", "whole_mobilenetv2_192": "whole image"}
STEP, LOADER = 0.85, 2.0  # targets


def run(repeats: int = 5) -> Iterator[Outcome]:
    """The recipes of the released weights, in the precision that a training would take here."""
    from train.__main__ import keep_freed_memory

    keep_freed_memory()  # as a training does
    for name, summary in RECIPES.items():
        with tempfile.TemporaryDirectory() as folder:
            yield from steps_of(prepare(name, Path(folder)), summary, repeats)


def steps_of(trainer: Trainer, summary: str, repeats: int) -> Iterator[Outcome]:
    """The step and the loader of a training."""
    from torch.utils.data import DataLoader

    loader = DataLoader(trainer.batches, batch_size=None)
    batches = chain.from_iterable(repeat(loader))  # epoch after epoch
    seconds = alternate(
        {
            "step": lambda: trainer.train_step(next(batches)),
            "bare": bare_step(trainer),
            "loader": lambda: [None for _ in loader],
        },
        repeats,
    )
    subject = f"{summary}, {trainer.batches.batch_size} images of {trainer.preprocess.size} px"
    bare = Measurement("forward, loss, backward, AdamW", seconds["bare"])
    step = Measurement("loaded, augmented, step, averaged weights", seconds["step"])
    yield Outcome(subject, step, bare, at_least=STEP)
    each = Measurement("a batch loaded", seconds["loader"] / len(loader))
    yield Outcome(subject, each, bare, at_least=LOADER)


def prepare(name: str, out: Path) -> Trainer:
    """A training by a recipe on the bundled test radiographs, from the released weights."""
    from accelerate import Accelerator

    from boneage import datasets, hub
    from boneage.predictor import released
    from boneage.transforms import Preprocess
    from train import recipe as recipes
    from train.__main__ import AGE_RANGES, chosen_precision, initialised
    from train.data import Batches, build_cache
    from train.loop import Trainer

    recipe = recipes.load(name)
    data = datasets.load(DATA)
    preprocess = Preprocess(resolution=299, **recipe.preprocess)
    arguments = {**recipe.arguments, "sexes": 2}
    init = released("hand") / hub.TENSORS
    model, _ = initialised(recipe.architecture, arguments, init, pretrained=False)
    accelerator = Accelerator(mixed_precision=chosen_precision("auto", model, preprocess.size))
    cache = build_cache(data, preprocess, out, accelerator)
    size = recipe.optimisation.batch_size
    batches = Batches(data, cache, ["F", "M"], size, recipe.augmentation)
    return Trainer(
        model,
        recipe,
        preprocess,
        batches,
        Batches(data, cache, ["F", "M"], size),
        AGE_RANGES[data.unit],
        {},
        out,
        accelerator,
    )


def bare_step(trainer: Trainer) -> Callable[[], None]:
    """The floor: the same network and optimiser on images that are ready."""
    import torch

    from boneage.models.backbones import freeze_batch_norm
    from train.loop import parameter_groups

    settings = trainer.recipe.optimisation
    model = copy.deepcopy(trainer.raw).train()
    trainer.model.train()
    if settings.freeze_batch_norm:
        freeze_batch_norm(model)
        freeze_batch_norm(trainer.model)
    optimizer = torch.optim.AdamW(parameter_groups(model, settings.weight_decay), lr=1e-5)
    batch = trainer.batches[0]
    images = trainer.preprocess.finish(trainer.preprocess.resize(batch.images))
    images = images.contiguous(memory_format=torch.channels_last)
    ages = (batch.ages - trainer.mean) / trainer.sd

    def step() -> None:
        with trainer.accelerator.autocast():
            losses = model.loss(model(images, batch.sex), ages)
        sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
