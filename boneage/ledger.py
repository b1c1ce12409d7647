"""Assessments of many files on disk, as they come: a run that was stopped goes on from there."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from stat import S_ISDIR
from textwrap import indent
from typing import TYPE_CHECKING, Any, TextIO

from filelock import FileLock, Timeout

from boneage.errors import InputError, printable
from boneage.tables import cell

if TYPE_CHECKING:
    from boneage.batch import Item, Outcome, Source

LEDGER = "assessments.jsonl"
FAILURES = "failures.csv"
TABLES = ("assessments.csv", "assessments.json")  # made of it
LOCK = ".assessments.lock"  # goes with the process that holds it, however that ends
BEFORE = ("id", "task", "sex", "age", "unit")
INTERVAL = ("low", "high", "coverage")
AFTER = ("warnings", "refused", "model", "revision")
USED = {*BEFORE, "interval", "components", "warnings", "refused"}  # of an assessment, by the tables
ENDINGS = (".png", ".pdf")  # of what may lie beside an assessment: picture and report
MAX_NAME = 230
"""Bytes of a picture's name that come from its film's: file systems take 255 with everything, and a
number, the ending and the marks of an unfinished file are added."""


class Ledger:
    """The file ``assessments.jsonl`` of a folder: one line a file, appended and never rewritten.

    A line holds where the file lies from the folder, its size and date, the sex that was given, the
    files written beside it, the settings of the weights, and the assessment. A file counts as
    assessed if none of these changed and its picture is there. What lies in the folder under
    another name than the ledger's is never overwritten.

    Args:
        folder: where it is, or is made.
        model: id of the weights, for messages.
        revision: of the weights; those of all lines must be the same.
        settings: of the predictor (:attr:`Predictor.settings`), likewise.
        wanted: endings (of :data:`ENDINGS`) of the files that are to lie beside it.

    Raises:
        InputError: the folder holds assessments by other weights or other settings, a damaged
            ledger, or tables without one, or another run writes into it.
    """

    def __init__(
        self,
        folder: Path,
        model: str,
        revision: str,
        settings: str,
        wanted: Sequence[str] = (),
    ) -> None:
        self.wanted = wanted
        self.components: dict[str, None] = {}  # in order, without repetition
        self._folder = folder
        self._settings = settings
        self._path = folder / LEDGER
        self._places = Places(folder)
        # Of each file by its place: the offset of the last line, what was assessed, the picture.
        self._offsets: dict[str, int] = {}
        self._inputs: dict[str, tuple[str | None, str | None]] = {}
        self._pictures: dict[str, str] = {}
        self._own: set[str] = set()  # folded names of files that it wrote, or is about to
        self._numbers: dict[str, int] = {}  # the last that tells pictures of one name apart
        self._refuse_foreign_tables()
        self._lock = FileLock(folder / LOCK)
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise InputError(
                f"Another run is writing into {folder.name}: wait for it, or choose another folder."
            ) from None
        try:
            self._file = self._path.open("a+b")
        except BaseException:
            self._lock.release()
            raise
        try:
            self._read(folder.name, model, revision)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others write."""
        try:
            self._file.close()
        finally:
            self._lock.release()

    def pending(self, items: Iterable[Item]) -> list[Item]:
        """The items that are to be assessed: new, changed, or without what is wanted beside them.

        It is decided here for the whole run: :meth:`lines` has the others as they are in the
        ledger, whatever becomes of their files meanwhile.
        """
        found = []
        for item in items:
            place = self._place(item.source)
            if item.source.problem:
                found.append(item)
            elif not self._holds(place, item):
                found.append(item)
                self._offsets.pop(place, None)
        return found

    @staticmethod
    def stamped(items: Iterable[Item]) -> Iterator[Item]:
        """The items, each with the stamp that its file has when it is pulled, before it is read."""
        for item in items:
            yield replace(item, stamp=_stamp(item.source))

    def picture(self, source: Source) -> str:
        """A name without ending for the file's picture and report, which overwrites no other's."""
        known = self._pictures.get(self._place(source))
        if known is not None and not any(map(self._is_foreign, self._beside(known))):
            return known
        first = name = _shortened(printable(source.id))
        number = self._numbers.get(first, 1)
        while any(
            _folded(file) in self._own or self._is_foreign(file)
            for file in (f"{name}{ending}" for ending in ENDINGS)
        ):
            number += 1
            name = f"{first}-{number}"
        if number > 1:
            self._numbers[first] = number
        self._own.update(map(_folded, self._beside(name)))
        return name

    def part(self, picture: str, ending: str) -> Path:
        """Where to write what :meth:`keep` is to name so, hidden until then."""
        return _part(self._folder / f"{picture}{ending}")

    def keep(self, picture: str) -> None:
        """Give what was written to its parts the names that are wanted; :meth:`add` must follow.

        Raises:
            OSError: the system refuses.
        """
        for file in self._beside(picture):
            _part(self._folder / file).replace(self._folder / file)

    def discard(self, picture: str) -> None:
        """Delete what was written to its parts."""
        for file in self._beside(picture):
            with suppress(OSError):  # the next run overwrites it
                _part(self._folder / file).unlink(missing_ok=True)

    def add(self, outcome: Outcome, picture: str | None = None) -> None:
        """Append an assessment; it is on its way to the disk when this returns.

        Args:
            outcome: of an item of :meth:`stamped`.
            picture: name without ending of what lies beside it.

        Raises:
            OSError: it cannot be written.
        """
        item, assessment = outcome.item, outcome.assessment
        assert assessment is not None
        line = {
            "file": self._place(item.source),
            "stamp": item.stamp,
            "sex": item.sex,
            "picture": picture,
            "beside": [] if picture is None else self._beside(picture),
            "settings": self._settings,
            "assessment": assessment.to_dict(),
        }
        offset = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        self._note(line, offset)

    def lines(self, items: Iterable[Item]) -> Iterator[tuple[Item, dict[str, Any]]]:
        """The lines of these items that hold, read one at a time.

        Of items that :meth:`pending` returned, those added since.
        """
        for item in items:
            offset = self._offsets.get(self._place(item.source))
            if offset is not None and not item.source.problem:
                self._file.seek(offset)
                yield item, json.loads(self._file.readline())

    def others(self, items: Iterable[Item]) -> int:
        """How many files it holds beside these items."""
        return len(self._offsets.keys() - {self._place(item.source) for item in items})

    def _refuse_foreign_tables(self) -> None:
        if os.path.lexists(self._path):
            return
        for name in (*TABLES, FAILURES):
            if os.path.lexists(self._folder / name):
                raise InputError(
                    f"{self._folder.name} holds a file {name}, but no {LEDGER} that it was made "
                    "from, and it would be overwritten: move it, or choose another folder."
                )

    def _place(self, source: Source) -> str:
        place = self._places.of(source.path)
        return place if source.member is None else f"{place}/{source.member.filename}"

    def _holds(self, place: str, item: Item) -> bool:
        if (known := self._inputs.get(place)) is None:
            return False
        if self.wanted and not self._is_complete(self._pictures.get(place)):
            return False
        stamp = _stamp(item.source)
        return stamp is not None and known == (stamp, item.sex)

    def _is_complete(self, picture: str | None) -> bool:
        return picture is not None and all(
            _folded(file) in self._own and os.path.isfile(self._folder / file)
            for file in self._beside(picture)
        )

    def _beside(self, picture: str) -> list[str]:
        return [f"{picture}{ending}" for ending in self.wanted]

    def _is_foreign(self, file: str) -> bool:
        return _folded(file) not in self._own and os.path.lexists(self._folder / file)

    def _read(self, folder: str, model: str, revision: str) -> None:
        self._file.seek(0)
        offset = 0
        for number, text in enumerate(self._file, start=1):
            if not text.endswith(b"\n"):  # the run was killed while it wrote this
                self._file.truncate(offset)
                return
            try:
                line = json.loads(text)
                id, used = (line["assessment"]["model"][key] for key in ("id", "revision"))
                settings = line.get("settings")
                if (used, settings) == (revision, self._settings):
                    self._note(line, offset)
            except (ValueError, TypeError, KeyError):
                raise InputError(
                    f"{folder} holds a damaged {LEDGER}: line {number} is not readable. Delete "
                    "that line, or choose another folder."
                ) from None
            if used != revision:
                raise InputError(
                    f"{folder} holds assessments by the weights {id}, revision {used}, and these "
                    f"are {model}, revision {revision}: choose another folder."
                )
            if settings != self._settings:
                raise InputError(
                    f"{folder} holds assessments by the same weights with another configuration or "
                    "precision: choose another folder, or give the --precision that was used then."
                )
            offset += len(text)

    def _note(self, line: dict[str, Any], offset: int) -> None:
        place, assessment = line["file"], line["assessment"]
        if missing := USED - assessment.keys():
            raise KeyError(*missing)
        self._offsets[place] = offset
        self._inputs[place] = (line["stamp"], line["sex"])
        if line["picture"] is not None:
            self._pictures[place] = line["picture"]
        self._own.update(map(_folded, line["beside"]))
        self.components.update(dict.fromkeys(assessment["components"]))


class Places:
    """Where files lie from a folder, whatever they are called by: as POSIX paths.

    Links among the folders above them are resolved, once for all files of a folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root)
        self._folder = cache(self._from_root)

    def of(self, path: Path) -> str:
        """A file's or folder's place; absolute on another drive than the root's."""
        if path.name in ("", ".."):
            return self._folder(path)
        folder = self._folder(path.parent)
        return path.name if folder == "." else f"{folder}/{path.name}"

    def _from_root(self, folder: Path) -> str:
        absolute = os.path.realpath(folder)
        try:
            return Path(os.path.relpath(absolute, self._root)).as_posix()
        except ValueError:  # another drive
            return Path(absolute).as_posix()


def written(folder: Path) -> set[str]:
    """Names of the files that assessments wrote into a folder; none where there is no ledger."""
    names = {LEDGER, FAILURES, *TABLES}
    try:
        with (folder / LEDGER).open("rb") as lines:
            for line in lines:
                with suppress(ValueError, KeyError, TypeError):  # damaged: opening it says so
                    names.update(json.loads(line)["beside"])
    except OSError:
        return set()
    return names


def settings_of(folder: Path) -> str | None:
    """The settings of the assessments in a folder, by the first of them; ``None`` if unknown."""
    try:
        with (folder / LEDGER).open("rb") as file:
            return json.loads(file.readline())["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Failures:
    """The file ``failures.csv`` of a folder: what the last run could not assess, and why."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FAILURES
        self._path.unlink(missing_ok=True)

    def add(self, source: Source, reason: str) -> None:
        """Append a failure."""
        is_first = not self._path.exists()
        with _open_text(self._path, "a") as file:
            writer = csv.writer(file, lineterminator="\n")
            if is_first:
                writer.writerow(["file", "id", "reason"])
            writer.writerow([cell(name_of(source)), cell(source.id), cell(reason)])


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A text file to write, which takes the place of ``path`` when it is whole.

    Raises:
        OSError: it cannot be written.
    """
    with _open_text(_part(path), "w") as file:
        yield file
    _part(path).replace(path)


def name_of(source: Source) -> str:
    """A file as it was named, and in a zip its name there."""
    path = source.path.as_posix()
    return path if source.member is None else f"{path}/{source.member.filename}"


def write_json(lines: Iterable[tuple[Item, dict[str, Any]]], file: Any) -> None:
    """A JSON list of the assessments, each with the file that it is of."""
    separator = "[\n"
    for item, line in lines:
        record = {"file": name_of(item.source), **line["assessment"]}
        file.write(separator + indent(json.dumps(record, indent=2), "  "))
        separator = ",\n"
    file.write("[]\n" if separator == "[\n" else "\n]\n")


def write_csv(
    lines: Iterable[tuple[Item, dict[str, Any]]],
    components: Iterable[str],
    file: Any,
    *,
    has_picture: bool,
    has_reference: bool,
) -> None:
    """One row an assessment: file, picture, age, interval, reference, every component, model.

    Args:
        lines: of the ledger.
        components: names of the columns for their ages.
        file: open for text.
        has_picture: whether to name the pictures, which lie beside the table.
        has_reference: whether there are reference ages.
    """
    names = list(components)
    picture = ["picture"] if has_picture else []
    reference = ["reference"] if has_reference else []
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["file", *picture, *BEFORE, *INTERVAL, *reference, *names, *AFTER])
    for item, line in lines:
        result = {**line["assessment"], "id": cell(line["assessment"]["id"])}
        interval = result["interval"] or {}
        after = {
            **result,
            "warnings": cell("; ".join(result["warnings"])),
            "model": cell(result["model"]["id"]),
            "revision": cell(result["model"]["revision"]),
        }
        writer.writerow(
            [cell(name_of(item.source))]
            + ([cell(f"{line['picture']}.png")] if has_picture else [])
            + [result[name] for name in BEFORE]
            + [interval.get(name) for name in INTERVAL]
            + ([item.reference] if has_reference else [])
            + [result["components"].get(name) for name in names]
            + [after[name] for name in AFTER]
        )


def _folded(name: str) -> str:
    """The same for names that some file systems take for one."""
    return unicodedata.normalize("NFC", name).casefold()


def _shortened(name: str) -> str:
    encoded = name.encode(errors="surrogatepass")
    return name if len(encoded) <= MAX_NAME else encoded[:MAX_NAME].decode(errors="ignore")


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _open_text(path: Path, mode: str) -> TextIO:
    """In UTF-8, in which names of files need not be."""
    return path.open(mode, newline="", encoding="utf-8", errors="backslashreplace")


def _stamp(source: Source) -> str | None:
    """What changes when the file does: its size and date, in a zip its size and checksum.

    Those of all files for a folder. ``None`` where it cannot be told.
    """
    if source.member is not None:
        return f"{source.member.file_size}-{source.member.CRC:08x}"
    try:
        found = source.path.stat()
        return _stamp_of_folder(source.path) if S_ISDIR(found.st_mode) else _stamp_of(found)
    except (OSError, InputError):
        return None


def _stamp_of(found: os.stat_result) -> str:
    return f"{found.st_size}-{found.st_mtime_ns}"


def _stamp_of_folder(folder: Path) -> str:
    """Without folders of results below, which change with every run.

    Raises:
        InputError: more files than a series may have.
    """
    from boneage.volumes import files_of

    files = list(files_of(folder))
    results = {file.parent for file in files if file.name == LEDGER} - {folder}
    digest = hashlib.sha256()
    for file in files:
        if results.isdisjoint(file.parents):
            name = file.relative_to(folder).as_posix()
            digest.update(f"{name}\0{_stamp_of(file.stat())}\0".encode(errors="surrogatepass"))
    return digest.hexdigest()
