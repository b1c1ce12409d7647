"""NIfTI: value types and scaling, units, hostile headers, and what is no CT."""

from __future__ import annotations

import gzip
from typing import Any

import nibabel
import numpy as np
import pytest

from benchmarks.phantom import axial_slices
from boneage import volumes
from boneage.errors import InputError

SPACING = (6.0, 5.0, 5.0)
HU = np.stack(list(axial_slices((60, 56, 72), SPACING)))
ARRAY = HU.transpose()[::-1, ::-1, ::-1]  # to the right, front and head
AFFINE = np.diag([*SPACING[::-1], 1.0])
QFORM = {"sform_code": 0, "qform_code": 1}


def nifti(
    array: np.ndarray = ARRAY,
    affine: np.ndarray | None = AFFINE,
    kind: type = nibabel.Nifti1Image,
    **header: Any,
) -> bytes:
    data = kind(array, affine, dtype=array.dtype).to_bytes()
    size = kind.header_class.sizeof_hdr
    changed = kind.header_class(data[:size], check=False)
    for name, value in header.items():
        changed[name] = value
    return changed.binaryblock + data[size:]


class TestValues:
    @pytest.mark.parametrize("dtype", ["i2", "i4", "f4", "f8", ">i2"])
    @pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
    def test_types_and_versions(self, dtype: str, kind: type) -> None:
        data = nifti(ARRAY.astype(dtype), kind=kind)
        for content in (data, gzip.compress(data, 1)):
            volume = volumes.read(content)
            np.testing.assert_array_equal(volume.hu, np.maximum(HU, -1024))
            assert volume.spacing == pytest.approx(SPACING)
            assert volume.warnings == ()

    def test_scaling(self) -> None:
        stored = (ARRAY.astype(np.int32) + 1024).astype(np.uint16) * 2
        volume = volumes.read(nifti(stored, scl_slope=0.5, scl_inter=-1024))
        np.testing.assert_array_equal(volume.hu, HU)

    def test_padding_and_no_numbers_become_air(self) -> None:
        array = ARRAY.astype(np.float32)
        array[0, 0, :4] = -3024, np.nan, -np.inf, np.inf
        hu = volumes.read(nifti(array)).hu
        assert hu[-4:, -1, -1].tolist() == [32767, -1024, -1024, -1024]
        padded = ARRAY.copy()
        padded[:3] = -2000
        assert volumes.read(nifti(padded)).hu.min() == -1024

    def test_read_in_several_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("boneage.nifti.BLOCK_BYTES", 7 * ARRAY[..., 0].nbytes)
        np.testing.assert_array_equal(volumes.read(nifti()).hu, HU)

    def test_one_more_axis_of_one(self) -> None:
        np.testing.assert_array_equal(volumes.read(nifti(ARRAY[..., None])).hu, HU)


class TestSpace:
    def test_units(self) -> None:
        metres = np.diag([*(np.array(SPACING[::-1]) / 1000), 1.0])
        assert volumes.read(nifti(affine=metres, xyzt_units=1)).spacing == pytest.approx(SPACING)
        microns = np.diag([*(np.array(SPACING[::-1]) * 1000), 1.0])
        assert volumes.read(nifti(affine=microns, xyzt_units=3)).spacing == pytest.approx(SPACING)

    def test_unknown_orientation_is_warned_of(self) -> None:
        (note,) = volumes.read(nifti(sform_code=0, qform_code=0)).warnings
        assert "left and right may be swapped" in note


class TestRefused:
    @pytest.mark.parametrize(
        ("array", "what"),
        [
            (np.clip(ARRAY, 0, 400), "MR: no negative value"),
            ((ARRAY > 200).astype(np.uint8), "mask"),
            (((ARRAY + 1024) / 3000).astype(np.float32), "normalised"),
            (np.random.default_rng(0).integers(-4096, 4096, ARRAY.shape, np.int16), "MR phase"),
            (np.full_like(ARRAY, -1000), "air alone"),
        ],
    )
    def test_no_ct_by_its_values(self, array: np.ndarray, what: str) -> None:
        with pytest.raises(InputError, match="not the Hounsfield units of a CT: air"):
            volumes.read(nifti(array))

    @pytest.mark.parametrize(
        ("array", "said"),
        [
            (np.stack([ARRAY, ARRAY], axis=3), "4-dimensional"),
            (ARRAY[..., 0], "2-dimensional"),
            (ARRAY[..., :1], "2-dimensional|single slice"),
            (np.zeros(ARRAY.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")]), "colour"),
            (ARRAY.astype(np.complex64), "compound"),
        ],
    )
    def test_no_single_volume(self, array: np.ndarray, said: str) -> None:
        with pytest.raises(InputError, match=said):
            volumes.read(nifti(array))

    @pytest.mark.parametrize(
        ("header", "said"),
        [
            ({"magic": b"ni1"}, "another file"),
            ({"vox_offset": 0}, "damaged"),
            ({"vox_offset": 1e30}, "damaged"),
            ({"vox_offset": np.nan}, "damaged"),
            ({"datatype": 999}, "damaged"),
            ({"dim": [3, -4, 5, 6, 1, 1, 1, 1]}, "damaged"),
            ({"dim": [9, 4, 5, 6, 1, 1, 1, 1]}, "dimensional|damaged"),
            ({"dim": [3, 30000, 30000, 30000, 1, 1, 1, 1]}, "more than 5000 slices"),
            ({"dim": [3, 4000, 4000, 4000, 1, 1, 1, 1]}, "too large"),
            ({"srow_x": [0, 0, 0, 0]}, "no size"),
            ({"xyzt_units": 0xF9}, r"6e\+03 mm apart"),
            ({"scl_inter": np.nan}, "damaged"),
            ({"scl_inter": np.inf}, "damaged"),
            ({"scl_slope": np.inf}, "damaged"),
            (QFORM | {"quatern_b": 5, "quatern_c": 5, "quatern_d": 5}, "damaged"),
            (QFORM | {"pixdim": [1, -5, 5, 6, 1, 1, 1, 1]}, "damaged"),
            (QFORM | {"pixdim": [1, np.nan, 5, 6, 1, 1, 1, 1]}, "damaged|no size"),
        ],
    )
    @pytest.mark.parametrize("compressed", [False, True])
    def test_hostile_headers(self, header: dict[str, Any], said: str, compressed: bool) -> None:
        data = nifti(**header)
        with pytest.raises(InputError, match=said):
            volumes.read(gzip.compress(data) if compressed else data)

    def test_cut_off(self) -> None:
        data = nifti()
        for content in (data[:-1], data[:351], gzip.compress(data)[:-3000]):
            with pytest.raises(InputError, match="damaged or incomplete"):
                volumes.read(content)

    def test_a_bomb_is_unpacked_as_far_as_its_header_says(self) -> None:
        data = nifti() + bytes(50 * 2**20)
        np.testing.assert_array_equal(volumes.read(gzip.compress(data)).hu, HU)
