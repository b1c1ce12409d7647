from __future__ import annotations

from pathlib import Path

import pytest

from boneage.errors import InputError
from boneage.models.registry import MODELS, build
from boneage.transforms import Preprocess
from train import recipe as recipes


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_builds_its_network(name: str) -> None:
    recipe = recipes.load(name)
    assert recipe.summary
    assert recipe.architecture in MODELS
    build(recipe.architecture, {**recipe.arguments, "sexes": 2})
    preprocess = Preprocess(resolution=299, **recipe.preprocess)
    assert preprocess.size == recipe.arguments.get("size", preprocess.size)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("summary = ", "not valid"),
        ('summary = "x"', "optimisation"),
        ('colour = "red"', "unknown entries: colour"),
        ('summary="x"\narchitecture="arcnn"\n[optimisation]\nspeed=1', "speed"),
        ('[optimisation]\nepochs=1\nschedule="often"', "known are cosine, plateau"),
    ],
)
def test_invalid_recipes_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        recipes.load(str(tmp_path / "bad.toml"))


def test_a_recipe_over_another() -> None:
    base, changed = recipes.load("arcnn_mobilenetv2_256"), recipes.load("arcnn_k1")
    assert changed.arguments == {**base.arguments, "parts_used": 1}
    assert changed.optimisation == base.optimisation
    assert changed.augmentation == base.augmentation
    assert changed.fills == ("A1:male:K=1",)
