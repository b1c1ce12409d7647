"""Directories of zips are measured before they are parsed."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest

from boneage import volumes
from boneage.errors import InputError
from boneage.zips import open_zip, read_member


def zipped(count: int, *, name: str = "", comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for index in range(count):
            archive.writestr(f"{index}{name}", b"")
        archive.comment = comment
    return buffer.getvalue()


def zipped_64(count: int, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """With a zip64 record, and as in a large zip nothing in the other one."""
    with monkeypatch.context() as patched:
        patched.setattr("zipfile.ZIP_FILECOUNT_LIMIT", 1)
        content = bytearray(zipped(count))
    assert content[-42:-38] == b"PK\6\7"
    content[-14:-6] = b"\xff" * 8  # both counts, and the size
    return bytes(content)


@pytest.fixture
def unparsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a directory is parsed; writing parses nothing."""
    monkeypatch.setattr("zipfile.ZipFile._RealGetContents", lambda _: pytest.fail("parsed"))


@pytest.mark.parametrize("comment", [b"", b"of the archive", b"PK\5\6"[:3] * 20000])
def test_up_to_the_limit(comment: bytes, tmp_path: Path) -> None:
    content = zipped(5, comment=comment)
    assert len(open_zip(io.BytesIO(content), 5).infolist()) == 5
    (tmp_path / "a.zip").write_bytes(b"prefix" + content)
    with open_zip(tmp_path / "a.zip", 5) as archive:
        assert archive.read("3") == b""


@pytest.mark.parametrize("comment", [b"", b"of the archive"])
def test_too_many_are_not_parsed(comment: bytes, tmp_path: Path, unparsed: None) -> None:
    content = zipped(5, comment=comment)
    with pytest.raises(InputError, match="The zip holds more than 4 entries"):
        open_zip(io.BytesIO(content), 4)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.zip holds more than 4 entries"):
        open_zip(tmp_path / "a.zip", 4, "a.zip")


def test_a_large_directory_is_not_parsed(unparsed: None) -> None:
    with pytest.raises(InputError, match="names too long"):
        open_zip(io.BytesIO(zipped(2, name="a" * 2000)), 4)


def test_zip64(monkeypatch: pytest.MonkeyPatch) -> None:
    content = zipped_64(5, monkeypatch)
    assert len(open_zip(io.BytesIO(content), 5).infolist()) == 5
    monkeypatch.setattr("zipfile.ZipFile._RealGetContents", lambda _: pytest.fail("parsed"))
    with pytest.raises(InputError, match="more than 4 entries"):
        open_zip(io.BytesIO(content), 4)


def test_a_count_that_is_too_low() -> None:
    content = bytearray(zipped(5))
    struct.pack_into("<2H", content, len(content) - 14, 1, 1)
    with pytest.raises(InputError, match="more than 4 entries"):
        open_zip(io.BytesIO(content), 4)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"PK\5\6", b"no zip" * 10])
def test_no_zip(content: bytes) -> None:
    with pytest.raises(zipfile.BadZipFile):
        open_zip(io.BytesIO(content), 5)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_the_library_unpacks_without_measure_is_not_unpacked(
    method: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a block of these it unpacks all, though only a few bytes are asked for."""
    path = tmp_path / "series.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("1.dcm", bytes(1000))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("opened"))
    with open_zip(path, 9) as archive:
        (info,) = archive.infolist()
        with pytest.raises(InputError, match="compressed in an unknown way"):
            read_member(archive, info, 2000)
    assert not volumes.is_volume(path)
