from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from boneage.errors import InputError
from boneage.models.registry import MODELS, build
from boneage.transforms import Preprocess
from evaluate.published import TABLES
from train import recipe as recipes
from train.loop import freeze


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_builds_its_network(name: str) -> None:
    recipe = recipes.load(name)
    assert recipe.summary
    assert recipe.architecture in MODELS
    with torch.device("meta"):  # no values, only shapes: some networks are large
        build(recipe.architecture, {**recipe.arguments, "sexes": 2})
    preprocess = Preprocess(resolution=299, **recipe.preprocess)
    assert preprocess.size == recipe.arguments.get("size", preprocess.size)


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_fills_cells_of_the_tables(name: str) -> None:
    recipe = recipes.load(name)
    known = [cell for table in TABLES for cell in table.cells]
    places = {":".join((c.table, c.row, c.column)[:n]) for c in known for n in (1, 2, 3)}
    assert set(recipe.fills) <= places


@pytest.mark.parametrize(
    "name", [n for n in recipes.names() if recipes.load(n).optimisation.frozen]
)
def test_what_a_recipe_freezes_is_there(name: str) -> None:
    recipe = recipes.load(name)
    with torch.device("meta"):
        model = build(recipe.architecture, recipe.arguments)
    frozen = freeze(model, recipe.optimisation.frozen)
    convolutions = [m for part in frozen for m in part.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions
    assert not any(p.requires_grad for m in convolutions for p in m.parameters())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("summary = ", "not valid"),
        ('summary = "x"', "optimisation"),
        ('colour = "red"', "unknown entries: colour"),
        ('summary="x"\narchitecture="arcnn"\n[optimisation]\nspeed=1', "speed"),
        ('[optimisation]\nepochs=1\nschedule="often"', "known: cosine, plateau"),
        ("[optimisation]\nepochs=1\naccumulate=0", "at least 1"),
        ('base="vgg"\n[preprocess]\nsise=64', "'sise'"),
        ('base="vgg"\n[preprocess]\nregion="left"', "known: whole, upper, lower"),
        ('summary="\xe9"', "not valid"),
    ],
)
def test_invalid_recipes_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.toml").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=message):
        recipes.load(str(tmp_path / "bad.toml"))


def test_another_architecture_takes_no_arguments_over() -> None:
    assert recipes.load("early_fusion").arguments.keys() == {"backbones", "dropout"}
    assert recipes.load("early_fusion").augmentation == recipes.load("vgg").augmentation


def test_bases_may_have_bases() -> None:
    upper = recipes.load("hierarchical_paper_upper")
    assert upper.preprocess == {**recipes.load("vgg_paper").preprocess, "region": "upper"}


def test_an_unknown_base_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('base = "nothing"')
    with pytest.raises(InputError, match="unknown base 'nothing'"):
        recipes.load(str(tmp_path / "bad.toml"))


def test_rows_of_one_table_share_schedule_and_augmentation() -> None:
    """So that they can be compared."""
    rows = ["vgg", "resnet", "googlenet", "early_fusion", "hierarchical"]
    for suffix in ("", "_paper"):
        first, *others = (recipes.load(f"{name}{suffix}") for name in rows)
        for other in others:
            assert other.augmentation == first.augmentation
            same = {"frozen": first.optimisation.frozen, "accumulate": 1}
            assert replace(other.optimisation, **same) == replace(first.optimisation, **same)
    first, *others = (recipes.load(f"arcnn_k{k}") for k in (1, 2, 3, 4))
    for other in others:
        assert other.augmentation == first.augmentation
        assert other.optimisation == first.optimisation


def test_a_recipe_over_another() -> None:
    base, changed = recipes.load("arcnn_mobilenetv2_256_late"), recipes.load("arcnn_k1")
    assert changed.arguments == {**base.arguments, "parts_used": 1}
    assert changed.optimisation == replace(base.optimisation, epochs=2)
    assert changed.augmentation == replace(base.augmentation, sharpness=0.0, noise=0.0)
    assert changed.fills == ("A1:male:K=1",)


class TestSize:
    def test_the_view_shrinks_with_it_and_no_row_is_filled(self) -> None:
        vgg = recipes.load("vgg")
        small = vgg.at_size(64)
        assert (small.preprocess["size"], small.preprocess["margin"]) == (64, 8)
        assert small.summary.endswith("at 64 px")
        assert small.fills == () != vgg.fills
        assert small.optimisation == vgg.optimisation

    def test_parts_and_anchors_keep_their_share_of_the_image(self) -> None:
        small = recipes.load("arcnn_mobilenetv2_256").at_size(192)
        assert small.arguments["size"] == small.preprocess["size"] == 192
        assert small.arguments["part_size"] == 72
        assert small.arguments["scales"] == [48, 84, 120]
        assert small.arguments["parts_used"] == 3

    @pytest.mark.parametrize("name", recipes.names())
    def test_every_recipe_builds_at_another_size(self, name: str) -> None:
        recipe = recipes.load(name).at_size(192)
        with torch.device("meta"):
            build(recipe.architecture, recipe.arguments)
