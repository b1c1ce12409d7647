"""Assessments of many files on disk, as they come: a run that was stopped goes on from there."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from boneage.errors import InputError

if TYPE_CHECKING:
    from boneage.batch import Item, Outcome, Source

LEDGER = "assessments.jsonl"
FAILURES = "failures.csv"
LOCK = ".assessments.lock"  # goes with the process that holds it, however that ends
BEFORE = ("id", "task", "sex", "age", "unit")
INTERVAL = ("low", "high", "coverage")
AFTER = ("warnings", "refused", "model", "revision")


class Ledger:
    """The file ``assessments.jsonl`` of a folder: one line a file, appended and never rewritten.

    A line holds the file as it was named, its size and date, the sex that was given, the name of
    its picture, and the assessment. A file counts as assessed if none of these changed and its
    picture is there.

    Args:
        folder: where it is, or is made.
        model: id of the weights, for messages.
        revision: of the weights; those of all lines must be the same.
        wanted: endings of the files, named as the picture, that are to lie beside it.

    Raises:
        InputError: the folder holds assessments by other weights, or a damaged ledger, or another
            run writes into it.
    """

    def __init__(self, folder: Path, model: str, revision: str, wanted: Sequence[str] = ()) -> None:
        self._folder = folder
        self._wanted = wanted
        self._path = folder / LEDGER
        self._places: dict[str, int] = {}  # offset of the last line of each file
        self._inputs: dict[str, tuple[str, str | None]] = {}
        self._pictures: dict[str, str] = {}
        self._taken: set[str] = set()
        self.components: dict[str, None] = {}  # in order, without repetition
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
        self._file.close()
        self._lock.release()

    def holds(self, item: Item) -> bool:
        """Whether the file was assessed as it is, with the sex that is given now.

        What is wanted beside the assessment has to be there too.
        """
        name = name_of(item.source)
        if item.source.problem or self._inputs.get(name) != (_stamp(item.source), item.sex):
            return False
        picture = self._pictures.get(name)
        return all(
            picture and (self._folder / f"{picture}{ending}").is_file() for ending in self._wanted
        )

    def picture(self, source: Source) -> str:
        """A name for the file's picture, without ending, that no other file has."""
        if known := self._pictures.get(name_of(source)):
            return known
        name, number = source.id, 1
        while name in self._taken:
            number += 1
            name = f"{source.id}-{number}"
        self._taken.add(name)
        return name

    def add(self, outcome: Outcome, picture: str | None = None) -> None:
        """Append an assessment; it is on its way to the disk when this returns."""
        item, assessment = outcome.item, outcome.assessment
        assert assessment is not None
        line = {
            "file": name_of(item.source),
            "stamp": _stamp(item.source),
            "sex": item.sex,
            "picture": picture,
            "assessment": assessment.to_dict(),
        }
        place = self._file.seek(0, 2)
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        self._note(line, place)

    def lines(self, items: Iterable[Item]) -> Iterator[tuple[Item, dict[str, Any]]]:
        """The lines of these items that hold, read one at a time."""
        for item in items:
            if (place := self._places.get(name_of(item.source))) is not None and self.holds(item):
                self._file.seek(place)
                yield item, json.loads(self._file.readline())

    def _read(self, folder: str, model: str, revision: str) -> None:
        self._file.seek(0)
        place = 0
        for number, text in enumerate(self._file, start=1):
            if not text.endswith(b"\n"):  # the run was killed while it wrote this
                self._file.truncate(place)
                return
            try:
                line = json.loads(text)
                used = line["assessment"]["model"]
                self._note(line, place)
            except (ValueError, TypeError, KeyError):
                raise InputError(
                    f"{folder} holds a damaged {LEDGER}: line {number} is not readable. Delete "
                    "that line, or choose another folder."
                ) from None
            if used["revision"] != revision:
                raise InputError(
                    f"{folder} holds assessments by the weights {used['id']}, revision "
                    f"{used['revision']}, and these are {model}, revision {revision}: choose "
                    "another folder."
                )
            place += len(text)

    def _note(self, line: dict[str, Any], place: int) -> None:
        file = line["file"]
        self._places[file] = place
        self._inputs[file] = (line["stamp"], line["sex"])
        if line["picture"]:
            self._pictures[file] = line["picture"]
            self._taken.add(line["picture"])
        self.components.update(dict.fromkeys(line["assessment"]["components"]))


class Failures:
    """The file ``failures.csv`` of a folder: what the last run could not assess, and why."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FAILURES
        self._path.unlink(missing_ok=True)

    def add(self, outcome: Outcome) -> None:
        """Append a failure."""
        is_first = not self._path.exists()
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if is_first:
                writer.writerow(["file", "id", "reason"])
            source = outcome.item.source
            writer.writerow([name_of(source), source.id, outcome.failure])


def name_of(source: Source) -> str:
    """A file as it was named, and in a zip its name there."""
    path = source.path.as_posix()
    return path if source.member is None else f"{path}/{source.member.filename}"


def write_json(lines: Iterable[tuple[Item, dict[str, Any]]], file: Any) -> None:
    """A JSON list of the assessments."""
    separator = "[\n"
    for _, line in lines:
        file.write(separator + indent(json.dumps(line["assessment"], indent=2), "  "))
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
        result = line["assessment"]
        interval = result["interval"] or {}
        after = {
            **result,
            "warnings": "; ".join(result["warnings"]),
            "model": result["model"]["id"],
            "revision": result["model"]["revision"],
        }
        writer.writerow(
            [line["file"]]
            + ([f"{line['picture']}.png"] if has_picture else [])
            + [result[name] for name in BEFORE]
            + [interval.get(name) for name in INTERVAL]
            + ([item.reference] if has_reference else [])
            + [result["components"].get(name) for name in names]
            + [after[name] for name in AFTER]
        )


def _stamp(source: Source) -> str:
    """What changes when the file does: its size and date, in a zip its size and checksum."""
    if source.member is not None:
        return f"{source.member.file_size}-{source.member.CRC:08x}"
    try:
        found = source.path.stat()
    except OSError:
        return ""
    return f"{found.st_size}-{found.st_mtime_ns}"
