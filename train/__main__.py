"""``python -m train RECIPE --data DIR --out runs/NAME``: train a network, keep its best weights."""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boneage.arguments import natural, path, positive, seed
from boneage.errors import InputError, run_command
from boneage.memory import keep_freed_memory
from boneage.views import PROJECTIONS, REGIONS
from train import recipe as recipes

if TYPE_CHECKING:
    from accelerate import PartialState
    from torch import nn

    from boneage.datasets import Case, LabelledFolder
    from train.recipe import Recipe

PAPERS = {"hand": "A", "adult": "B"}
"""First letter of the tables of each task's paper; a recipe may be trained for the other task."""
AGE_RANGES = {"months": (0.0, 228.0), "years": (0.0, 120.0)}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m train",
        description="Train a network on a labelled folder; the best weights are kept as a "
        "weights folder under OUT/weights: those with the lowest MAE on the half of the validation "
        "split that `python -m boneage calibrate` leaves alone.",
        epilog="Exit codes: 0 trained, 2 bad arguments or data.",
    )
    p.add_argument("recipe", help=f"one of {', '.join(recipes.names())}, or a TOML file")
    p.add_argument("--data", required=True, type=path, help="labelled folder")
    p.add_argument("--out", required=True, type=path, help="folder of this run, as runs/NAME")
    p.add_argument(
        "--sex",
        choices=("F", "M", "both", "none"),
        help="train on one sex; or one network for both, with sex as an input; or, with none, "
        "without (default: both for hands, none for adults)",
    )
    p.add_argument(
        "--region",
        choices=tuple(REGIONS),
        help="train on the upper or lower half of the images, in place of the recipe's choice",
    )
    p.add_argument(
        "--projection",
        choices=tuple(PROJECTIONS),
        help="what a CT volume has to become to look like the training images, recorded with the "
        "weights: the whole projected as bone or as a radiograph, or the thorax as a radiograph; "
        "without it, and if the images are not projections themselves, they refuse CT volumes",
    )
    p.add_argument(
        "--epochs",
        type=natural,
        help="in place of the recipe's; 0 measures and keeps what the network starts from",
    )
    p.add_argument(
        "--size",
        type=positive,
        help="side of the input in px in place of the recipe's: a small one for the first stage of "
        "a training by progressive resizing, whose weights the next one gets as --init",
    )
    p.add_argument("--learning-rate", type=rate, metavar="PEAK", help="in place of the recipe's")
    p.add_argument("--seed", type=seed, default=0, help="of order, augmentation and dropout")
    p.add_argument("--limit", type=positive, help="use only so many training images (for a trial)")
    p.add_argument(
        "--resume", action="store_true", help="go on from the run's checkpoint if there is one"
    )
    start = p.add_mutually_exclusive_group()
    start.add_argument(
        "--pretrained", action="store_true", help="start from torchvision's ImageNet weights"
    )
    start.add_argument(
        "--init",
        type=path,
        action="append",
        default=[],
        metavar="FILE",
        help="start the backbone from a safetensors file: torchvision's names, or a trained run's; "
        "the whole network from a run of the same network, be it of another size or region, or an "
        "AR-CNN of both sexes for one of them; of another AR-CNN also its heads; of an AR-CNN a "
        "single-stage network of as many sexes takes the head X, and an AR-CNN takes its head "
        "for X, C and parts; the recipes of table A1 take the backbone alone; given several "
        "times, with weights of the recipe's own network, it starts from their mean",
    )
    p.add_argument(
        "--precision",
        choices=("auto", "bf16", "no"),
        default="auto",
        help="mixed precision; auto takes bf16 where the processor is fast at it",
    )
    p.add_argument(
        "--push",
        metavar="ORG/NAME",
        help="upload the weights to the Hugging Face Hub in the end; the repository is made at the "
        "beginning if there is none, and without the right to write nothing is trained",
    )
    p.add_argument("--private", action="store_true", help="make the repository of --push private")
    return p


def rate(text: str) -> float:
    """A number above 0, for argparse."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a learning rate above 0")
    return value


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = parser().parse_args(arguments)
    return run_command("train", lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Train as the arguments say; returns the exit code.

    Raises:
        InputError: for arguments, recipe or data that do not fit.
    """
    keep_freed_memory()
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, gather_object, set_seed

    from boneage import datasets, hub, images
    from boneage.transforms import Preprocess
    from train.data import Batches, build_cache
    from train.initialisation import NewNetwork, initialised
    from train.loop import CHECKPOINT, Trainer, read_checkpoint

    recipe = chosen_recipe(args)
    resuming = (args.out / CHECKPOINT).exists()
    if resuming and not args.resume:
        raise InputError(
            f"{args.out} holds a run already: add --resume to go on with it, or take another name."
        )
    if not resuming and (args.out / "weights" / hub.CONFIG).exists():
        raise InputError(
            f"{args.out} holds trained weights, but no checkpoint to go on from: take another name."
        )
    if not (resuming or args.init or args.pretrained):
        refuse_random_weights(recipe)
    folder = datasets.load(args.data)
    projected = images.projection_of(folder.cases[0].path)
    if args.projection and projected not in (None, args.projection):
        raise InputError(f"The images are CT projections of the kind {projected}.")
    sexes = chosen_sexes(args.sex, folder.task)
    if len(sexes) == 1:
        folder = folder.of_sex(*sexes)
    training, validation = folder.split("train"), folder.split("validation")
    if args.limit:
        training = thinned(training, args.limit)
    refuse_unknown_sexes(sexes, training, validation)
    if len({case.age for case in training.cases}) < 2:
        raise InputError("The training images must have at least two different ages.")

    processes = joined_processes()
    if args.push and processes.is_main_process:
        hub.open_repository(args.push, private=args.private)
    set_seed(args.seed)
    arguments = {**recipe.arguments, "sexes": max(1, len(sexes))}
    with processes.local_main_process_first():  # which downloads what --pretrained needs
        network = NewNetwork(recipe.architecture, arguments, sexes, training, recipe.backbone_alone)
        # A checkpoint holds the weights, and the config that tells where they came from.
        start = ((), False) if resuming else (args.init, args.pretrained)
        model, origin = initialised(network, *start)
    checkpoint = read_checkpoint(args.out) if resuming else None
    wanted = args.precision
    if checkpoint and wanted == "auto":  # measured anew it could differ
        wanted = json.loads(checkpoint["run"]).get("precision", wanted)
    precision = chosen_precision(wanted, model, recipe)
    # Batch normalisation's running statistics are the loop's own affair.
    buffers = DistributedDataParallelKwargs(broadcast_buffers=False)
    accelerator = Accelerator(mixed_precision=precision, kwargs_handlers=[buffers])

    # Larger images than twice the input would only be shrunk without antialiasing later.
    resolution = min(resolution_of(training), 2 * recipe.preprocess["size"])
    preprocess = Preprocess(resolution=resolution, **recipe.preprocess)
    cache = args.out.parent / "cache"
    batches, checks = (
        Batches(
            split,
            build_cache(split, preprocess, cache, accelerator),
            sexes,
            recipe.optimisation.batch_size,
            augmentation,
            args.seed,
            *shared,
        )
        for split, augmentation, shared in (
            (training, recipe.augmentation, (accelerator.process_index, accelerator.num_processes)),
            (validation, None, ()),
        )
    )
    config = {
        "architecture": {"name": recipe.architecture, "arguments": arguments},
        "task": folder.task,
        "unit": folder.unit,
        "sexes": sexes,
        "projection": args.projection or projected,
        "interval": None,
        "refusal": None,
        "fills": [cell for cell in recipe.fills if cell.startswith(PAPERS[folder.task])],
        "provenance": {
            **provenance(recipe, folder, args.seed),
            "from_ct": projected is not None,
            **described(training.cases),
            "validation_images": len(validation.cases),
            "initialisation": origin,
            "precision": precision,
        },
    }
    trainer = Trainer(
        model,
        recipe,
        preprocess,
        batches,
        checks,
        AGE_RANGES[folder.unit],
        config,
        args.out,
        accelerator,
    )
    seen = gather_object([json.dumps([resuming, trainer.fingerprint()])])
    if len(set(seen)) > 1:
        raise InputError(
            "The processes see different data or checkpoints: the folders of --data and --out must "
            "be the same for all, on every machine."
        )
    if checkpoint:
        trainer.resume(checkpoint)
    elif accelerator.is_main_process:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")
    trainer.train()
    if args.push and accelerator.is_main_process:
        push(args.out / "weights", args.push, args.private)
    return 0


def chosen_recipe(args: argparse.Namespace) -> Recipe:
    """The recipe with what the command line puts in its place.

    Raises:
        InputError: if there is none such, or the network cannot take so small an input.
    """
    from boneage.models.backbones import Backbone

    recipe = recipes.load(args.recipe)
    given = {"epochs": args.epochs, "learning_rate": args.learning_rate}
    changes = {name: value for name, value in given.items() if value is not None}
    recipe = replace(recipe, optimisation=replace(recipe.optimisation, **changes))
    if args.size and args.size != recipe.preprocess["size"]:
        if args.size < Backbone.stride:
            raise InputError(f"The input needs at least {Backbone.stride} px a side.")
        recipe = recipe.at_size(args.size)
    if args.region and args.region != recipe.preprocess.get("region", "whole"):
        # Another region is another experiment than the recipe's: it fills none of its rows.
        preprocess = {**recipe.preprocess, "region": args.region}
        summary = f"{recipe.summary}, on the {args.region} region of the image"
        recipe = replace(recipe, preprocess=preprocess, summary=summary, fills=())
    return recipe


def refuse_random_weights(recipe: Recipe) -> None:
    """Say why a recipe cannot start from random weights, where it cannot.

    Raises:
        InputError: where it needs weights to start from.
    """
    if recipe.optimisation.freeze_batch_norm:
        raise InputError(
            f"The recipe {recipe.name} keeps batch normalisation frozen, so it cannot start from "
            "random weights: give --init FILE or --pretrained."
        )
    if recipe.first_stage:
        raise InputError(
            f"The recipe {recipe.name} goes on from a training on small images: train it with "
            f"these options and {recipe.first_stage} first, then give that run's weights as --init "
            "FILE."
        )


def chosen_sexes(wanted: str | None, task: str) -> list[str]:
    """The sexes that the network tells apart, none if it is not told any.

    Liu et al. train one network a sex for hands. One with sex as an input is half as large and did
    not err more (docs/experiments.md), so it is the default.

    Args:
        wanted: ``F``, ``M``, ``both``, ``none``, or ``None`` for what the task usually takes.
        task: ``hand`` or ``adult``.
    """
    wanted = wanted or ("both" if task == "hand" else "none")
    return {"both": ["F", "M"], "none": []}.get(wanted, [wanted])


def refuse_unknown_sexes(sexes: Sequence[str], *splits: LabelledFolder) -> None:
    """See that a network for these sexes can learn them.

    Args:
        sexes: of :func:`chosen_sexes`.
        splits: training, then validation cases.

    Raises:
        InputError: if the sex of a case is unknown, or no training case has one of them.
    """
    unknown = [case.id for split in splits for case in split.cases if case.sex is None]
    if sexes and unknown:
        more = f", and of {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise InputError(
            f"The sex of {unknown[0]} is unknown{more}; training needs it for every training and "
            "validation image. With --sex none it is not an input."
        )
    for sex in sexes:
        if all(case.sex != sex for case in splits[0].cases):
            (other,) = {"F", "M"} - {sex}
            raise InputError(
                f"No training image is of sex {sex}, so nothing can be learnt of it: give --sex "
                f"{other} for weights that are for the other alone, or --sex none."
            )


def thinned(folder: LabelledFolder, most: int) -> LabelledFolder:
    """At most so many cases, evenly spread over the order of their ids."""
    count = min(most, len(folder.cases))
    places = (i * len(folder.cases) // count for i in range(count))
    return replace(folder, cases=tuple(folder.cases[place] for place in places))


def provenance(recipe: Recipe, folder: LabelledFolder, seed: int) -> dict[str, Any]:
    """By what and on what a network is trained, for the config of its weights."""
    import torch

    import boneage
    from boneage.models.registry import MODELS

    return {
        "summary": f"{MODELS[recipe.architecture].summary}: {recipe.summary}",
        "data": folder.name,
        "recipe": recipe.name,
        "seed": seed,
        "commit": commit(),
        "boneage": boneage.__version__,
        "torch": torch.__version__,
    }


def described(cases: Sequence[Case]) -> dict[str, Any]:
    """Number, sexes and range of ages of the images that a network is trained on."""
    ages = [case.age for case in cases]
    return {
        "training_images": len(cases),
        "training_sexes": dict(sorted(Counter(case.sex or "unknown" for case in cases).items())),
        "training_ages": [min(ages), max(ages)],
    }


def joined_processes() -> PartialState:
    """This process among those that a launcher started; alone if none did."""
    import torch
    from accelerate import PartialState

    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    return PartialState(
        # Unless told, accelerate takes processes without GPUs for strangers to each other.
        cpu=several and not torch.cuda.is_available(),
        timeout=timedelta(hours=6),  # they wait for whoever decodes or validates longest
    )


def push(weights: Path, repo: str, private: bool) -> None:
    """Upload trained weights and print where they are.

    Raises:
        InputError: if the Hub refuses or cannot be reached; it says how to repeat it.
    """
    from boneage import hub
    from boneage.card import model_card
    from boneage.predictor import name_of

    card = model_card(name_of(weights), hub.load_config(weights), [], repo)
    try:
        commit = hub.push(weights, repo, card, private=private)
    except InputError as error:
        raise InputError(
            f"{error} The weights are trained and kept; `python -m boneage push {weights} --repo "
            f"{repo}` uploads them."
        ) from None
    print(f"{commit.url}\nrevision {commit.revision}")


def resolution_of(folder: LabelledFolder) -> int:
    """Side in px that the training images have, or the shorter one where they are not square."""
    from boneage import images

    return min(min(images.read(case.path).pixels.shape) for case in folder.cases[:32])


def chosen_precision(wanted: str, model: nn.Module, recipe: Recipe) -> str:
    """Accelerate's name of the precision to train in, the same in all processes.

    Args:
        wanted: ``auto``, ``bf16`` or ``no``.
        model: to be trained.
        recipe: to train it by.

    Raises:
        InputError: if the network has no module that the recipe freezes.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    from boneage.models.backbones import freeze_batch_norm
    from boneage.precision import choose_precision
    from train.loop import ready_to_train

    device = PartialState().device

    @cache
    def network() -> nn.Module:
        copied = ready_to_train(copy.deepcopy(model), recipe.optimisation, device).train()
        freeze_batch_norm(copied)  # a map may have one cell, which has no standard deviation
        return copied

    def trial() -> None:
        size = recipe.preprocess["size"]
        image = torch.zeros(1, 3, size, size, device=device)
        sex = torch.zeros(1, dtype=torch.int64, device=device)
        output = network()(image.contiguous(memory_format=torch.channels_last), sex)
        output.assembled.sum().backward()

    chosen = [choose_precision("fp32" if wanted == "no" else wanted, device, trial)]
    broadcast_object_list(chosen)  # measured in each, they could differ
    return "bf16" if chosen[0] == "bf16" else "no"


def commit() -> str:
    """The commit of the code that trains, or ``unknown`` outside a repository.

    It ends in ``-dirty`` where a tracked file has changes that are in no commit.
    """
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
