"""Recipes: one small TOML file for each network that is trained."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from boneage.augmentation import Augmentation
from boneage.errors import InputError
from boneage.transforms import Preprocess

FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Optimisation:
    """How a network is trained.

    Args:
        epochs: passes over the training images.
        batch_size: images a step, over all processes.
        accumulate: parts that a step's images are computed in, one after the other, where memory
            does not hold them at once; several processes need accordingly fewer.
        learning_rate: peak, reached after the warm-up.
        weight_decay: of AdamW; not on biases and normalisations. 0 makes it Adam.
        schedule: ``cosine`` to zero, or ``plateau``.
        warmup: share of all steps over which the learning rate rises from zero.
        patience: epochs without a better validation MAE before ``plateau`` reduces the rate.
        factor: what ``plateau`` multiplies the rate with.
        floor: below which ``plateau`` does not go.
        ema: decay of the exponential moving average of the weights, which is what is validated
            and released; lower at the beginning.
        freeze_batch_norm: keep batch normalisation at its initial statistics.
        frozen: prefixes of the names of modules that are not trained.
        clip: largest norm of the gradient.
    """

    epochs: int
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    schedule: str = "cosine"
    warmup: float = 0.1
    patience: int = 10
    factor: float = 0.8
    floor: float = 1e-7
    ema: float = 0.998
    freeze_batch_norm: bool = False
    frozen: tuple[str, ...] = ()
    clip: float = 5.0

    def __post_init__(self) -> None:
        if min(self.batch_size, self.accumulate) < 1 or self.epochs < 0:
            raise InputError("Epochs must be at least 0, batch_size and accumulate at least 1.")
        if self.schedule not in ("cosine", "plateau"):
            raise InputError(f"Unknown schedule {self.schedule!r}; known: cosine, plateau.")
        if self.batch_size % self.accumulate:
            raise InputError(
                f"A batch of {self.batch_size} cannot be cut into {self.accumulate} equal parts."
            )
        object.__setattr__(self, "frozen", tuple(self.frozen))  # a list in the file


@dataclass(frozen=True)
class Recipe:
    """Everything that makes a network but its data, sex and seed.

    Attributes:
        name: of the file.
        summary: one line about it.
        architecture: name in the registry.
        arguments: of the architecture; ``sexes`` and ``pretrained`` come from the command line.
        preprocess: arguments of :class:`boneage.transforms.Preprocess`.
        augmentation: extremes of the random changes.
        optimisation: see there.
        fills: rows of the papers' tables that the weights fill, as in a weights config.
        first_stage: options of ``python -m train`` for the training that this one goes on from, in
            progressive resizing; empty where there is none.
        backbone_alone: take nothing but the backbone over from the weights of ``--init``, so that
            recipes whose networks differ behind it start alike.
    """

    name: str
    summary: str
    architecture: str
    arguments: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    optimisation: Optimisation
    augmentation: Augmentation = field(default_factory=Augmentation)
    fills: tuple[str, ...] = ()
    first_stage: str = ""
    backbone_alone: bool = False

    def at_size(self, size: int) -> Recipe:
        """The same at another size of the input, px: a stage of progressive resizing.

        It goes on from no other, and fills no row of the papers' tables, which are the recipe's own
        size's.
        """
        margin = self.preprocess.get("margin", 0) * size / self.preprocess["size"]
        preprocess = {**self.preprocess, "size": size, "margin": round(margin)}
        arguments = resized(self.arguments, size)
        summary = f"{self.summary}; this stage at {size} px"
        return replace(
            self,
            summary=summary,
            arguments=arguments,
            preprocess=preprocess,
            fills=(),
            first_stage="",
        )


def resized(arguments: Mapping[str, Any], size: int) -> dict[str, Any]:
    """A network's arguments for another size of its input, px; parts and anchors keep their share.

    Without a ``size`` among them nothing changes: such networks take images of any size.
    """
    if "size" not in arguments:
        return dict(arguments)
    share = size / arguments["size"]
    changed = {"size": size}
    if "part_size" in arguments:
        changed["part_size"] = round(arguments["part_size"] * share)
    if arguments.get("scales"):
        changed["scales"] = [scale * share for scale in arguments["scales"]]
    return {**arguments, **changed}


def names() -> list[str]:
    """The recipes there are."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name_or_file: str) -> Recipe:
    """A recipe by its name or from a TOML file.

    A recipe with ``base = "NAME"`` is that recipe with its own entries in place of the base's; of
    another architecture it takes no arguments over.

    Raises:
        InputError: for an unknown name, invalid TOML, or keys that are missing or unknown.
    """
    path = FOLDER / f"{name_or_file}.toml"
    if name_or_file.endswith(".toml"):
        path = Path(name_or_file)
    if not path.is_file():
        raise InputError(f"Unknown recipe {name_or_file!r}. Known: {', '.join(names())}.")
    try:
        table = _read(path)
        _refuse_unknown(table, {f.name for f in fields(Recipe)} - {"name"})
        table["optimisation"] = Optimisation(**table["optimisation"])
        table["augmentation"] = Augmentation(**table.get("augmentation", {}))
        table["fills"] = tuple(table.get("fills", ()))
        Preprocess(resolution=1, **table["preprocess"])
        return Recipe(name=path.stem, **table)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError) as error:  # of tomllib and Unicode are ValueErrors
        raise InputError(f"The recipe {path.stem} is not valid: {error}.") from None


def _read(path: Path) -> dict[str, Any]:
    """The file's entries, with those of its bases below them."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    if "base" not in table:
        return table
    name = table.pop("base")
    if name not in names():
        raise InputError(f"The recipe {path.stem} has an unknown base {name!r}.")
    base = _read(FOLDER / f"{name}.toml")
    if table.get("architecture", base["architecture"]) != base["architecture"]:
        base.pop("arguments")
    return _over(base, table)


def _over(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``, those of a table entry by entry."""
    for key, value in changes.items():
        base[key] = {**base.get(key, {}), **value} if isinstance(value, Mapping) else value
    return base


def _refuse_unknown(table: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise InputError(f"The recipe has unknown entries: {', '.join(unknown)}.")
