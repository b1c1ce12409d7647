"""``python -m train RECIPE --data DIR --out runs/NAME``: train a network, keep its best weights."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boneage.errors import InputError
from train import recipe as recipes

if TYPE_CHECKING:
    from boneage.datasets import LabelledFolder

AGE_RANGES = {"months": (0.0, 228.0), "years": (0.0, 120.0)}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m train",
        description="Train a network on a labelled folder; the best weights by validation MAE are "
        "kept as a weights folder under OUT/weights.",
        epilog="Exit codes: 0 trained, 2 bad arguments or data.",
    )
    p.add_argument("recipe", help=f"one of {', '.join(recipes.names())}, or a TOML file")
    p.add_argument("--data", required=True, type=Path, help="labelled folder")
    p.add_argument("--out", required=True, type=Path, help="folder of this run, as runs/NAME")
    p.add_argument(
        "--sex",
        choices=("F", "M", "both"),
        default="both",
        help="train on one sex, or one network with sex as an input (default: both)",
    )
    p.add_argument("--epochs", type=int, help="in place of the recipe's")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--limit", type=int, help="use only so many training images (for a trial)")
    p.add_argument("--resume", action="store_true", help="go on from the run's checkpoint")
    start = p.add_mutually_exclusive_group()
    start.add_argument(
        "--pretrained", action="store_true", help="start from torchvision's ImageNet weights"
    )
    start.add_argument(
        "--init",
        type=Path,
        help="start the backbone from a safetensors file: torchvision's names, or a trained run's",
    )
    p.add_argument(
        "--precision",
        choices=("auto", "bf16", "no"),
        default="auto",
        help="mixed precision; auto takes bf16 where the processor is fast at it",
    )
    return p


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = parser().parse_args(arguments)
    try:
        run(args)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def run(args: argparse.Namespace) -> None:
    """Train as the arguments say.

    Raises:
        InputError: for arguments, recipe or data that do not fit.
    """
    import dataclasses

    import torch
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    import boneage
    from boneage import datasets
    from boneage.models.registry import MODELS, build
    from boneage.transforms import Preprocess
    from train.data import Batches, build_cache
    from train.loop import CHECKPOINT, Trainer

    recipe = recipes.load(args.recipe)
    if args.epochs:
        optimisation = dataclasses.replace(recipe.optimisation, epochs=args.epochs)
        recipe = dataclasses.replace(recipe, optimisation=optimisation)
    if (args.out / CHECKPOINT).exists() and not args.resume:
        raise InputError(
            f"{args.out} holds a run already: add --resume to go on with it, or take another name."
        )
    folder = datasets.load(args.data)
    sexes = ["F", "M"] if args.sex == "both" else [args.sex]
    if len(sexes) == 1:
        folder = folder.of_sex(*sexes)
    training, validation = folder.split("train"), folder.split("validation")
    if args.limit:
        step = -(-len(training.cases) // args.limit)
        training = dataclasses.replace(training, cases=training.cases[::step])

    precision = args.precision
    if precision == "auto":
        precision = "bf16" if fast_bf16() else "no"
    accelerator = Accelerator(mixed_precision=precision)
    set_seed(args.seed)
    architecture = {
        "name": recipe.architecture,
        "arguments": {**recipe.arguments, "sexes": len(sexes)},
    }
    try:
        model = build(
            recipe.architecture, {**architecture["arguments"], "pretrained": args.pretrained}
        )
    except OSError:  # of torchvision's download
        raise InputError(
            "torchvision's ImageNet weights could not be downloaded. Without network, start from "
            "a file with --init."
        ) from None
    initialisation = "torchvision ImageNet" if args.pretrained else "random"
    if args.init:
        model.backbone.load_initialisation(args.init)
        initialisation = origin_of(args.init)

    args.out.mkdir(parents=True, exist_ok=True)
    preprocess = Preprocess(
        resolution=min(resolution_of(training), 2 * recipe.preprocess["size"]),
        **recipe.preprocess,
    )
    batches, checks = (
        Batches(
            split,
            build_cache(split, preprocess, args.out.parent / "cache"),
            sexes,
            recipe.optimisation.batch_size,
            augmentation,
            args.seed,
        )
        for split, augmentation in ((training, recipe.augmentation), (validation, None))
    )
    entry = MODELS[recipe.architecture]
    config = {
        "architecture": architecture,
        "task": folder.task,
        "unit": folder.unit,
        "sexes": sexes,
        "interval": None,
        "refusal": None,
        "fills": list(recipe.fills),
        "provenance": {
            "summary": f"{entry.summary}: {recipe.summary}",
            "data": folder.name,
            "training_images": len(training.cases),
            "validation_images": len(validation.cases),
            "recipe": recipe.name,
            "initialisation": initialisation,
            "seed": args.seed,
            "precision": precision,
            "commit": commit(),
            "boneage": boneage.__version__,
            "torch": torch.__version__,
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
        args.seed,
        accelerator,
    )
    if args.resume:
        trainer.resume()
    trainer.train()


def origin_of(file: Path) -> dict[str, Any]:
    """What is known of an initialisation: its name, its own account, and how it was trained."""
    from safetensors import safe_open

    from boneage import hub

    origin: dict[str, Any] = {"file": file.name}
    with safe_open(file, "pt") as tensors:
        origin |= {k: v for k, v in (tensors.metadata() or {}).items() if k != "format"}
    if (file.parent / hub.CONFIG).is_file():
        origin["provenance"] = hub.load_config(file.parent)["provenance"]
    return origin


def resolution_of(folder: LabelledFolder) -> int:
    """Side in px that the training images have, or the shorter one where they are not square."""
    from boneage import images

    return min(min(images.read(case.path).pixels.shape) for case in folder.cases[:32])


def fast_bf16() -> bool:
    """Whether this machine multiplies bf16 faster than fp32."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


def commit() -> str:
    """The commit of the code that trains, or ``unknown`` outside a repository."""
    try:
        return subprocess.run(
            ["git", "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
