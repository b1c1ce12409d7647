"""Zip files whose directory may be hostile."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from boneage.errors import InputError

MAX_ENTRY_BYTES = 512
"""The most bytes of directory that an entry may take on average: its name, dates and rights."""
JUNK = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
"""What systems put into folders and zips beside people's files, as do hidden names."""
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")


def open_zip(file: Path | BinaryIO, most: int, name: str = "The zip") -> zipfile.ZipFile:
    """Open a zip, unless its directory is larger than accepted.

    :class:`zipfile.ZipFile` parses the whole directory at once into about ten times its size. So
    what the record at the file's end says of the directory is looked at first (APPNOTE 4.3.14 to
    4.3.16).

    Args:
        file: its path, or the file opened for reading.
        most: entries that are accepted.
        name: how an error calls it.

    Raises:
        InputError: more entries than ``most``, or a directory too large for so many.
        zipfile.BadZipFile: no zip, or a damaged one.
        OSError: it cannot be read.
    """
    if isinstance(file, Path):
        with file.open("rb") as opened:
            entries, size = _claims(opened)
    else:
        entries, size = _claims(file)
    if entries <= most and size <= most * MAX_ENTRY_BYTES:
        archive = zipfile.ZipFile(file)
        if len(archive.infolist()) <= most:  # the record may understate it
            return archive
        archive.close()
    raise InputError(f"{name} holds more than {most} entries, or names too long for them.")


def files_in(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files of a zip sorted by name, without hidden ones and junk."""
    inside = [
        info
        for info in archive.infolist()
        if not info.is_dir() and not any(map(is_junk, path_of(info).parts))
    ]
    return sorted(inside, key=lambda info: info.filename)


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is hidden or a system's own."""
    hidden = name.startswith(".") and name not in (".", "..")
    return hidden or name.lower() in JUNK


def plain_name(info: zipfile.ZipInfo) -> str:
    """The name of a member without its folders, whichever system wrote it."""
    return path_of(info).name


def open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    """A member to read from, of which no more is unpacked than is asked for.

    Raises:
        NotImplementedError: compressed by anything but deflate: of bzip2 and LZMA the library
            unpacks whatever a block of the file holds at once, however much that is.
    """
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise NotImplementedError("That compression method is not supported")
    return archive.open(info)


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> bytes:
    """Unpack one file in memory.

    Args:
        archive: of :func:`open_zip`.
        info: of :func:`files_in`.
        most: bytes that it may unpack to; no more are unpacked, whatever it promises.

    Raises:
        InputError: larger, damaged, encrypted, or compressed in an unknown way.
    """
    try:
        with open_member(archive, info) as member:
            data = member.read(most + 1)
    except (RuntimeError, NotImplementedError):
        raise InputError("The file is encrypted or compressed in an unknown way.") from None
    except Exception:  # decoders raise many undocumented types on damaged input
        raise InputError("The file is damaged inside its zip.") from None
    if len(data) > most:
        raise InputError(f"The file is larger than {most // 2**20} MB.")
    return data


def path_of(info: zipfile.ZipInfo) -> PurePosixPath:
    """Where a member lies in its zip."""
    return PurePosixPath(info.filename.replace("\\", "/"))


def _claims(file: BinaryIO) -> tuple[int, int]:
    """How many entries the directory has, and its bytes, by the record at the end."""
    length = file.seek(0, 2)
    start = max(length - _END.size - 2**16, 0)  # a comment may follow the record
    file.seek(start)
    tail = file.read()
    at = len(tail) - _END.size
    if at < 0 or tail[at : at + 4] != b"PK\5\6" or tail[-2:] != b"\0\0":
        at = tail.rfind(b"PK\5\6")
    if not 0 <= at <= len(tail) - _END.size:
        raise zipfile.BadZipFile("no end of the directory")
    _, _, _, _, entries, size, _, _ = _END.unpack_from(tail, at)
    claims = _claims_64(file, start + at - _LOCATOR.size)
    return claims or (entries, size)


def _claims_64(file: BinaryIO, at: int) -> tuple[int, int] | None:
    """The same by the zip64 record that a locator at this place points to; None without one.

    Readers differ in where they look for the record, so the largest claim counts.
    """
    if at < 0:
        return None
    file.seek(at)
    magic, _, place, _ = _LOCATOR.unpack(file.read(_LOCATOR.size))
    if magic != b"PK\6\7":
        return None
    claims = []
    for position in {place, at - _END_64.size}:
        if 0 <= position <= at - _END_64.size:
            file.seek(position)
            magic, *_, entries, size, _ = _END_64.unpack(file.read(_END_64.size))
            if magic == b"PK\6\6":
                claims.append((entries, size))
    return (max(n for n, _ in claims), max(size for _, size in claims)) if claims else None
