"""Where a network looked: Grad-CAM, and overlays of heat map and attention boxes."""

from __future__ import annotations

from collections.abc import Callable
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
    weights = gradient.mean(dim=(2, 3), keepdim=True)
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
    # The best box last, so that it lies on top.
    for rank, box in reversed(list(enumerate(assessment.boxes))):
        colour = BOX_COLOURS[rank % len(BOX_COLOURS)]
        x0, y0 = box.x0 * across, box.y0 * down
        # At least a pixel each way, on however elongated a film.
        corners = (x0, y0, max(x0, box.x1 * across - 1), max(y0, box.y1 * down - 1))
        _rectangle(draw, corners, colour, line, DASHES[rank % len(DASHES)])
        _label(draw, corners, f"R{rank + 1}  {_age(box.age, assessment.unit)}", colour, font, image)
    return image


def _age(age: float, unit: str) -> str:
    if unit == "years":
        return f"{age:.1f} y"
    years, months = divmod(round(age), 12)
    return f"{years} y {months} m"


def _rectangle(
    draw: ImageDraw.ImageDraw,
    corners: tuple[float, float, float, float],
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
    corners: tuple[float, float, float, float],
    text: str,
    colour: str,
    font: ImageFont.FreeTypeFont,
    image: Image.Image,
) -> None:
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 8, bottom - top + 8
    # Above the box where there is room, inside it otherwise; never outside the image.
    x = min(max(corners[0], 0), image.width - width)
    y = corners[1] - height if corners[1] >= height else corners[1]
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + 4 - left, y + 4 - top), text, fill="black", font=font)
