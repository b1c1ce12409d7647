"""DICOM series: order and places of slices, what belongs together, and hostile archives."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset

from boneage import volumes
from boneage.errors import InputError

AXIAL = (1, 0, 0, 0, 1, 0)
CORONAL = (1, 0, 0, 0, 0, -1)
SAGITTAL = (0, 1, 0, 0, 0, -1)
SIDE = 32
"""The smallest image that is decoded."""


def file(number: int, z: float, *, stored: np.ndarray | None = None, **tags: Any) -> bytes:
    """A CT slice whose values are ``number`` HU; tags change it, None removes one."""
    if stored is None:
        stored = np.full((SIDE, SIDE), 1024 + number, np.int16)
    slice = Dataset()
    slice.SOPClassUID = uid.CTImageStorage
    slice.SOPInstanceUID = f"1.2.{number}"
    slice.Modality = "CT"
    slice.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    slice.PatientID = "4711"
    slice.PatientName = "Doe^Jane"
    slice.PatientSex = "F"
    slice.PatientAge = "063Y"
    slice.SeriesInstanceUID = "1.2.3"
    slice.AcquisitionNumber = 1
    slice.InstanceNumber = number
    slice.ImagePositionPatient = [-10.0, -20.0, z]
    slice.ImageOrientationPatient = list(AXIAL)
    slice.PixelSpacing = [2.0, 1.5]
    slice.Rows, slice.Columns = stored.shape
    slice.SamplesPerPixel = 1
    slice.PhotometricInterpretation = "MONOCHROME2"
    slice.BitsAllocated = slice.BitsStored = 16
    slice.HighBit = 15
    slice.PixelRepresentation = 1
    slice.RescaleSlope, slice.RescaleIntercept = 1, -1024
    slice.PixelData = stored.tobytes()
    for keyword, value in tags.items():
        if value is None:
            delattr(slice, keyword)
        else:
            setattr(slice, keyword, value)
    slice["PixelData"].VR = "OW"
    slice.file_meta = FileMetaDataset()
    slice.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    slice.file_meta.MediaStorageSOPClassUID = slice.SOPClassUID
    slice.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    buffer = io.BytesIO()
    slice.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def zipped(files: Sequence[bytes], **others: bytes) -> bytes:
    """A zip of the files, in an order that means nothing."""
    names = [f"IM{index:04}" for index in range(len(files))]
    random.Random(7).shuffle(names)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in zip(names, files, strict=True):
            archive.writestr(f"DICOM/{name}", content)
        for name, content in others.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def series(positions: Sequence[float], **tags: Any) -> list[bytes]:
    """Slices of 10, 20, 30 ... HU at these places."""
    return [file(10 * number, z, **tags) for number, z in enumerate(positions, start=1)]


def levels(volume: volumes.Volume) -> list[int]:
    """The value of each slice from head to feet."""
    assert (volume.hu == volume.hu[:, :1, :1]).all()
    return volume.hu[:, 0, 0].tolist()


class TestRealSeries:
    def test_folder_and_zip(self, repo_root: Path) -> None:
        folder = repo_root / "tests" / "data" / "ct-series"
        volume = volumes.read(folder)
        assert volume.hu.shape == (6, 512, 512)
        assert volume.spacing == pytest.approx((2, 0.9765625, 0.9765625))
        assert volume.description == "CT, DICOM, 512 x 512 x 6 voxels of 0.977 x 0.977 x 2 mm"
        assert volume.warnings == ()
        assert (volume.sex, volume.age_years, volume.patient) == (None, None, None)
        assert -1024 <= volume.hu.min() < -900
        assert 1000 < volume.hu.max() < 2000
        # The table lies behind, the liver on the patient's right.
        hu = volume.hu.astype(float)
        assert hu[:, 400:].mean() < hu[:, 100:200].mean() + 500
        content = zipped([path.read_bytes() for path in folder.glob("*.dcm")])
        np.testing.assert_array_equal(volumes.read(content).hu, volume.hu)


class TestOrder:
    def test_by_place_alone(self) -> None:
        files = series([-30, 0, -10, -20])
        for content in (zipped(files), zipped(files[::-1])):
            assert levels(volumes.read(content)) == [20, 30, 40, 10]

    def test_labels(self) -> None:
        content = zipped(series([0, 5]))
        volume = volumes.read(content)
        assert (volume.sex, volume.age_years, volume.patient) == ("F", 63, "4711")
        assert volumes.read_labels(content) == volumes.Labels("F", 63, "4711")

    @pytest.mark.parametrize(
        ("orientation", "normal", "axis"),
        [(AXIAL, (0, 0, -1), 0), (CORONAL, (0, 1, 0), 1), (SAGITTAL, (1, 0, 0), 2)],
    )
    def test_any_direction_of_slices(
        self, orientation: tuple[int, ...], normal: tuple[int, ...], axis: int
    ) -> None:
        """Slices number from head to feet, from front to back, or from right to left."""
        files = [
            file(
                10 * k,
                0,
                ImagePositionPatient=list(np.array(normal) * 3.0 * k),
                ImageOrientationPatient=list(orientation),
            )
            for k in (1, 2, 3, 4)
        ]
        volume = volumes.read(zipped(files))
        values = np.moveaxis(volume.hu, axis, 0)
        assert values[:, 0, 0].tolist() == [10, 20, 30, 40]
        assert volume.spacing[axis] == pytest.approx(3)
        assert volume.hu.shape[axis] == 4

    def test_rows_and_columns_of_flipped_slices(self) -> None:
        stored = np.full((SIDE, SIDE), 1024, np.int16)
        stored[2, 5] = 1724  # row 2 from the back, column 5 from the patient's left
        flipped = [-1, 0, 0, 0, -1, 0]
        files = [file(0, z, stored=stored, ImageOrientationPatient=flipped) for z in (0, 3)]
        volume = volumes.read(zipped(files))
        assert np.argwhere(volume.hu[0] == 700).tolist() == [[SIDE - 3, SIDE - 6]]
        assert volume.spacing == pytest.approx((3, 2, 1.5))

    def test_gantry_tilt_is_warned_of(self) -> None:
        c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
        volume = volumes.read(zipped(series([0, 4, 8], ImageOrientationPatient=[1, 0, 0, 0, c, s])))
        assert volume.warnings == (
            "The volume is turned or tilted by 20° relative to the patient's axes.",
        )
        assert volume.spacing[0] == pytest.approx(4)


class TestPlaces:
    def test_a_missing_slice_is_interpolated(self) -> None:
        volume = volumes.read(zipped(series([0, -3, -6, -12, -15])))
        assert levels(volume) == [10, 20, 30, 35, 40, 50]
        assert volume.warnings == ("1 slices are missing and were interpolated.",)

    def test_uneven_slices_are_interpolated(self) -> None:
        volume = volumes.read(zipped(series([0, -2, -4, -6, -7])))
        assert volume.spacing[0] == pytest.approx(1.75)
        assert levels(volume) == [10, 19, 28, 36, 50]
        assert volume.warnings == ("The slices are not evenly spaced and were interpolated.",)

    @pytest.mark.parametrize("positions", [(0, -2, -4, -6, -11, -16), (0, -3, -6, -7, -10, -13)])
    def test_other_distances_are_no_missing_slices(self, positions: tuple[float, ...]) -> None:
        volume = volumes.read(zipped(series(positions)))
        assert volume.warnings == ("The slices are not evenly spaced and were interpolated.",)

    def test_near_slices_hide_no_missing_one(self) -> None:
        volume = volumes.read(zipped(series([0, -3, -6, -12, -15, -16, -19])))
        assert volume.warnings == (
            "1 slices are missing and were interpolated.",
            "The slices are not evenly spaced and were interpolated.",
        )

    def test_a_large_gap_is_refused(self) -> None:
        assert len(volumes.read(zipped(series([0, -5, -15]))).hu) > 2
        with pytest.raises(InputError, match="gap of 11 mm; up to 10 mm are accepted"):
            volumes.read(zipped(series([0, -5, -16])))

    def test_the_same_slice_twice(self) -> None:
        files = series([0, -3, -6])
        volume = volumes.read(zipped([*files, files[1], files[1]]))
        assert levels(volume) == [10, 20, 30]
        assert volume.warnings == ("2 slices came twice; the first of each was taken.",)

    def test_two_scans_of_one_place_are_refused(self) -> None:
        files = series([0, -3, -6]) + series([0, -3, -6], AcquisitionNumber=2)
        with pytest.raises(InputError, match="several scans of the same place"):
            volumes.read(zipped(files))

    def test_all_at_one_place(self) -> None:
        with pytest.raises(InputError, match="same place"):
            volumes.read(zipped(series([3, 3, 3])))


class TestWhatBelongsTogether:
    def test_the_series_with_most_slices(self) -> None:
        files = series([0, -3, -6])
        other = series([0, -3], SeriesInstanceUID="1.2.4")
        wider = [file(0, z, PixelSpacing=[3.0, 3.0]) for z in (0, -3)]
        volume = volumes.read(zipped(other + files + wider))
        assert levels(volume) == [10, 20, 30]
        assert volume.warnings == (
            "The series with most slices was taken; 2 other series were left out.",
        )

    def test_two_patients_are_never_mixed(self) -> None:
        files = series([0, -3, -6]) + series([-9, -12], PatientID="4712")
        assert len(volumes.read(zipped(files)).hu) == 3

    def test_localizers_and_junk_are_left_aside(self) -> None:
        others = {
            "DICOMDIR": b"\0" * 128 + b"DICM" + b"\0" * 300,
            "README.TXT": b"Viewer on this disc.",
            "__MACOSX/DICOM/._IM0001": file(0, 99),
            ".hidden": file(0, 99),
        }
        scout = file(0, 99, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
        mip = file(0, -9, ImageType=["DERIVED", "SECONDARY", "MIP"])
        pet = file(0, -9, Modality="PT")
        content = zipped([*series([0, -3, -6]), scout, mip, pet], **others)
        volume = volumes.read(content)
        assert levels(volume) == [10, 20, 30]

    @pytest.mark.parametrize(
        ("tags", "said"),
        [
            ({"Modality": "MR"}, "modality MR"),
            ({"Modality": None}, "no modality"),
            ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2.1"}, "enhanced CT"),
            ({"NumberOfFrames": 3}, "enhanced CT"),
            ({"ImagePositionPatient": None}, "do not say where they lie"),
            ({"PixelSpacing": None}, "do not say where they lie"),
            ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizers"),
            ({"RescaleType": "Z_EFF"}, "no Hounsfield units"),
            ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "orientation or pixel spacing"),
            ({"ImageOrientationPatient": [1, 0, 0]}, "a damaged header"),
            ({"PixelSpacing": [0.0, 1.0]}, "orientation or pixel spacing"),
        ],
    )
    def test_no_ct(self, tags: dict[str, Any], said: str) -> None:
        with pytest.raises(InputError, match=said) as error:
            volumes.read(zipped(series([0, -3], **tags)))
        assert "Doe" not in str(error.value)
        assert "4711" not in str(error.value)


class TestValues:
    def test_rescale_and_padding(self) -> None:
        stored = np.full((SIDE, SIDE), 500, np.int16)
        stored[0, :2] = -2000, 100
        files = [
            file(0, z, stored=stored, RescaleSlope=2, RescaleIntercept=-1000, PixelPaddingValue=100)
            for z in (0, -3)
        ]
        hu = volumes.read(zipped(files)).hu
        assert hu[0, 0, :3].tolist() == [-1024, -1024, 0]

    def test_slope_of_each_slice(self) -> None:
        files = [file(10, 0), file(10, -3, RescaleSlope=2)]
        assert levels(volumes.read(zipped(files))) == [10, 1044]

    @pytest.mark.parametrize(
        ("tags", "said"),
        [
            ({"RescaleSlope": None}, "how its values become Hounsfield units"),
            ({"PixelData": b"\0\0"}, "damaged|pixels"),
            ({"BitsAllocated": 12}, "12 bits allocated"),
        ],
    )
    def test_slices_that_cannot_be_read_are_numbered(self, tags: dict[str, Any], said: str) -> None:
        files = [file(10, 0), file(10, 3), file(10, 6, **tags)]
        with pytest.raises(InputError, match=rf"Slice 3 of 3.*({said})"):
            volumes.read(zipped(files))


class TestArchives:
    def test_damaged_encrypted_and_empty(self) -> None:
        content = bytearray(zipped(series([0, -3])))
        encrypted = content.copy()
        encrypted[6] |= 1  # the flag in the first member's own header and in the directory
        encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
        assert volumes.is_volume(bytes(encrypted))
        with pytest.raises(InputError, match="encrypted"):
            volumes.read(bytes(encrypted))
        content[300] ^= 0xFF
        with pytest.raises(InputError, match="damaged"):
            volumes.read(bytes(content))

    def test_bombs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        content = zipped(series([0, -3]))
        monkeypatch.setattr("boneage.ct_series.MAX_ENTRIES", 1)
        with pytest.raises(InputError, match="more than 1 entries"):
            volumes.read(content)
        monkeypatch.undo()
        monkeypatch.setattr("boneage.images.MAX_BYTES", 2000)
        with pytest.raises(InputError, match="A slice's file is larger"):
            volumes.read(content)
        monkeypatch.undo()
        monkeypatch.setattr("boneage.ct_series.MAX_BYTES", 3000)
        with pytest.raises(InputError, match="unpack to more than"):
            volumes.read(content)

    def test_limits_before_decoding(self, monkeypatch: pytest.MonkeyPatch) -> None:
        content = zipped(series([0, -3, -6]))
        monkeypatch.setattr("boneage.ct_series._decode", lambda data: pytest.fail("decoded"))
        monkeypatch.setattr("boneage.volumes.MAX_VOXELS", 3 * SIDE * SIDE - 1)
        with pytest.raises(InputError, match="too large"):
            volumes.read(content)
        monkeypatch.setattr("boneage.ct_series.MAX_SLICES", 2)
        with pytest.raises(InputError, match="more than 2 slices"):
            volumes.read(content)

    def test_names_that_point_elsewhere_write_nothing(self, tmp_path: Path) -> None:
        others = {"../../escaped.dcm": file(30, -6), "C:\\escaped.dcm": file(40, -9)}
        path = tmp_path / "a" / "scan.zip"
        path.parent.mkdir()
        path.write_bytes(zipped(series([0, -3]), **others))
        assert len(volumes.read(path).hu) >= 3
        assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["scan.zip"]

    def test_folders_hold_a_limited_number_of_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for index, content in enumerate(series([0, -3, -6])):
            (tmp_path / f"{index}.dcm").write_bytes(content)
        monkeypatch.setattr("boneage.volumes.MAX_ENTRIES", 2)
        with pytest.raises(InputError, match="more than 2 files"):
            volumes.read(tmp_path)

    def test_one_slice_and_none(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="single slice"):
            volumes.read(zipped(series([0])))
        with pytest.raises(InputError, match="No CT slices were found"):
            volumes.read(tmp_path)
