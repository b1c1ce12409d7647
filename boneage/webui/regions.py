"""The released adult weights by the part of the image that they see, and how far they err."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from boneage import bundled, hub
from boneage.errors import InputError
from boneage.predictor import Predictor, released
from boneage.views import REGIONS

NAMES = {"whole": "Whole image", "upper": "Upper half", "lower": "Lower half"}


class Regions:
    """Weights folders by region; each is loaded when it is first needed, once for all visitors.

    Args:
        folders: by the names of :data:`boneage.views.REGIONS`.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self.folders = dict(folders)
        self._predictors: dict[str, Predictor] = {}
        self._loading = Lock()

    @classmethod
    def released(cls) -> Regions:
        """Those that come with the project; there may be none."""
        folders = {}
        for region in REGIONS:
            try:
                folders[region] = released("adult", region)
            except InputError:
                continue
        return cls(folders)

    @property
    def names(self) -> tuple[str, ...]:
        """The regions that there are, the one to begin with first."""
        return tuple(region for region in REGIONS if region in self.folders)

    @property
    def projection(self) -> str | None:
        """What a CT volume becomes for the weights to begin with; ``None`` if they take none."""
        return hub.load_config(self.folders[self.names[0]]).get("projection")

    def predictor(self, region: str) -> Predictor:
        """The weights of a region, ready to assess.

        Raises:
            InputError: if there are none of it, or they are damaged.
        """
        if region not in self.folders:
            known = ", ".join(self.names)
            raise InputError(f"There are no weights for the region {region!r}; known: {known}.")
        with self._loading:
            if region not in self._predictors:
                self._predictors[region] = Predictor.load(self.folders[region], task="adult")
            return self._predictors[region]


def recorded_metrics() -> list[dict[str, Any]]:
    """The records of the evaluation that comes with the project; none where it does not."""
    try:
        text = (bundled.folder("results") / "metrics.json").read_text(encoding="utf-8")
        return json.loads(text)
    except (OSError, ValueError):
        return []


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
    return (
        f"Mean absolute error of these weights on the {provenance['validation_images']:,} "
        f"validation images of {provenance['data']}, by which they were selected: {mae:.2f} "
        f"{unit}. On test images it was not measured."
    )


def _is_overall(record: Mapping[str, Any]) -> bool:
    # The papers' tables have a column MAE too, but some of their rows are for one sex.
    own = (record["table"], record["row"], record["column"])
    return own == ("S1", "MAE", "all") or (own[0], own[2]) == ("S4", "MAE")
