from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor
from torch import nn

from boneage.errors import InputError
from boneage.explain import (
    BOX_COLOURS,
    display_image,
    draw_boxes,
    grad_cam,
    layer_of,
    overlay_heat_map,
)
from boneage.models.arcnn import ARCNN
from boneage.models.backbones import pool
from boneage.models.finetuned import FineTuned
from boneage.models.registry import build
from boneage.predictor import Assessment, Box, ModelReference

pytestmark = pytest.mark.usefixtures("quick_fills")


def assessment(*boxes: Box) -> Assessment:
    return Assessment(
        id="x", task="hand", sex="F", age=120.0, unit="months", interval=None, components={},
        boxes=boxes, warnings=(), refused=None, model=ModelReference("m", "r"),
    )  # fmt: skip


class WholeImage(nn.Module):
    """The whole-image branch of a network, as other libraries expect a network to be."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = images.requires_grad_()  # the weights are frozen
        if isinstance(self.model, ARCNN):  # others cannot tell apart what a layer runs for
            agent = self.model.recognition
            return agent.whole_head(pool(agent.backbone(images)))[:, None]
        return self.model(images).assembled[:, None]


class TestGradCam:
    def test_by_hand(self) -> None:
        """One linear unit on pooled features: the weight of a channel is its gradient."""
        layer = nn.Identity()
        features = torch.tensor([[[[1.0, 0], [0, 2]], [[0.0, 3], [0, 0]]]])
        weights = torch.tensor([2.0, -1.0])
        maps = grad_cam(layer, lambda: layer(features).mean(dim=(2, 3)) @ weights)
        # relu(2 * first - 1 * second), divided by its maximum
        assert maps[0].tolist() == [[0.5, 0.0], [0.0, 1.0]]

    def test_negative_everywhere_is_all_zero(self) -> None:
        layer = nn.Identity()
        maps = grad_cam(layer, lambda: -layer(torch.ones(1, 2, 3, 3)).mean(dim=(1, 2, 3)))
        assert not maps.any()

    def test_explains_the_whole_image_and_frees_its_hook(self) -> None:
        torch.manual_seed(0)
        model = ARCNN("resnet18", size=128, part_size=64, sexes=1).eval().requires_grad_(False)
        images, sex = torch.randn(2, 3, 128, 128), torch.zeros(2, dtype=torch.long)
        maps = grad_cam(model.heat_map_layer, lambda: model(images, sex).whole)
        assert maps.shape == (2, 4, 4)
        features = model.backbone(images)
        weights = model.recognition.whole_head.linear.weight[0][None, :, None, None]
        expected = (features * weights).sum(1).clamp(min=0)
        expected = expected / expected.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
        assert torch.allclose(maps, expected, atol=1e-4)
        assert not model.heat_map_layer._forward_hooks

    def test_only_what_follows_the_layer_is_differentiated(self) -> None:
        """Neither the layers before it nor the parts, which go through the same layers."""
        model = ARCNN("resnet18", size=128, part_size=64, sexes=1).eval().requires_grad_(False)
        images, sex = torch.randn(1, 3, 128, 128), torch.zeros(1, dtype=torch.long)
        seen: dict[str, list[bool]] = {}
        for name in ("layer2", "layer4"):
            layer = layer_of(model, f"backbone.{name}")
            layer.register_forward_hook(
                lambda _m, _i, output, name=name: seen.setdefault(name, []).append(
                    output.requires_grad
                )
            )
        grad_cam(layer_of(model, "backbone.layer3"), lambda: model(images, sex).whole)
        assert seen == {"layer2": [False, False], "layer4": [True, False]}

    @pytest.mark.parametrize(
        ("name", "arguments", "layer_name"),
        [
            ("finetuned", {"backbone": "resnet18"}, None),
            ("finetuned", {"backbone": "vgg11_bn"}, None),
            ("finetuned", {"backbone": "vgg11_bn"}, "backbone.features.20"),
            ("finetuned", {"backbone": "googlenet"}, "backbone.inception4e"),
            ("hierarchical", {"backbone": "vgg11_bn", "size": 64, "units": 8}, None),
            ("hierarchical", {"backbone": "mobilenet_v2", "global_pooling": True}, None),
            ("early_fusion", {"backbones": ["mobilenet_v2", "resnet18"]}, None),
            ("arcnn", {"backbone": "resnet18", "size": 64, "part_size": 32}, None),
        ],
    )
    def test_agrees_with_another_implementation(
        self, name: str, arguments: dict[str, object], layer_name: str | None
    ) -> None:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import RawScoresOutputTarget

        torch.manual_seed(5)  # with it something raises the age of every random network
        model = build(name, arguments).eval().requires_grad_(False)
        for parameter in model.parameters():  # heads that tell features apart
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.1)
        images = torch.randn(2, 3, 64, 64)
        layer = layer_of(model, layer_name)
        maps = grad_cam(layer, lambda: model(images).components["X"])

        with GradCAM(WholeImage(model), [layer]) as other:
            other(images.clone(), [RawScoresOutputTarget()] * 2)
            store = other.activations_and_grads
            activations, gradients = store.activations[0].numpy(), store.gradients[0].numpy()
            expected = other.get_cam_image(
                images, layer, None, activations, gradients, eigen_smooth=False
            ).clip(0)
        expected /= expected.max(axis=(1, 2), keepdims=True)
        assert np.abs(maps.numpy() - expected).max() < 1e-4
        assert maps.amax(dim=(1, 2)).tolist() == [1, 1]

    def test_what_follows_may_work_in_place(self) -> None:
        layer, features = nn.Identity(), torch.tensor([[[[1.0, -2.0], [3.0, 4.0]]]])
        maps = grad_cam(layer, lambda: layer(features).relu_().sum(dim=(1, 2, 3)))
        assert maps[0].tolist() == [[0.25, 0], [0.75, 1]]

    @pytest.mark.parametrize("name", ["layer9", ""])
    def test_unknown_layer(self, name: str) -> None:
        with pytest.raises(InputError, match=f"no layer '{name}'"):
            layer_of(FineTuned("resnet18"), name)

    @pytest.mark.parametrize("name", ["attention", "recognition.whole_head", "recognition"])
    def test_layers_without_maps(self, name: str) -> None:
        model = ARCNN("resnet18", size=64, part_size=32).eval().requires_grad_(False)
        images = torch.randn(1, 3, 64, 64)
        with pytest.raises(InputError, match="gives no maps"):
            grad_cam(layer_of(model, name), lambda: model(images).whole)

    def test_layer_without_a_part_in_the_age(self) -> None:
        model = ARCNN("resnet18", size=64, part_size=32).eval().requires_grad_(False)
        images = torch.randn(1, 3, 64, 64)
        with pytest.raises(InputError, match="does not depend"):
            grad_cam(layer_of(model, "attention.levels.0"), lambda: model(images).whole)

    def test_frees_its_hook_after_an_error(self) -> None:
        layer = nn.Identity()

        def fails() -> torch.Tensor:
            raise RuntimeError("no")

        with pytest.raises(RuntimeError):
            grad_cam(layer, fails)
        assert not layer._forward_hooks


class TestPictures:
    def test_display_image_stretches_and_shrinks(self) -> None:
        pixels = np.linspace(1000, 3000, 400 * 200).reshape(400, 200).astype(np.uint16)
        picture = display_image(pixels, largest=100)
        assert picture.size == (50, 100)
        assert picture.mode == "RGB"
        grey = np.asarray(picture)[..., 0]
        assert grey.min() < 5
        assert grey.max() > 250

    def test_display_image_never_enlarges(self) -> None:
        assert display_image(np.eye(20, dtype=np.uint8) * 200).size == (20, 20)

    def test_overlay_is_nothing_at_zero_and_strongest_at_the_maximum(self) -> None:
        image = Image.new("RGB", (80, 40), (50, 50, 50))
        heat = np.zeros((4, 8), np.float32)
        heat[1, 6] = 1
        assert np.array_equal(overlay_heat_map(image, heat, 0.0), image)
        changed = np.abs(np.asarray(overlay_heat_map(image, heat, 1.0), int) - 50).sum(axis=2)
        row, column = np.unravel_index(changed.argmax(), changed.shape)
        assert abs(row - 15) <= 5
        assert abs(column - 65) <= 5
        assert changed[:, :40].max() == 0

    def test_boxes_are_drawn_where_they_are(self) -> None:
        image = Image.new("RGB", (500, 500))
        box = Box(400, 800, 1200, 1600, score=1.0, age=100.0)
        drawn = np.asarray(draw_boxes(image, assessment(box), (2000, 2000))).sum(axis=2)
        assert drawn[300, 100] > 0  # left edge
        assert drawn[300, 298] > 0  # right edge
        assert drawn[398, 150] > 0  # lower edge
        assert not drawn[205:395, 105:295].any()  # inside
        assert not drawn[420:].any()
        assert not np.asarray(image).any()  # the picture given is left alone

    def test_a_label_stays_inside_the_image(self) -> None:
        image = Image.new("RGB", (300, 300))
        corner = Box(280, 0, 300, 20, score=1.0, age=100.0)
        drawn = np.asarray(draw_boxes(image, assessment(corner), (300, 300))).sum(axis=2)
        assert drawn[10, 240] > 0

    def test_labels_do_not_cover_each_other(self) -> None:
        """Three regions that begin at one corner: every label is there in its colour."""
        image = Image.new("RGB", (600, 600))
        boxes = [Box(200, 200, 400 + 9 * i, 400, score=1.0, age=100.0) for i in range(3)]
        drawn = np.asarray(draw_boxes(image, assessment(*boxes), (600, 600)))
        areas = [
            (drawn == ImageColor.getrgb(colour)).all(axis=2).sum() for colour in BOX_COLOURS[:3]
        ]
        alone = np.asarray(draw_boxes(image, assessment(boxes[0]), (600, 600)))
        whole = (alone == ImageColor.getrgb(BOX_COLOURS[0])).all(axis=2)[:199].sum()
        assert whole > 500
        assert min(areas) > whole

    def test_an_elongated_film(self) -> None:
        thin = Image.new("RGB", (2, 1000))
        box = Box(1.9, 10, 1.95, 10.1, score=1.0, age=100.0)
        assert draw_boxes(thin, assessment(box), (2, 1000)).size == (2, 1000)
