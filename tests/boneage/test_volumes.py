"""What counts as a volume, patient orientation, and the limits that both formats share."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from nibabel import orientations

from boneage import volumes
from boneage.errors import InputError


@pytest.fixture(scope="module")
def torso(repo_root: Path) -> Path:
    return repo_root / "data" / "ct-samples" / "torso_3mm.nii.gz"


@pytest.fixture(scope="module")
def series(repo_root: Path) -> Path:
    return repo_root / "tests" / "data" / "ct-series"


def zipped(*files: Path, **others: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in files:
            archive.write(file, f"study/{file.name}")
        for name, content in others.items():
            archive.writestr(name, content)
    return buffer.getvalue()


class TestIsVolume:
    def test_real_volumes_whatever_they_are_called(
        self, torso: Path, series: Path, tmp_path: Path
    ) -> None:
        renamed = Path(shutil.copy(torso, tmp_path / "picture.png"))
        assert volumes.is_volume(renamed)
        assert volumes.is_volume(str(torso))
        assert volumes.is_volume(torso.read_bytes())
        assert volumes.is_volume(series)
        assert volumes.is_volume(series.parent)  # in folders below
        assert volumes.is_volume(zipped(*series.glob("*")))

    def test_other_content(self, rsna_test_dir: Path, series: Path, tmp_path: Path) -> None:
        (tmp_path / "volume.nii.gz").write_bytes(b"\x1f\x8b\x08 cut off")
        (tmp_path / "volume.nii").write_text("no")
        for source in (
            rsna_test_dir,  # a folder of images
            rsna_test_dir / "images" / "4360.webp",
            next(series.glob("*.dcm")),  # one slice
            zipped(rsna_test_dir / "labels.csv"),
            b"PK\x03\x04 no archive",
            b"",
            tmp_path / "volume.nii.gz",
            tmp_path / "volume.nii",
            tmp_path / "gone",
        ):
            assert not volumes.is_volume(source), source


class TestRead:
    def test_names(self, torso: Path, series: Path, tmp_path: Path) -> None:
        assert volumes.read(torso).id == "torso_3mm"
        assert volumes.read(torso.read_bytes()).id == "volume"
        assert volumes.read(torso, id="mine").id == "mine"
        assert volumes.read(series).id == "ct-series"
        (tmp_path / "scan.zip").write_bytes(zipped(*series.glob("*.dcm")))
        assert volumes.read(tmp_path / "scan.zip").id == "scan"

    def test_real_torso(self, torso: Path) -> None:
        volume = volumes.read(torso)
        assert volume.hu.shape == (112, 101, 122)
        assert volume.spacing == pytest.approx((3, 3, 3))
        assert volume.description == "CT, NIfTI, 122 x 101 x 112 voxels of 3 x 3 x 3 mm"
        assert (volume.sex, volume.age_years, volume.patient) == (None, None, None)
        assert volume.warnings == ()
        assert volume.hu.dtype == np.int16
        assert volume.hu.min() == -1024
        # The nail is in the left femur, at the lower end; the vertebrae are behind the middle.
        z, _, x = np.argwhere(volume.hu > 2500).mean(axis=0)
        assert z > 90
        assert x > 61
        middle = volume.hu[40:60, :, 51:71] > 250
        assert np.argwhere(middle)[:, 1].mean() > 50

    @pytest.mark.parametrize(
        ("source", "said"),
        [
            (b"GIF89a", "not a CT volume. Expected: a NIfTI file"),
            (b"", "not a CT volume"),
            (b"\x1f\x8b\x08 cut off", "damaged"),
            (b"PK\x03\x04 no archive", "damaged"),
            ("gone.nii", r"^gone.nii: there is no such file"),
        ],
    )
    def test_what_is_no_volume(self, source: str | bytes, said: str, tmp_path: Path) -> None:
        source = tmp_path / source if isinstance(source, str) else source
        with pytest.raises(InputError, match=said) as error:
            volumes.read(source)
        assert str(tmp_path) not in str(error.value)

    def test_large_files_are_refused_unread(
        self, torso: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("boneage.volumes.MAX_BYTES", 2**20)
        with pytest.raises(InputError, match="larger than"):
            volumes.read(torso)

    def test_zips_of_too_many_files_are_refused_unparsed(
        self, series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "scan.zip"
        path.write_bytes(zipped(*series.glob("*.dcm")))
        monkeypatch.setattr("boneage.volumes.MAX_ENTRIES", 5)
        monkeypatch.setattr("zipfile.ZipFile._RealGetContents", lambda _: pytest.fail("parsed"))
        for source in (path, path.read_bytes()):
            assert volumes.is_volume(source)
            with pytest.raises(InputError, match="The zip holds more than 5 entries"):
                volumes.read(source)

    def test_identity_is_not_shown(self) -> None:
        volume = volumes.Volume(np.zeros((2, 2, 2), np.int16), (1, 1, 1), "id", "", patient="Doe")
        assert "Doe" not in repr(volume)
        assert "Doe" not in repr(volumes.Labels(patient="Doe"))


class TestOrient:
    SPACING = (3.0, 2.0, 1.5)  # z, y, x
    WANTED = np.random.default_rng(3).integers(-1000, 1000, (5, 6, 7), dtype=np.int16)

    @pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "RPI", "PIR", "SAL", "ALI", "IPR"])
    def test_any_order_and_direction_of_axes(self, codes: str) -> None:
        # WANTED's axes run to the feet, the back and the left.
        start = orientations.axcodes2ornt(("I", "P", "L"))
        turn = orientations.ornt_transform(start, orientations.axcodes2ornt(codes))
        array = orientations.apply_orientation(self.WANTED, turn)
        towards = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
        affine = np.eye(4)
        affine[:3, :3] = 0
        for axis, code in enumerate(codes):
            world, sign = towards[code]
            affine[world, axis] = sign * self.SPACING[2 - world]
        view, spacing, notes = volumes.orient(array, affine)
        np.testing.assert_array_equal(view, self.WANTED)
        assert spacing == pytest.approx(self.SPACING)
        assert notes == ()
        assert np.shares_memory(view, array)

    def test_a_turned_volume_is_warned_of_and_a_far_turned_one_refused(self) -> None:
        def turned(degrees: float) -> np.ndarray:
            c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
            return np.array([[c, -s, 0, 9], [s, c, 0, 9], [0, 0, 1, 9], [0, 0, 0, 1.0]])

        array = self.WANTED.transpose()[::-1, ::-1, ::-1]
        assert volumes.orient(array, turned(2))[2] == ()
        view, _, notes = volumes.orient(array, turned(-12))
        np.testing.assert_array_equal(view, self.WANTED)
        assert notes == ("The volume is turned or tilted by 12° relative to the patient's axes.",)
        for degrees in (35, 45, 58):
            with pytest.raises(InputError, match="within 30° of the patient's"):
                volumes.orient(array, turned(degrees))

    @pytest.mark.parametrize(
        ("diagonal", "said"),
        [
            ((0, 1, 1), "no size"),
            ((np.nan, 1, 1), "no size"),
            ((1, 1, 12), "1 x 1 x 12 mm apart; accepted: 0.05 to 10 mm"),
            ((1, 1e-30, 1), "1 x 1e-30 x 1 mm apart"),
        ],
    )
    def test_wrong_voxel_sizes(self, diagonal: tuple[float, ...], said: str) -> None:
        with pytest.raises(InputError, match=said):
            volumes.orient(self.WANTED, np.diag([*diagonal, 1.0]))

    def test_two_axes_of_one_direction(self) -> None:
        affine = np.array([[1, 1, 0, 0], [0, 0.1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        with pytest.raises(InputError, match="askew"):
            volumes.orient(self.WANTED, affine)

    def test_longer_than_a_body(self) -> None:
        with pytest.raises(InputError, match="longer than any body"):
            volumes.orient(np.zeros((2, 2, 400), np.int8), np.diag([1, 1, 10, 1.0]))


@pytest.mark.parametrize(
    ("shape", "size", "said"),
    [
        ((5001, 10, 10), 2, "more than 5000 slices"),
        ((1001, 1000, 1000), 2, "at most 1000 million voxels and 4 GB"),
        ((600, 1000, 1000), 8, "too large"),
        ((1, 512, 512), 2, "single slice"),
    ],
)
def test_limits(shape: tuple[int, ...], size: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        volumes.check_size(shape, size)
    volumes.check_size((5000, 400, 500), 4)
