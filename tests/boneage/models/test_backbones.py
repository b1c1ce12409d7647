from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torch.profiler import profile

from boneage.errors import InputError
from boneage.models.backbones import (
    AgeHead,
    Backbone,
    fold_batch_norm,
    fold_in_training,
    fold_input_transform,
    freeze_batch_norm,
    torchvision_network,
)
from boneage.models.finetuned import FineTuned
from boneage.models.literature import BoNet
from boneage.models.registry import BACKBONES, MODELS, build

pytestmark = pytest.mark.usefixtures("quick_fills")

# One of each kind: the others differ in depth alone, and a VGG takes seconds to build.
KINDS = ("resnet18", "resnet50", "mobilenet_v2", "vgg11_bn", "googlenet")


@pytest.mark.parametrize("name", BACKBONES)
def test_same_features_as_torchvision(name: str) -> None:
    torch.manual_seed(0)
    network = torchvision_network(name, pretrained=False).eval()
    if name.startswith("vgg"):
        network.classifier = nn.Identity()  # what enters it is compared
    backbone = Backbone(name).eval()
    backbone.load_state_dict(network.state_dict(), strict=False)
    images = torch.randn(1, 3, 64, 64)
    features = backbone(images)
    head = network.fc if hasattr(network, "fc") else network.classifier
    pooled = network.avgpool(features) if name.startswith("vgg") else features.mean(dim=(2, 3))
    assert torch.allclose(head(pooled.flatten(1)), network(images), atol=1e-4)
    assert features.shape[:2] == (1, backbone.channels)


def test_pretrained_googlenet_gets_the_input_it_expects() -> None:
    torch.manual_seed(0)
    arguments = {"weights": None, "init_weights": False, "transform_input": True}
    network = torchvision.models.googlenet(**arguments).eval()
    torch.nn.init.normal_(network.conv1.bn.running_mean)
    images = torch.randn(1, 3, 64, 64)
    inner = (..., slice(2, -2), slice(2, -2))
    with torch.inference_mode():
        expected = network.conv1(network._transform_input(images))
        fold_input_transform(network.conv1)
        # At the border torchvision pads after the change, a convolution before it.
        assert torch.allclose(network.conv1(images)[inner], expected[inner], atol=1e-4)


def test_outputs_of_stages() -> None:
    backbone = Backbone("resnet18").eval()
    images = torch.randn(1, 3, 64, 64)
    stem = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(images))))
    layer2 = backbone.layer2(backbone.layer1(stem))
    found, last = backbone.staged(images, ["layer2"])
    assert torch.equal(found, layer2)
    assert torch.equal(last, backbone(images))
    assert backbone.shapes(64, ["layer2"]) == [layer2.shape[1:], last.shape[1:]]


def with_statistics(network: torch.nn.Module) -> torch.nn.Module:
    """The network in evaluation mode, its batch normalisations as if it had been trained."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1)
            torch.nn.init.normal_(module.bias, std=0.1)
    return network.eval()


class TestFoldedBatchNorm:
    @pytest.mark.parametrize("name", KINDS)
    def test_same_features_at_every_stage(self, name: str) -> None:
        backbone = with_statistics(Backbone(name))
        images, stages = torch.randn(1, 3, 64, 64), BACKBONES[name]
        with torch.inference_mode():
            expected = backbone.staged(images, stages)
            fold_batch_norm(backbone)
            found = backbone.staged(images, stages)
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in backbone.modules())
        for before, after in zip(expected, found, strict=True):
            assert torch.allclose(after, before, atol=1e-5 * before.abs().max().item())

    def test_of_bonet(self) -> None:
        network, images = with_statistics(BoNet()), torch.randn(2, 3, 64, 64)
        with torch.inference_mode():
            expected = network(images).assembled
            fold_batch_norm(network)
            assert torch.allclose(network(images).assembled, expected, atol=1e-5)
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())


class TestFoldedInTraining:
    @pytest.mark.parametrize("name", KINDS)
    def test_same_features_gradients_and_names(self, name: str) -> None:
        backbone = with_statistics(Backbone(name)).double()
        folded = copy.deepcopy(backbone)
        fold_in_training(folded)
        images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
        expected, found = backbone(images), folded(images)
        assert torch.allclose(found, expected)
        towards = torch.randn_like(expected)
        (expected * towards).sum().backward()
        (found * towards).sum().backward()
        before, after = dict(backbone.named_parameters()), dict(folded.named_parameters())
        assert before.keys() == after.keys()
        for key, parameter in before.items():
            assert torch.allclose(after[key].grad, parameter.grad), key

    def test_a_copy_computes_with_its_own_weights(self) -> None:
        backbone = with_statistics(Backbone("mobilenet_v2"))
        fold_in_training(backbone)
        copied = copy.deepcopy(backbone)
        images = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            before = backbone(images)
            for parameter in copied.parameters():
                parameter.zero_()
            assert torch.equal(backbone(images), before)
            assert not copied(images).any()

    def test_may_be_folded_for_good_afterwards(self) -> None:
        backbone = with_statistics(Backbone("mobilenet_v2"))
        images = torch.randn(1, 3, 64, 64)
        with torch.inference_mode():
            before = backbone(images)
            fold_in_training(backbone)
            fold_batch_norm(backbone)
            assert torch.allclose(backbone(images), before, atol=1e-5 * before.abs().max().item())

    def test_no_normalisation_runs(self) -> None:
        backbone = with_statistics(Backbone("mobilenet_v2"))
        fold_in_training(backbone)
        with torch.inference_mode(), profile() as profiled:
            backbone(torch.randn(1, 3, 64, 64))
        names = {event.key for event in profiled.key_averages()}
        assert any("convolution" in name for name in names)
        assert not any("batch_norm" in name for name in names)


class TestInitialisation:
    def test_from_torchvision_names(self, tmp_path: Path) -> None:
        network = torchvision.models.resnet18(weights=None)
        save_file(network.state_dict(), tmp_path / "r.safetensors")
        backbone = Backbone("resnet18")
        backbone.load_initialisation(tmp_path / "r.safetensors")
        assert torch.equal(backbone.state_dict()["conv1.weight"], network.conv1.weight)
        assert torch.equal(
            backbone.state_dict()["layer4.1.bn2.running_var"], network.layer4[1].bn2.running_var
        )

    def test_from_another_network_of_the_project(self, tmp_path: Path) -> None:
        whole = FineTuned("resnet18")
        save_file(whole.state_dict(), tmp_path / "w.safetensors")
        model = build("arcnn", {"backbone": "resnet18", "size": 64, "part_size": 32})
        model.backbone.load_initialisation(tmp_path / "w.safetensors")
        for name, value in whole.backbone.state_dict().items():
            assert torch.equal(model.backbone.state_dict()[name], value), name

    def test_refuses_another_network(self, tmp_path: Path) -> None:
        save_file(torchvision.models.resnet18().state_dict(), tmp_path / "r.safetensors")
        with pytest.raises(InputError, match="cannot initialise mobilenet_v2"):
            Backbone("mobilenet_v2").load_initialisation(tmp_path / "r.safetensors")

    def test_refuses_another_shape(self, tmp_path: Path) -> None:
        state = torchvision.models.resnet18().state_dict()
        state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
        save_file(state, tmp_path / "r.safetensors")
        with pytest.raises(InputError, match=r"conv1\.weight has another shape"):
            Backbone("resnet18").load_initialisation(tmp_path / "r.safetensors")

    def test_refuses_what_is_no_safetensors_file(self, tmp_path: Path) -> None:
        (tmp_path / "r.safetensors").write_bytes(b"not tensors")
        with pytest.raises(InputError, match="not a readable safetensors file") as error:
            Backbone("resnet18").load_initialisation(tmp_path / "r.safetensors")
        assert str(tmp_path) not in str(error.value)


class TestAgeHead:
    def test_each_sex_has_its_own_unit(self) -> None:
        head = AgeHead(4, sexes=2)
        features = torch.randn(3, 4)
        ages = head(features, torch.tensor([0, 1, 0]))
        units = head.linear(features)
        assert torch.equal(ages, torch.stack([units[0, 0], units[1, 1], units[2, 0]]))

    def test_parts(self) -> None:
        head = AgeHead(4, sexes=2)
        features = torch.randn(2, 5, 4)
        ages = head(features, torch.tensor([1, 0]))
        assert ages.shape == (2, 5)
        assert torch.allclose(ages[1], head.linear(features[1])[:, 0])

    def test_classes_of_each_sex(self) -> None:
        head = AgeHead(4, sexes=2, classes=7)
        features = torch.randn(2, 5, 4)
        logits = head(features, torch.tensor([1, 0]))
        units = head.linear(features).view(2, 5, 7, 2)
        assert torch.equal(logits, torch.stack([units[0, ..., 1], units[1, ..., 0]]))

    def test_ages_stay_where_their_standard_changes(self) -> None:
        head = AgeHead(4, sexes=2)
        features, sex = torch.randn(3, 4), torch.tensor([0, 1, 0])
        before = head(features, sex) * 40 + 120
        head.restandardise((120, 40), (135, 43))
        assert torch.allclose(head(features, sex) * 43 + 135, before, atol=1e-4)

    def test_fp32_inside_autocast(self) -> None:
        head = AgeHead(4, sexes=1)
        with torch.autocast("cpu", torch.bfloat16):
            ages = head(torch.randn(2, 4).bfloat16(), torch.zeros(2, dtype=torch.long))
        assert ages.dtype == torch.float32


def test_frozen_batch_norm_keeps_its_statistics() -> None:
    backbone = Backbone("resnet18").train()
    freeze_batch_norm(backbone)
    before = backbone.state_dict()["bn1.running_mean"].clone()
    backbone(torch.randn(2, 3, 64, 64) + 5)
    assert torch.equal(backbone.state_dict()["bn1.running_mean"], before)


class TestRegistry:
    def test_unknown_names_are_refused(self) -> None:
        with pytest.raises(InputError, match="Known: arcnn"):
            build("transformer", {})
        with pytest.raises(InputError, match="Known: resnet18"):
            Backbone("alexnet")

    def test_unknown_arguments_are_refused(self) -> None:
        with pytest.raises(InputError, match="colour"):
            build("finetuned", {"colour": "red"})

    def test_units(self) -> None:
        assert MODELS["arcnn"].unit == "months"


class TestMixedPrecision:
    @pytest.mark.parametrize("side", [64, 75])  # 75 px are halved to 38, 19
    @pytest.mark.parametrize("training", [False, True])
    def test_only_assessment_keeps_the_finest_maps_in_fp32(self, training: bool, side: int) -> None:
        backbone = Backbone("mobilenet_v2").train(training)
        computed: dict[str, torch.dtype] = {}
        for number, stage in enumerate(backbone.features):
            first = next(m for m in stage.modules() if isinstance(m, nn.Conv2d))
            first.register_forward_hook(
                lambda *found, number=number: computed.update({number: found[-1].dtype})
            )
        with torch.autocast("cpu", torch.bfloat16):
            backbone(torch.randn(2, 3, side, side))
        fine = [number for number, dtype in computed.items() if dtype == torch.float32]
        # Those that maps of stride 1 and 2 go into.
        assert fine == ([] if training else [0, 1, 2])
