"""Images that get no age: what is unlike the training images, and what is turned or inverted.

And warnings: of hands that the image shows a part of only, and of right or mirrored ones.

An image is known by what the network's middle stages make of it, which the forward pass computes
anyway. How far it is from the training images tells what is unlike them: the distance in the
principal components of their features and from the space that these span (Moghaddam and Pentland,
"Probabilistic Visual Learning for Object Representation", PAMI 1997; with features of a network:
Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples", NeurIPS 2018).
Which way up an image is, a linear discriminant of the features' coarse layout tells, and others
whether an edge cuts a hand off and whether it is mirrored. All are learnt from training images
alone, upright, turned, inverted, cut and mirrored; no image of anything else takes part.

Shapes below: N images, D features, E features of the layout, P poses, Q edges and none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from boneage.errors import InputError
from boneage.models.registry import BACKBONES

if TYPE_CHECKING:
    from torch import Tensor, nn

COMPONENTS = 96
"""Principal components of a pose's features."""
LAYOUT_COMPONENTS = 96
"""Principal components of the layout, in which poses are told apart."""
RIDGE = 0.05  # added to the layout's covariance, share of its mean variance
FLOOR = 0.01  # added to a standard deviation before its logarithm
PRIOR_LEAD = 7.0
"""By how much another pose must be likelier than upright: e^7 to 1, as turned films are rare."""

NO_HAND = (
    "The image does not look like a radiograph of a hand. If it is one, crop it to one whole hand "
    "with the fingers up, and make sure that the bones are brighter than the background."
)
NOT_FRONTAL = (
    "The image does not look like the frontal images of adults that these weights were trained on. "
    "If it is one, show it upright, and with bones brighter than soft tissue."
)
_TURNS = ("", "turned by 90 degrees clockwise", "upside down", "turned by 90 degrees anticlockwise")
_INVERTED = "shown with dark bones"
REMEDIES = {
    "hand": (
        "turn it upright, fingers up",
        "show it with bright bones on a dark background",
        " (on the page under “Turn, crop, invert”)",
    ),
    "body": (
        "turn the image upright, head up",
        "show it with bones brighter than soft tissue",
        "",
    ),
}
"""By subject: how an image is turned upright, how inverted, and where that is done."""


@dataclass(frozen=True)
class Pose:
    """How an image stands.

    Attributes:
        quarters: clockwise quarter turns from upright.
        inverted: dark bones on a bright ground.
        subject: what the image shows, a key of :data:`REMEDIES`.
    """

    quarters: int
    inverted: bool
    subject: str = "hand"

    @property
    def upright(self) -> bool:
        """As it should be."""
        return not self.quarters and not self.inverted

    def invert(self, pixels: np.ndarray) -> np.ndarray:
        """The grey values of this pose from those with bright bones, (H, W) of the same type."""
        return pixels.max() - pixels if self.inverted else pixels

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """An upright image with bright bones, (H, W), brought into this pose."""
        return np.rot90(self.invert(pixels), -self.quarters)

    def right(self, pixels: np.ndarray) -> np.ndarray:
        """An image in this pose, (H, W), brought upright with bright bones."""
        return np.ascontiguousarray(np.rot90(self.invert(pixels), self.quarters))

    @property
    def description(self) -> str:
        """In words, to follow "the hand is" or "the body is"; empty for the upright pose."""
        return " and ".join(filter(None, (_TURNS[self.quarters], _INVERTED * self.inverted)))

    @property
    def _remedy(self) -> str:
        turn, invert, place = REMEDIES[self.subject]
        return ", and ".join([turn] * bool(self.quarters) + [invert] * self.inverted) + place

    @property
    def reason(self) -> str:
        """Why an image in this pose gets no age, and what to do."""
        return (
            f"The {self.subject} seems to be {self.description}: {self._remedy}, then assess it "
            "again."
        )

    @property
    def warning(self) -> str:
        """What to know about an image that may be in this pose."""
        return f"The {self.subject} may be {self.description}. If it is: {self._remedy}."


@dataclass(frozen=True)
class Cut:
    """An edge of the image that may cut a hand off.

    Attributes:
        edge: a field of :class:`boneage.framing.Framing`.
    """

    edge: str

    @property
    def warning(self) -> str:
        """What to know about a hand that this edge cuts off."""
        return (
            f"The hand seems to be cut off at the {self.edge} edge of the image. The assessment "
            "expects a whole hand with its wrist."
        )


CUTS = tuple(Cut(edge) for edge in ("top", "bottom", "left", "right"))
"""Every edge."""

MIRRORED = (
    "This seems to be a right hand, or a mirrored image of a left one. Bone age is read from left "
    "hands; check that the side (left or right) is correct."
)

POSES = tuple(Pose(quarters, inverted) for inverted in (False, True) for quarters in range(4))
"""All poses of a hand that are told apart; the upright one is the first."""
BODY_POSES = tuple(replace(pose, subject="body") for pose in POSES)
"""Likewise of a frontal image of an adult."""


@contextmanager
def tapped(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Keep what the middle stages of a network's backbone make of the next batch.

    Only the backbone's first call counts: later ones are of parts.

    Yields:
        The (N, C, h, w) outputs by stage, once the network has run.
    """
    backbone = model.backbone
    found: dict[str, Tensor] = {}

    def keep(stage: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            found.setdefault(stage, output.detach())

        return hook

    handles = [
        backbone.get_submodule(stage).register_forward_hook(keep(stage))
        for stage in BACKBONES[backbone.name]
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Features:
    """What images are known by.

    Attributes:
        content: (N, D) float32: mean and logarithm of the SD of every channel of both stages.
        layout: (N, E) float32: mean of every channel of the later stage in each quarter.
    """

    content: np.ndarray
    layout: np.ndarray

    @classmethod
    def of(cls, stages: Mapping[str, Tensor]) -> Features:
        """From what :func:`tapped` yielded."""
        from torch import cat
        from torch.nn.functional import adaptive_avg_pool2d

        maps = [stage.float() for stage in stages.values()]
        content = [
            values
            for stage in maps
            for values in (stage.mean((2, 3)), (stage.std((2, 3)) + FLOOR).log())
        ]
        layout = adaptive_avg_pool2d(maps[-1], 2).flatten(1)
        return cls(cat(content, 1).cpu().numpy(), layout.cpu().numpy())

    @classmethod
    def joined(cls, parts: Sequence[Features]) -> Features:
        """Those of several batches, one after the other."""
        return cls(
            np.concatenate([part.content for part in parts]),
            np.concatenate([part.layout for part in parts]),
        )


@dataclass(frozen=True)
class Judgement:
    """What is to be told of an image.

    Attributes:
        reason: why it gets no age; ``None`` if it gets one.
        warnings: what may make the age wrong.
    """

    reason: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """Judges images by their features: foreign and turned ones get no age.

    Attributes:
        threshold: distance from which an image is foreign.
        centre, scale: (P, D), mean and SD of the content of each pose's training images.
        axes: (P, D, components), principal axes of the scaled content.
        spread: (P, components), variance along them.
        rest: (P,), mean square of what they leave out.
        discriminant: (E + 1, P), scores of the poses; the last row is their constant.
    """

    threshold: float
    centre: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    spread: np.ndarray
    rest: np.ndarray
    discriminant: np.ndarray

    ARRAYS: ClassVar = ("centre", "scale", "axes", "spread", "rest", "discriminant")
    LEADS: ClassVar[tuple[str, ...]] = ()
    FOREIGN: ClassVar[str] = NOT_FRONTAL
    POSES: ClassVar[tuple[Pose, ...]] = BODY_POSES

    @property
    def entry(self) -> dict[str, float]:
        """What a weights config keeps of it."""
        return {name: getattr(self, name) for name in ("threshold", *self.LEADS)}

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What a weights folder keeps beside the config."""
        return {name: getattr(self, name) for name in self.ARRAYS}

    def leads(self, features: Features) -> np.ndarray:
        """By how much every pose leads upright, as logarithm of the odds, (N, P)."""
        return _leads(features, self.discriminant)

    def distances(self, features: Features, pose: np.ndarray) -> np.ndarray:
        """Distance of each image from the training images in a pose, (N,); about 1 for these.

        Args:
            features: of N images.
            pose: (N,) int, index into :data:`POSES`.
        """
        found = np.empty(len(pose))
        for index in np.unique(pose):
            chosen = pose == index
            z = (features.content[chosen] - self.centre[index]) / self.scale[index]
            along = z @ self.axes[index]
            outside = (z**2).sum(1) - (along**2).sum(1)
            inside = (along**2 / self.spread[index]).mean(1)
            found[chosen] = (inside + outside / self.rest[index]) / 2
        return found

    def poses(self, features: Features) -> tuple[np.ndarray, np.ndarray]:
        """The likeliest pose of each image, and the one it is judged in, indices into POSES, (N,).

        Another pose than upright is likelier where the image is nearer to the training images in
        that pose, or with a lead of :data:`PRIOR_LEAD`; it is judged in it only with both.
        """
        leads = self.leads(features)
        best = leads.argmax(1)
        upright = np.zeros_like(best)
        nearer = self.distances(features, best) < self.distances(features, upright)
        ahead = leads.max(1) > PRIOR_LEAD
        return np.where(nearer | ahead, best, upright), np.where(nearer & ahead, best, upright)

    def judge(self, features: Features) -> list[Judgement]:
        """Of each image why it gets no age, or what to warn of."""
        best, poses = self.poses(features)
        foreign = self.distances(features, poses) > self.threshold
        return [
            Judgement(self.FOREIGN)
            if far
            else Judgement(self.POSES[pose].reason)
            if pose
            else Judgement(None, (self.POSES[likeliest].warning,))
            if likeliest
            else Judgement(None, doubts)
            for far, pose, likeliest, doubts in zip(
                foreign, poses, best, self._doubts(features), strict=True
            )
        ]

    def _doubts(self, features: Features) -> list[tuple[str, ...]]:
        """What to warn of where images are upright."""
        return [()] * len(features.content)


@dataclass(frozen=True)
class HandRefusal(Refusal):
    """Judges hands, and warns of those that are cut off or mirrored.

    Attributes:
        cut: (E + 1, Q), scores of whole hands and of those cut off by each of :data:`CUTS`; the
            last row is their constant.
        mirrored: (E + 1, 2), likewise of hands as they are and mirrored.
        cut_lead, mirrored_lead: by how much the score of a cut or of a mirrored hand has to lead
            for a warning.
    """

    cut: np.ndarray
    mirrored: np.ndarray
    cut_lead: float = np.inf
    mirrored_lead: float = np.inf

    ARRAYS: ClassVar = (*Refusal.ARRAYS, "cut", "mirrored")
    LEADS: ClassVar = ("cut_lead", "mirrored_lead")
    FOREIGN: ClassVar[str] = NO_HAND
    POSES: ClassVar[tuple[Pose, ...]] = POSES

    def cut_leads(self, features: Features) -> np.ndarray:
        """By how much every one of :data:`CUTS` leads whole hands, (N, Q - 1)."""
        return _leads(features, self.cut)[:, 1:]

    def mirrored_leads(self, features: Features) -> np.ndarray:
        """By how much a mirrored hand leads one as it should be, (N,)."""
        return _leads(features, self.mirrored)[:, 1]

    def _doubts(self, features: Features) -> list[tuple[str, ...]]:
        cuts, mirrored = self.cut_leads(features), self.mirrored_leads(features)
        return [
            (CUTS[cut.argmax()].warning,) * bool(cut.max() > self.cut_lead)
            + (MIRRORED,) * bool(mirror > self.mirrored_lead)
            for cut, mirror in zip(cuts, mirrored, strict=True)
        ]


KINDS: Mapping[str, type[Refusal]] = {"hand": HandRefusal, "adult": Refusal}
"""By task."""


def refusal_of(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Refusal | None:
    """That of a weights folder; ``None`` where it has none.

    Raises:
        InputError: if it lacks something, as it may come from another version.
    """
    if not (entry := config.get("refusal")):
        return None
    kind = KINDS[config["task"]]
    if not (entry.keys() >= set(kind.LEADS) and arrays.keys() >= set(kind.ARRAYS)):
        raise InputError(
            "The weights were calibrated by another version of boneage: calibrate them anew "
            "(python -m boneage calibrate WEIGHTS --data DIR)."
        )
    leads = {name: entry[name] for name in kind.LEADS}
    return kind(entry["threshold"], *(arrays[name] for name in kind.ARRAYS), **leads)


def fit(poses: Sequence[Features], threshold: float = np.inf) -> Refusal:
    """Learn from training images in every pose.

    Args:
        poses: in the order of :data:`POSES`.
        threshold: distance from which an image is foreign.
    """
    return Refusal(threshold, *_of_poses(poses))


def fit_hands(
    poses: Sequence[Features],
    cuts: Sequence[Features],
    mirrored: Features,
    threshold: float = np.inf,
) -> HandRefusal:
    """Likewise from hands in every pose, with every cut, and mirrored.

    Args:
        poses: as for :func:`fit`.
        cuts: of upright hands, in the order of :data:`CUTS`.
        mirrored: of upright hands.
        threshold: distance from which an image is no hand.
    """
    upright = poses[0].layout
    cut = _discriminant([upright, *(hands.layout for hands in cuts)])
    mirror = _discriminant([upright, mirrored.layout])
    return HandRefusal(threshold, *_of_poses(poses), cut, mirror)


def _of_poses(poses: Sequence[Features]) -> list[np.ndarray]:
    """The arrays of a :class:`Refusal`."""
    models = [_principal(pose.content) for pose in poses]
    arrays = [np.stack(array).astype(np.float32) for array in zip(*models, strict=True)]
    return [*arrays, _discriminant([pose.layout for pose in poses])]


def _leads(features: Features, discriminant: np.ndarray) -> np.ndarray:
    scores = features.layout @ discriminant[:-1] + discriminant[-1]
    return scores - scores[:, :1]


def _principal(content: np.ndarray) -> tuple[np.ndarray, ...]:
    """Centre, scale, axes, spread along them and mean square beside them of one pose's images."""
    centre, scale = content.mean(0), content.std(0) + 1e-3
    z = (content - centre) / scale
    _, lengths, axes = np.linalg.svd(z, full_matrices=False)
    variance = lengths**2 / len(z)
    count = min(COMPONENTS, len(variance) // 2)  # of few images something has to be left out, too
    return centre, scale, axes[:count].T, variance[:count], variance[count:].sum()


def _discriminant(layouts: Sequence[np.ndarray]) -> np.ndarray:
    """Fisher's linear discriminant of the poses on principal components, (E + 1, P)."""
    every = np.concatenate(layouts).astype(np.float64)
    pose = np.repeat(np.arange(len(layouts)), [len(layout) for layout in layouts])
    centre, scale = every.mean(0), every.std(0) + 1e-3
    axes = np.linalg.svd((every - centre) / scale, full_matrices=False)[2][:LAYOUT_COMPONENTS]
    to_axes = axes.T / scale[:, None]
    z = (every - centre) @ to_axes
    means = np.stack([z[pose == index].mean(0) for index in range(len(layouts))])
    within = np.cov((z - means[pose]).T)
    within += RIDGE * np.trace(within) / len(within) * np.eye(len(within))
    weights = np.linalg.solve(within, means.T)
    constant = -(means.T * weights).sum(0) / 2
    back = to_axes @ weights
    return np.vstack([back, constant - centre @ back]).astype(np.float32)
