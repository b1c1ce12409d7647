"""Heat maps of some cases of every adult data set, for figure 5: ``heat-maps.npz``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from boneage.datasets import Case
    from evaluate.run import Assessor

HEAT_MAPS = "heat-maps.npz"
EXAMPLES = 6
HeatMaps = Mapping[tuple[str, str, str], np.ndarray]  # by data set, weights and case


def explain(
    dataset: str, cases: Sequence[Case], predictor: Assessor, weights: str
) -> dict[tuple[str, str, str], np.ndarray]:
    """Assess examples with their heat maps, (h, w) in [0, 1] over the whole image.

    Args:
        dataset: name of the data set.
        cases: those that these weights could assess.
        predictor: of the weights.
        weights: their label.
    """
    from boneage import images

    chosen = examples(cases)
    assessed = predictor.assess(
        [images.read(case.path, id=case.id) for case in chosen],
        [case.sex for case in chosen],
        batch_size=EXAMPLES,
        heat_map=True,
    )
    return {
        (dataset, weights, case.id): assessment.heat_map.astype(np.float16)
        for case, assessment in zip(chosen, assessed, strict=True)
        if assessment.heat_map is not None
    }


def examples(cases: Sequence[Case]) -> list[Case]:
    """Cases at even quantiles of age, one a patient, the youngest and oldest twentieth left out."""
    firsts = {case.patient or case.id: case for case in reversed(cases)}
    by_age = sorted(firsts.values(), key=lambda case: (case.age, case.id))
    places = np.linspace(0.05, 0.95, EXAMPLES) * (len(by_age) - 1)
    return [by_age[i] for i in dict.fromkeys(np.rint(places).astype(int).tolist())]


def write(folder: Path, maps: HeatMaps) -> None:
    """Write ``heat-maps.npz``, or take away an old one where there is nothing to write."""
    path = folder / HEAT_MAPS
    if not maps:
        path.unlink(missing_ok=True)
        return
    np.savez_compressed(path, **{"|".join(key): value for key, value in maps.items()})


def read(path: Path) -> HeatMaps:
    """Read a ``heat-maps.npz``; a missing one holds none."""
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as file:
        found = {}
        for name in file.files:
            dataset, weights, id = name.split("|", 2)
            found[dataset, weights, id] = file[name].astype(np.float32)
        return found
