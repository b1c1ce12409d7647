"""Late fusion: one weights folder from several, whose age is the mean of theirs.

Nguyen and Kim, "Automatic Whole-body Bone Age Assessment Using Deep Hierarchical Features",
Section 4.3. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from boneage import hub
from boneage.errors import InputError
from boneage.predictor import name_of

VIEWS = ("size", "margin", "resolution")  # of preprocessing, what members may differ in
ALIKE = ("task", "unit", "sexes", "projection", "age")
ROWS = ({"B2:Fine-tuned VGG", "B2:Fine-tuned GoogLeNet", "B2:Fine-tuned ResNet"}, "B2:Late fusion")


def fuse(folders: Sequence[Path], out: Path) -> Path:
    """Write the weights folder of the late fusion; returns it.

    Args:
        folders: weights folders of one task, trained on the same ages and preprocessed alike; only
            the resolution and the size of their input may differ.
        out: folder to make.

    Raises:
        InputError: for fewer than two folders, or folders that do not belong together.
    """
    from boneage.card import model_card
    from boneage.models.finetuned import LateFusion

    if len(folders) < 2:
        raise InputError("A late fusion needs at least two weights folders.")
    hub.refuse_filled(out)
    loaded = [hub.load(folder) for folder in folders]
    configs = [config for _, config in loaded]
    for folder, config in zip(folders[1:], configs[1:], strict=True):
        if different := _difference(configs[0], config):
            raise InputError(
                f"{name_of(folder)} differs from {name_of(folders[0])} in {different}; only "
                "networks of one task, trained on the same ages and preprocessed alike, can be "
                "fused."
            )
    arguments = {
        "members": [config["architecture"] for config in configs],
        "views": [(c["preprocess"]["size"], _margin(c)) for c in configs],
    }
    model = LateFusion(**arguments)
    for member, (network, _) in zip(model.members, loaded, strict=True):
        member.load_state_dict(network.state_dict())
    config = {
        **{key: configs[0].get(key) for key in ALIKE},
        "architecture": {"name": "late_fusion", "arguments": arguments},
        "preprocess": _preprocess(configs),
        "interval": None,
        "refusal": None,
        "fills": [ROWS[1]] if ROWS[0] == _fills(configs) else [],
        "provenance": _provenance(configs),
    }
    return hub.save(out, model, config, model_card(out.resolve().name, config, []))


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    for key in ALIKE:
        if one.get(key) != other.get(key):
            return key
    for key in one["preprocess"].keys() | other["preprocess"].keys():
        if key not in VIEWS and one["preprocess"].get(key) != other["preprocess"].get(key):
            return f"preprocessing ({key})"
    return None


def _preprocess(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fusion's: the whole image, as large as the member that sees most of it needs it."""
    each = [config["preprocess"] for config in configs]
    return {
        **each[0],
        "size": max(c["preprocess"]["size"] + 2 * _margin(c) for c in configs),
        "margin": 0,
        "resolution": max(p["resolution"] for p in each),
    }


def _margin(config: Mapping[str, Any]) -> int:
    """A member's margin, px; weights that cut nothing off may leave it out."""
    return config["preprocess"].get("margin", 0)


def _fills(configs: Sequence[Mapping[str, Any]]) -> set[str]:
    """The rows of the papers' comparison of methods that the members fill."""
    return {row for c in configs for row in c.get("fills") or () if row.startswith("B2:")}


def _provenance(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Where the members come from; what all have in common stands for the fusion."""
    origins = [config["provenance"] for config in configs]
    recipes = [str(origin.get("recipe")) for origin in origins]
    common = {
        key: value
        for key, value in origins[0].items()
        if key not in ("metrics", "initialisation") and all(o.get(key) == value for o in origins)
    }
    return {
        **common,
        "summary": f"late fusion of {', '.join(recipes)}: the mean of their ages",
        "recipe": "late fusion",
        "seed": [origin.get("seed") for origin in origins],
        "commit": [origin.get("commit") for origin in origins],
        "members": [config["sha256"] for config in configs],
    }
