"""The networks of the other papers, trained by the same loop as all others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from boneage import datasets, images
from boneage.predictor import Predictor
from train.__main__ import main


@pytest.mark.parametrize("architecture", ["month_classifier", "bonet"])
def test_trained_weights_assess_as_validated(
    small_folder: Path,
    tmp_path: Path,
    write_recipe: Callable[..., Path],
    architecture: str,
) -> None:
    recipe, out = write_recipe(architecture), tmp_path / "run"
    if architecture == "bonet":
        recipe.write_text(recipe.read_text().replace('backbone = "mobilenet_v2"\n', ""))
    options = ("--epochs", "1", "--precision", "no")  # three steps
    assert main([str(recipe), "--data", str(small_folder), "--out", str(out), *options]) == 0
    predictor = Predictor.load(out / "weights")
    age = predictor.config["age"]
    if architecture == "month_classifier":
        state = predictor.model.state_dict()
        assert state["age_mean"].sum().item() == pytest.approx(age["mean"], abs=1e-3)
        assert state["age_sd"].sum().item() == pytest.approx(age["sd"], abs=1e-3)
    cases = datasets.load(small_folder).split("validation").cases
    assessed = predictor.assess([images.read(c.path) for c in cases], [c.sex for c in cases])
    errors = [abs(a.age - c.age) for a, c in zip(assessed, cases, strict=True)]
    validated = predictor.config["provenance"]["metrics"]["validation_mae"]
    assert sum(errors) / len(errors) == pytest.approx(validated, abs=0.05)  # fp16 tensors
