from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from boneage.errors import InputError
from boneage.models.arcnn import ARCNN
from boneage.models.finetuned import EarlyFusion, FineTuned, LateFusion


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(1)).expand(
        -1, 3, -1, -1
    )


class TestFineTuned:
    @pytest.mark.usefixtures("quick_fills")
    @pytest.mark.parametrize("backbone", ["vgg11_bn", "googlenet", "resnet18", "mobilenet_v2"])
    def test_one_linear_unit(self, backbone: str, images: Tensor) -> None:
        model = FineTuned(backbone).eval()
        assert model.head.linear.out_features == 1
        with torch.inference_mode():
            assert model(images).assembled.shape == (2,)

    def test_a_vgg_may_keep_its_fully_connected_layers(self, images: Tensor) -> None:
        model = FineTuned("vgg11_bn", fully_connected=True).eval()
        assert model.head.linear.in_features == 4096
        with torch.inference_mode():
            assert model(images).assembled.shape == (2,)

    def test_other_backbones_have_none(self) -> None:
        with pytest.raises(InputError, match="resnet18 has no fully connected layers"):
            FineTuned("resnet18", fully_connected=True)


class TestHeads:
    @pytest.mark.parametrize(("sexes", "taken"), [(2, True), (1, False)])
    def test_an_arcnn_gives_its_whole_image_head(
        self, tmp_path: Path, sexes: int, taken: bool
    ) -> None:
        trained = ARCNN("resnet18", size=128, part_size=64, sexes=2)
        save_file(trained.state_dict(), tmp_path / "trained.safetensors")
        model = FineTuned("resnet18", sexes=sexes)
        before = model.head.linear.weight.clone()
        model.load_heads(tmp_path / "trained.safetensors")
        after = trained.recognition.whole_head.linear.weight if taken else before
        assert torch.equal(model.head.linear.weight, after)


class TestEarlyFusion:
    def test_concatenates_all_features(self, images: Tensor) -> None:
        model = EarlyFusion(("resnet18", "mobilenet_v2")).eval()
        assert model.head.linear.in_features == 512 + 1280
        with torch.inference_mode():
            assert model(images).assembled.shape == (2,)

    def test_trains_as_one_network(self, images: Tensor) -> None:
        model = EarlyFusion(("resnet18", "googlenet"))
        model.loss(model(images), torch.tensor([-1.0, 1.0]))["recognition"].backward()
        assert all(p.grad is not None for p in model.parameters())


class TestLateFusion:
    MEMBERS = (
        {"name": "finetuned", "arguments": {"backbone": "resnet18"}},
        {"name": "finetuned", "arguments": {"backbone": "mobilenet_v2"}},
    )

    def test_is_the_mean_of_its_members(self, images: Tensor) -> None:
        model = LateFusion(self.MEMBERS, [(64, 0), (64, 0)]).eval()
        with torch.inference_mode():
            one, other = (member(images).assembled for member in model.members)
            assert torch.allclose(model(images).assembled, (one + other) / 2)

    def test_members_see_what_they_would_see_alone(self, images: Tensor) -> None:
        model = LateFusion(self.MEMBERS, [(64, 0), (32, 4)]).eval()
        reduced = torch.nn.functional.interpolate(images, (40, 40), mode="bilinear", antialias=True)
        reduced = reduced[..., 4:36, 4:36]
        with torch.inference_mode():
            expected = (
                model.members[0](images).assembled + model.members[1](reduced).assembled
            ) / 2
            assert torch.allclose(model(images).assembled, expected)
