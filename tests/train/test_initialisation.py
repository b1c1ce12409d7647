from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from boneage import hub
from boneage.datasets import Case, LabelledFolder
from boneage.errors import InputError
from boneage.predictor import released
from train import recipe as recipes
from train.initialisation import NewNetwork, initialised

SIZE = 96


def folder(*ages: float, unit: str = "months") -> LabelledFolder:
    cases = (Case(str(i), Path(f"{i}.png"), "train", age, "M") for i, age in enumerate(ages))
    return LabelledFolder("d", "hand", unit, tuple(cases))


OTHERS = folder(30, 90, 150)  # of a mean of 90 and an SD of 60 months, unlike the released weights'


@pytest.fixture(scope="module")
def init() -> Path:
    """The released AR-CNN, of both sexes."""
    return released("hand") / hub.TENSORS


@pytest.fixture(scope="module")
def images() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 1, SIZE, SIZE).expand(-1, 3, -1, -1)


def arcnn(**changes: object) -> dict[str, object]:
    """Arguments of the released network for small images."""
    config = hub.load_config(released("hand"))
    own = config["architecture"]["arguments"]
    return {**recipes.resized(own, SIZE), **changes}


def assessed(init: Path, images: Tensor, component: str) -> Tensor:
    """What the released network assesses of boys, in months."""
    config = hub.load_config(init.parent)
    data = hub.checked_data(init.parent, config)
    config["architecture"]["arguments"] = arcnn()
    model = hub.build_network(init.parent, config, data).eval()
    with torch.inference_mode():
        output = model(images, torch.tensor([1, 1]))
    return getattr(output, component) * config["age"]["sd"] + config["age"]["mean"]


class TestOneSex:
    def test_goes_on_from_the_network_of_both(self, init: Path, images: Tensor) -> None:
        """It assesses the same ages, though the ages of one sex have another standard."""
        network = NewNetwork("arcnn", arcnn(sexes=1), ["M"], OTHERS)
        boys, origin = initialised(network, [init])
        with torch.inference_mode():
            made = boys.eval()(images).assembled
        assert torch.allclose(made * 60 + 90, assessed(init, images, "assembled"), atol=1e-2)
        assert origin["provenance"]["recipe"].startswith("arcnn")

    def test_ages_in_another_unit_have_nothing_to_keep(self, init: Path, images: Tensor) -> None:
        years = NewNetwork("arcnn", arcnn(sexes=1), ["M"], folder(3, 9, 15, unit="years"))
        months = NewNetwork("arcnn", arcnn(sexes=1), ["M"], OTHERS)
        kept, changed = (initialised(network, [init])[0].recognition for network in (years, months))
        standard = hub.load_config(init.parent)["age"]
        factor = standard["sd"] / 60
        before, now = kept.whole_head.linear.weight, changed.whole_head.linear.weight
        assert torch.allclose(before * factor, now)


class TestHeads:
    def test_a_single_stage_network_keeps_the_ages_of_x(self, init: Path, images: Tensor) -> None:
        arguments = {"backbone": "mobilenet_v2", "sexes": 2}
        whole, _ = initialised(NewNetwork("finetuned", arguments, ["F", "M"], OTHERS), [init])
        with torch.inference_mode():
            made = whole.eval()(images, torch.tensor([1, 1])).assembled
        assert torch.allclose(made * 60 + 90, assessed(init, images, "whole"), atol=1e-2)

    def test_an_arcnn_keeps_the_ages_of_a_single_stage_network(
        self, init: Path, images: Tensor, tmp_path: Path
    ) -> None:
        """In X, C and the parts, though the ages of these images have another standard."""
        arguments = {"backbone": "mobilenet_v2", "sexes": 2}
        single = NewNetwork("finetuned", arguments, ["F", "M"], OTHERS)
        whole, _ = initialised(single, [init])
        config = hub.load_config(init.parent) | {
            "architecture": {"name": "finetuned", "arguments": arguments},
            "age": {"mean": 90.0, "sd": 60.0, "lowest": 0.0, "highest": 228.0},
            "interval": None,
            "refusal": None,
        }
        first = hub.save(tmp_path / "weights", whole, config) / hub.TENSORS
        sex = torch.tensor([1, 1])
        ages = folder(50, 100, 150)
        model, _ = initialised(NewNetwork("arcnn", arcnn(), ["F", "M"], ages), [first])
        with torch.inference_mode():
            expected = whole.eval()(images, sex).assembled * 60 + 90
            made = model.eval()(images, sex)
        torch.testing.assert_close(made.whole * 50 + 100, expected, atol=5e-2, rtol=0)
        torch.testing.assert_close(made.concatenated * 50 + 100, expected, atol=5e-2, rtol=0)
        part = model.recognition.part_head.linear
        assert torch.equal(part.weight, model.recognition.whole_head.linear.weight)
        assert torch.equal(part.bias, model.recognition.whole_head.linear.bias)

    def test_an_arcnn_of_another_k_keeps_the_ages_of_x(self, init: Path, images: Tensor) -> None:
        """The head C, of another length, stays as it began."""
        network = NewNetwork("arcnn", arcnn(parts_used=1), ["F", "M"], OTHERS)
        torch.manual_seed(0)
        begun = network.build().recognition.concatenated_head.linear
        torch.manual_seed(0)
        model, _ = initialised(network, [init])
        with torch.inference_mode():
            made = model.eval()(images, torch.tensor([1, 1])).whole
        assert torch.allclose(made * 60 + 90, assessed(init, images, "whole"), atol=1e-2)
        assert torch.equal(model.recognition.concatenated_head.linear.weight, begun.weight)
        assert torch.equal(model.recognition.concatenated_head.linear.bias, begun.bias)


class TestMean:
    @pytest.fixture
    def members(self, init: Path, tmp_path: Path) -> list[Path]:
        """The released weights, and what they become where all float tensors double."""
        config = hub.load_config(init.parent)
        model = hub.build_network(init.parent, config, hub.checked_data(init.parent, config))
        for tensor in model.state_dict().values():
            tensor.mul_(2 if tensor.is_floating_point() else 1)
        changed = {**config, "provenance": {**config["provenance"], "seed": 99}, "refusal": None}
        return [init, hub.save(tmp_path / "run" / "weights", model, changed) / hub.TENSORS]

    def test_lies_in_the_middle(self, init: Path, members: list[Path]) -> None:
        own = hub.load_config(init.parent)["architecture"]["arguments"]
        network = NewNetwork("arcnn", own, ["F", "M"], OTHERS)
        (once, _), (mean, origin) = (initialised(network, files) for files in ([init], members))
        averaged = mean.state_dict()
        for name, tensor in once.state_dict().items():
            if "_head." in name and tensor.is_floating_point():
                continue  # heads are changed to keep their ages
            factor = 1.5 if tensor.is_floating_point() else 1
            assert torch.allclose(averaged[name], factor * tensor, rtol=1e-3), name
        seeds = [each["provenance"]["seed"] for each in origin["mean_of"]]
        assert seeds == [hub.load_config(init.parent)["provenance"]["seed"], 99]

    def test_of_one_file_twice_is_that_file(self, init: Path) -> None:
        network = NewNetwork("arcnn", arcnn(), ["F", "M"], OTHERS)
        (once, _), (mean, _) = (initialised(network, [init] * count) for count in (1, 2))
        averaged = mean.state_dict()
        for name, tensor in once.state_dict().items():
            assert torch.equal(averaged[name], tensor), name

    @pytest.mark.parametrize("changes", [{"parts_used": 1}, {"backbone": "resnet18"}])
    def test_of_another_network_is_refused(self, members: list[Path], changes: dict) -> None:
        """Its heads would be means of random ones."""
        network = NewNetwork("arcnn", arcnn(**changes), ["F", "M"], OTHERS)
        with pytest.raises(InputError, match=f"own network.*; {released('hand').name} is not"):
            initialised(network, members)

    def test_of_other_sexes_or_of_a_file_that_tells_nothing_is_refused(
        self, init: Path, members: list[Path], tmp_path: Path
    ) -> None:
        network = NewNetwork("arcnn", arcnn(), ["F", "M"], OTHERS)
        years = NewNetwork("arcnn", arcnn(), ["F", "M"], folder(3, 9, unit="years"))
        swapped = NewNetwork("arcnn", arcnn(), ["M", "F"], OTHERS)
        for other in (years, swapped):
            with pytest.raises(InputError, match=r"same sexes and unit"):
                initialised(other, members)
        bare = tmp_path / "bare.safetensors"
        bare.write_bytes(init.read_bytes())
        with pytest.raises(InputError, match=r"; bare\.safetensors is not"):
            initialised(network, [init, bare])
        backbone = NewNetwork("arcnn", arcnn(), ["F", "M"], OTHERS, backbone_alone=True)
        with pytest.raises(InputError, match="takes over only the backbone"):
            initialised(backbone, members)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_recipes_of_table_a1_start_alike(init: Path, k: int) -> None:
    """With the backbone alone, also where the network is like the one it comes from."""
    recipe = recipes.load(f"arcnn_k{k}").at_size(SIZE)
    arguments = {**recipe.arguments, "sexes": 1}
    network = NewNetwork("arcnn", arguments, ["M"], OTHERS, recipe.backbone_alone)
    torch.manual_seed(0)
    begun = dict(network.build().named_parameters())
    torch.manual_seed(0)
    model, _ = initialised(network, [init])
    for name, now in model.named_parameters():
        assert torch.equal(now, begun[name]) != name.startswith("recognition.backbone."), name


@pytest.mark.parametrize("name", ["arcnn_mobilenetv2_256", "arcnn_mobilenetv2_256_paper_anchors"])
@pytest.mark.parametrize("size", [96, 100, 160, 192, 224])
def test_a_network_of_another_size_is_the_same(name: str, size: int) -> None:
    own = recipes.load(name).arguments
    small = {"name": "arcnn", "arguments": recipes.resized(own, size)}

    def is_like(arguments: dict[str, object]) -> bool:
        return NewNetwork("arcnn", arguments, ["F", "M"], OTHERS).is_like(small)

    assert is_like(own)
    assert is_like(recipes.resized(own, 150))
    assert not is_like({**own, "parts_used": 1})
    assert not is_like({**own, "scales": [48, 96, 192]})
    assert not is_like({**own, "scales": [64, 112]})
    assert not NewNetwork("arcnn", own, ["F", "M"], OTHERS).is_like(None)
