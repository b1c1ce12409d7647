"""What of an image or of a CT volume a network sees; importable without anything heavy."""

from __future__ import annotations

from collections.abc import Mapping

REGIONS: Mapping[str, tuple[float, float]] = {
    "whole": (0.0, 1.0),
    "upper": (0.0, 0.5),
    "lower": (0.5, 1.0),
}
"""Shares of the image's height where a region begins and ends."""

PROJECTIONS: Mapping[str, tuple[str, str]] = {
    "bone": ("bone", "all"),
    "radiograph": ("radiograph", "all"),
    "thorax": ("radiograph", "thorax"),
}
"""What a CT volume becomes: kind and extent of :func:`boneage.volumes.project`."""
