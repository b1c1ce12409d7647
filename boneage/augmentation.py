"""Random changes of training images that leave the age alone.

They are drawn per image from its seed and applied to a whole batch on its device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

# ITU-T T.81, Annex K, Table K.1: steps of the luminance's coefficients at a quality of 50.
LUMINANCE_STEPS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
WIDEST_BORDER = 0.12  # of a side, at each of them
WIDEST_FRAME = 0.2  # of the film's side, at each of them
QUALITIES = (40.0, 95.0)  # of JPEG, from which one is drawn
# Shares of a file's grey values that its film uses (log-uniform); most of RSNA's use a quarter.
USED_RANGE = (0.1, 1.0)
COLUMN = (slice(None), None, None, None)  # (N,) as (N, 1, 1, 1)


@dataclass(frozen=True)
class Augmentation:
    """Random changes that leave the bone age alone; every argument is the extreme of its change.

    Args:
        rotation: degrees either way.
        scale: share; 0.15 draws factors from 1 / 1.15 to 1.15 (log-uniform).
        aspect: share by which width and height may differ further.
        shift: share of the side, in each direction.
        flip: probability of a mirror image (a right hand).
        sharpness: of the finest details (an image less its 3 x 3 binomial mean), the share that is
            added or taken away: what a scanner's or a resampling's filter does.
        noise: standard deviation of normal noise, at most, where black to white is 1.
        gamma: exponent from 1 / (1 + gamma) to 1 + gamma (log-uniform).
        contrast: factor about the middle grey, from 1 - contrast to 1 + contrast.
        brightness: added grey, either way.
        border: probability of a collimation border, black or white, up to 12 % on each side.
        marker: probability of a bright side marker.
        frame: probability of a dark frame around the film, up to 20 % of it on each side, in which
            the film is so much smaller.
        jpeg: probability of what a JPEG file of some quality of :data:`QUALITIES` keeps.
    """

    rotation: float = 0.0
    scale: float = 0.0
    aspect: float = 0.0
    shift: float = 0.0
    flip: float = 0.0
    sharpness: float = 0.0
    noise: float = 0.0
    gamma: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0
    border: float = 0.0
    marker: float = 0.0
    frame: float = 0.0
    jpeg: float = 0.0

    DRAWS = 30  # uniform numbers an image takes

    def draw(self, *seed: int) -> np.ndarray:
        """The random numbers of one image, (DRAWS,) float32 in [0, 1), from its own seed.

        Seeded by run, epoch and image, they do not depend on batch, process or resumption.
        """
        return np.random.default_rng(seed).random(self.DRAWS, dtype=np.float32)

    def apply(self, images: Tensor, draws: Tensor, size: int, margin: int = 0) -> Tensor:
        """Augment, resize and crop: (N, 1, R, R) in [0, 1], draws (N, DRAWS) -> (N, 1, size, size).

        Args:
            images: stretched.
            draws: of :meth:`draw`, one row an image.
            size: side of the result, px.
            margin: the result is a random square of an image of ``size + 2 * margin`` px.
        """
        if self.jpeg:
            images = self._as_filed(images, draws)
        images = self._moved(images, draws, size, margin)
        images = self._with_other_details(images, draws)
        images = self._with_other_greys(images, draws)
        return self._overlaid(images, draws)

    def _as_filed(self, images: Tensor, draws: Tensor) -> Tensor:
        """What a file keeps of images (N, 1, R, R) in [0, 1] by ``draws``; others as they are."""
        chosen = draws[:, 25] < self.jpeg
        quality, used = draws[chosen, 26:28].T
        (worst, best), (least, most) = QUALITIES, USED_RANGE
        share = (least * (most / least) ** used)[COLUMN]
        qualities = worst + quality * (best - worst)
        filed = images.clone()
        filed[chosen] = (compressed(images[chosen] * share, qualities) / share).clamp(max=1)
        return filed

    def _moved(self, images: Tensor, draws: Tensor, size: int, margin: int) -> Tensor:
        """Turned, scaled, shifted, mirrored; black where the image ends."""
        import torch
        from torch.nn import functional as F

        signed = 2 * draws - 1
        angle = signed[:, 0] * (self.rotation * torch.pi / 180)
        field = size / (size + 2 * margin)  # share of the side that a random crop shows
        framed = 1 + 2 * WIDEST_FRAME * draws[:, 29] * (draws[:, 28] < self.frame)
        scale = torch.exp(signed[:, 1] * np.log1p(self.scale)) / field / framed
        aspect = torch.exp(signed[:, 2] * np.log1p(self.aspect) / 2)
        mirror = 1 - 2 * (draws[:, 5] < self.flip).float()
        cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
        shift_x = signed[:, 3] * 2 * self.shift + signed[:, 19] * (1 - field)
        shift_y = signed[:, 4] * 2 * self.shift + signed[:, 20] * (1 - field)
        theta = torch.stack(
            [
                torch.stack([cos * aspect * mirror, -sin * aspect, shift_x]),
                torch.stack([sin / aspect * mirror, cos / aspect, shift_y]),
            ]
        ).permute(2, 0, 1)
        grid = F.affine_grid(theta, [len(images), 1, size, size], align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)

    def _with_other_details(self, images: Tensor, draws: Tensor) -> Tensor:
        """Sharper or smoother, and with noise."""
        import torch
        from torch.nn import functional as F

        if self.sharpness:
            binomial = images.new_tensor([0.25, 0.5, 0.25])
            kernel = torch.outer(binomial, binomial)[None, None]
            smooth = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel)
            share = (2 * draws[:, 21] - 1) * self.sharpness
            images = images + share[COLUMN] * (images - smooth)
        if self.noise:
            # One field of noise for all, each image's rolled by its own draws: alike on any device.
            size = images.shape[-1]
            noise = torch.randn(size, size, generator=torch.Generator().manual_seed(0))
            place = torch.arange(size, device=images.device)
            y, x = ((place + (draws[:, i : i + 1] * size).long()) % size for i in (23, 24))
            rolled = noise.to(images)[y[:, None, :, None], x[:, None, None, :]]
            images = images + (draws[:, 22] * self.noise)[COLUMN] * rolled
        return images

    def _with_other_greys(self, images: Tensor, draws: Tensor) -> Tensor:
        """Under another gamma, contrast and brightness, in [0, 1]."""
        import torch

        signed = 2 * draws - 1
        gamma = torch.exp(signed[:, 6] * np.log1p(self.gamma))[COLUMN]
        contrast = (1 + signed[:, 7] * self.contrast)[COLUMN]
        brightness = (signed[:, 8] * self.brightness)[COLUMN]
        images = images.clamp(min=1e-4) ** gamma
        return ((images - 0.5) * contrast + 0.5 + brightness).clamp(0, 1)

    def _overlaid(self, images: Tensor, draws: Tensor) -> Tensor:
        """With a collimation border and a marker."""
        import torch

        x = torch.linspace(0, 1, images.shape[-1], device=images.device)
        if self.border:
            margins = draws[:, 9:13] * WIDEST_BORDER * (draws[:, 13:14] < self.border)
            inside_x = (x >= margins[:, 0:1]) & (x <= 1 - margins[:, 1:2])
            inside_y = (x >= margins[:, 2:3]) & (x <= 1 - margins[:, 3:4])
            inside = (inside_y[:, None, :, None] & inside_x[:, None, None, :]).float()
            images = images * inside + (1 - inside) * (draws[:, 14] < 0.5).float()[COLUMN]
        if self.marker:
            there = draws[:, 15:16] < self.marker
            marker_x = (x - draws[:, 16:17]).abs() < 0.03
            marker_y = (x - draws[:, 17:18]).abs() < 0.015 + 0.03 * draws[:, 18:19]
            marker = (marker_y & there)[:, None, :, None] & marker_x[:, None, None, :]
            images = torch.where(marker, 1.0, images)
        return images


def compressed(images: Tensor, qualities: Tensor) -> Tensor:
    """Images as a JPEG file of their size keeps them: its blocks' coefficients, rounded.

    Baseline JPEG (ITU-T T.81) of grey images, with the steps of its Table K.1 scaled as libjpeg
    does, as tensors on any device.

    Args:
        images: (N, 1, H, W) in [0, 1].
        qualities: (N,), 1 to 100.

    Returns:
        The same shape, in [0, 1], of 256 grey levels.
    """
    import torch
    from torch.nn import functional as F

    height, width = images.shape[-2:]
    padded = F.pad((images * 255).round() - 128, (0, -width % 8, 0, -height % 8), mode="replicate")
    blocks = padded.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8)).transpose(-3, -2)
    place = torch.arange(8, device=images.device)
    cosines = torch.cos(place[:, None] * (2 * place + 1) * torch.pi / 16) / 2
    cosines[0] /= 2**0.5
    scale = torch.where(qualities < 50, 50 / qualities, 2 - qualities / 50)
    table = torch.tensor(LUMINANCE_STEPS, device=images.device)
    steps = (table * scale[:, None, None]).round().clamp(1, 255)[:, None, None, None]
    coefficients = (cosines @ blocks @ cosines.T / steps).round() * steps
    blocks = cosines.T @ coefficients @ cosines
    whole = blocks.transpose(-3, -2).flatten(-4, -3).flatten(-2)[..., :height, :width]
    return (whole + 128).round().clamp(0, 255) / 255
