"""DICOM: grey values step by step, every codec, the allow-list, and hostile files."""

import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, uid
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from boneage import dicom, images
from boneage.errors import InputError

RNG = np.random.default_rng(11)
GREY8 = RNG.integers(0, 256, (40, 60), dtype=np.uint8)
GREY12 = RNG.integers(0, 4096, (40, 60), dtype=np.uint16)
GREY12[0, :2] = 0, 4095
GREY16 = RNG.integers(0, 65536, (40, 60), dtype=np.uint16)
RGB = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)


def dataset(pixels: np.ndarray = GREY12, stored: int = 12, **tags: object) -> Dataset:
    """An image pixel module with native pixel data; tags add to it, None removes."""
    result = Dataset()
    result.Modality = "DX"
    result.Rows, result.Columns = pixels.shape[:2]
    result.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    result.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        result.PlanarConfiguration = 0
    result.BitsAllocated = 8 * pixels.dtype.itemsize
    result.BitsStored = min(stored, result.BitsAllocated)
    result.HighBit = result.BitsStored - 1
    result.PixelRepresentation = int(pixels.dtype.kind == "i")
    result.PixelData = pixels.tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some values are invalid on purpose
        for keyword, value in tags.items():
            if value is None:
                delattr(result, keyword)
            else:
                setattr(result, keyword, value)
    return result


def file(source: Dataset, syntax: str = uid.ExplicitVRLittleEndian, frame: bytes = b"") -> bytes:
    """The file's content; a frame is encapsulated as its only one."""
    source.file_meta = FileMetaDataset()
    source.file_meta.TransferSyntaxUID = uid.UID(syntax)
    source.file_meta.MediaStorageSOPClassUID = uid.DigitalXRayImageStorageForPresentation
    source.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    if frame:
        source.PixelData = encapsulate([frame])
    if "PixelData" in source:
        source["PixelData"].VR = "OB" if frame or source.get("BitsAllocated") == 8 else "OW"
        source["PixelData"].is_undefined_length = bool(frame)
    buffer = io.BytesIO()
    source.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def read(*args: object, **tags: object) -> images.Radiograph:
    return images.read(file(dataset(*args, **tags)))


def full_range(values: np.ndarray, low: float, high: float, top: int = 65535) -> np.ndarray:
    return np.round((values.astype(float) - low) * (top / (high - low)))


def lut(entries: int, first: int, data: list[int], bits: int = 16) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "US" if first >= 0 else "SS", [entries, first, bits])
    item.add_new("LUTData", "US", data)
    return Sequence([item])


class TestGreyValues:
    def test_8_bit_is_kept(self) -> None:
        radiograph = read(GREY8, 8)
        assert radiograph.pixels.dtype == np.uint8
        np.testing.assert_array_equal(radiograph.pixels, GREY8)
        assert radiograph.description == "DICOM DX, 60 x 40 px, 8 bit, MONOCHROME2, uncompressed"
        assert (radiograph.format, radiograph.warnings) == ("DICOM", ())

    def test_deeper_uses_the_full_range_of_the_stored_bits(self) -> None:
        pixels = read().pixels
        assert pixels.dtype == np.uint16
        np.testing.assert_array_equal(pixels, full_range(GREY12, 0, 4095))
        np.testing.assert_array_equal(read(GREY16, 16).pixels, GREY16)
        np.testing.assert_array_equal(
            read(GREY8 >> 2, 6).pixels, full_range(GREY8 >> 2, 0, 63, 255)
        )

    @pytest.mark.parametrize(("pixels", "stored"), [(GREY8, 8), (GREY12, 12), (GREY16, 16)])
    def test_monochrome1_is_the_inverse(self, pixels: np.ndarray, stored: int) -> None:
        bright = read(pixels, stored).pixels
        dark = read(pixels, stored, PhotometricInterpretation="MONOCHROME1").pixels
        np.testing.assert_array_equal(dark, np.iinfo(bright.dtype).max - bright)

    def test_signed(self) -> None:
        signed = GREY12.astype(np.int16) - 2048
        np.testing.assert_array_equal(read(signed).pixels, full_range(GREY12, 0, 4095))

    def test_bits_outside_the_stored_ones_are_ignored(self) -> None:
        overlay = GREY12 | np.uint16(0xF000)
        np.testing.assert_array_equal(read(overlay).pixels, read().pixels)
        raised = read(GREY12 << 4 | 5, HighBit=15)
        np.testing.assert_array_equal(raised.pixels, read().pixels)
        signed = ((GREY12.astype(np.int16) - 2048) & 0x0FFF).astype(np.int16)  # sign not extended
        np.testing.assert_array_equal(read(signed).pixels, read().pixels)

    @pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
    @pytest.mark.parametrize("rescale", [None, (1, 0), (2.5, -100), (-1, 4095)])
    @pytest.mark.parametrize(
        ("function", "centre", "width"),
        [
            (None, None, None),
            ("LINEAR", 2000, 1000),
            ("LINEAR_EXACT", 2000, 1000),
            ("SIGMOID", 2000, 900),
        ],
    )
    def test_rescale_then_window_then_inversion(
        self,
        interpretation: str,
        rescale: tuple[float, float] | None,
        function: str | None,
        centre: float | None,
        width: float | None,
    ) -> None:
        tags = {"PhotometricInterpretation": interpretation}
        x, every = GREY12.astype(float), np.array([0.0, 4095.0])
        if rescale:
            tags |= {"RescaleSlope": rescale[0], "RescaleIntercept": rescale[1]}
            x, every = x * rescale[0] + rescale[1], every * rescale[0] + rescale[1]
        if function:
            tags |= {"VOILUTFunction": function, "WindowCenter": centre, "WindowWidth": width}
            shown = {  # DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3, from 0 to 1
                "LINEAR": lambda v: np.clip((v - (centre - 0.5)) / (width - 1) + 0.5, 0, 1),
                "LINEAR_EXACT": lambda v: np.clip((v - centre) / width + 0.5, 0, 1),
                "SIGMOID": lambda v: 1 / (1 + np.exp(-4 * (v - centre) / width)),
            }[function]
            x, every = shown(x), shown(every)
        expected = full_range(x, every.min(), every.max())
        if interpretation == "MONOCHROME1":
            expected = 65535 - expected
        np.testing.assert_array_equal(read(**tags).pixels, expected)

    def test_the_first_of_several_windows_is_used(self) -> None:
        several = read(WindowCenter=[1000, 3000], WindowWidth=[500, 100])
        one = read(WindowCenter=1000, WindowWidth=500)
        np.testing.assert_array_equal(several.pixels, one.pixels)

    def test_a_window_of_one_is_a_threshold(self) -> None:
        pixels = read(WindowCenter=2000, WindowWidth=1).pixels
        np.testing.assert_array_equal(pixels, np.where(GREY12 > 1999.5, 65535, 0))

    def test_modality_lut_then_voi_lut(self) -> None:
        squares = [i * i // 64 for i in range(2048)]
        pixels = read(
            ModalityLUTSequence=lut(2048, 1024, squares),
            VOILUTSequence=lut(1000, 500, list(range(5000, 4000, -1)), bits=13),
            WindowCenter=5,  # a VOI LUT goes before a window
            WindowWidth=5,
        ).pixels
        measured = np.array(squares)[np.clip(GREY12.astype(int) - 1024, 0, 2047)]
        seen = 5000 - np.clip(measured - 500, 0, 999)
        np.testing.assert_array_equal(pixels, full_range(seen, 4001, 5000))

    def test_voi_lut_of_8_bits_over_12_bit_values(self) -> None:
        data = [i // 16 for i in range(4096)]
        pixels = read(VOILUTSequence=lut(4096, 0, data, bits=8)).pixels
        np.testing.assert_array_equal(pixels, full_range(GREY12 >> 4, 0, 255))

    def test_voi_lut_in_words_of_either_byte_order(self) -> None:
        data = [4095 - i for i in range(4096)]
        for syntax, order in ((uid.ExplicitVRLittleEndian, "<"), (uid.ExplicitVRBigEndian, ">")):
            source = dataset(GREY12.astype(f"{order}u2"), VOILUTSequence=lut(4096, 0, [0]))
            item = source.VOILUTSequence[0]
            item.add_new("LUTData", "OW", np.array(data, f"{order}u2").tobytes())
            pixels = images.read(file(source, syntax)).pixels
            np.testing.assert_array_equal(pixels, full_range(4095 - GREY12, 0, 4095))

    def test_voi_lut_that_starts_below_zero(self) -> None:
        signed = GREY12.astype(np.int16) - 2048
        for item in (
            lut(4096, -2048, list(range(4096))),
            lut(4096, 65536 - 2048, list(range(4096))),
        ):
            pixels = read(signed, VOILUTSequence=item).pixels
            np.testing.assert_array_equal(pixels, full_range(GREY12, 0, 4095))

    @pytest.mark.parametrize(
        "tags",
        [
            {"WindowCenter": 2000, "WindowWidth": 0},
            {"WindowCenter": 2000, "WindowWidth": -50},
            {"WindowCenter": 2000, "WindowWidth": 50, "VOILUTFunction": "CUBIC"},
            {"WindowCenter": 1e9, "WindowWidth": 50},  # leaves nothing to see
            {"WindowCenter": 4050, "WindowWidth": 50},  # hardly anything
            {"WindowCenter": 20, "WindowWidth": 40},  # as of a preview of 8 bits
            {"VOILUTSequence": lut(4096, 0, [1, 2, 3])},
        ],
    )
    def test_a_useless_window_is_passed_over_with_a_warning(self, tags: dict[str, object]) -> None:
        radiograph = read(**tags)
        np.testing.assert_array_equal(radiograph.pixels, read().pixels)
        assert "was not applied" in radiograph.warnings[0]

    def test_a_window_of_much_white_is_applied_and_told(self) -> None:
        radiograph = read(WindowCenter=1000, WindowWidth=500)
        assert np.mean(radiograph.pixels == 65535) > 0.6
        (warning,) = radiograph.warnings
        assert re.fullmatch(r"The file's window makes 6\d% of the image plain white\.", warning)

    @pytest.mark.parametrize("padded", [True, False])
    def test_a_window_of_a_small_part_is_applied(self, padded: bool) -> None:
        pixels = RNG.integers(0, 40, (200, 200), dtype=np.uint16)
        pixels[90:120, 90:120] = 1000 + np.arange(900, dtype=np.uint16).reshape(30, 30)
        tags = {"WindowCenter": 1450, "WindowWidth": 900} | (
            {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 39} if padded else {}
        )
        radiograph = read(pixels, **tags)
        assert radiograph.warnings == ()
        assert len(np.unique(radiograph.pixels)) > 800

    def test_the_usual_is_taken_where_the_header_leaves_it_out(self) -> None:
        radiograph = read(HighBit=None, PixelRepresentation=None)
        np.testing.assert_array_equal(radiograph.pixels, read().pixels)

    def test_empty_windows_are_none(self) -> None:
        radiograph = read(WindowCenter="", WindowWidth="")
        np.testing.assert_array_equal(radiograph.pixels, read().pixels)
        assert radiograph.warnings == ()

    @pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
    def test_padding_is_black_and_does_not_shift_the_rest(self, interpretation: str) -> None:
        inside = np.s_[10:30, 10:50]
        values = GREY12.astype(np.int16)
        values[:5], values[5:10] = -2000, -1998
        tags = {"PhotometricInterpretation": interpretation, "WindowCenter": 2000}
        tags |= {"WindowWidth": 3000, "RescaleSlope": 1, "RescaleIntercept": 0}
        plain = read(values, 16, **tags).pixels
        padded = read(values, 16, **tags, PixelPaddingValue=-2000).pixels
        np.testing.assert_array_equal(padded[inside], plain[inside])
        assert (padded[:5] == 0).all()
        ranged = read(values, 16, **tags, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1998)
        assert (ranged.pixels[:10] == 0).all()

    def test_colour_becomes_grey(self) -> None:
        expected = np.asarray(Image.fromarray(RGB).convert("L"))
        np.testing.assert_array_equal(read(RGB, 8).pixels, expected)
        planes = dataset(RGB, 8, PlanarConfiguration=1)
        planes.PixelData = np.moveaxis(RGB, -1, 0).tobytes()
        np.testing.assert_array_equal(images.read(file(planes)).pixels, expected)
        ybr = read(RGB, 8, PhotometricInterpretation="YBR_FULL")
        np.testing.assert_array_equal(ybr.pixels, RGB[..., 0])

    def test_subsampled_colour(self) -> None:
        source = dataset(RGB, 8, PhotometricInterpretation="YBR_FULL_422")
        pairs = GREY8.reshape(-1, 2)
        source.PixelData = np.hstack([pairs, np.full_like(pairs, 128)]).tobytes()
        np.testing.assert_array_equal(images.read(file(source)).pixels, GREY8)

    def test_the_first_frame_is_read_with_a_warning(self) -> None:
        frames = dataset(NumberOfFrames=3)
        frames.PixelData = GREY12.tobytes() + bytes(2 * GREY12.nbytes)
        radiograph = images.read(file(frames))
        np.testing.assert_array_equal(radiograph.pixels, read().pixels)
        assert radiograph.warnings == ("Only the first of 3 frames was read.",)


def lossless_jpeg(predictor: int) -> Callable[[np.ndarray, int], bytes]:
    def encode(pixels: np.ndarray, bits: int) -> bytes:
        return imagecodecs.jpeg8_encode(
            pixels, lossless=True, predictor=predictor, bitspersample=bits
        )

    return encode


def jpeg_2000(pixels: np.ndarray, bits: int) -> bytes:
    return imagecodecs.jpeg2k_encode(
        pixels, level=0, codecformat="j2k", reversible=True, bitspersample=bits
    )


def rle(pixels: np.ndarray, bits: int) -> bytes:
    """One literal PackBits segment for each byte plane, most significant first (PS3.5 annex G)."""
    planes = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(-1).view(np.uint8)
    planes = planes.reshape(-1, pixels.dtype.itemsize)
    segments = []
    for plane in range(planes.shape[1]):
        body = planes[:, plane].tobytes()
        runs = (body[start : start + 128] for start in range(0, len(body), 128))
        segment = b"".join(bytes([len(run) - 1]) + run for run in runs)
        segments.append(segment + b"\x80" * (len(segment) % 2))
    offsets = np.cumsum([64, *(len(segment) for segment in segments[:-1])])
    header = np.zeros(16, "<u4")
    header[0], header[1 : 1 + len(segments)] = len(segments), offsets
    return header.tobytes() + b"".join(segments)


LOSSLESS = {
    "RLE": (uid.RLELossless, rle),
    "JPEG-LS": (uid.JPEGLSLossless, lambda pixels, bits: imagecodecs.jpegls_encode(pixels)),
    "JPEG 2000": (uid.JPEG2000Lossless, jpeg_2000),
    "JPEG lossless": (uid.JPEGLosslessSV1, lossless_jpeg(1)),
}
LOSSLESS |= {f"JPEG lossless {p}": (uid.JPEGLossless, lossless_jpeg(p)) for p in range(1, 8)}


class TestTransferSyntaxes:
    @pytest.mark.parametrize("syntax", ["ImplicitVRLittleEndian", "ExplicitVRLittleEndian"])
    def test_uncompressed(self, syntax: str) -> None:
        radiograph = images.read(file(dataset(), getattr(uid, syntax)))
        np.testing.assert_array_equal(radiograph.pixels, read().pixels)

    @pytest.mark.parametrize("pixels", [GREY8, GREY12, RGB])
    def test_big_endian(self, pixels: np.ndarray) -> None:
        source = dataset(pixels.astype(pixels.dtype.newbyteorder(">")))
        radiograph = images.read(file(source, uid.ExplicitVRBigEndian))
        np.testing.assert_array_equal(radiograph.pixels, read(pixels).pixels)

    def test_deflated(self) -> None:
        radiograph = images.read(file(dataset(), uid.DeflatedExplicitVRLittleEndian))
        np.testing.assert_array_equal(radiograph.pixels, read().pixels)

    @pytest.mark.parametrize("name", LOSSLESS)
    @pytest.mark.parametrize(("pixels", "bits"), [(GREY8, 8), (GREY12, 12), (GREY16, 16)])
    def test_lossless_codecs_are_exact(self, name: str, pixels: np.ndarray, bits: int) -> None:
        syntax, encode = LOSSLESS[name]
        data = file(dataset(pixels, bits), syntax, encode(pixels, bits))
        radiograph = images.read(data)
        np.testing.assert_array_equal(radiograph.pixels, read(pixels, bits).pixels)
        assert radiograph.description.endswith(name.rstrip("1234567 ") if "less" in name else name)

    @pytest.mark.parametrize("name", ["RLE", "JPEG-LS", "JPEG 2000", "JPEG lossless"])
    def test_signed_pixels_in_codecs(self, name: str) -> None:
        # JPEG-LS and JPEG lossless know no sign: the stream holds the two's complement.
        signed = GREY16.view(np.int16)
        syntax, encode = LOSSLESS[name]
        data = file(dataset(signed, 16), syntax, encode(GREY16, 16))
        np.testing.assert_array_equal(images.read(data).pixels, read(signed, 16).pixels)
        if name == "JPEG 2000":
            data = file(dataset(signed, 16), syntax, encode(signed, 16))
            np.testing.assert_array_equal(images.read(data).pixels, read(signed, 16).pixels)

    def test_baseline(self, rsna_test_dir: Path) -> None:
        with Image.open(next((rsna_test_dir / "images").glob("*.webp"))) as picture:
            grey = picture.convert("L")
        buffer = io.BytesIO()
        grey.save(buffer, "JPEG", quality=92)
        source = dataset(np.asarray(grey), 8)
        radiograph = images.read(file(source, uid.JPEGBaseline8Bit, buffer.getvalue()))
        difference = np.abs(radiograph.pixels.astype(int) - np.asarray(grey))
        assert radiograph.pixels.dtype == np.uint8
        assert 0 < difference.mean() < 1
        assert difference.max() < 20

    def test_extended_12_bit(self) -> None:
        ramp = np.add.outer(np.arange(80) * 20, np.arange(100) * 24).astype(np.uint16)
        frame = imagecodecs.jpeg8_encode(ramp, level=98, bitspersample=12)
        stored = dicom.decode(
            dataset_of(file(dataset(ramp), uid.JPEGExtended12Bit, frame)), uid.JPEGExtended12Bit
        )
        assert np.abs(stored.astype(int) - ramp).max() < 8

    def test_extended_12_bit_of_another_encoder(self) -> None:
        path = get_testdata_file("JPGExtended.dcm", download=False)
        data = Path(path).read_bytes()
        stored = dicom.decode(dataset_of(data), uid.JPEGExtended12Bit)
        assert (stored[420, 140], stored[230, 120]) == (244, 95)  # as DCMTK decodes them

    @pytest.mark.parametrize(
        ("syntax", "frame"),
        [
            (uid.JPEGLSNearLossless, imagecodecs.jpegls_encode(GREY12, level=2)),
            (
                uid.JPEG2000,
                imagecodecs.jpeg2k_encode(GREY12, level=60, codecformat="j2k", bitspersample=12),
            ),
        ],
    )
    def test_lossy_codecs_are_close(self, syntax: str, frame: bytes) -> None:
        stored = dicom.decode(dataset_of(file(dataset(), syntax, frame)), syntax)
        assert np.abs(stored.astype(int) - GREY12).max() <= 40

    @pytest.mark.parametrize("name", ["JPEG-LS", "JPEG 2000"])
    def test_lossless_colour(self, name: str) -> None:
        syntax, encode = LOSSLESS[name]
        interpretation = "YBR_RCT" if name == "JPEG 2000" else "RGB"
        source = dataset(RGB, 8, PhotometricInterpretation=interpretation)
        pixels = images.read(file(source, syntax, encode(RGB, 8))).pixels
        np.testing.assert_array_equal(pixels, read(RGB, 8).pixels)

    def test_rle_colour(self) -> None:
        source = dataset(RGB, 8)
        source.file_meta = FileMetaDataset()
        source.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        source.compress(uid.RLELossless, encoding_plugin="pydicom")
        pixels = images.read(file(source, uid.RLELossless)).pixels
        np.testing.assert_array_equal(pixels, read(RGB, 8).pixels)

    @pytest.mark.parametrize("interpretation", ["RGB", "YBR_FULL_422"])
    def test_baseline_colour(self, interpretation: str) -> None:
        smooth = np.asarray(
            Image.fromarray(RGB[::8, ::10]).resize((60, 40), Image.Resampling.BICUBIC)
        )
        kind = "RGB" if interpretation == "RGB" else "YCBCR"
        frame = imagecodecs.jpeg8_encode(smooth, level=98, outcolorspace=kind, subsampling="444")
        source = dataset(smooth, 8, PhotometricInterpretation=interpretation)
        pixels = images.read(file(source, uid.JPEGBaseline8Bit, frame)).pixels
        expected = np.asarray(Image.fromarray(smooth).convert("L")).astype(int)
        assert np.abs(pixels - expected).max() <= 5
        window = {"WindowCenter": int(np.median(pixels)), "WindowWidth": 60}  # of grey alone
        source = dataset(smooth, 8, PhotometricInterpretation=interpretation, **window)
        shown = images.read(file(source, uid.JPEGBaseline8Bit, frame)).pixels
        np.testing.assert_array_equal(shown, pixels)

    def test_a_stream_in_several_fragments(self) -> None:
        frame = LOSSLESS["JPEG-LS"][1](GREY12, 12)
        source = dataset()
        data = file(source, uid.JPEGLSLossless, frame)
        source.PixelData = encapsulate([frame], fragments_per_frame=3)
        source["PixelData"].is_undefined_length = True
        buffer = io.BytesIO()
        source.save_as(buffer, enforce_file_format=True)
        assert buffer.getvalue() != data
        np.testing.assert_array_equal(images.read(buffer.getvalue()).pixels, read().pixels)

    def test_jp2_wrapper(self) -> None:
        frame = imagecodecs.jpeg2k_encode(
            GREY12, level=0, codecformat="jp2", reversible=True, bitspersample=12
        )
        data = file(dataset(), uid.JPEG2000Lossless, frame)
        np.testing.assert_array_equal(images.read(data).pixels, read().pixels)

    @pytest.mark.parametrize(
        ("syntax", "named"),
        [(uid.MPEG2MPML, "MPEG2"), (uid.HTJ2K, "High-Throughput"), ("1.2.3.4", "cannot be read")],
    )
    def test_other_syntaxes_are_named(self, syntax: str, named: str) -> None:
        data = file(dataset(), uid.RLELossless, b"\0" * 100)
        data = swap(data, uid.RLELossless, syntax)
        with pytest.raises(InputError, match=named) as caught:
            images.read(data)
        assert "JPEG 2000" in str(caught.value)
        assert "JPEG lossless" in str(caught.value)


def dataset_of(data: bytes) -> Dataset:
    from pydicom import dcmread

    return dcmread(io.BytesIO(data))


def swap(data: bytes, old: str, new: str) -> bytes:
    """Put another transfer syntax into the file meta group."""
    padded = [text.encode() + b"\0" * (len(text) % 2) for text in (old, new)]
    element = [b"\x02\0\x10\0UI" + struct.pack("<H", len(text)) + text for text in padded]
    assert element[0] in data
    return data.replace(element[0], element[1], 1)


class TestFile:
    def test_without_preamble_or_meta_group(self) -> None:
        data = file(dataset())
        start = data.index(b"\x08\0\x60\0CS")  # Modality, the first element
        for part in (data[132:], data[start:]):
            np.testing.assert_array_equal(images.read(part).pixels, read().pixels)
        implicit = file(dataset(), uid.ImplicitVRLittleEndian)
        start = implicit.index(b"\x08\0\x60\0\x02\0\0\0DX")
        np.testing.assert_array_equal(images.read(implicit[start:]).pixels, read().pixels)

    def test_a_preamble_that_is_a_tiff_header(self) -> None:
        data = b"II*\0" + file(dataset())[4:]
        assert images.read(data).format == "DICOM"

    @pytest.mark.parametrize("modality", ["CT", "MR", "US", "PT", "NM", "SR", "RTDOSE"])
    def test_other_modalities_are_refused(self, modality: str) -> None:
        with pytest.raises(InputError, match=f"not a projection radiograph.*modality {modality}"):
            read(Modality=modality)

    @pytest.mark.parametrize("modality", ["CR", "DX", "RG", "OT", ""])
    def test_accepted_modalities(self, modality: str) -> None:
        assert read(Modality=modality).format == "DICOM"

    def test_an_odd_modality_is_not_repeated(self) -> None:
        with pytest.raises(InputError) as caught:
            read(Modality="DOE^JANE")
        assert "DOE" not in str(caught.value)

    def test_no_image(self) -> None:
        with pytest.raises(InputError, match="holds no image"):
            read(PixelData=None)

    def test_constant_image(self) -> None:
        with pytest.raises(InputError, match="same value"):
            read(np.full((40, 60), 700, np.uint16))


class TestPatient:
    @pytest.mark.parametrize(
        ("tags", "sex"), [("F", "F"), ("M", "M"), ("m ", "M"), ("O", None), ("", None), ("X", None)]
    )
    def test_sex(self, tags: str, sex: str | None) -> None:
        assert read(PatientSex=tags).sex == sex

    @pytest.mark.parametrize(
        ("tags", "years"),
        [
            ({"PatientAge": "011Y"}, 11),
            ({"PatientAge": "030M"}, 2.5),
            ({"PatientAge": "026W"}, 26 * 7 / 365.25),
            ({"PatientAge": "100D"}, 100 / 365.25),
            ({"PatientBirthDate": "20100101", "StudyDate": "20200101"}, 10),
            (
                {
                    "PatientBirthDate": "20100101",
                    "AcquisitionDate": "20150101",
                    "StudyDate": "20200101",
                },
                5,
            ),
            ({"PatientAge": "000Y", "PatientBirthDate": "20100101", "StudyDate": "20200101"}, 10),
            (
                {"PatientAge": "009Y", "PatientBirthDate": "20100101", "StudyDate": "20191130"},
                9.911,
            ),
            ({"PatientAge": "009Y", "PatientBirthDate": "20100101"}, 9),
            ({"PatientAge": "009Y", "PatientBirthDate": "19000101", "StudyDate": "20191130"}, 9),
            (
                {"PatientAge": "110M", "PatientBirthDate": "20100101", "StudyDate": "20200601"},
                110 / 12,
            ),
            (
                {"PatientAge": "110M", "PatientBirthDate": "20100101", "StudyDate": "20190315"},
                9.202,
            ),
            ({"PatientAge": "000Y"}, None),
            ({"PatientAge": "11Y"}, None),
            ({"PatientAge": "abc"}, None),
            ({"PatientBirthDate": "20300101", "StudyDate": "20200101"}, None),
            ({"PatientBirthDate": "2010", "StudyDate": "20200101"}, None),
            ({"PatientBirthDate": "20100101"}, None),
            ({}, None),
        ],
    )
    def test_age(self, tags: dict[str, str], years: float | None) -> None:
        assert read(**tags).age_years == pytest.approx(years, abs=0.003)

    def test_an_invalid_value_is_not_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        data = file(dataset(PatientSex="jane", PatientAge="doe", PatientBirthDate="9999x"))
        caplog.clear()
        assert images.read(data).age_years is None
        assert caplog.text == ""

    def test_nothing_else_of_the_header_is_read(self, caplog: pytest.LogCaptureFixture) -> None:
        secrets = ["DOE^JANE", "ID4711", "HOSPITAL", "DR^WHO", "STUDYTEXT", "SECRETNOTE"]
        keywords = ["PatientName", "PatientID", "InstitutionName", "ReferringPhysicianName"]
        keywords += ["StudyDescription", "ImageComments"]
        tags = dict(zip(keywords, secrets, strict=True))
        data = file(dataset(**tags, PatientSex="F", PatientAge="007Y"))
        parsed, _ = dicom.parse(data)
        assert not set(keywords) & {element.keyword for element in parsed}
        caplog.clear()
        text = f"{images.read(data, id='x')!r} {caplog.text}"
        assert not [secret for secret in secrets if secret in text]


class TestHostile:
    @pytest.mark.parametrize(
        ("tags", "message"),
        [
            ({"Rows": 65535, "Columns": 65535}, "megapixels"),
            ({"NumberOfFrames": 100_000}, "megapixels"),
            ({"NumberOfFrames": -3, "Rows": 41}, "damaged"),
            ({"Rows": 0}, "each side"),
            ({"Rows": None}, "Rows"),
            ({"Columns": None}, "Columns"),
            ({"BitsStored": None}, "BitsStored"),
            ({"BitsAllocated": 7}, "7 bits allocated"),
            ({"BitsAllocated": 32}, "32 bits allocated"),
            ({"BitsStored": 0}, "0 stored"),
            ({"BitsStored": 17}, "17 stored"),
            ({"HighBit": 300}, "high bit 300"),
            ({"HighBit": 3}, "high bit 3"),
            ({"PixelRepresentation": 9}, "PixelRepresentation"),
            ({"HighBit": ""}, "no valid HighBit"),
            ({"SamplesPerPixel": 3}, "photometric"),
            ({"SamplesPerPixel": 4}, "photometric"),
            ({"PhotometricInterpretation": "PALETTE COLOR"}, "photometric"),
            ({"PhotometricInterpretation": None}, "photometric"),
            ({"Rows": 400}, "damaged"),
            ({"RescaleSlope": 1e308, "RescaleIntercept": 0}, "not finite"),
            ({"RescaleSlope": 0, "RescaleIntercept": 3}, "same value"),
            ({"ModalityLUTSequence": lut(4096, 0, [1, 2])}, "damaged"),
            ({"ModalityLUTSequence": Sequence([Dataset()])}, "damaged"),
        ],
    )
    def test_headers(self, tags: dict[str, object], message: str) -> None:
        data = file(dataset(**tags))
        with pytest.raises(InputError, match=message) as caught:
            images.read(data)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    @pytest.mark.parametrize("name", ["RLE", "JPEG-LS", "JPEG 2000", "JPEG lossless"])
    def test_a_stream_of_another_size_is_refused(self, name: str) -> None:
        syntax, encode = LOSSLESS[name]
        large = np.tile(GREY12, (3, 2))
        with pytest.raises(InputError, match=r"size or form|damaged"):
            images.read(file(dataset(), syntax, encode(large[:90], 12)))
        with pytest.raises(InputError, match=r"size or form|damaged"):
            images.read(file(dataset(large), syntax, encode(GREY12, 12)))

    def test_a_huge_stream_is_not_decoded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        frame = bytearray(LOSSLESS["JPEG 2000"][1](GREY12, 12))
        frame[8:16] = struct.pack(">II", 2**31, 2**31)
        monkeypatch.setattr(imagecodecs, "jpeg2k_decode", lambda stream: pytest.fail("decoded"))
        with pytest.raises(InputError, match="size or form"):
            images.read(file(dataset(), uid.JPEG2000Lossless, bytes(frame)))

    @pytest.mark.parametrize("name", LOSSLESS)
    @pytest.mark.parametrize("keep", [0.02, 0.5, 0.97])
    def test_truncated_stream(self, name: str, keep: float) -> None:
        syntax, encode = LOSSLESS[name]
        frame = encode(GREY12, 12)
        with pytest.raises(InputError, match=r"incomplete|size or form"):
            images.read(file(dataset(), syntax, frame[: int(len(frame) * keep)]))

    @pytest.mark.parametrize("name", LOSSLESS)
    @pytest.mark.parametrize("missing", [9, 800])
    def test_a_compressed_file_without_its_end_is_incomplete(self, name: str, missing: int) -> None:
        """It is not said to hold no image, as one is that never did."""
        syntax, encode = LOSSLESS[name]
        data = file(dataset(), syntax, encode(GREY12, 12))
        with pytest.raises(InputError, match="pixel data are incomplete"):
            images.read(data[:-missing])

    @pytest.mark.parametrize("keep", [0.01, 0.05, 0.2, 0.5, 0.99])
    def test_truncated_file(self, keep: float) -> None:
        plain = file(dataset())
        packed = file(dataset(), uid.JPEGLSLossless, imagecodecs.jpegls_encode(GREY12))
        deflated = file(dataset(), uid.DeflatedExplicitVRLittleEndian)
        for data in (plain, packed, deflated):
            with pytest.raises(InputError):
                images.read(data[: int(len(data) * keep)])

    def test_wrong_syntax_for_the_pixels(self) -> None:
        plain = file(dataset(), uid.ExplicitVRLittleEndian)
        packed = file(dataset(), uid.JPEGLSLossless, imagecodecs.jpegls_encode(GREY12))
        for data in (
            swap(plain, uid.ExplicitVRLittleEndian, uid.JPEG2000Lossless),
            swap(packed, uid.JPEGLSLossless, uid.JPEG2000),
            swap(packed, uid.JPEGLSLossless, uid.RLELossless),
            swap(packed, uid.JPEGLSLossless, uid.ExplicitVRLittleEndian),
        ):
            with pytest.raises(InputError):
                images.read(data)

    def test_deflate_bomb(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dicom, "MAX_INFLATED", 10_000_000)
        data = file(dataset(), uid.DeflatedExplicitVRLittleEndian)
        start = 132 + 12 + struct.unpack("<I", data[140:144])[0]  # past the meta group
        deflater = zlib.compressobj(wbits=-15)
        bomb = deflater.compress(bytes(50_000_000)) + deflater.flush()
        with pytest.raises(InputError, match="unpacks to more"):
            images.read(data[:start] + bomb)

    def test_elements_without_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dicom, "MAX_ELEMENTS", 50)
        data = file(dataset())
        tiny = b"".join(struct.pack("<HH2sH", 0x09, n, b"UN", 0) + bytes(4) for n in range(60))
        start = data.index(b"\x28\0\x02\0US")
        with pytest.raises(InputError, match="more than 50 elements"):
            images.read(data[:start] + tiny + data[start:])
        after = b"".join(struct.pack("<HH2sH", 0xFFFC, n, b"UN", 0) + bytes(4) for n in range(60))
        np.testing.assert_array_equal(images.read(data + after).pixels, read().pixels)

    @pytest.mark.parametrize("depth", [50, 20_000])
    def test_deep_nesting(self, depth: int) -> None:
        data = file(dataset())
        start = data.index(b"\x08\0\x60\0CS")
        opening = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff"
        closing = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
        nested = data[:start] + opening * depth + closing * depth + data[start:]
        if depth < 100:
            np.testing.assert_array_equal(images.read(nested).pixels, read().pixels)
        else:
            with pytest.raises(InputError, match="damaged"):
                images.read(nested)

    @pytest.mark.parametrize("name", ["plain", "RLE", "JPEG-LS", "JPEG 2000", "JPEG lossless"])
    def test_any_damage_is_an_input_error_or_readable(
        self, name: str, capfd: pytest.CaptureFixture, recwarn: pytest.WarningsRecorder
    ) -> None:
        if name == "plain":
            sound = file(dataset(WindowCenter=2000, WindowWidth=900, PatientAge="011Y"))
        else:
            syntax, encode = LOSSLESS[name]
            sound = file(dataset(), syntax, encode(GREY12, 12))
        rng = np.random.default_rng(5)
        outcomes = set()
        for turn in range(200):
            data = np.frombuffer(sound, np.uint8).copy()
            until = 600 if turn % 2 else len(data)
            data[rng.integers(132, until, 3)] = rng.integers(0, 256, 3)
            try:
                images.read(data.tobytes())
                outcomes.add("read")
            except InputError:
                outcomes.add("refused")
        assert outcomes == {"read", "refused"}
        assert capfd.readouterr() == ("", "")
        assert not recwarn.list

    def test_no_path_in_any_message(self, tmp_path: Path) -> None:
        path = tmp_path / "secret place" / "hand.dcm"
        path.parent.mkdir()
        for data in (file(dataset())[:700], file(dataset(Modality="CT")), b"DICM" * 99):
            path.write_bytes(data)
            with pytest.raises(InputError) as caught:
                images.read(path)
            assert "secret" not in str(caught.value)
            assert str(tmp_path) not in str(caught.value)
