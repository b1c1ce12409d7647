"""How far ages in bf16 lie from those in fp32."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.assess import DATA
from benchmarks.measure import Figure

TARGET = 0.1  # month


def run(most: int | None = None) -> Iterator[Figure]:
    """The bundled test radiographs with the released weights.

    Args:
        most: take only so many radiographs.
    """
    from boneage import datasets, images
    from boneage.predictor import Predictor

    cases = datasets.load(DATA / "rsna-test").cases[:most]
    films, sexes = [images.read(case.path) for case in cases], [case.sex for case in cases]
    ages = {}
    for precision in ("bf16", "fp32"):
        predictor = Predictor.load(device="cpu", precision=precision)
        ages[precision] = np.array([a.age for a in predictor.assess(films, sexes)], float)
    difference = np.abs(ages["bf16"] - ages["fp32"])
    refused = np.isnan(ages["bf16"]) != np.isnan(ages["fp32"])
    difference = difference[np.isfinite(difference)]  # none where an image was refused
    subject = f"bf16 from fp32, {len(difference)} radiographs"
    yield Figure(f"{subject}, median", np.median(difference).item(), "months", at_most=TARGET)
    yield Figure(f"refused in one of bf16 and fp32, of {len(cases)}", int(refused.sum()), "", 0)
    for name, share in (("99th percentile", 99), ("largest", 100)):
        yield Figure(f"{subject}, {name}", np.percentile(difference, share).item(), "months")
