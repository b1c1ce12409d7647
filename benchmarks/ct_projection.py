"""From a NIfTI file of a whole body to a frontal projection."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Outcome, measure
from benchmarks.phantom import axial_slices

SHAPE = (600, 512, 512)
SPACING = (3.0, 0.98, 0.98)


def run(shape: tuple[int, int, int] = SHAPE, kind: str = "bone") -> Iterator[Outcome]:
    """Project an int16 NIfTI file, uncompressed, made in a temporary folder.

    Args:
        shape: slices, rows and columns.
        kind: of the projection.
    """
    voxels = " x ".join(map(str, reversed(shape)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "body.nii"
        write_nifti(path, shape)
        yield Outcome(
            f"{voxels} int16 NIfTI to its {kind} projection",
            measure(
                "read and projected",
                project,
                path,
                kind,
                imports=("boneage.nifti", "boneage.projection"),
            ),
            measure("nibabel loads the array", load, path, imports=("nibabel",)),
        )


def write_nifti(path: Path, shape: tuple[int, int, int]) -> None:
    """A phantom of 1.8 m, written slice by slice from the feet up."""
    from nibabel import Nifti1Header

    header = Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape[::-1])
    # Axes to the left, the back and the head.
    header.set_sform(np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1]), code=1)
    header["vox_offset"] = 352
    with path.open("wb") as file:
        header.write_to(file)
        body = np.stack(list(axial_slices(shape, SPACING)))
        for cross_section in reversed(body):
            file.write(cross_section.tobytes())


def project(path: Path, kind: str) -> Any:
    """What is measured."""
    from boneage import volumes

    return volumes.project(volumes.read(path), kind)


def load(path: Path) -> Any:
    """The floor: every voxel has to be read."""
    import nibabel

    return np.array(nibabel.load(path).dataobj)
