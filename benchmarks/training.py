"""A training's step with everything around it, beside the bare step on tensors in memory."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Measurement, Outcome, alternate

if TYPE_CHECKING:
    from torch import nn

    from train.loop import Trainer

DATA = Path(__file__).parents[1] / "data" / "rsna-test"
RECIPES = {"arcnn_mobilenetv2_384": "AR-CNN", "whole_mobilenetv2_192": "whole image"}
STEP, LOADER = 0.85, 2.0  # targets


def run(repeats: int = 5, recipes: Mapping[str, str] = RECIPES) -> Iterator[Outcome]:
    """The recipe of the released weights and a whole-image one, in a training's precision here.

    Args:
        repeats: measured steps.
        recipes: their names, and in words what they train.
    """
    from accelerate.state import AcceleratorState

    from boneage.memory import keep_freed_memory

    keep_freed_memory()  # as a training does
    for name, summary in recipes.items():
        with tempfile.TemporaryDirectory() as folder:
            yield from steps_of(*prepare(name, Path(folder)), summary, repeats)
        AcceleratorState._reset_state()  # the next recipe may compute in another precision


def steps_of(trainer: Trainer, plain: nn.Module, summary: str, repeats: int) -> Iterator[Outcome]:
    """The step and the loader of a training; the loader makes images ready for the network."""
    import torch

    loader = trainer.loader()
    batches = chain.from_iterable(repeat(loader))  # epoch after epoch
    trainer.set_training(trainer.model)
    plain = plain.to(trainer.accelerator.device, memory_format=torch.channels_last)
    trainer.set_training(plain)
    floors = {"bare": copy.deepcopy(trainer.raw), "plain": plain}
    seconds = alternate(
        {
            "step": complete(trainer, lambda: trainer.train_step(next(batches))),
            "loader": complete(trainer, lambda: [trainer.images_of(batch) for batch in loader]),
            "reading": lambda: list(loader),
            "averaging": complete(trainer, lambda: trainer.ema.update_parameters(trainer.raw)),
            **{name: complete(trainer, bare_step(trainer, m)) for name, m in floors.items()},
        },
        repeats,
    )
    precision = trainer.accelerator.mixed_precision.replace("no", "fp32")
    subject = (
        f"{summary}, {trainer.batches.batch_size} images of {trainer.preprocess.size} px, "
        f"{precision}"
    )
    bare = Measurement("forward, loss, backward, AdamW", seconds["bare"])
    step = Measurement("loaded, augmented, step, averaged weights", seconds["step"])
    yield Outcome(subject, step, bare, at_least=STEP)
    what = "forward, loss, backward, AdamW, network as built"
    yield Outcome(subject, step, Measurement(what, seconds["plain"]), at_least=STEP)
    each = Measurement("a batch loaded and augmented", seconds["loader"] / len(loader))
    yield Outcome(subject, each, bare, at_least=LOADER)
    # Where the rest of a step goes. An accelerator computes while the next batch is read.
    read = Measurement("of it, the batch read on the processor", seconds["reading"] / len(loader))
    yield Outcome(subject, read, bare)
    yield Outcome(subject, Measurement("weights averaged", seconds["averaging"]), bare)


def prepare(name: str, out: Path) -> tuple[Trainer, nn.Module]:
    """A training by a recipe on the bundled test radiographs, from the released weights.

    Returns:
        The training, and the network as it was given to it: neither its normalisation folded nor
        its depthwise convolutions hastened.
    """
    from accelerate import Accelerator

    from boneage import datasets, hub
    from boneage.predictor import released
    from boneage.transforms import Preprocess
    from train import recipe as recipes
    from train.__main__ import AGE_RANGES, chosen_precision
    from train.data import Batches, build_cache
    from train.initialisation import NewNetwork, initialised
    from train.loop import Trainer

    recipe = recipes.load(name)
    data = datasets.load(DATA)
    preprocess = Preprocess(resolution=299, **recipe.preprocess)
    sexes = ["F", "M"]
    arguments = {**recipe.arguments, "sexes": len(sexes)}
    network = NewNetwork(recipe.architecture, arguments, sexes, data)
    model, _ = initialised(network, [released("hand") / hub.TENSORS])
    accelerator = Accelerator(mixed_precision=chosen_precision("auto", model, recipe))
    cache = build_cache(data, preprocess, out, accelerator)
    size = recipe.optimisation.batch_size
    batches = Batches(data, cache, sexes, size, recipe.augmentation)
    plain = copy.deepcopy(model)
    trainer = Trainer(
        model,
        recipe,
        preprocess,
        batches,
        Batches(data, cache, sexes, size),
        AGE_RANGES[data.unit],
        {},
        out,
        accelerator,
    )
    return trainer, plain


def complete(trainer: Trainer, function: Callable[[], Any]) -> Callable[[], None]:
    """The function, ended when an accelerator has done what it was asked to."""
    import torch

    def run() -> None:
        function()
        if trainer.accelerator.device.type != "cpu":
            torch.accelerator.synchronize()

    return run


def bare_step(trainer: Trainer, model: nn.Module) -> Callable[[], None]:
    """The floor: a network and the same optimiser on images that are ready."""
    import torch

    from train.loop import parameter_groups

    settings = trainer.recipe.optimisation
    optimizer = torch.optim.AdamW(parameter_groups(model, settings.weight_decay), lr=1e-5)
    batch = trainer.batches[0].to(trainer.accelerator.device)
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
