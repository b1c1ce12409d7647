"""Learning rates: a linear warm-up, then a cosine to zero or a reduction on plateaus."""

from __future__ import annotations

import math
from dataclasses import dataclass

from train.recipe import Optimisation


@dataclass
class Schedule:
    """The learning rate of every step.

    A plateau is judged by epochs, the warm-up and the cosine go by steps. torch's
    ``ReduceLROnPlateau`` keeps its rate in the optimizer, where a warm-up overwrites it; hence
    this one, whose state is three numbers.

    Attributes:
        settings: the recipe's.
        total: steps of the whole training.
        factor: what plateaus have reduced the rate to, as a share of the peak.
        best: lowest validation MAE so far.
        stale: epochs since then.
    """

    settings: Optimisation
    total: int
    factor: float = 1.0
    best: float = math.inf
    stale: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        peak = self.settings.learning_rate
        warmup = max(1, round(self.settings.warmup * self.total))
        if step < warmup:
            return peak * (step + 1) / warmup
        if self.settings.schedule == "plateau":
            return max(peak * self.factor, self.settings.floor)
        share = (step - warmup) / max(1, self.total - warmup)
        return peak * (1 + math.cos(math.pi * share)) / 2

    def end_epoch(self, validation_mae: float) -> bool:
        """Take note of an epoch's validation MAE; says whether it is the best so far."""
        better = validation_mae < self.best
        self.best = min(self.best, validation_mae)
        self.stale = 0 if better else self.stale + 1
        if not better and self.stale >= self.settings.patience:
            self.factor *= self.settings.factor
            self.stale = 0
        return better

    def state(self) -> dict[str, float]:
        """What a resumed run needs."""
        return {"factor": self.factor, "best": self.best, "stale": self.stale}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from :meth:`state`."""
        self.factor, self.best = state["factor"], state["best"]
        self.stale = int(state["stale"])
