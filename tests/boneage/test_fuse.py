from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boneage import hub, images
from boneage.errors import InputError
from boneage.fuse import fuse
from boneage.models.registry import build
from boneage.predictor import Predictor


def make(
    folder: Path, backbone: str = "resnet18", size: int = 64, margin: int = 8, **changes: Any
) -> Path:
    torch.manual_seed(size)
    architecture = {"name": "finetuned", "arguments": {"backbone": backbone}}
    config = {
        "architecture": architecture,
        "task": "adult",
        "unit": "years",
        "sexes": [],
        "projection": "thorax",
        "preprocess": {"size": size, "resolution": 128, "percentiles": [1, 99], "mean": 0.5,
                       "std": 0.5, "margin": margin, "region": "whole"},
        "age": {"mean": 47.0, "sd": 16.0, "lowest": 0.0, "highest": 120.0},
        "provenance": {"recipe": folder.name, "data": "nih", "seed": 0, "commit": "c"},
    } | changes  # fmt: skip
    model = build("finetuned", architecture["arguments"])
    torch.nn.init.normal_(model.head.linear.weight, std=0.05)
    return hub.save(folder, model, config)


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("members")
    return [
        make(root / "a"),
        make(root / "b", "mobilenet_v2"),
        make(root / "c", size=96, margin=16),
    ]


def test_age_is_the_mean_of_the_members_ages(
    members: list[Path], tmp_path: Path, nih_test_dir: Path
) -> None:
    radiograph = images.read(sorted((nih_test_dir / "images").iterdir())[0])

    def age(folder: Path) -> float:
        (assessment,) = Predictor.load(folder, task="adult", device="cpu").assess(radiograph)
        return assessment.age

    ages = [age(member) for member in members]
    fused = age(fuse(members[:2], tmp_path / "fused"))
    assert fused == pytest.approx(sum(ages[:2]) / 2, abs=0.01)
    assert ages[0] != pytest.approx(ages[1], abs=0.5)
    # Members of other sizes and margins see what they would see alone.
    mixed = age(fuse(members, tmp_path / "mixed"))
    assert mixed == pytest.approx(sum(ages) / 3, abs=0.1)


def test_the_heat_map_lies_on_what_the_first_member_sees(
    members: list[Path], tmp_path: Path, nih_test_dir: Path
) -> None:
    radiograph = images.read(sorted((nih_test_dir / "images").iterdir())[0])
    fused = Predictor.load(fuse(members, tmp_path / "fused"), task="adult", device="cpu")
    alone = Predictor.load(members[0], task="adult", device="cpu")
    maps = []
    for predictor in (fused, alone):
        (assessment,) = predictor.assess(radiograph, heat_map=True)
        assert assessment.heat_map is not None
        maps.append(assessment.heat_map)
    edge = int(maps[1].shape[0] * 8 / (64 + 2 * 8)) - 1  # of the margin
    for heat_map in maps:
        border = np.pad(np.zeros_like(heat_map[edge:-edge, edge:-edge]), edge, constant_values=1)
        assert (heat_map * border).max() == 0
        assert heat_map.max() > 0
    (other,) = fused.assess(radiograph, heat_map="members.2.backbone.layer4")
    assert other.heat_map is not None
    assert other.heat_map[edge:-edge, edge:-edge].max() > 0


def test_config_tells_the_members(members: list[Path], tmp_path: Path) -> None:
    config = hub.load_config(fuse(members, tmp_path / "fused"))
    assert config["preprocess"]["size"] == 96 + 2 * 16
    assert config["preprocess"]["margin"] == 0
    assert config["projection"] == "thorax"
    assert config["fills"] == []
    provenance = config["provenance"]
    assert provenance["members"] == [hub.load_config(folder)["sha256"] for folder in members]
    assert provenance["data"] == "nih"
    assert "a, b, c" in provenance["summary"]
    assert "late fusion of a, b, c" in (tmp_path / "fused" / hub.CARD).read_text()


def test_the_papers_three_fill_its_row(tmp_path: Path) -> None:
    rows = ("Fine-tuned VGG", "Fine-tuned GoogLeNet", "Fine-tuned ResNet")
    folders = [make(tmp_path / str(i), fills=[f"B2:{row}"]) for i, row in enumerate(rows)]
    assert hub.load_config(fuse(folders, tmp_path / "fused"))["fills"] == ["B2:Late fusion"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"age": {"mean": 40.0, "sd": 16.0, "lowest": 0.0, "highest": 120.0}}, "in age"),
        ({"sexes": ["F"]}, "in sexes"),
        ({"preprocess": {"size": 64, "resolution": 128, "percentiles": [1, 99], "mean": 0.5,
                         "std": 0.5, "margin": 8, "region": "upper"}}, "region"),
    ],
)  # fmt: skip
def test_refuses_what_does_not_belong_together(
    members: list[Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    other = make(tmp_path / "other", **changes)
    with pytest.raises(InputError, match=message):
        fuse([members[0], other], tmp_path / "fused")


def test_members_without_a_margin(tmp_path: Path) -> None:
    """Weights made before there were margins do not name one."""
    preprocess = {"size": 64, "resolution": 128, "percentiles": [1, 99], "mean": 0.5, "std": 0.5}
    folders = [make(tmp_path / name, preprocess=preprocess) for name in "ab"]
    config = hub.load_config(fuse(folders, tmp_path / "fused"))
    assert config["preprocess"]["size"] == 64
    assert config["architecture"]["arguments"]["views"] == [[64, 0], [64, 0]]


@pytest.mark.parametrize("taken", ["a member", "a file"])
def test_nothing_is_overwritten(members: list[Path], tmp_path: Path, taken: str) -> None:
    out = members[0] if taken == "a member" else tmp_path / "notes.txt"
    if taken == "a file":
        out.write_text("mine")
    before = {path: path.read_bytes() for path in (out.iterdir() if out.is_dir() else [out])}
    with pytest.raises(InputError, match="already exists"):
        fuse(members, out)
    assert {path: path.read_bytes() for path in before} == before


def test_refuses_a_single_one(members: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least two"):
        fuse(members[:1], tmp_path / "fused")
