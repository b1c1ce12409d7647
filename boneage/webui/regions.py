"""The released adult weights by the part of the image that they see."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Lock

from boneage import hub
from boneage.errors import InputError
from boneage.predictor import Predictor, released
from boneage.views import REGIONS

NAMES = {"whole": "Whole image", "upper": "Upper half", "lower": "Lower half"}


class Regions:
    """Weights folders by region; each is loaded when it is first needed, once for all visitors.

    Args:
        folders: by the names of :data:`boneage.views.REGIONS`.
        precision: one of :data:`boneage.precision.PRECISIONS`.
    """

    def __init__(self, folders: Mapping[str, Path], precision: str = "auto") -> None:
        self.folders = dict(folders)
        self._precision = precision
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

    @property
    def refuses(self) -> bool:
        """Whether all of them refuse images of other kinds."""
        return all(hub.load_config(folder).get("refusal") for folder in self.folders.values())

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
                self._predictors[region] = Predictor.load(
                    self.folders[region], task="adult", precision=self._precision
                )
            return self._predictors[region]
