"""From decoded radiographs to assessments, beside the backbone that none can do without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import Measurement, Outcome, alternate

if TYPE_CHECKING:
    from torch import Tensor, nn

    from boneage.predictor import Predictor

DATA = Path(__file__).parents[1] / "data"
LAYER = "backbone.features.13"  # the last of stride 16; behind it lie five blocks
TARGET = 1.15


def run(repeats: int = 15) -> Iterator[Outcome]:
    """Batches of 1 and 16, a full-size film, and heat maps, with the released weights."""
    from boneage import images
    from boneage.memory import keep_freed_memory
    from boneage.predictor import Predictor

    keep_freed_memory()  # as `boneage assess` does; without, both sides pay for their pages anew
    predictor = Predictor.load(device="cpu")
    bare = released_backbone()
    copies = [images.read(path) for path in sorted((DATA / "rsna-test" / "images").iterdir())[:16]]
    film = images.read(min((DATA / "rsna-fullsize" / "images").iterdir()))
    for count, rounds in ((1, 2 * repeats), (16, max(5, repeats // 3))):
        batch = copies[:count]
        tasks = {
            "assessed": lambda batch=batch: predictor.assess(batch, "F"),
            "with its heat map": lambda batch=batch: predictor.assess(batch, "F", heat_map=True),
            "bare": backbone_alone(bare, predictor, count),
            "folded": backbone_alone(predictor.model.backbone, predictor, count),
        }
        seconds = alternate(tasks, rounds)
        many = "a radiograph of 299 px" if count == 1 else f"{count} radiographs of 299 px"
        many += f", {predictor.precision}"
        floor = Measurement("backbone as trained", seconds["bare"])
        folded = Measurement("backbone, normalisation folded", seconds["folded"])
        for what in ("assessed", "with its heat map"):
            yield Outcome(many, Measurement(what, seconds[what]), floor, at_most=TARGET)
        yield Outcome(many, Measurement("assessed", seconds["assessed"]), folded)
    alone = backbone_alone(bare, predictor, 1)
    size = f"a film of {film.width} x {film.height} px, {predictor.precision}"
    seconds = alternate(
        {
            "assessed": lambda: predictor.assess(film, "F"),
            "shrunk and bare": lambda: (predictor.preprocess.shrink(film.pixels), alone()),
            "explained": lambda: predictor.assess(copies[0], "F", heat_map=LAYER),
            "one backward pass": backbone_and_gradient(bare, predictor),
            "folded, one backward pass": backbone_and_gradient(predictor.model.backbone, predictor),
        },
        2 * repeats,
    )
    floor = Measurement("shrunk by Pillow, backbone as trained", seconds["shrunk and bare"])
    yield Outcome(size, Measurement("assessed", seconds["assessed"]), floor, at_most=TARGET)
    explained = Measurement("with its heat map", seconds["explained"])
    behind = "one backward pass behind the layer"
    floor = Measurement(f"backbone as trained, {behind}", seconds["one backward pass"])
    folded = Measurement(f"normalisation folded, {behind}", seconds["folded, one backward pass"])
    yield Outcome(f"heat map of {LAYER}", explained, floor, at_most=TARGET)
    yield Outcome(f"heat map of {LAYER}", explained, folded)


def released_backbone() -> nn.Module:
    """The backbone of the released hand weights as it was trained."""
    import torch

    from boneage import hub
    from boneage.predictor import released

    model, _ = hub.load(released("hand"))
    return model.backbone.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def inputs(predictor: Predictor, count: int) -> tuple[Tensor, Tensor]:
    """What the backbone sees of ``count`` radiographs: themselves and K parts of each."""
    import torch

    size, part = predictor.model.size, predictor.model.part_size
    whole = torch.rand(count, 3, size, size)
    parts = torch.rand(count * predictor.model.recognition.parts_used, 3, part, part)
    last = torch.channels_last
    return whole.contiguous(memory_format=last), parts.contiguous(memory_format=last)


def backbone_alone(
    backbone: nn.Module, predictor: Predictor, count: int
) -> Callable[[], list[Tensor]]:
    """The floor: nothing but the backbone, in the predictor's precision."""
    import torch

    from boneage.precision import computing_in

    seen = inputs(predictor, count)

    def compute() -> list[Tensor]:
        with torch.inference_mode(), computing_in(predictor.device, predictor.precision):
            return [backbone(images) for images in seen]

    return compute


def backbone_and_gradient(backbone: nn.Module, predictor: Predictor) -> Callable[[], Tensor]:
    """The floor of a heat map: one backward pass, of the whole image alone, to the layer."""
    import torch

    from boneage.precision import computing_in

    whole, parts = inputs(predictor, 1)
    stages = list(backbone.features)
    behind = int(LAYER.rpartition(".")[2]) + 1

    def compute() -> Tensor:
        with computing_in(predictor.device, predictor.precision):
            with torch.no_grad():
                backbone(parts)
                kept = torch.nn.Sequential(*stages[:behind])(whole)
            kept.requires_grad_()
            with torch.enable_grad():
                age = torch.nn.Sequential(*stages[behind:])(kept.clone()).mean()
            (gradient,) = torch.autograd.grad(age, kept)
        return gradient

    return compute
