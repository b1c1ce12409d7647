from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.ops import box_iou, nms, roi_align

from boneage.errors import InputError
from boneage.models.arcnn import (
    ARCNN,
    ARCNNOutput,
    AttentionAgent,
    Proposals,
    anchors,
    crop_parts,
    ranking_loss,
)
from boneage.models.backbones import freeze_batch_norm
from boneage.models.finetuned import FineTuned


def small(**arguments: object) -> ARCNN:
    torch.manual_seed(0)
    settings = {"backbone": "resnet18", "size": 128, "part_size": 64, "sexes": 2} | arguments
    return ARCNN(**settings)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 1, 128, 128, generator=generator).expand(-1, 3, -1, -1)
    return images, torch.tensor([0, 1, 1, 0])


class TestAnchors:
    def test_448_px_make_783(self) -> None:
        assert anchors(448, (48, 96, 192)).shape == (783, 4)

    def test_geometry_of_a_level(self) -> None:
        boxes = anchors(448, (48, 96, 192))
        # Row 5, column 7 of the first level's square anchors, far from every border.
        square = boxes[5 * 14 + 7]
        assert square.tolist() == [7.5 * 32 - 24, 5.5 * 32 - 24, 7.5 * 32 + 24, 5.5 * 32 + 24]

    def test_areas_and_ratios(self) -> None:
        boxes = anchors(448, (48, 96, 192))
        for start, cells, scale in ((0, 14, 48), (588, 7, 96)):
            middle = (cells // 2) * cells + cells // 2
            for index, ratio in enumerate((1, 3 / 2, 2 / 3)):
                x0, y0, x1, y1 = boxes[start + index * cells**2 + middle].tolist()
                assert (x1 - x0) * (y1 - y0) == pytest.approx(scale**2, rel=1e-5)
                assert (y1 - y0) / (x1 - x0) == pytest.approx(ratio, rel=1e-5)

    def test_clipped_to_the_image(self) -> None:
        boxes = anchors(448, (48, 96, 192))
        assert boxes.min() == 0
        assert boxes.max() == 448
        assert (boxes[:, 2:] > boxes[:, :2]).all()

    def test_any_input_size(self) -> None:
        assert len(anchors(300, (32, 64, 128))) == 3 * (10**2 + 5**2 + 3**2)

    @pytest.mark.parametrize("size", [64, 96, 160, 448])
    def test_one_score_an_anchor_at_every_size(self, size: int) -> None:
        agent = AttentionAgent(channels=8, size=size, parts=2)
        cells = -(-size // 32)
        scores = agent.score(torch.zeros(2, 8, cells, cells), torch.zeros(2, dtype=torch.long))
        assert scores.shape == (2, len(agent.anchors))


class TestProposals:
    def test_equal_greedy_nms_of_torchvision(self) -> None:
        agent = AttentionAgent(channels=8, size=448, parts=6)
        scores = torch.randn(5, 783, generator=torch.Generator().manual_seed(2))
        proposals = agent.propose(scores)
        for i in range(5):
            kept = nms(agent.anchors, scores[i], 0.25)[:6]
            assert torch.equal(proposals.boxes[i], agent.anchors[kept])
            assert torch.equal(proposals.scores[i], scores[i, kept])

    def test_descending_and_apart(self) -> None:
        agent = AttentionAgent(channels=8, size=448, parts=6)
        proposals = agent.propose(torch.randn(3, 783))
        assert (proposals.scores.diff(dim=1) <= 0).all()
        for boxes in proposals.boxes:
            assert (box_iou(boxes, boxes) - torch.eye(6)).max() <= 0.25

    def test_fills_up_where_suppression_leaves_too_few(self) -> None:
        agent = AttentionAgent(channels=8, size=64, scales=(64, 64, 64), parts=6)
        scores = torch.randn(3, len(agent.anchors), generator=torch.Generator().manual_seed(3))
        proposals = agent.propose(scores)
        for i in range(3):
            kept = nms(agent.anchors, scores[i], 0.25)
            assert len(kept) < 6
            order = scores[i].argsort(descending=True)
            rest = order[~torch.isin(order, kept)]
            expected = torch.cat([kept, rest])[:6]
            assert torch.equal(proposals.scores[i], scores[i, expected])

    def test_sexes_have_their_own_scores(self) -> None:
        agent = AttentionAgent(channels=8, size=128, parts=2, sexes=2)
        features = torch.randn(1, 8, 4, 4).expand(2, -1, -1, -1)
        girl, boy = agent.score(features, torch.tensor([0, 1]))
        assert not torch.allclose(girl, boy)


class TestCropParts:
    def test_crops_what_the_box_frames(self) -> None:
        images = torch.arange(64.0).view(1, 1, 1, 64).expand(2, 1, 64, 64).clone()
        images[1] += 100
        boxes = torch.tensor([[[8.0, 0, 24, 16]], [[32.0, 16, 48, 32]]])
        parts = crop_parts(images, boxes, 16)
        assert parts.shape == (2, 1, 16, 16)
        assert torch.allclose(parts[0, 0, 4], torch.arange(8.0, 24))
        assert torch.allclose(parts[1, 0, 4], torch.arange(132.0, 148))

    def test_equals_roi_align(self) -> None:
        """Whether a part is enlarged or shrunk, and up to the image's edges."""
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(2, 1, 128, 96, generator=generator)
        boxes = torch.tensor(
            [[[0, 0, 96, 128], [3.3, 5.1, 20.7, 11.9]], [[60.2, 100, 96, 128], [0, 7, 5, 80]]]
        )
        flat = [torch.cat([torch.full((2, 1), i), boxes[i]], dim=1) for i in (0, 1)]
        expected = roi_align(images, torch.cat(flat), (16, 16), sampling_ratio=2, aligned=True)
        assert torch.allclose(crop_parts(images, boxes, 16), expected, atol=1e-4)

    def test_order_is_image_by_image(self) -> None:
        images = torch.stack([torch.full((1, 32, 32), float(i)) for i in range(3)])
        boxes = torch.tensor([[0.0, 0, 16, 16], [8, 8, 24, 24]]).expand(3, -1, -1)
        parts = crop_parts(images, boxes, 8)
        assert parts.mean(dim=(1, 2, 3)).tolist() == [0, 0, 1, 1, 2, 2]


class TestARCNN:
    @pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50", "mobilenet_v2"])
    def test_every_backbone(self, backbone: str, batch: tuple[Tensor, Tensor]) -> None:
        model = small(backbone=backbone).eval()
        with torch.inference_mode():
            output = model(*batch)
        assert output.components.keys() == {"X", "C", "R1", "R2", "R3", "assembled"}
        assert all(age.shape == (4,) for age in output.components.values())
        assert output.proposals.boxes.shape == (4, 3, 4)

    @pytest.mark.parametrize(("parts", "used"), [(1, 1), (6, 1), (6, 4), (4, 4)])
    def test_m_and_k(self, parts: int, used: int, batch: tuple[Tensor, Tensor]) -> None:
        model = small(parts=parts, parts_used=used)
        assert model(*batch).parts.shape == (4, parts)
        linear = model.recognition.concatenated_head.linear
        assert linear.in_features == 512 * (used + 1)

    @pytest.mark.parametrize(("parts", "used"), [(6, 0), (3, 4)])
    def test_refuses_k_outside_1_to_m(self, parts: int, used: int) -> None:
        with pytest.raises(InputError, match="between 1 and M"):
            small(parts=parts, parts_used=used)

    @pytest.mark.parametrize("scales", [(48, 96), (1, 2, 3, 4)])
    def test_refuses_scales_for_other_levels(self, scales: tuple[float, ...]) -> None:
        with pytest.raises(InputError, match="3 anchor scales"):
            small(scales=scales)

    def test_one_sex_needs_no_sex(self, batch: tuple[Tensor, Tensor]) -> None:
        images, sex = batch
        model = small(sexes=1).eval()
        with torch.inference_mode():
            assert torch.equal(model(images).assembled, model(images, sex).assembled)

    def test_two_sexes_need_it(self, batch: tuple[Tensor, Tensor]) -> None:
        with pytest.raises(InputError, match="takes the sex as an input"):
            small()(batch[0])

    def test_refuses_too_few_given_regions(self, batch: tuple[Tensor, Tensor]) -> None:
        given = Proposals(torch.tensor([[[0.0, 0, 40, 40]]]).expand(4, -1, -1), torch.zeros(4, 1))
        with pytest.raises(InputError, match="3 regions are assessed"):
            small()(*batch, proposals=given)

    def test_refuses_another_input_size(self, batch: tuple[Tensor, Tensor]) -> None:
        with pytest.raises(InputError, match="160 x 160"):
            small(size=160)(*batch)

    def test_equation_1(self) -> None:
        parts = torch.tensor([[2.0, 3.0, 4.0, 50.0, 60.0, 70.0]])
        output = ARCNNOutput(
            whole=torch.tensor([1.0]),
            concatenated=torch.tensor([5.0]),
            parts=parts,
            proposals=Proposals(torch.zeros(1, 6, 4), torch.zeros(1, 6)),
            parts_used=3,
        )
        assert output.assembled.item() == pytest.approx((1 + 5 + 2 + 3 + 4) / 5)

    def test_sex_decides_with_sex_as_input(self, batch: tuple[Tensor, Tensor]) -> None:
        images, sex = batch
        model = small().eval()
        with torch.inference_mode():
            assert not torch.allclose(model(images, sex).whole, model(images, 1 - sex).whole)

    def test_given_proposals_replace_the_agents(self, batch: tuple[Tensor, Tensor]) -> None:
        model = small().eval()
        boxes = torch.tensor([[0.0, 0, 40, 40], [50, 50, 90, 90], [80, 80, 128, 128]])
        given = Proposals(boxes.expand(4, -1, -1), torch.zeros(4, 3))
        with torch.inference_mode():
            own, other = model(*batch), model(*batch, proposals=given)
        assert torch.equal(other.proposals.boxes, given.boxes)
        assert torch.allclose(own.whole, other.whole)
        assert not torch.allclose(own.parts, other.parts)

    def test_evaluation_agrees_with_training_mode(self, batch: tuple[Tensor, Tensor]) -> None:
        model = small()
        freeze_batch_norm(model)  # dropout is 0: nothing else differs between the modes
        with torch.inference_mode():
            training = model(*batch)
            evaluation = model.eval()(*batch)
        assert torch.allclose(training.assembled, evaluation.assembled, atol=1e-5)


class TestInitialisation:
    def test_heads_come_along_without_the_attention_agent(self, tmp_path: Path) -> None:
        torch.manual_seed(1)
        trained = ARCNN("resnet18", size=128, part_size=64, sexes=2)
        save_file(trained.state_dict(), tmp_path / "trained.safetensors")
        model = small()
        before = model.attention.scorers[0].weight.clone()
        model.load_heads(tmp_path / "trained.safetensors")
        ours, theirs = model.recognition, trained.recognition
        assert torch.equal(ours.part_head.linear.weight, theirs.part_head.linear.weight)
        assert torch.equal(ours.concatenated_head.linear.bias, theirs.concatenated_head.linear.bias)
        assert torch.equal(model.attention.scorers[0].weight, before)

    def test_a_head_of_another_k_is_left_as_it_is(self, tmp_path: Path) -> None:
        trained = ARCNN("resnet18", size=128, part_size=64, parts_used=1, sexes=2)
        torch.nn.init.ones_(trained.recognition.concatenated_head.linear.bias)
        model = small()
        linear = model.recognition.concatenated_head.linear
        before = linear.weight.clone()
        save_file(trained.state_dict(), tmp_path / "trained.safetensors")
        model.load_heads(tmp_path / "trained.safetensors")
        assert torch.equal(linear.weight, before)
        assert not linear.bias.any()  # nor its bias, whose shape is that of any K
        whole = trained.recognition.whole_head.linear.weight
        assert torch.equal(model.recognition.whole_head.linear.weight, whole)

    def test_the_head_of_a_single_stage_network_is_that_of_all(self, tmp_path: Path) -> None:
        torch.manual_seed(1)
        trained = FineTuned("resnet18", sexes=2).eval()
        torch.nn.init.normal_(trained.head.linear.bias)
        save_file(trained.state_dict(), tmp_path / "trained.safetensors")
        model = small().eval()
        model.backbone.load_initialisation(tmp_path / "trained.safetensors")
        heads = model.load_heads(tmp_path / "trained.safetensors")
        agent = model.recognition
        assert heads == [agent.whole_head, agent.part_head, agent.concatenated_head]
        images, sex = torch.randn(3, 3, 128, 128), torch.tensor([0, 1, 1])
        with torch.inference_mode():
            expected, found = trained(images, sex).assembled, model(images, sex)
        torch.testing.assert_close(found.whole, expected)
        torch.testing.assert_close(found.concatenated, expected)
        assert torch.equal(agent.part_head.linear.weight, trained.head.linear.weight)

    @pytest.mark.parametrize(
        ("sexes", "more"), [(1, "backbone.more"), (2, "fully_connected.0.weight")]
    )
    def test_the_head_of_other_sexes_or_features_stays_there(
        self, tmp_path: Path, sexes: int, more: str
    ) -> None:
        state = FineTuned("resnet18", sexes=sexes).state_dict() | {more: torch.zeros(1)}
        save_file(state, tmp_path / "trained.safetensors")
        model = small()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        assert model.load_heads(tmp_path / "trained.safetensors") == []
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name])

    @pytest.mark.parametrize("sex", [0, 1])
    def test_a_network_of_one_sex_is_that_of_both(
        self, batch: tuple[Tensor, Tensor], sex: int
    ) -> None:
        both = small().eval()
        one = ARCNN("resnet18", size=128, part_size=64).eval()
        one.load_state_dict(both.of_one_sex(sex))
        images = batch[0]
        with torch.inference_mode():
            expected, made = both(images, torch.full((len(images),), sex)), one(images)
        assert torch.equal(made.proposals.boxes, expected.proposals.boxes)
        assert torch.allclose(made.assembled, expected.assembled, atol=1e-6)


class TestGradients:
    def gradients(self, batch: tuple[Tensor, Tensor], term: str) -> dict[str, bool]:
        model = small()
        output = model(*batch)
        model.loss(output, torch.tensor([-1.0, 0.0, 0.5, 1.0]))[term].backward()
        return {name: p.grad is not None for name, p in model.named_parameters()}

    def test_ranking_reaches_the_attention_agent_and_nothing_else(
        self, batch: tuple[Tensor, Tensor]
    ) -> None:
        reached = self.gradients(batch, "attention")
        assert {name for name, hit in reached.items() if hit} == {
            name for name in reached if name.startswith("attention.")
        }

    def test_recognition_reaches_everything_but_the_attention_agent(
        self, batch: tuple[Tensor, Tensor]
    ) -> None:
        reached = self.gradients(batch, "recognition")
        assert {name for name, hit in reached.items() if not hit} == {
            name for name in reached if name.startswith("attention.")
        }

    def test_ranking_loss_detaches_the_deviations(self) -> None:
        scores = torch.zeros(2, 3, requires_grad=True)
        deviations = torch.rand(2, 3, requires_grad=True)
        ranking_loss(scores, deviations).backward()
        assert scores.grad is not None
        assert deviations.grad is None


class TestLoss:
    def test_ranking_by_hand(self) -> None:
        # D_1 > D_2 > D_3: pairs (1, 2), (1, 3), (2, 3), each phi(S_better - S_worse).
        scores = torch.tensor([[0.5, 0.2, 2.0]])
        deviations = torch.tensor([[3.0, 2.0, 1.0]])
        expected = (1 - (0.2 - 0.5)) + 0 + 0
        assert ranking_loss(scores, deviations).item() == pytest.approx(expected)

    def test_ranking_takes_all_ordered_pairs(self) -> None:
        # In order already, but closer than the margin: the printed i < j would leave this out.
        assert ranking_loss(
            torch.tensor([[0.3, 0.1]]), torch.tensor([[1.0, 2.0]])
        ).item() == pytest.approx(0.8)

    def test_ranking_averages_over_the_batch(self) -> None:
        scores, deviations = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 2.0]])
        one = ranking_loss(scores, deviations)
        four = ranking_loss(scores.expand(4, -1), deviations.expand(4, -1))
        assert one.item() == pytest.approx(four.item())

    def test_ranking_ignores_ties(self) -> None:
        assert ranking_loss(torch.tensor([[0.0, 5.0]]), torch.tensor([[1.0, 1.0]])).item() == 0

    def test_a_step_moves_scores_toward_equation_2(self) -> None:
        deviations = torch.tensor([[0.1, 0.9, 0.5, 0.3]])
        scores = torch.tensor([[-1.0, 1.0, 0.5, -0.5]], requires_grad=True)
        before = scores.detach().clone()
        ranking_loss(scores, deviations).backward()
        after = (scores - 0.1 * scores.grad).detach()
        moved = (after - before)[0]
        assert moved[0] > 0  # the best region
        assert moved[1] < 0  # the worst

    def test_steps_reach_the_order_of_equation_2(self) -> None:
        torch.manual_seed(0)
        agent = AttentionAgent(channels=8, size=128, parts=4)
        features, sex = torch.randn(2, 8, 4, 4), torch.zeros(2, dtype=torch.long)
        # The toy's deviation: a region is the better the nearer it is to its image's target.
        targets = torch.tensor([[32.0, 32.0], [96.0, 64.0]])
        optimizer = torch.optim.Adam(agent.parameters(), lr=0.01)

        def deviations_of(proposals: Proposals) -> Tensor:
            centres = (proposals.boxes[..., :2] + proposals.boxes[..., 2:]) / 2
            return (centres - targets[:, None]).norm(dim=-1)

        before = deviations_of(agent(features, sex))
        for _ in range(60):
            proposals = agent(features, sex)
            optimizer.zero_grad()
            ranking_loss(proposals.scores, deviations_of(proposals)).backward()
            optimizer.step()
        after = deviations_of(agent(features, sex))
        assert (after.diff(dim=1) >= 0).all()  # D in ascending order where S descends
        assert (after[:, 0] <= before[:, 0]).all()

    def test_equation_4(self) -> None:
        model = small(sexes=1)
        ages = torch.tensor([0.0, 1.0])
        output = ARCNNOutput(
            whole=torch.tensor([1.0, 1.0]),
            concatenated=torch.tensor([0.0, 3.0]),
            parts=torch.tensor([[0.5] * 6, [1.5] * 6]),
            proposals=Proposals(torch.zeros(2, 6, 4), torch.zeros(2, 6)),
            parts_used=3,
        )
        losses = model.loss(output, ages)
        assert losses["recognition"].item() == pytest.approx((1 + 0) / 2 + (0 + 2) / 2 + 6 * 0.5)
        assert losses["attention"].item() == 0
