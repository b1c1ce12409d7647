from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from boneage import hub
from boneage.errors import InputError
from boneage.explain import grad_cam
from boneage.models.literature import BoNet, MonthClassifier, MonthOutput, SpatialTransformer
from boneage.models.registry import build

NETWORKS = (
    ("month_classifier", {"backbone": "resnet18", "sexes": 2}),
    ("bonet", {"sexes": 2}),
)
MEAN, SD = 127.3207, 41.1821  # of no fp16 number


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 1, 64, 64, generator=generator).expand(-1, 3, -1, -1)


@pytest.fixture
def classifier() -> MonthClassifier:
    torch.manual_seed(0)
    model = MonthClassifier("resnet18", sexes=2).eval()
    model.set_ages(MEAN, SD)
    return model


def with_logits(model: MonthClassifier, logits: Tensor) -> Tensor:
    """Has the network say these logits (classes, sexes), whatever the image."""
    torch.nn.init.zeros_(model.head.linear.weight)
    with torch.no_grad():
        model.head.linear.bias.copy_(logits.flatten())
    return logits


class TestBoth:
    @pytest.mark.parametrize(("name", "arguments"), NETWORKS)
    def test_a_case_does_not_depend_on_its_batch(
        self, name: str, arguments: dict, images: Tensor
    ) -> None:
        torch.manual_seed(0)
        model = build(name, arguments).eval()
        sex = torch.arange(8) % 2
        with torch.inference_mode():
            together = model(images, sex).components["assembled"]
            alone = [model(images[i : i + 1], sex[i : i + 1]).assembled for i in range(8)]
        assert together.shape == (8,)
        assert torch.allclose(together, torch.cat(alone), atol=1e-5, rtol=1e-5)
        assert together.unique().numel() == 8

    @pytest.mark.parametrize(("name", "arguments"), NETWORKS)
    def test_each_case_gets_its_own_sex(self, name: str, arguments: dict, images: Tensor) -> None:
        torch.manual_seed(0)
        model = build(name, arguments).eval()
        girls, boys = torch.zeros(8, dtype=torch.long), torch.ones(8, dtype=torch.long)
        with torch.inference_mode():
            ages = model(images, torch.arange(8) % 2).assembled
            as_girls, as_boys = model(images, girls).assembled, model(images, boys).assembled
        assert torch.equal(ages[::2], as_girls[::2])
        assert torch.equal(ages[1::2], as_boys[1::2])
        assert (as_girls != as_boys).all()
        with pytest.raises(InputError, match="takes the sex"):
            model(images)

    @pytest.mark.parametrize(("name", "arguments"), NETWORKS)
    def test_every_weight_learns(self, name: str, arguments: dict, images: Tensor) -> None:
        torch.manual_seed(0)
        model = build(name, arguments)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        sex, ages = torch.arange(8) % 2, torch.linspace(-1, 1, 8)
        for _ in range(2):  # what lies before a layer that starts at zero learns after it
            optimizer.zero_grad()
            sum(model.loss(model(images, sex), ages).values()).backward()
            optimizer.step()
        still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert not still

    @pytest.mark.parametrize(("name", "arguments"), NETWORKS)
    def test_saved_and_loaded_is_the_same_function(
        self, name: str, arguments: dict, images: Tensor, tmp_path: Path
    ) -> None:
        torch.manual_seed(0)
        model = build(name, arguments).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.half())
        if name == "month_classifier":
            model.set_ages(MEAN, SD)
        architecture = {"name": name, "arguments": arguments}
        config = {key: dict.fromkeys(needs) for key, needs in hub.NEEDED.items()} | {
            "architecture": architecture
        }
        loaded, _ = hub.load(hub.save(tmp_path / "weights", model, config))
        sex = torch.arange(8) % 2
        with torch.inference_mode():
            expected = model(images, sex).assembled
            assert torch.allclose(loaded(images, sex).assembled, expected, atol=1e-5)

    @pytest.mark.parametrize(("name", "arguments"), NETWORKS)
    def test_explained_by_grad_cam(self, name: str, arguments: dict, images: Tensor) -> None:
        torch.manual_seed(0)
        model = build(name, arguments).eval().requires_grad_(False)
        sex = torch.zeros(8, dtype=torch.long)
        maps = grad_cam(model.heat_map_layer, lambda: model(images, sex).components["X"])
        assert len(maps) == 8
        assert maps.max() == 1

    @pytest.mark.parametrize(("name", "arguments"), NETWORKS)
    @pytest.mark.parametrize("size", [32, 100])
    def test_any_input_size(self, name: str, arguments: dict, size: int) -> None:
        model = build(name, {**arguments, "sexes": 1}).eval()
        with torch.inference_mode():
            assert model(torch.randn(2, 3, size, size + 7)).assembled.isfinite().all()


class TestMonthClassifier:
    def test_age_is_the_expected_value(self, classifier: MonthClassifier, images: Tensor) -> None:
        logits = torch.full((229, 2), -torch.inf)
        logits[[100, 103], 0] = torch.tensor([1.0, 3.0]).log()  # girls: 1/4 and 3/4
        logits[228, 1] = 0.0
        with_logits(classifier, logits)
        with torch.inference_mode():
            ages = classifier(images[:2], torch.tensor([0, 1])).assembled * SD + MEAN
        assert ages.tolist() == pytest.approx([102.25, 228.0], abs=1e-4)

    def test_loss_is_the_cross_entropy_of_the_month(
        self, classifier: MonthClassifier, images: Tensor
    ) -> None:
        probabilities = torch.full((229, 2), 0.5 / 228)
        probabilities[120] = 0.5
        with_logits(classifier, probabilities.log())
        sex = torch.tensor([0, 1])
        output = classifier(images[:2], sex)

        def loss(*months: float) -> float:
            ages = (torch.tensor(months) - MEAN) / SD
            return classifier.loss(output, ages)["classification"].item()

        right, wrong = -torch.tensor([0.5, 0.5 / 228]).log()
        assert loss(120.0, 120.0) == pytest.approx(right.item(), abs=1e-5)
        assert loss(119.6, 120.4) == pytest.approx(right.item(), abs=1e-5)
        assert loss(120.0, 121.0) == pytest.approx((right + wrong).item() / 2, abs=1e-5)
        assert loss(-5.0, 300.0) == pytest.approx(wrong.item(), abs=1e-5)

    def test_every_month_is_its_own_class(self) -> None:
        model = MonthClassifier("resnet18", months=(12, 60)).eval()
        model.set_ages(MEAN, SD)
        assert model(torch.randn(1, 3, 32, 32)).logits.shape == (1, 49)
        ages = (torch.arange(12.0, 61.0) - MEAN) / SD
        certain = torch.where(torch.eye(49, dtype=torch.bool), 0.0, -torch.inf)
        assert model.loss(MonthOutput(ages, certain), ages)["classification"] == 0

    def test_refuses_months_that_are_no_range(self) -> None:
        with pytest.raises(InputError, match="from 228 to 0"):
            MonthClassifier("resnet18", months=(228, 0))

    def test_exact_under_autocast(self, classifier: MonthClassifier, images: Tensor) -> None:
        with_logits(classifier, torch.log(torch.arange(1.0, 459.0)).view(229, 2))
        sex = torch.arange(8) % 2
        with torch.inference_mode():
            expected = classifier(images, sex).assembled
            with torch.autocast("cpu", torch.bfloat16):
                assert torch.allclose(classifier(images, sex).assembled, expected, atol=1e-5)

    def test_mean_and_sd_survive_fp16(self, classifier: MonthClassifier) -> None:
        assert classifier.age_mean.half().float().sum().item() == pytest.approx(MEAN, abs=1e-4)
        assert classifier.age_sd.half().float().sum().item() == pytest.approx(SD, abs=1e-4)


class TestBoNet:
    def test_six_layers_and_one_deformation(self) -> None:
        model = BoNet()
        layers = [
            m
            for part in (model.features, model.fully_connected)
            for m in part
            if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)
        ]
        assert [type(layer).__name__ for layer in layers] == ["Conv2d"] * 5 + ["Linear"]
        assert sum(isinstance(m, SpatialTransformer) for m in model.modules()) == 1

    def test_has_no_imagenet_weights(self) -> None:
        with pytest.raises(InputError, match="starts at random"):
            BoNet(pretrained=True)


class TestSpatialTransformer:
    def test_is_the_identity_at_the_start(self) -> None:
        features = torch.randn(2, 4, 9, 12)
        assert torch.allclose(SpatialTransformer(4, grid=3)(features), features, atol=1e-5)

    def test_shifts_as_it_is_told_to_but_not_far(self) -> None:
        transformer = SpatialTransformer(1, grid=2)
        with torch.no_grad():
            transformer.localisation[-1].bias[2] = 1e6
        row = torch.tensor([1.0, 2, 3, 4]).expand(1, 1, 4, 4)
        # By a half of half the width, which is one column of four.
        assert torch.allclose(transformer(row)[0, 0, 0], torch.tensor([2.0, 3, 4, 0]), atol=1e-5)

    def test_fp32_inside_autocast(self) -> None:
        features = torch.randn(2, 4, 6, 6).bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            assert SpatialTransformer(4, grid=3)(features).dtype == torch.float32
