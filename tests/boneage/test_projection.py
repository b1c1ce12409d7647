"""Projections of a phantom and of a real trunk: what is seen, what is left out, and the thorax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.phantom import axial_slices
from boneage import projection, volumes
from boneage.errors import InputError

SHAPE, SPACING = (90, 64, 90), (5.0, 4.0, 4.0)


def phantom(
    shape: tuple[int, int, int] = SHAPE,
    spacing: tuple[float, float, float] = SPACING,
    lungs: tuple[float, float] | None = (40.0, 320.0),
    change: Callable[[np.ndarray], None] = lambda hu: None,
) -> volumes.Volume:
    hu = np.stack(list(axial_slices(shape, spacing, lungs=lungs)))
    change(hu)
    return volumes.Volume(hu, spacing, "phantom", "CT", warnings=("As read.",))


@pytest.fixture(scope="module")
def body() -> volumes.Volume:
    return phantom()


def at(pixels: np.ndarray, z_mm: float, x_mm: float, size: int = 8) -> float:
    """Median grey of a field around so many mm below the top and to the left of the middle."""
    row, column = round(z_mm), round(pixels.shape[1] / 2 + x_mm)
    return float(np.median(pixels[row - size : row + size, column - size : column + size]))


class TestPicture:
    def test_square_pixels_and_words(self, body: volumes.Volume) -> None:
        radiograph = volumes.project(body)
        assert (radiograph.height, radiograph.width) == (450, 360)  # of 1 mm
        assert radiograph.pixels.dtype == np.uint16
        assert (radiograph.id, radiograph.format) == ("phantom", "CT")
        assert radiograph.description == "CT; frontal bone projection, 360 x 450 px"
        assert radiograph.warnings == ("As read.",)
        assert radiograph.unassessable is None

    @pytest.mark.parametrize(
        ("spacing", "pixel"), [((1.5, 2, 0.8), 0.8), ((0.5, 1, 0.4), 0.6), ((3, 3, 3), 1)]
    )
    def test_pixel_size(self, spacing: tuple[float, float, float], pixel: float) -> None:
        shape = (110, 30, 120)
        hu = np.full(shape, 40, np.int16)
        hu[:, 10:20, 30:60] = 700
        made = volumes.project(volumes.Volume(hu, spacing, "cube", "")).pixels
        wanted = (round(shape[0] * spacing[0] / pixel), round(shape[2] * spacing[2] / pixel))
        assert made.shape == wanted

    def test_head_up_and_right_on_the_left(self, body: volumes.Volume) -> None:
        for kind in ("bone", "radiograph"):
            pixels = volumes.project(body, kind).pixels
            # The rod stands in the right side of the lower body.
            assert at(pixels, 420, -80, 3) > 1.15 * at(pixels, 420, 80, 3)
            assert at(pixels, 420, -80, 3) > 1.15 * at(pixels, 300, -80)

    def test_only_the_sum_along_the_beam_counts(self, body: volumes.Volume) -> None:
        mirrored = replace(body, hu=body.hu[:, ::-1])
        for kind in ("bone", "radiograph"):
            front, back = (volumes.project(v, kind).pixels.astype(int) for v in (body, mirrored))
            assert np.abs(front - back).max() <= 0.02 * 65535


class TestBone:
    def test_soft_tissue_is_black_and_bone_is_bright(self, body: volumes.Volume) -> None:
        pixels = volumes.project(body, "bone").pixels
        assert at(pixels, 400, 60) < 0.02 * 65535
        assert at(pixels, 400, -140) < 0.02 * 65535
        assert at(pixels, 200, 0) > 0.6 * 65535  # spine
        assert at(pixels, 200, 143, 3) > 0.3 * 65535  # ribs

    def test_metal_counts_as_dense_bone(self) -> None:
        def set_rod(value: int) -> Callable[[np.ndarray], None]:
            return lambda hu: hu.__setitem__(hu > 2000, value)

        pictures = [volumes.project(phantom(change=set_rod(hu))).pixels for hu in (1500, 32767)]
        np.testing.assert_array_equal(*pictures)


class TestRadiograph:
    def test_order_of_greys(self, body: volumes.Volume) -> None:
        pixels = volumes.project(body, "radiograph").pixels
        outside, lung = at(pixels, 180, 175, 3), at(pixels, 180, 70)
        soft, spine = at(pixels, 400, 50), at(pixels, 200, 0)
        assert outside == 0
        assert outside < lung < 0.7 * soft < soft < spine

    def test_exposed_whatever_is_seen(self, body: volumes.Volume) -> None:
        for part in (body.hu, body.hu[70:]):
            pixels = volumes.project(replace(body, hu=part), "radiograph").pixels
            assert np.median(pixels[pixels > 0]) == pytest.approx(0.67 * 65535, rel=0.02)

    def test_sum_is_in_mm_of_water(self, body: volumes.Volume) -> None:
        coarse = projection.Coarse.of(body)
        depth = projection.sum_along_beam(body, coarse, projection.find_body(coarse), "radiograph")
        # Beside the spine the trunk is twice 95 mm x sqrt(1 - (40 / 150)^2) of 40 HU deep.
        assert np.median(depth[-10:, 55]) == pytest.approx(2 * 95 * 0.96 * 1.04, rel=0.05)
        assert depth[:, 2].max() == 0

    def test_the_volume_stays_as_it_is(self) -> None:
        volume = phantom()
        before = volume.hu.copy()
        volumes.project(volume)
        np.testing.assert_array_equal(volume.hu, before)

    def test_in_slabs_as_at_once(
        self, body: volumes.Volume, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = volumes.project(body, "radiograph").pixels
        monkeypatch.setattr("boneage.projection.SLAB_VOXELS", 7 * 64 * 90)
        np.testing.assert_array_equal(volumes.project(body, "radiograph").pixels, whole)


class TestBody:
    @pytest.mark.parametrize("kind", projection.KINDS)
    def test_the_table_is_left_out(self, body: volumes.Volume, kind: str) -> None:
        assert (body.hu[:, :, 3] > 0).any()
        pixels = volumes.project(body, kind).pixels
        assert pixels[:, :20].max() == 0
        assert pixels[:, -20:].max() == 0

    def test_a_limb_that_is_separate_is_kept(self) -> None:
        shape = (90, 64, 110)

        def add_arm(hu: np.ndarray) -> None:
            y, x = np.mgrid[: shape[1], : shape[2]]
            away = np.hypot(y - 28, x - 101)
            hu[:, away < 5] = 40
            hu[:, away < 2] = 1200

        pixels = volumes.project(phantom(shape, change=add_arm)).pixels
        assert pixels[:, 384:390].max() < 0.02 * 65535  # between trunk and arm
        assert pixels[:, 400:408].min() > 0.5 * 65535

    def test_the_skin_is_kept_on_a_finer_grid(self) -> None:
        volume = phantom((30, 128, 180), (5, 2, 2))
        coarse = projection.Coarse.of(volume)
        depth = projection.sum_along_beam(
            volume, coarse, projection.find_body(coarse), "radiograph"
        )
        trunk = volume.hu[:, :109].astype(float)  # the table begins behind
        water = np.where(trunk > -950, 1 + trunk / 1000, 0).sum() * 2
        assert depth.sum() == pytest.approx(water, rel=0.002)

    def test_a_hollow_table_that_is_touched_is_left_out(self) -> None:
        def add_table(hu: np.ndarray) -> None:
            hu[:, 50:, :] = -1000
            hu[:, [51, 60], 2:88] = 100
            hu[:, 51:61, [2, 87]] = 100
            hu[:, 47:51, 40:50] = 40  # the back lies on it

        radiograph = volumes.project(phantom(change=add_table), "radiograph")
        assert radiograph.unassessable is None
        assert radiograph.pixels[:, :20].max() == radiograph.pixels[:, -20:].max() == 0

    def test_found_on_a_copy_of_limited_size(
        self, body: volumes.Volume, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usual = projection.Coarse.of(body)
        monkeypatch.setattr(projection, "MAX_COARSE", usual.hu.size // 3)
        small = projection.Coarse.of(body)
        assert usual.hu.size // 30 < small.hu.size <= usual.hu.size // 3
        for axis, size in enumerate(body.hu.shape):
            assert small.nearest(axis, size).max() == small.hu.shape[axis] - 1
        assert volumes.project(body).unassessable is None

    def test_nothing_but_air(self) -> None:
        with pytest.raises(InputError, match="no body"):
            volumes.project(phantom(change=lambda hu: hu.fill(-1000)))


class TestThorax:
    def test_cropped_around_the_lungs(self, body: volumes.Volume) -> None:
        radiograph = volumes.project(body, "radiograph", "thorax")
        # Lungs of 250 mm width from 40 to 320 mm, on a grid of 4 and 5 mm; 50 mm beside them, 40
        # above, where the volume begins, and 40 below.
        assert radiograph.height == pytest.approx(360, abs=20)
        assert radiograph.width == pytest.approx(350, abs=12)
        assert "of the thorax" in radiograph.description
        assert radiograph.unassessable is None

    def test_lungs_of_one_side(self) -> None:
        def fill_left(hu: np.ndarray) -> None:
            left = hu[:, :, SHAPE[2] // 2 :]
            left[left < -500] = 40

        radiograph = volumes.project(phantom(change=fill_left), "radiograph", "thorax")
        assert radiograph.warnings == ("As read.", "Lung was found on one side only.")
        assert radiograph.unassessable is None

    @pytest.mark.parametrize(
        ("lungs", "said"),
        [
            (None, "shows no thorax"),
            ((150, 210), "shows no thorax"),
            ((-120, 120), "a part of the thorax"),
            ((330, 700), "a part of the thorax"),
        ],
    )
    def test_without_a_whole_thorax_no_age(
        self, lungs: tuple[float, float] | None, said: str
    ) -> None:
        volume = phantom(lungs=lungs)
        for extent in projection.EXTENTS:
            radiograph = volumes.project(volume, "radiograph", extent)
            assert said in (radiograph.unassessable or "")
            assert radiograph.height == 450

    def test_gas_in_the_bowel_is_no_lung(self) -> None:
        def fill_with_gas(hu: np.ndarray) -> None:
            hu[(hu < -700) & (hu > -930)] = -990

        assert "no thorax" in volumes.project(phantom(change=fill_with_gas)).unassessable

    def test_too_short_to_show_anything(self, body: volumes.Volume) -> None:
        with pytest.raises(InputError, match="only 360 x 30 mm"):
            volumes.project(replace(body, hu=body.hu[:6]))

    def test_too_short_for_an_age(self) -> None:
        volume = phantom((24, 64, 90), (6, 4, 4))
        radiograph = volumes.project(volume)
        assert radiograph.unassessable == (
            "The volume covers 144 mm from head to foot; an age is given from 150 mm."
        )


class TestRealVolumes:
    def test_trunk_without_thorax(self, repo_root: Path) -> None:
        volume = volumes.read(repo_root / "data" / "ct-samples" / "torso_3mm.nii.gz")
        bone = volumes.project(volume)
        assert (bone.height, bone.width) == (336, 366)
        # Lung bases are seen at the top, no lungs.
        assert "shows no thorax" in bone.unassessable
        pixels = bone.pixels
        nail = pixels[300:, 255:330]
        assert np.mean(nail > 0.9 * 65535) > 0.1
        assert at(pixels, 100, -75) < 0.05 * 65535  # liver
        assert at(pixels, 100, 0) > 0.4 * 65535  # spine
        film = volumes.project(volume, "radiograph").pixels
        assert at(film, 100, -75) > 1.5 * at(film, 7, -130, 3)  # liver against lung base

    def test_slices_of_the_upper_abdomen(self, repo_root: Path) -> None:
        folder = repo_root / "tests" / "data" / "ct-series"
        volume = volumes.read(folder)
        volume = replace(volume, hu=np.concatenate([volume.hu] * 3))
        pixels = volumes.project(volume).pixels
        # Both humeri are kept, and between arms and trunk there is nothing.
        for humerus, gap in ((20, 85), (463, 435)):
            assert np.median(pixels[:, humerus - 8 : humerus + 8].max(axis=1)) > 0.7 * 65535
            assert np.median(pixels[:, gap]) < 0.02 * 65535


def test_unknown_names_are_refused(body: volumes.Volume) -> None:
    with pytest.raises(ValueError, match="kind is one of"):
        volumes.project(body, "lung")
    with pytest.raises(ValueError, match="extent one of"):
        volumes.project(body, "bone", "skull")
