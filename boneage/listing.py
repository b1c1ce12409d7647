"""Which files and volumes are meant by the files and folders that a command was given."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from boneage.ct_series import holds_slices
from boneage.errors import InputError
from boneage.ledger import LEDGER, Places, written
from boneage.zips import is_junk

CLOSED = "The folder cannot be read."


@dataclass
class Files:
    """What there is to assess among the files and folders that were named.

    Attributes:
        paths: files, and folders that are volumes; each once.
        closed: folders that the system forbids to list.
        results: folders of earlier results, which are left out.
        linked: number of folders that are links, which are not followed.
        repeated: places of files that were named more than once.
    """

    paths: list[Path] = field(default_factory=list)
    closed: list[Path] = field(default_factory=list)
    results: list[Path] = field(default_factory=list)
    linked: int = 0
    repeated: set[str] = field(default_factory=set)

    def notes(self) -> list[str]:
        """What was left out, in sentences."""
        notes = []
        if self.repeated:
            notes.append(
                f"{_were(len(self.repeated), 'file')} named more than once, and taken once."
            )
        if self.results:
            names = ", ".join(folder.name for folder in self.results)
            notes.append(
                f"{_were(len(self.results), 'folder')} left out as earlier results: {names}."
            )
        if self.linked:
            notes.append(f"{_were(self.linked, 'linked folder')} not followed.")
        return notes


def _were(count: int, what: str) -> str:
    return f"{count} {what} was" if count == 1 else f"{count} {what}s were"


def list_files(
    paths: Sequence[Path],
    volumes: bool = False,
    out: Path | None = None,
    table: Path | None = None,
) -> Files:
    """The files themselves and, sorted and without junk, those of folders and their folders.

    A shell that expands ``films/*`` names what was put there, too: among several paths the folder
    of results and what was written into it, folders of earlier ones and the table are left out.

    Args:
        paths: files and folders.
        volumes: a folder among whose own files are CT slices is a volume, and stands for them; each
            folder below is judged by itself.
        out: folder of results, which is left out wherever it lies in the others.
        table: that says something of the files; likewise.

    Raises:
        InputError: for a path that does not exist, a folder without files, or ``out`` itself.
    """
    left_out = out.resolve() if out else None
    places = Places(Path())
    found, known = Files(), set()
    for path in paths if len(paths) == 1 else _named(paths, left_out, table, found):
        if path.is_dir():
            if path.resolve() == left_out:
                raise InputError(
                    "--out is the folder that is assessed: give another, which may lie inside it."
                )
            closed = len(found.closed)
            every = _inside(path, volumes, left_out, found)
            inside = [file for file in every if not (table and _is_same(file, table))]
            if not inside and len(found.closed) == closed:
                said = f"The folder {path.resolve().name} holds no files."
                raise InputError(" ".join([said, *found.notes()]))
        elif path.exists():
            inside = [path]
        else:
            raise InputError(f"There is no file or folder {path.name}.")
        for file in inside:
            if (place := places.of(file)) in known:
                found.repeated.add(place)
            else:
                known.add(place)
                found.paths.append(file)
    if not found.paths and not found.closed:
        raise InputError(" ".join(["There are no radiographs among these.", *found.notes()]))
    return found


def _named(
    paths: Sequence[Path], left_out: Path | None, table: Path | None, found: Files
) -> Iterator[Path]:
    """Of several paths those that are not results or the table."""
    lie_there = left_out in {folder.resolve() for folder in {path.parent for path in paths}}
    results = written(left_out) if left_out and lie_there else set()
    for path in paths:
        if path.name in results and path.parent.resolve() == left_out:
            continue
        if path.is_dir() and path.resolve() == left_out:
            continue
        if os.path.exists(path / LEDGER):
            found.results.append(path)
        elif not (table and _is_same(path, table)):
            yield path


def _inside(folder: Path, volumes: bool, left_out: Path | None, found: Files) -> Iterator[Path]:
    """Files and volumes of a folder; what else is in it is noted in ``found``."""
    is_one = False
    try:
        inside = sorted(folder.iterdir())
        if volumes:
            is_one = holds_slices(folder)
    except OSError:
        found.closed.append(folder)
        return
    if is_one:
        yield folder
    for path in inside:
        if is_junk(path.name):
            continue
        if not os.path.isdir(path):  # nor a link that leads nowhere: reading it says so
            if not is_one:
                yield path
        elif path.is_symlink():  # it may lead back up
            found.linked += 1
        elif path.resolve() != left_out:
            if os.path.exists(path / LEDGER):
                found.results.append(path)
            else:
                yield from _inside(path, volumes, left_out, found)


def _is_same(one: Path, other: Path) -> bool:
    # By name first: to resolve each of many files takes long.
    return one.name == other.name and os.path.realpath(one) == os.path.realpath(other)
