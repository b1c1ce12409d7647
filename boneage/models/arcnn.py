"""AR-CNN: bone parts found without box labels, the age assessed from them and the whole hand.

Liu et al., "Extract Bone Parts Without Human Prior: End-to-end Convolutional Neural Network for
Pediatric Bone Age Assessment", MICCAI 2019. Where the paper is silent (feature levels, NMS
threshold, layers of the scoring network) this follows the model's direct ancestor, the Navigator
of NTS-Net (Yang et al., "Learning to Navigate for Fine-grained Classification", ECCV 2018).

Shapes below: N images, A anchors, M proposed parts, K parts used, L features, S input side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou, clip_boxes_to_image

from boneage.errors import InputError
from boneage.models.backbones import AgeHead, Backbone, of_sex, pool, read_tensors
from boneage.precision import in_fp32

STRIDES = (32, 64, 128)
RATIOS = (1.0, 3 / 2, 2 / 3)


@dataclass(frozen=True)
class Proposals:
    """The attention agent's regions, in descending score order.

    Only where suppression leaves fewer than M anchors do suppressed ones follow, again in
    descending order but perhaps scored higher than the last one before them.

    Attributes:
        boxes: (N, M, 4) x0, y0, x1, y1 in input pixels, inside the image.
        scores: (N, M) objectness, differentiable.
    """

    boxes: Tensor
    scores: Tensor


@dataclass(frozen=True)
class ARCNNOutput:
    """Standardised ages of every component, and the regions they came from.

    Attributes:
        whole: (N,) A_X, from the whole radiograph.
        concatenated: (N,) A_C, from the radiograph and the top K parts together.
        parts: (N, M) A_R1 .. A_RM, best score first; in evaluation A_R1 .. A_RK.
        proposals: the regions and their scores, M in training and K in evaluation.
        parts_used: K.
    """

    whole: Tensor
    concatenated: Tensor
    parts: Tensor
    proposals: Proposals
    parts_used: int

    @property
    def assembled(self) -> Tensor:
        """A_asb (N,), the mean of A_C, A_X and the top K parts (Eq. 1)."""
        top = self.parts[:, : self.parts_used].sum(dim=1)
        return (self.concatenated + self.whole + top) / (self.parts_used + 2)

    @property
    def components(self) -> dict[str, Tensor]:
        """Every component's standardised age by the paper's names, each (N,)."""
        parts = {f"R{i + 1}": self.parts[:, i] for i in range(self.parts_used)}
        return {"X": self.whole, "C": self.concatenated, **parts, "assembled": self.assembled}


def anchors(size: int, scales: Sequence[float]) -> Tensor:
    """Anchor boxes of a square input, clipped to it.

    One scale a level: a feature level of stride s has ceil(size / s) cells a side, centred at
    s / 2, 3 s / 2, ...; each cell has one anchor of area scale ** 2 for each of
    :data:`RATIOS` (height : width). At 448 px and three levels that makes 3 * (14 ** 2 + 7 ** 2
    + 4 ** 2) = 783 anchors, ordered by level, ratio, row and column.

    Args:
        size: side of the input, px.
        scales: anchor side in px for each of :data:`STRIDES`.

    Returns:
        (A, 4) x0, y0, x1, y1 in input pixels.
    """
    levels = []
    for stride, scale in zip(STRIDES, scales, strict=True):
        centre = (torch.arange(-(-size // stride)) + 0.5) * stride
        ratio, y, x = torch.meshgrid(torch.tensor(RATIOS), centre, centre, indexing="ij")
        half_height, half_width = scale * ratio.sqrt() / 2, scale / ratio.sqrt() / 2
        level = torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], -1)
        levels.append(level.reshape(-1, 4))
    return clip_boxes_to_image(torch.cat(levels), (size, size))


class AttentionAgent(nn.Module):
    """A region proposal network that learns from how well its regions are assessed.

    Every anchor gets one objectness score and no box regression: nothing supervises a box. The
    feature map is detached, so the ranking loss reaches this agent and nothing else.

    Args:
        channels: channels of the backbone's last feature map.
        size: side of the square input, px.
        scales: anchor side in px for the feature levels of stride 32, 64 and 128.
        parts: M, regions proposed.
        sexes: 1, or 2 for one set of scores a sex.
        iou_threshold: regions that overlap a better one by more are suppressed.
        hidden: channels of the scoring convolutions.
    """

    def __init__(
        self,
        channels: int,
        size: int = 448,
        scales: Sequence[float] = (48, 96, 192),
        parts: int = 6,
        sexes: int = 1,
        iou_threshold: float = 0.25,
        hidden: int = 128,
    ) -> None:
        super().__init__()
        self.parts = parts
        self.levels = nn.ModuleList(
            nn.Conv2d(channels if i == 0 else hidden, hidden, 3, 1 if i == 0 else 2, 1)
            for i in range(len(STRIDES))
        )
        self.scorers = nn.ModuleList(nn.Conv2d(hidden, len(RATIOS) * sexes, 1) for _ in STRIDES)
        boxes = anchors(size, scales)
        if len(boxes) < parts:
            raise InputError(f"{size} px give {len(boxes)} anchors, fewer than {parts} parts.")
        # Anchors never move, so who suppresses whom is known beforehand; both follow the
        # module to its device and neither is a weight.
        self.register_buffer("anchors", boxes, persistent=False)
        self.register_buffer("suppresses", box_iou(boxes, boxes) > iou_threshold, persistent=False)

    def score(self, features: Tensor, sex: Tensor | None = None) -> Tensor:
        """Objectness of every anchor: features (N, C, h, w), sex (N,) int64 -> (N, A)."""
        features = features.detach()
        scores = []
        for convolution, scorer in zip(self.levels, self.scorers, strict=True):
            features = F.relu(convolution(features))
            level = in_fp32(scorer, features)
            level = level.unflatten(1, (-1, len(RATIOS)))  # (N, sexes, ratios, h, w)
            scores.append(of_sex(level.flatten(2).transpose(1, 2), sex))
        return torch.cat(scores, dim=1)

    def propose(self, scores: Tensor) -> Proposals:
        """Greedy non-maximum suppression on scores (N, A), then the top M regions.

        The same regions, in the same order, as torchvision's ``nms`` on each image, for the whole
        batch at once and without leaving the device. Where suppression leaves fewer than M
        anchors, the best of the suppressed ones follow.
        """
        ranked = scores.detach().clone()
        suppressed = torch.zeros_like(ranked, dtype=torch.bool)
        below_all = ranked.max() - ranked.min() + 1
        chosen = []
        for _ in range(self.parts):  # greedy: each choice depends on those before it
            best = (ranked - below_all * suppressed).argmax(dim=1)
            chosen.append(best)
            suppressed |= self.suppresses[best]
            ranked.scatter_(1, best[:, None], float("-inf"))  # nothing is chosen twice
        index = torch.stack(chosen, dim=1)
        return Proposals(self.anchors[index], scores.gather(1, index))

    def forward(self, features: Tensor, sex: Tensor | None = None) -> Proposals:
        """The top M regions of images with these features (N, C, h, w)."""
        return self.propose(self.score(features, sex))


def crop_parts(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """All parts of a batch at once, as torchvision's ``roi_align`` makes them of two samples.

    A pixel of a part is the mean of 2 x 2 bilinear samples. Along each axis that is a weighted sum
    of four lines of the image, which an embedding bag computes: first across, then down. It takes
    a fifth of the time of ``roi_align`` on one processor core, less on several.

    Args:
        images: (N, 1, H, W) float32.
        boxes: (N, M, 4) x0, y0, x1, y1 in pixels of ``images``, inside them.
        size: side of a part, px.

    Returns:
        (N * M, 1, size, size), the parts of the first image first.
    """
    height, width = images.shape[-2:]
    x0, y0, x1, y1 = boxes.flatten(0, 1).T
    image_of = torch.arange(len(boxes), device=boxes.device).repeat_interleave(boxes.shape[1])
    columns = images.mT.flatten(0, 2)  # each is a line
    columns = _resample(columns, image_of, width, x0, x1, size)  # (N * M, size, H)
    rows = columns.mT.flatten(0, 1)
    part_of = torch.arange(len(columns), device=boxes.device)
    return _resample(rows, part_of, height, y0, y1, size)[:, None]


def _resample(
    lines: Tensor, block: Tensor, count: int, low: Tensor, high: Tensor, size: int
) -> Tensor:
    """Lines between two places, resampled across: (blocks * count, L) -> (B, size, L).

    Args:
        lines: in blocks of ``count``.
        block: (B,) int64, the one to look at.
        count: lines a block.
        low, high: (B,) where in the block to begin and to end, px.
        size: lines to make of what lies between.
    """
    steps = (torch.arange(2 * size, device=lines.device) + 0.5) / (2 * size)
    samples = low[:, None] + (high - low)[:, None] * steps - 0.5  # line i is centred at i + 0.5 px
    samples = samples.clamp(0, count - 1)
    first = samples.floor().clamp(max=count - 2)
    share = samples - first
    index = first.long() + count * block[:, None]
    index = torch.stack([index, index + 1], -1).view(-1, 4)  # of the two samples of a line
    weight = torch.stack([1 - share, share], -1).view(-1, 4) / 2
    made = F.embedding_bag(index, lines, per_sample_weights=weight, mode="sum")
    return made.view(len(block), size, -1)


class RecognitionAgent(nn.Module):
    """Assesses the age from the whole radiograph, from each part, and from both together.

    Three heads on pooled features: X: L -> 1, parts: L -> 1 shared by all parts, C: L(K + 1) -> 1.

    Args:
        backbone: the feature extractor shared by the radiograph and the parts.
        parts_used: K.
        sexes: 1, or 2 with sex as an input.
        dropout: probability of dropping a pooled feature in training.
    """

    def __init__(
        self, backbone: Backbone, parts_used: int = 3, sexes: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.parts_used = parts_used
        self.whole_head = AgeHead(backbone.channels, sexes, dropout)
        self.part_head = AgeHead(backbone.channels, sexes, dropout)
        self.concatenated_head = AgeHead(backbone.channels * (parts_used + 1), sexes, dropout)

    def forward(
        self, whole_features: Tensor, parts: Tensor, sex: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Standardised A_X (N,), A_C (N,) and A_R (N, M).

        Args:
            whole_features: feature map of the whole radiographs, (N, L, h, w).
            parts: (N * M, 3, P, P), the parts of the first image first, best score first.
            sex: (N,) int64 in [0, sexes); may be left out with one sex.
        """
        whole = pool(whole_features)
        part_features = pool(self.backbone(parts)).unflatten(0, (len(whole), -1))
        concatenated = torch.cat([whole, part_features[:, : self.parts_used].flatten(1)], dim=1)
        return (
            self.whole_head(whole, sex),
            self.concatenated_head(concatenated, sex),
            self.part_head(part_features, sex),
        )


class ARCNN(nn.Module):
    """The attention-recognition network (Fig. 1 of the paper).

    Args:
        backbone: a name of :data:`boneage.models.registry.BACKBONES`.
        size: side of the square input, px (paper: 448).
        part_size: side the parts are resized to, px (paper: 224).
        scales: anchor sides in input px, one each for strides 32, 64 and 128; ``None`` for the
            paper's {48, 96, 192} at 448 px, in proportion at other sizes.
        parts: M, regions proposed and trained on.
        parts_used: K, regions that assess.
        sexes: 1 for a network a sex (the paper), 2 for one network with sex as an input.
        dropout: probability of dropping a pooled feature in training (paper: none named).
        pretrained: start from torchvision's ImageNet weights.

    Raises:
        InputError: unless 1 <= K <= M and the sizes are at least 32 px.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        size: int = 448,
        part_size: int = 224,
        scales: Sequence[float] | None = None,
        parts: int = 6,
        parts_used: int = 3,
        sexes: int = 1,
        dropout: float = 0.0,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= parts_used <= parts:
            raise InputError(f"K must be between 1 and M; it is {parts_used} of {parts}.")
        if min(size, part_size) < Backbone.stride:
            raise InputError(f"Input and parts need at least {Backbone.stride} px a side.")
        if scales is None:
            scales = [size * share / 448 for share in (48, 96, 192)]
        if len(scales) != len(STRIDES):
            raise InputError(f"There are {len(STRIDES)} anchor scales; {len(scales)} were given.")
        shared = Backbone(backbone, pretrained)
        self.size = size
        self.part_size = part_size
        self.attention = AttentionAgent(shared.channels, size, scales, parts, sexes)
        self.recognition = RecognitionAgent(shared, parts_used, sexes, dropout)

    @property
    def backbone(self) -> Backbone:
        """The feature extractor that both agents look through."""
        return self.recognition.backbone

    @property
    def heat_map_layer(self) -> nn.Module:
        """The layer Grad-CAM explains the whole-image branch at."""
        return self.backbone.heat_map_layer

    def load_heads(self, file: Path) -> list[AgeHead]:
        """Take over heads of another network's safetensors file, but for those of another shape.

        Another AR-CNN's attention agent is left behind: with other anchors it has to learn anew. A
        single-stage network has one head, by which all three begin: X and parts with that head
        itself, C with the same ages as X, since the parts have no weight in it yet.

        Returns:
            The heads that were taken over.
        """
        tensors = read_tensors(file)
        agent = self.recognition
        # Heads of other networks may have that name, but stand on other features.
        is_single_stage = all(name.startswith(("backbone.", "head.")) for name in tensors)
        if is_single_stage and agent.whole_head.take_over(tensors, "head"):
            agent.part_head.take_over(tensors, "head")
            agent.concatenated_head.widen(agent.whole_head)
            return [agent.whole_head, agent.part_head, agent.concatenated_head]
        heads = ((n, module) for n, module in self.named_modules() if isinstance(module, AgeHead))
        return [head for name, head in heads if head.take_over(tensors, name)]

    def of_one_sex(self, sex: int) -> dict[str, Tensor]:
        """State dict of the same network for one sex of the two: that sex's heads and scores.

        Args:
            sex: its index, 0 or 1.
        """
        state = self.state_dict()
        for name, value in state.items():
            if "_head." in name:  # a unit a sex
                state[name] = value[sex : sex + 1]
            elif "scorers." in name:  # the scores of all ratios, one sex after the other
                state[name] = value.unflatten(0, (2, -1))[sex]
        return state

    def forward(
        self, images: Tensor, sex: Tensor | None = None, proposals: Proposals | None = None
    ) -> ARCNNOutput:
        """Assess a batch.

        In evaluation only the K regions that assess are looked at; in training all M, since each
        is a term of the loss.

        Args:
            images: (N, 3, S, S), normalised.
            sex: (N,) int64 in [0, sexes); may be left out with one sex.
            proposals: at least K regions to use in place of the attention agent's (ablations).

        Raises:
            InputError: for images of another size, too few proposals, or a missing sex.
        """
        if images.shape[-2:] != (self.size, self.size):
            raise InputError(f"This network was built for {self.size} x {self.size} px input.")
        features = self.backbone(images)
        if proposals is None:
            proposals = self.attention(features, sex)
        used = self.recognition.parts_used
        if proposals.boxes.shape[1] < used:
            raise InputError(f"{used} regions are assessed; fewer were proposed.")
        if not self.training:
            proposals = Proposals(proposals.boxes[:, :used], proposals.scores[:, :used])
        # The three channels of a radiograph are one: crop one, expand after.
        parts = crop_parts(images[:, :1].float(), proposals.boxes, self.part_size)
        parts = parts.expand(-1, images.shape[1], -1, -1)
        if images.is_contiguous(memory_format=torch.channels_last):
            parts = parts.contiguous(memory_format=torch.channels_last)
        whole, concatenated, assessed = self.recognition(features, parts, sex)
        return ARCNNOutput(whole, concatenated, assessed, proposals, used)

    def loss(self, output: ARCNNOutput, ages: Tensor) -> dict[str, Tensor]:
        """The terms of Eq. 5, to be summed.

        Args:
            output: of :meth:`forward` in training mode.
            ages: standardised ages (N,).

        Returns:
            ``recognition`` (Eq. 4) and ``attention`` (Eq. 3), scalars, averages over the batch.
        """
        deviations = (output.parts - ages[:, None]).abs()
        recognition = (
            F.l1_loss(output.concatenated, ages)
            + F.l1_loss(output.whole, ages)
            + deviations.sum(dim=1).mean()
        )
        attention = ranking_loss(output.proposals.scores, deviations)
        return {"recognition": recognition, "attention": attention}


def ranking_loss(scores: Tensor, deviations: Tensor) -> Tensor:
    """Pairwise hinge ranking of regions (Eq. 3, corrected), averaged over the batch.

    Erratum: as printed, Eq. 3 has phi(S_Ri - S_Rj) where D_Ri > D_Rj, which would raise the score
    of the worse region and contradict Eq. 2 (D_Ri < D_Rj if S_Ri > S_Rj); its lower index "s=i"
    is a misprint; and its i < j would leave out pairs that are in order but closer than the
    margin. Implemented is the sum over all ordered pairs with D_Ri > D_Rj of
    phi(S_Rj - S_Ri), phi(x) = max(1 - x, 0), as in NTS-Net.

    Args:
        scores: S, (N, M), the only argument that gets a gradient.
        deviations: D, (N, M), detached here: the ranking teaches the attention agent alone.
    """
    deviations = deviations.detach()
    worse = deviations[:, :, None] > deviations[:, None, :]  # [n, i, j]: D_i > D_j
    hinge = F.relu(1 - (scores[:, None, :] - scores[:, :, None]))  # phi(S_j - S_i)
    return (hinge * worse).sum(dim=(1, 2)).mean()
