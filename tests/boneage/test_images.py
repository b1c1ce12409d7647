"""Reading PNG, JPEG, TIFF, WebP and BMP, and everything that is refused."""

import io
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from boneage import images
from boneage.errors import InputError

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (40, 60), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (40, 60), dtype=np.uint16)
RGB = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
LOSSLESS = {"PNG": {}, "TIFF": {}, "BMP": {}, "WebP": {"lossless": True}}


def encoded(picture: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def grey_by_pillow(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L"))


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG of any bit depth, which Pillow cannot write itself."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(pixels: bytes, tags: dict[int, tuple[int, int]], order: str = "<") -> bytes:
    """A single-strip TIFF; tags are {number: (type, value)}, types 3 (short) and 4 (long)."""
    start = 8 + len(pixels)
    tags = dict(sorted({**tags, 273: (4, 8), 279: (4, len(pixels)), 277: (3, 1)}.items()))
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, kind, 1)
        + (struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value))
        for tag, (kind, value) in tags.items()
    )
    magic = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return magic + struct.pack(f"{order}I", start) + pixels + directory


def tiff_tags(bits: int, photometric: int, sample_format: int = 1) -> dict[int, tuple[int, int]]:
    size = {256: (4, 60), 257: (4, 40), 278: (4, 40)}
    return size | {258: (3, bits), 259: (3, 1), 262: (3, photometric), 339: (3, sample_format)}


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("hand.png", "hand"),
        ("1.2.840.113619.2.1", "1.2.840.113619.2.1"),
        ("1.2.840.1.dcm", "1.2.840.1"),
        ("IM000001", "IM000001"),
        (".hidden", ".hidden"),
    ],
)
def test_name_without_ending(tmp_path: Path, name: str, id: str) -> None:
    (tmp_path / name).write_bytes(encoded(GREY, "PNG"))
    assert images.read(tmp_path / name).id == id


class TestFormats:
    @pytest.mark.parametrize("kind", LOSSLESS)
    def test_8_bit_grey_is_kept_exactly(self, kind: str) -> None:
        radiograph = images.read(encoded(GREY, kind, **LOSSLESS[kind]))
        assert radiograph.format == kind
        assert radiograph.pixels.dtype == np.uint8
        np.testing.assert_array_equal(radiograph.pixels, GREY)
        assert (radiograph.width, radiograph.height) == (60, 40)

    def test_jpeg_is_what_its_decoder_gives(self) -> None:
        data = encoded(GREY, "JPEG", quality=95)
        expected = np.asarray(Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(images.read(data).pixels, expected)

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_16_bit_grey_is_kept_exactly(self, kind: str) -> None:
        radiograph = images.read(encoded(DEEP, kind))
        assert radiograph.pixels.dtype == np.uint16
        np.testing.assert_array_equal(radiograph.pixels, DEEP)
        assert radiograph.description == f"{kind}, 60 x 40 px, 16 bit grey"
        assert radiograph.warnings == ()

    @pytest.mark.parametrize("kind", LOSSLESS)
    def test_rgb_becomes_luma(self, kind: str) -> None:
        radiograph = images.read(encoded(RGB, kind, **LOSSLESS[kind]))
        np.testing.assert_array_equal(radiograph.pixels, grey_by_pillow(Image.fromarray(RGB)))

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "WebP"])
    def test_alpha_is_laid_on_black(self, kind: str) -> None:
        rgba = np.dstack([np.full((40, 60, 3), 200, np.uint8), GREY])
        radiograph = images.read(encoded(rgba, kind, **LOSSLESS[kind], **WEBP_EXACT.get(kind, {})))
        np.testing.assert_allclose(radiograph.pixels, np.round(200 * (GREY / 255)), atol=1)

    def test_grey_with_alpha(self) -> None:
        picture = Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (60, 40), 0)])
        picture.putpixel((5, 5), (180, 255))
        pixels = images.read(encoded(picture, "PNG")).pixels
        assert pixels[5, 5] == 180
        assert np.count_nonzero(pixels) == 1

    def test_palette(self) -> None:
        picture = Image.fromarray(RGB).quantize(16)
        expected = grey_by_pillow(picture.convert("RGB"))
        for kind in ("PNG", "BMP", "TIFF"):
            radiograph = images.read(encoded(picture, kind))
            np.testing.assert_array_equal(radiograph.pixels, expected)
            assert "palette" in radiograph.description

    def test_palette_with_a_transparent_entry(self) -> None:
        picture = Image.fromarray(RGB).quantize(4)
        pixels = images.read(encoded(picture, "PNG", transparency=2)).pixels
        assert (pixels[np.asarray(picture) == 2] == 0).all()
        assert (pixels[np.asarray(picture) != 2] > 0).all()

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
    def test_one_bit(self, kind: str) -> None:
        radiograph = images.read(encoded(Image.fromarray(GREY > 127), kind))
        np.testing.assert_array_equal(radiograph.pixels, np.where(GREY > 127, 255, 0))

    @pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
    def test_other_colour_spaces_of_jpeg(self, mode: str) -> None:
        picture = Image.fromarray(RGB).resize((120, 80)).convert(mode)
        radiograph = images.read(encoded(picture, "JPEG", quality=100, subsampling=0))
        expected = grey_by_pillow(picture.convert("RGB")).astype(int)
        assert np.abs(radiograph.pixels - expected).mean() < 2

    def test_lab_tiff_is_its_lightness(self) -> None:
        channels = [Image.fromarray(GREY), Image.new("L", (60, 40), 90), Image.new("L", (60, 40))]
        radiograph = images.read(encoded(Image.merge("LAB", channels), "TIFF"))
        np.testing.assert_array_equal(radiograph.pixels, GREY)

    @pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
    def test_compressed_tiff(self, compression: str) -> None:
        np.testing.assert_array_equal(
            images.read(encoded(DEEP, "TIFF", compression=compression)).pixels, DEEP
        )

    def test_big_endian_tiff(self) -> None:
        data = tiff(DEEP.astype(">u2").tobytes(), tiff_tags(16, 1), ">")
        np.testing.assert_array_equal(images.read(data).pixels, DEEP)

    def test_white_is_zero_tiff_is_inverted(self) -> None:
        deep = images.read(tiff(DEEP.tobytes(), tiff_tags(16, 0)))
        np.testing.assert_array_equal(deep.pixels, 65535 - DEEP)
        shallow = images.read(tiff(GREY.tobytes(), tiff_tags(8, 0)))
        np.testing.assert_array_equal(shallow.pixels, 255 - GREY)
        big_endian = images.read(tiff(DEEP.astype(">u2").tobytes(), tiff_tags(16, 0), ">"))
        np.testing.assert_array_equal(big_endian.pixels, 65535 - DEEP)
        big = images.read(encoded(DEEP, "TIFF", big_tiff=True, tiffinfo={262: 0}))
        np.testing.assert_array_equal(big.pixels, 65535 - DEEP)

    @pytest.mark.parametrize("order", "<>")
    @pytest.mark.parametrize("photometric", [0, 1])
    def test_photometric_interpretation_of_four_bytes(self, order: str, photometric: int) -> None:
        tags = tiff_tags(16, 0) | {262: (4, photometric)}
        pixels = images.read(tiff(DEEP.astype(f"{order}u2").tobytes(), tags, order)).pixels
        np.testing.assert_array_equal(pixels if photometric else 65535 - pixels, DEEP)

    @pytest.mark.parametrize("photometric", [0, 1])
    @pytest.mark.parametrize(
        ("dtype", "sample_format"), [("<u4", 1), ("<i4", 2), ("<i2", 2), ("|i1", 2)]
    )
    def test_signed_and_long_values_keep_their_order(
        self, dtype: str, sample_format: int, photometric: int
    ) -> None:
        limits = np.iinfo(dtype)
        values = np.linspace(limits.min, limits.max, 2400).reshape(40, 60).astype(dtype)
        tags = tiff_tags(limits.bits, photometric, sample_format)
        pixels = images.read(tiff(values.tobytes(), tags)).pixels
        top = np.iinfo(pixels.dtype).max
        expected = np.linspace(0, top, 2400).reshape(40, 60)
        np.testing.assert_allclose(pixels if photometric else top - pixels, expected, atol=1)

    def test_12_bit_tiff_uses_the_full_range(self) -> None:
        values = DEEP >> 4
        pairs = values.reshape(40, 30, 2).astype(np.uint32)
        packed = pairs[..., 0] << 12 | pairs[..., 1]
        octets = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], -1).astype(np.uint8)
        radiograph = images.read(tiff(octets.tobytes(), tiff_tags(12, 1)))
        np.testing.assert_array_equal(radiograph.pixels, values.astype(np.uint32) * 65535 // 4095)
        assert "12 bit" in radiograph.description

    def test_float_and_32_bit_tiff_are_stretched(self) -> None:
        values = np.linspace(-3, 7, 2400, dtype=np.float32).reshape(40, 60)
        expected = np.round(np.linspace(0, 65535, 2400)).reshape(40, 60)
        pixels = images.read(encoded(values, "TIFF")).pixels
        np.testing.assert_allclose(pixels, expected, atol=1)
        whole = (np.arange(2400, dtype=np.int32).reshape(40, 60) - 1200) * 1_000_000
        np.testing.assert_allclose(images.read(encoded(whole, "TIFF")).pixels, expected, atol=1)

    def test_a_tall_image_is_stretched_as_a_whole(self) -> None:
        values = np.linspace(-3, 7, 200 * 60).reshape(200, 60)
        expected = np.round(np.linspace(0, 65535, 200 * 60)).reshape(200, 60)
        np.testing.assert_array_equal(images.from_array(values).pixels, expected)

    def test_large_ones_wait_for_each_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(images, "LARGE_PIXELS", GREY.size - 1)
        data = encoded(GREY, "TIFF"), encoded(GREY[:-1], "TIFF")
        with ThreadPoolExecutor(2) as pool:
            with images.in_turn(GREY.size):
                large, small = (pool.submit(images.read, each) for each in data)
                assert small.result(60)
                assert not large.done()
            assert large.result(60)

    def test_float_tiff_with_nan_is_refused(self) -> None:
        values = GREY.astype(np.float32)
        values[3, 3] = np.nan
        with pytest.raises(InputError, match="not finite"):
            images.read(encoded(values, "TIFF"))

    def test_16_bit_colour_is_reduced_and_said(self) -> None:
        deep = RGB.astype(">u2") * 257
        rows = b"".join(b"\0" + row.tobytes() for row in deep)
        radiograph = images.read(png(60, 40, 16, 2, rows))
        np.testing.assert_array_equal(radiograph.pixels, grey_by_pillow(Image.fromarray(RGB)))
        assert radiograph.warnings == ("16-bit colour was reduced to 8 bit.",)

    @pytest.mark.parametrize("depth", [2, 4])
    def test_low_bit_depth_png_uses_the_full_range(self, depth: int) -> None:
        levels = 2**depth - 1
        row = bytes(RNG.integers(0, 256, 64 * depth // 8, dtype=np.uint8))
        bits = np.unpackbits(np.frombuffer(row, np.uint8)).reshape(64, depth)
        values = bits @ (1 << np.arange(depth)[::-1])
        pixels = images.read(png(64, 32, depth, 0, (b"\0" + row) * 32)).pixels
        np.testing.assert_array_equal(pixels[0], values * 255 // levels)

    def test_only_the_first_page_is_read(self) -> None:
        pages = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
        for kind, options in (("TIFF", {}), ("PNG", {}), ("WebP", {"lossless": True})):
            data = encoded(pages[0], kind, save_all=True, append_images=pages[1:], **options)
            radiograph = images.read(data)
            np.testing.assert_array_equal(radiograph.pixels, GREY)
            assert "only the first" in radiograph.warnings[0]

    def test_real_radiograph(self, rsna_fullsize_dir: Path) -> None:
        path = next((rsna_fullsize_dir / "images").glob("*.png"))
        radiograph = images.read(path)
        with Image.open(path) as picture:
            np.testing.assert_array_equal(radiograph.pixels, np.asarray(picture.convert("L")))
        assert radiograph.id == path.stem
        assert (radiograph.sex, radiograph.age_years, radiograph.warnings) == (None, None, ())


WEBP_EXACT = {"WebP": {"exact": True}}


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF"])
    def test_every_orientation_comes_upright(self, kind: str, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"quality": 95} if kind == "JPEG" else LOSSLESS[kind]
        data = encoded(GREY, kind, exif=exif, **options)
        with Image.open(io.BytesIO(data)) as picture:
            expected = np.asarray(ImageOps.exif_transpose(picture).convert("L"))
        radiograph = images.read(data)
        np.testing.assert_array_equal(radiograph.pixels, expected)
        assert radiograph.pixels.flags.c_contiguous
        assert (radiograph.width == 40) == (orientation >= 5)
        assert f"{radiograph.width} x {radiograph.height} px" in radiograph.description

    def test_16_bit_is_turned_too(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        np.testing.assert_array_equal(
            images.read(encoded(DEEP, "PNG", exif=exif)).pixels, np.rot90(DEEP, -1)
        )

    @pytest.mark.parametrize(
        "exif", [b"Exif\0\0rubbish", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"]
    )
    def test_broken_exif_does_not_stop_reading(self, exif: bytes) -> None:
        data = encoded(GREY, "PNG", exif=exif)
        np.testing.assert_array_equal(images.read(data).pixels, GREY)


class TestSources:
    DATA = encoded(GREY, "PNG")

    def test_path_string_bytes_and_file_give_the_same(self, tmp_path: Path) -> None:
        path = tmp_path / "left hand.png"
        path.write_bytes(self.DATA)
        with path.open("rb") as file:
            read = [images.read(source) for source in (path, str(path), file)]
        read.append(images.read(self.DATA, id="left hand"))
        read.append(images.read(bytearray(self.DATA), id="left hand"))
        read.append(images.read(memoryview(self.DATA), id="left hand"))
        assert {radiograph.id for radiograph in read} == {"left hand"}
        for radiograph in read:
            np.testing.assert_array_equal(radiograph.pixels, GREY)

    def test_id_defaults(self) -> None:
        assert images.read(self.DATA).id == "image"
        file = io.BytesIO(self.DATA)
        file.name = "C:\\Users\\someone\\hand.7.png"
        assert images.read(file).id == "hand.7"
        file.seek(0)
        assert images.read(file, id="given").id == "given"

    def test_content_decides_not_the_name(self, tmp_path: Path) -> None:
        path = tmp_path / "hand.dcm"
        path.write_bytes(self.DATA)
        assert images.read(path).format == "PNG"

    @pytest.mark.parametrize("name", ["absent.png", "a\0b.png", "x" * 5000 + ".png"])
    def test_missing_file(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError, match="no such file") as caught:
            images.read(tmp_path / "deep" / name)
        assert str(tmp_path) not in str(caught.value)
        assert "deep" not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    def test_folder_and_endless_device(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is a folder") as caught:
            images.read(tmp_path)
        assert str(tmp_path) not in str(caught.value)
        if Path("/dev/zero").exists():
            with pytest.raises(InputError, match="no such file"):
                images.read("/dev/zero")

    def test_text_mode_closed_and_foreign_objects(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="binary mode"):
            images.read(io.StringIO("abc"))
        path = tmp_path / "hand.png"
        path.write_bytes(self.DATA)
        with path.open() as file, pytest.raises(InputError, match="file object"):
            images.read(file)
        with pytest.raises(InputError, match="file object"):
            images.read(file)
        for source in (None, 3, GREY, [self.DATA]):
            with pytest.raises(InputError, match=f"not as {type(source).__name__}"):
                images.read(source)


class TestLimits:
    def test_bytes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        data = encoded(GREY, "PNG")
        path = tmp_path / "hand.png"
        path.write_bytes(data)
        monkeypatch.setattr(images, "MAX_BYTES", len(data))
        images.read(path)
        monkeypatch.setattr(images, "MAX_BYTES", len(data) - 1)
        for source in (path, data, io.BytesIO(data)):
            with pytest.raises(InputError, match="larger than"):
                images.read(source)

    def test_a_file_too_large_is_not_read(self, tmp_path: Path) -> None:
        path = tmp_path / "huge.png"
        with path.open("wb") as file:
            file.truncate(images.MAX_BYTES + 1)  # sparse
        with pytest.raises(InputError, match="larger than 64 MB"):
            images.read(path)

    @pytest.mark.parametrize("size", [(10_001, 10_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
    def test_pixels_are_counted_before_decoding(self, size: tuple[int, int]) -> None:
        # The body is rubbish: a decoder would call it damaged.
        with pytest.raises(InputError, match="more than 100 megapixels"):
            images.read(png(*size, 8, 0, b"rubbish"))
        data = bytearray(encoded(GREY, "BMP"))
        data[18:26] = struct.pack("<ii", *size)
        with pytest.raises(InputError, match="more than 100 megapixels"):
            images.read(bytes(data))

    def test_webp_and_tiff_and_jpeg_pixels(self) -> None:
        body = b"VP8L" + struct.pack("<IBI", 6, 0x2F, 16_382 | 16_382 << 14) + b"\0"
        webp = b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
        tags = tiff_tags(8, 1) | {256: (4, 20_000), 257: (4, 20_000)}
        jpeg = encoded(GREY, "JPEG").replace(struct.pack(">HH", 40, 60), b"\x60\0\x60\0", 1)
        for data in (webp, tiff(GREY.tobytes(), tags), jpeg):
            with pytest.raises(InputError, match="megapixels"):
                images.read(data)

    def test_smallest_side(self) -> None:
        assert images.read(encoded(GREY[:32, :32], "PNG")).width == images.MIN_SIDE
        with pytest.raises(InputError, match="only 60 x 31 px"):
            images.read(encoded(GREY[:31], "PNG"))

    def test_constant_image(self) -> None:
        with pytest.raises(InputError, match="same value"):
            images.read(encoded(np.full((50, 50), 90, np.uint8), "PNG"))


class TestRefusals:
    @pytest.mark.parametrize(
        ("data", "named"),
        [
            (b"GIF89a" + bytes(50), "a GIF"),
            (b"%PDF-1.7\n%\xe2\xe3", "a PDF"),
            (b"PK\x03\x04" + bytes(50), "a ZIP archive"),
            (b"\x1f\x8b\x08" + bytes(50), "a compressed archive"),
            (b"\0\0\0\x18ftypheic" + bytes(50), "a HEIC photo"),
            (b"\0\0\0\x18ftypavif" + bytes(50), "an AVIF image"),
            (b"\0\0\0\x18ftypmp42" + bytes(50), "a video"),
            (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "an SVG drawing"),
            (b"<!DOCTYPE html><html></html>", "a web page"),
            (b"8BPS\0\x01" + bytes(50), "a Photoshop document"),
            (b"%!PS-Adobe-3.0 EPSF", "a PostScript document"),
            (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50), "a JPEG 2000 image"),
            (bytes(344) + b"n+1\0" + bytes(10), "a NIfTI volume"),
            (b"\x93NUMPY\x01\0", "a NumPy array"),
            (b"id,boneage,male\n1,2,True\n", "a text file"),
            ("Knochenalter: 12 Jahre, männlich".encode(), "a text file"),
            (bytes(range(256)), "not in a known image format"),
            (b"\0" * 500, "not in a known image format"),
            (b"BM, a text", "a text file"),
            (b"", "empty"),
        ],
    )
    def test_what_it_is_and_what_is_accepted(self, data: bytes, named: str) -> None:
        with pytest.raises(InputError, match=named) as caught:
            images.read(data)
        if data:
            assert "Accepted: PNG, JPEG, TIFF, WebP, BMP and DICOM." in str(caught.value)

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WebP", "BMP"])
    @pytest.mark.parametrize("keep", [0.03, 0.3, 0.6, 0.95])
    def test_truncated(self, kind: str, keep: float, rsna_test_dir: Path) -> None:
        with Image.open(next((rsna_test_dir / "images").glob("*.webp"))) as picture:
            data = encoded(picture.convert("L"), kind)
        with pytest.raises(InputError, match=r"damaged|no known") as caught:
            images.read(data[: int(len(data) * keep)])
        assert "Traceback" not in str(caught.value)
        assert caught.value.__suppress_context__

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WebP", "BMP"])
    def test_any_damage_is_an_input_error_or_readable(self, kind: str) -> None:
        rng = np.random.default_rng(3)
        sound = np.frombuffer(encoded(GREY, kind), np.uint8)
        for _ in range(150):
            data = sound.copy()
            data[rng.integers(0, min(len(data), 400), 4)] = rng.integers(0, 256, 4)
            try:
                radiograph = images.read(data.tobytes())
            except InputError:
                continue
            assert radiograph.pixels.min() < radiograph.pixels.max()

    def test_an_eps_named_png_is_not_opened(self, tmp_path: Path) -> None:
        path = tmp_path / "hand.png"
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n")
        with pytest.raises(InputError, match="PostScript"):
            images.read(path)

    def test_png_text_bomb(self) -> None:
        data = encoded(GREY, "PNG")
        body = b"zTXt" + b"k\0\0" + zlib.compress(bytes(80_000_000))
        chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        with pytest.raises(InputError):
            images.read(data[:33] + chunk + data[33:])


class TestSideEffects:
    def test_no_warning_leaks_and_filters_are_restored(
        self, recwarn: pytest.WarningsRecorder
    ) -> None:
        before = list(warnings.filters)
        # Pillow warns of a decompression bomb from 89 megapixels on.
        with pytest.raises(InputError):
            images.read(png(9_900, 10_000, 8, 0, b"rubbish"))
        images.read(encoded(Image.fromarray(RGB).quantize(4), "PNG", transparency=b"\0\1\2\3"))
        assert warnings.filters == before
        assert not recwarn.list

    def test_filters_are_restored_when_threads_overlap(self) -> None:
        before = list(warnings.filters)
        data = encoded(RNG.integers(0, 256, (400, 400), dtype=np.uint8), "PNG")
        threads = [threading.Thread(target=images.read, args=(data,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert warnings.filters == before

    def test_nothing_is_printed_and_no_global_is_changed(
        self, capfd: pytest.CaptureFixture
    ) -> None:
        state = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)
        for kind in ("PNG", "JPEG", "TIFF", "WebP", "BMP"):
            data = encoded(GREY, kind)
            images.read(data)
            with pytest.raises(InputError):
                images.read(data[: len(data) * 2 // 3])
        assert state == (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)
        assert capfd.readouterr() == ("", "")

    def test_reading_a_picture_loads_no_dicom_library(
        self, tmp_path: Path, repo_root: Path
    ) -> None:
        path = tmp_path / "hand.png"
        path.write_bytes(encoded(GREY, "PNG"))
        code = (
            "import sys; from boneage import images; images.read(sys.argv[1]);"
            "print({'pydicom', 'imagecodecs', 'torch'} & set(sys.modules))"
        )
        run = [sys.executable, "-c", code, str(path)]
        done = subprocess.run(run, cwd=repo_root, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "set()"


class TestFromArray:
    def test_8_and_16_bit_are_kept(self) -> None:
        for pixels in (GREY, DEEP, DEEP.astype(">u2")):
            radiograph = images.from_array(pixels)
            np.testing.assert_array_equal(radiograph.pixels, pixels)
            assert radiograph.pixels.dtype == pixels.dtype.newbyteorder("=")
        assert (radiograph.format, radiograph.id) == ("array", "array")

    def test_the_array_is_copied_and_the_copy_is_read_only(self) -> None:
        pixels = GREY.copy()
        radiograph = images.from_array(pixels, id="mine")
        pixels[:] = 0
        np.testing.assert_array_equal(radiograph.pixels, GREY)
        with pytest.raises(ValueError, match="read-only"):
            radiograph.pixels[0, 0] = 1

    def test_colour(self) -> None:
        expected = grey_by_pillow(Image.fromarray(RGB))
        np.testing.assert_array_equal(images.from_array(RGB).pixels, expected)
        opaque = np.dstack([RGB, np.full((40, 60), 255, np.uint8)])
        np.testing.assert_array_equal(images.from_array(opaque).pixels, expected)
        equal = np.dstack([DEEP] * 3)
        np.testing.assert_array_equal(images.from_array(equal).pixels, DEEP)
        np.testing.assert_array_equal(images.from_array(GREY[..., None]).pixels, GREY)

    def test_alpha_is_laid_on_black(self) -> None:
        rgba = np.dstack([GREY, GREY, GREY, np.where(GREY > 100, 255, 0).astype(np.uint8)])
        np.testing.assert_array_equal(images.from_array(rgba).pixels, np.where(GREY > 100, GREY, 0))

    @pytest.mark.parametrize(
        "dtype", [np.float16, np.float32, np.float64, np.int16, np.int64, ">f4"]
    )
    def test_other_numbers_are_stretched(self, dtype: str) -> None:
        values = np.linspace(-100, 100, 2048).reshape(32, 64).astype(dtype)
        pixels = images.from_array(values).pixels
        expected = (values.astype(float) + 100) / 200 * 65535
        np.testing.assert_allclose(pixels, expected, atol=0.51)
        assert (pixels.min(), pixels.max(), pixels.dtype) == (0, 65535, np.uint16)

    @pytest.mark.parametrize(
        ("pixels", "message"),
        [
            (np.zeros((40, 60), bool), "not bool"),
            (np.zeros((40, 60), complex), "not complex"),
            (np.full((40, 60), "x"), "integers or floats"),
            (np.zeros((2, 40, 60, 3), np.uint8), "2 x 40 x 60 x 3"),
            (np.zeros((40, 60, 2), np.uint8), "40 x 60 x 2"),
            (np.zeros(60, np.uint8), "not 60"),
            (np.float64(3), "a single number"),
            (np.zeros((0, 60), np.uint8), "60 x 0 px"),
            (np.zeros((40, 60, 4), np.float32), "must be uint8 or uint16"),
            (np.where(GREY > 5, np.nan, 1.0), "not finite"),
            (np.where(GREY > 5, np.inf, 1.0), "not finite"),
            (np.where(GREY > 5, -1e308, 1e308), "not finite"),
            (np.ones((40, 60), np.float32), "same value"),
            (np.broadcast_to(np.uint8(1), (20_000, 20_000)), "megapixels"),
        ],
    )
    def test_refusals(self, pixels: np.ndarray, message: str) -> None:
        with pytest.raises(InputError, match=message):
            images.from_array(pixels)


class TestRadiograph:
    @pytest.mark.parametrize("pixels", [RGB, GREY.astype(np.int32), GREY.astype(float)])
    def test_only_2d_uint8_or_uint16(self, pixels: np.ndarray) -> None:
        with pytest.raises(InputError, match="2-D array of uint8 or uint16"):
            images.Radiograph(pixels, "x", "array", "")

    def test_pixels_are_read_only_but_the_callers_array_is_not(self) -> None:
        pixels = GREY.copy()
        assert not images.Radiograph(pixels, "x", "array", "").pixels.flags.writeable
        assert pixels.flags.writeable
