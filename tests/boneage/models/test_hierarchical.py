from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from boneage.errors import InputError
from boneage.models.hierarchical import (
    Connection,
    HierarchicalVGG,
    connection_parameters,
    resample_grid,
)
from boneage.models.registry import BACKBONES

pytestmark = pytest.mark.usefixtures("quick_fills")


@cache
def built(backbone: str, **settings: object) -> HierarchicalVGG:
    torch.manual_seed(0)
    return HierarchicalVGG(backbone, **settings)


def small(backbone: str = "vgg11_bn", **arguments: object) -> HierarchicalVGG:
    return copy.deepcopy(built(backbone, **{"size": 64, "units": 16, "hidden": 8} | arguments))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(1)).expand(
        -1, 3, -1, -1
    )


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


class TestConnection:
    def test_equation_1(self) -> None:
        connection = Connection((8, 6, 5), units=256, dropout=0.5)
        assert (
            parameters(connection) == connection_parameters(8, 6, 5, 256) == 8 * 6 * 5 * 256 + 256
        )

    def test_equation_1_at_the_papers_size(self) -> None:
        model = HierarchicalVGG("vgg11_bn", size=224)
        block3, block4 = model.connections
        # 224 px through three and four max-poolings.
        assert parameters(block3) == connection_parameters(256, 28, 28, 256)
        assert parameters(block4) == connection_parameters(512, 14, 14, 256)

    def test_equation_1_with_global_pooling(self) -> None:
        block3, block4 = small(units=256, global_pooling=True).connections
        assert parameters(block3) == connection_parameters(256, 1, 1, 256)
        assert parameters(block4) == connection_parameters(512, 1, 1, 256)

    def test_gives_non_negative_features(self) -> None:
        features = Connection((8, 2, 2), 16, 0.0)(torch.randn(3, 8, 2, 2))
        assert features.shape == (3, 16)
        assert features.min() == 0 < features.max()


class TestHierarchicalVGG:
    @pytest.mark.parametrize("backbone", ["vgg11_bn", "resnet18", "googlenet", "mobilenet_v2"])
    @pytest.mark.parametrize("global_pooling", [False, True])
    def test_backbones(self, backbone: str, global_pooling: bool, images: Tensor) -> None:
        model = small(backbone, global_pooling=global_pooling).eval()
        with torch.inference_mode():
            output = model(images)
        assert output.components.keys() == {"X", "assembled"}
        assert output.assembled.shape == (2,)

    @pytest.mark.parametrize("backbone", ["vgg11_bn", "vgg13_bn", "vgg16_bn"])
    def test_a_vggs_stages_are_its_pooled_blocks_3_and_4(self, backbone: str) -> None:
        backbone_module = small(backbone).backbone
        modules = dict(backbone_module.features.named_children())
        pools = [n for n, m in modules.items() if isinstance(m, nn.MaxPool2d)]
        assert BACKBONES[backbone] == (f"features.{pools[2]}", f"features.{pools[3]}")

    def test_other_stages_by_name(self, images: Tensor) -> None:
        model = small(
            "resnet18",
            stages=(
                "layer1",
                "layer2",
                "layer3",
            ),
        ).eval()
        assert [c.linear.in_features for c in model.connections] == [
            64 * 16 * 16, 128 * 8 * 8, 256 * 4 * 4,
        ]  # fmt: skip
        with torch.inference_mode():
            assert model(images).assembled.isfinite().all()

    def test_refuses_an_unknown_stage(self) -> None:
        with pytest.raises(InputError, match="resnet18 has no stage layer9; its stages are conv1"):
            small("resnet18", stages=("layer9",))

    def test_refuses_no_stage(self) -> None:
        with pytest.raises(InputError, match="at least one stage"):
            small(stages=())

    def test_refuses_another_size_where_features_are_flattened(self, images: Tensor) -> None:
        with pytest.raises(InputError, match="64 x 64"):
            small()(torch.zeros(1, 3, 96, 96))

    def test_takes_any_size_where_they_are_pooled(self) -> None:
        model = small("resnet18", global_pooling=True).eval()
        with torch.inference_mode():
            assert model(torch.zeros(1, 3, 96, 128)).assembled.shape == (1,)

    def test_every_connection_decides(self, images: Tensor) -> None:
        model = small("resnet18").eval()
        with torch.inference_mode():
            before = model(images).assembled
            for connection in model.connections:
                nn.init.zeros_(connection.linear.weight)
                after = model(images).assembled
                assert not torch.equal(before, after)
                before = after

    def test_gradients_reach_everything(self, images: Tensor) -> None:
        model = small("resnet18", dropout=0.0)
        ages = torch.tensor([-1.0, 1.0])
        model.loss(model(images), ages)["recognition"].backward()
        assert all(p.grad is not None for p in model.parameters())

    def test_sex_as_an_input(self, images: Tensor) -> None:
        model = small("resnet18", sexes=2).eval()
        same = images[:1].expand(2, -1, -1, -1)
        with torch.inference_mode():
            girl, boy = model(same, torch.tensor([0, 1])).assembled
        assert girl != boy


class TestAnotherSize:
    def test_a_map_is_answered_like_its_averages(self) -> None:
        weight = torch.randn(5, 3 * 4 * 6, generator=torch.Generator().manual_seed(2))
        maps = torch.randn(2, 3, 7, 9, generator=torch.Generator().manual_seed(3))
        averages = nn.functional.adaptive_avg_pool2d(maps, (4, 6))
        after = maps.flatten(1) @ resample_grid(weight, (3, 4, 6), (7, 9)).T
        assert torch.allclose(after, averages.flatten(1) @ weight.T, atol=1e-4)

    def test_only_what_is_flattened_changes(self) -> None:
        trained, model = small().eval(), small(size=96).eval()
        model.load_state_dict(model.resampled(trained))
        features = torch.randn(2, 256, 12, 12, generator=torch.Generator().manual_seed(3))
        averages = nn.functional.adaptive_avg_pool2d(features, 8)
        ours, theirs = model.connections[0](features), trained.connections[0](averages)
        assert torch.allclose(ours, theirs, atol=1e-4)
        # Behind the last map's columns the regressor keeps those of the connections' features.
        columns = [network.regressor[0].weight[:, -32:] for network in (model, trained)]
        assert torch.equal(*columns)
        assert torch.equal(model.head.linear.weight, trained.head.linear.weight)

    def test_of_the_same_size_nothing_changes(self) -> None:
        trained, model = small(), small(global_pooling=True)
        for name, value in trained.resampled(small()).items():
            assert torch.equal(value, trained.state_dict()[name])
        pooled = model.resampled(small(size=96, global_pooling=True))
        assert all(torch.equal(v, pooled[k]) for k, v in model.state_dict().items())
