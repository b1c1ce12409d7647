"""Where a network looked: Grad-CAM, and overlays of heat map and attention boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from boneage.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from boneage.predictor import Assessment

# Okabe and Ito's palette (2008), told apart by readers with any colour vision; each box also
# has its own name and line style.
BOX_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7")
DASHES = (None, (9, 5), (3, 4))
Corners = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels of the picture


def grad_cam(layer: nn.Module, forward: Callable[[], Tensor]) -> Tensor:
    """Gradient-weighted class activation map of a regression.

    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization", ICCV 2017, Eqs. 1 and 2, with the predicted age in place of a class score: the
    map shows what raises the age.

    Args:
        layer: the module whose output (N, C, h, w) is weighted.
        forward: runs the network and returns the predicted ages (N,).

    Returns:
        (N, h, w) in [0, 1], each map divided by its maximum; all zero where nothing raises the age.

    Raises:
        InputError: if the layer gives no maps or has no part in the age.
    """
    import torch

    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
        if kept:  # a layer that runs again (AR-CNN's parts) is explained at its first run
            return None
        if not isinstance(output, torch.Tensor):  # an agent's proposals
            return None
        if not output.requires_grad:  # frozen weights: the activations start the gradient
            output = output.detach().requires_grad_()
        kept.append(output)
        return output.clone()  # what follows may change it in place

    handle = layer.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            ages = forward()
            if not kept or kept[0].dim() != 4:
                raise InputError("This layer gives no maps of features; a heat map needs some.")
            gradient = None
            if ages.requires_grad:
                (gradient,) = torch.autograd.grad(ages.sum(), kept[0], allow_unused=True)
            if gradient is None:
                raise InputError("The age does not depend on this layer.")
    finally:
        handle.remove()
    weights = gradient.float().mean(dim=(2, 3), keepdim=True)
    maps = (weights * kept[0].detach()).sum(dim=1).clamp(min=0)
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)


def layer_of(model: nn.Module, name: str | None = None) -> nn.Module:
    """A convolutional layer, or a block of them, by its name; by default the model's own choice.

    Args:
        model: a network of this project.
        name: as in ``named_modules``: ``backbone.layer3``, ``backbone.features.4.conv``.

    Raises:
        InputError: for a name that no module of the network has.
    """
    if name is None:
        return model.heat_map_layer
    try:
        if not name:
            raise AttributeError
        return model.get_submodule(name)
    except AttributeError:
        raise InputError(
            f"The network has no layer {name!r}; its layers have names like backbone.layer4 "
            "(ResNet) or backbone.features.13 (MobileNetV2, VGG)."
        ) from None


def display_image(pixels: np.ndarray, largest: int = 1024) -> Image.Image:
    """A radiograph as a person looks at it: (H, W) uint8 or uint16 to 8-bit RGB.

    Grey values are stretched between their 0.5th and 99.5th percentile; the longer side is shrunk
    to ``largest`` px, never enlarged.
    """
    step = max(1, max(pixels.shape) // (2 * largest))
    low, high = np.percentile(pixels[::step, ::step], (0.5, 99.5))
    image = Image.fromarray(pixels)
    if pixels.dtype == np.uint16:
        image = image.convert("F")
    image.thumbnail((largest, largest), Image.Resampling.BILINEAR)
    grey = (np.asarray(image, np.float32) - low) * (255 / max(high - low, 1))
    return Image.fromarray(np.rint(grey.clip(0, 255)).astype(np.uint8)).convert("RGB")


def overlay_heat_map(image: Image.Image, heat_map: np.ndarray, opacity: float) -> Image.Image:
    """Lay a heat map over an image: dark red to yellow, stronger where the map is higher.

    Args:
        image: RGB, of any size.
        heat_map: (h, w) in [0, 1], over the whole image.
        opacity: 0 (nothing) to 1 at the map's maximum.
    """
    heat = Image.fromarray(heat_map.astype(np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    value = np.asarray(heat).clip(0, 1)[..., None]
    # Lightness rises with the value, so the map reads without colour too.
    colour = np.concatenate([255 * value**0.4, 235 * value**1.5, 60 * value**4], axis=-1)
    share = opacity * value
    mixed = np.asarray(image, np.float32) * (1 - share) + colour * share
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def draw_boxes(
    image: Image.Image, assessment: Assessment, source_size: tuple[int, int]
) -> Image.Image:
    """Draw an assessment's boxes with their names and ages.

    Args:
        image: RGB, the radiograph at any size.
        assessment: whose boxes, in source pixels.
        source_size: width and height of the source in px.

    Returns:
        A copy of ``image``; the best box has a solid line, the next a dashed, the third a dotted.
    """
    image = image.copy()
    draw = ImageDraw.Draw(image)
    across, down = image.width / source_size[0], image.height / source_size[1]
    line = max(2, round(max(image.size) / 250))
    font = ImageFont.load_default(size=max(12, max(image.size) / 36))
    boxes = [
        # At least a pixel each way, on however elongated a film.
        (x0, y0, max(x0, box.x1 * across - 1), max(y0, box.y1 * down - 1))
        for box in assessment.boxes
        for x0, y0 in [(box.x0 * across, box.y0 * down)]
    ]
    colours = [BOX_COLOURS[rank % len(BOX_COLOURS)] for rank in range(len(boxes))]
    # The best box last, so that it lies on top.
    for rank, corners in reversed(list(enumerate(boxes))):
        _rectangle(draw, corners, colours[rank], line, DASHES[rank % len(DASHES)])
    taken: list[Corners] = []
    for rank, corners in enumerate(boxes):
        text = f"R{rank + 1}  {_age(assessment.boxes[rank].age, assessment.unit)}"
        taken.append(_label(draw, corners, text, colours[rank], font, image.size, taken))
    return image


def _age(age: float, unit: str) -> str:
    if unit == "years":
        return f"{age:.1f} y"
    years, months = divmod(round(age), 12)
    return f"{years} y {months} m"


def _rectangle(
    draw: ImageDraw.ImageDraw,
    corners: Corners,
    colour: str,
    width: int,
    dash: tuple[int, int] | None,
) -> None:
    if dash is None:
        draw.rectangle(corners, outline=colour, width=width)
        return
    x0, y0, x1, y1 = corners
    on, off = (length * width / 2 for length in dash)
    for start, end in (
        ((x0, y0), (x1, y0)),
        ((x1, y0), (x1, y1)),
        ((x1, y1), (x0, y1)),
        ((x0, y1), (x0, y0)),
    ):
        a, b = np.array(start), np.array(end)
        length = float(np.hypot(*(b - a)))
        for at in np.arange(0, length, on + off):
            here, there = (a + (b - a) * min(t, length) / length for t in (at, at + on))
            draw.line([tuple(here), tuple(there)], fill=colour, width=width)


def _label(
    draw: ImageDraw.ImageDraw,
    corners: Corners,
    text: str,
    colour: str,
    font: ImageFont.FreeTypeFont,
    size: tuple[int, int],
    taken: Sequence[Corners],
) -> Corners:
    """Write a box's label where no other is, if there is such a place; returns where."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 8, bottom - top + 8
    x0, y0, x1, y1 = corners
    # Above the box where there is room, else inside it or below; never outside the image.
    above = y0 - height if y0 >= height else y0
    places = [
        (min(max(x, 0), size[0] - width), min(max(y, 0), size[1] - height))
        for y in (above, y0, y1 - height, y1)
        for x in (x0, x1 - width)
    ]
    free = (
        (x, y)
        for x, y in places
        if not any(x < b[2] and x + width > b[0] and y < b[3] and y + height > b[1] for b in taken)
    )
    x, y = next(free, places[0])
    where = (x, y, x + width, y + height)
    draw.rectangle(where, fill=colour)
    draw.text((x + 4 - left, y + 4 - top), text, fill="black", font=font)
    return where
