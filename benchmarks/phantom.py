"""A simple body in Hounsfield units: trunk, lungs, spine, ribs, a metal rod and a table."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

TRUNK_MM = (150.0, 95.0)
"""Half width and half depth of the trunk."""
LUNGS_MM = (40.0, 320.0)
"""First and last slice with lung, from the top."""
TABLE_GAP_MM = 12.0
TABLE_MM = 5.0


def axial_slices(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    *,
    lungs: tuple[float, float] | None = LUNGS_MM,
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """Slices from head to feet, each (y, x) int16, front first, the patient's right first.

    From 350 mm below the top on, a metal rod stands in the patient's right half. The noise has an
    SD of 15 HU.

    Args:
        shape: slices, rows and columns.
        spacing: their distances, mm.
        lungs: first and last mm with lung, None for a body without.
        seed: of the noise.
    """
    nz, ny, nx = shape
    dz, dy, dx = spacing
    noise = np.random.default_rng(seed).normal(0, 15, (ny, nx)).astype(np.float32)
    y = ((np.arange(ny) - (ny - 1) / 2) * dy)[:, None] + 15  # room for the table behind
    x = ((np.arange(nx) - (nx - 1) / 2) * dx)[None, :]
    half_width, half_depth = TRUNK_MM
    radius = np.hypot(x / half_width, y / half_depth)
    back = half_depth + TABLE_GAP_MM
    on_table = (y > back) & (y < back + TABLE_MM) & (np.abs(x) < 200)
    spine = np.hypot(x, y - 60) < 22
    rod = np.hypot(x + 80, y) < 6
    for number in range(nz):
        z = number * dz
        hu = np.where(radius < 1, 40.0, -1000.0).astype(np.float32)
        hu[on_table] = 80
        if lungs:
            middle, half = (lungs[0] + lungs[1]) / 2, (lungs[1] - lungs[0]) / 2
            round_off = 1 - ((z - middle) / half) ** 2
            if round_off > 0:
                size = np.sqrt(round_off)
                for side in (-1, 1):
                    lung = np.hypot((x - side * 70) / (55 * size), (y + 5) / (70 * size)) < 1
                    hu[lung] = -820
        ribs = (radius > 0.88) & (radius < 0.95) & ((z - 0.5 * y) % 24 < 9) & (z < 330)
        hu[ribs] = 600
        hu[spine] = 350 if z % 34 < 26 else 90
        if z > 350:
            hu[rod] = 8000
        yield np.clip(hu + np.roll(noise, number * 7, axis=1), -1024, 3071).astype(np.int16)
