"""How far weights err, as the evaluation that comes with the project measured it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boneage import bundled
from boneage.errors import InputError

if TYPE_CHECKING:
    from boneage.predictor import Predictor


def read_metrics(results: Path | None = None) -> list[dict[str, Any]]:
    """The records of an evaluation.

    Args:
        results: folder that ``python -m evaluate --out`` wrote; left out, the one that comes with
            the project, if there is one.

    Raises:
        InputError: if the given folder holds none.
    """
    folder = results or bundled.folder("results")
    try:
        return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        if results is None:
            return []
        raise InputError(f"{folder.name} holds no readable metrics.json.") from None


def measured_error(predictor: Predictor, records: Sequence[Mapping[str, Any]]) -> str:
    """A sentence or two on how far these weights err: as evaluated, else on validation images.

    Args:
        predictor: of the weights.
        records: of an evaluation (``metrics.json``); one over all cases of a data set counts.
    """
    weights = f"{predictor.id}@{predictor.revision}"
    unit = predictor.config["unit"]
    for record in records:
        if record["weights"] != weights or record["measured"] is None:
            continue
        if _is_overall(record):
            interval = ""
            if record["ci95"]:
                low, high = record["ci95"]
                interval = f" (95 % interval {low:.2f} to {high:.2f})"
            data, split = record["dataset"].split("/")
            return (
                f"Mean absolute error of these weights on {record['n']:,} images of {data} "
                f"({split} split): {record['measured']:.2f} {unit}{interval}."
            )
    provenance = predictor.config["provenance"]
    mae = provenance.get("metrics", {}).get("validation_mae")
    if mae is None:
        return "The error of these weights was not measured."
    some = provenance.get("selection_images")
    which = "by which" if some is None else f"by {some:,} of which"
    return (
        f"Mean absolute error of these weights on the {provenance['validation_images']:,} "
        f"validation images of {provenance['data']}, {which} they were selected: {mae:.2f} "
        f"{unit}. On test images it was not measured."
    )


def _is_overall(record: Mapping[str, Any]) -> bool:
    # The papers' tables have a column MAE too, but some of their rows are for one sex.
    own = (record["table"], record["row"], record["column"])
    return own == ("S1", "MAE", "all") or (own[0], own[2]) == ("S4", "MAE")
