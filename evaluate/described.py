"""What the weights of an evaluation are: ``weights.json``, one entry for each of their labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from boneage.card import origin

WEIGHTS = "weights.json"
Description = Mapping[str, str]


def describe(
    label: str, provenance: Mapping[str, Any], refusal: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """One entry: the network, what it was trained on and for how long, and from what start.

    Args:
        label: of the weights.
        provenance: of their config.
        refusal: likewise; it says how many validation images they accept.
    """
    accepted = ""
    if refusal:
        counts = refusal["validation"]
        accepted = f"{counts['accepted']:,} of {counts['images']:,}"
    metrics = provenance.get("metrics", {})
    images = provenance.get("training_images")
    return {
        "weights": label,
        "network": str(provenance.get("summary", "")),
        "data": f"{provenance.get('data', '')}" + (f", {images:,} images" if images else ""),
        "start": origin(provenance.get("initialisation")),
        "epochs": str(metrics.get("epoch", "")),
        "validation": f"{metrics['validation_mae']:.2f}" if "validation_mae" in metrics else "",
        "accepted": accepted,
    }


def write(folder: Path, descriptions: Sequence[Description]) -> None:
    """Write ``weights.json``."""
    text = json.dumps(list(descriptions), indent=2, ensure_ascii=False)
    (folder / WEIGHTS).write_text(text + "\n", encoding="utf-8")


def read(path: Path) -> list[Description]:
    """Read a ``weights.json``; a missing one describes nothing."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
