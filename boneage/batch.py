"""Many radiographs: read ahead in a few threads, assessed in batches, in bounded memory.

Command line, page and API go through :func:`assess`. A file that cannot be assessed becomes an
outcome with its reason and never stops the others.
"""

from __future__ import annotations

import os
import re
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boneage import images, metrics, zips
from boneage.errors import InputError

if TYPE_CHECKING:
    from boneage.images import Radiograph
    from boneage.predictor import Assessment, Predictor

MAX_FILES = 200_000
"""The most files that a zip may hold."""
ENTRIES = 10
"""Entries of a zip for each file that is accepted: folders and what systems add are entries too."""
MAX_HELD = 512 * 2**20
"""Bytes of decoded pixels from which no further radiograph is read ahead."""
SAME_NAME = "The zip holds another file of the same name before this one."
THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Source:
    """Where a radiograph comes from: a file, or a file in a zip.

    Attributes:
        path: of the file or the zip; a folder where that is a CT series.
        id: its name without ending.
        member: the file in the zip.
        problem: why it cannot be assessed, where that is known already.
    """

    path: Path
    id: str
    member: zipfile.ZipInfo | None = None
    problem: str | None = None

    @property
    def file(self) -> str:
        """The plain name of the file, without folders."""
        return self.path.name if self.member is None else zips.plain_name(self.member)

    @property
    def shown(self) -> str:
        """The plain name; of a file in a zip, with its folders there, which tell films of one name
        apart."""
        return self.file if self.member is None else zips.path_of(self.member).as_posix()

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders above it; of a file in a zip, those inside, below the zip and its folders."""
        if self.member is None:
            return self.path.parts[:-1]
        return (*self.path.parts, *zips.path_of(self.member).parts[:-1])


@dataclass(frozen=True)
class Item:
    """One radiograph to assess.

    Attributes:
        source: where it comes from.
        sex: ``F``, ``M``, or ``None`` for what its DICOM tags say.
        reference: reference age in the unit of the weights, if known.
        stamp: what changes when the file does, taken before it is read, where somebody keeps it.
    """

    source: Source
    sex: str | None = None
    reference: float | None = None
    stamp: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of an item: an assessment, or the reason why there is none.

    Attributes:
        item: what was to be assessed.
        assessment: without an age where it was refused.
        failure: one sentence, where there is no assessment.
        radiograph: what was assessed; large, so not to be kept.
    """

    item: Item
    assessment: Assessment | None = None
    failure: str | None = None
    radiograph: Radiograph | None = None


def sources(
    paths: Iterable[Path],
    *,
    whole: Callable[[Path], bool] = lambda _: False,
    most: int | None = MAX_FILES,
    most_bytes: int | None = None,
) -> list[Source]:
    """The files themselves and those in zips (files whose name ends in .zip) but for junk there.

    Args:
        paths: files, and folders that ``predictor.read`` takes.
        whole: tells a zip that is read as one file, as a CT series is.
        most: files that are accepted in all; ``None`` for any number.
        most_bytes: bytes that are accepted in all, unpacked; ``None`` for any number.

    Raises:
        InputError: for more than is accepted; where any number is, a zip of too many is one file
            that cannot be assessed.
    """
    found: list[Source] = []
    size = 0
    for path in paths:
        inside = [Source(path, _id(path))]
        # Unlike its namesake of Path, os.path.isfile is false where the system forbids to look.
        if path.suffix.lower() == ".zip" and os.path.isfile(path) and not whole(path):
            inside = _members(path, most)
        found += inside
        if most_bytes is not None:
            size += sum(map(_size, inside))
            if size > most_bytes:
                raise InputError(f"The files have more than {most_bytes / 2**30:g} GB in all.")
        if most is not None and len(found) > most:
            raise InputError(f"There are more than {most} files.")
    return found


def _id(path: Path) -> str:
    if os.path.isdir(path):
        return path.resolve().name
    return _stem(path.name)


def _stem(name: str) -> str:
    return images.without_ending(re.sub(r"(?i)\.nii\.gz$", ".nii", name))


def _members(path: Path, most: int | None) -> list[Source]:
    entries = MAX_FILES if most is None else min(ENTRIES * most, MAX_FILES)
    try:
        with zips.open_zip(path, entries, path.name) as archive:
            inside = zips.files_in(archive)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        if isinstance(error, InputError):
            if most is not None:
                raise
            return [Source(path, path.stem, problem=str(error))]
        return [Source(path, path.stem, problem="This is not a readable zip file.")]
    if not inside:
        return [Source(path, path.stem, problem="The zip holds no files.")]
    found, names = [], set()
    for info in inside:
        again = SAME_NAME if info.filename in names else None
        found.append(Source(path, _stem(zips.plain_name(info)), info, problem=again))
        names.add(info.filename)
    return found


def _size(source: Source) -> int:
    """Bytes of a file, unpacked; a zip's directory cannot understate what is unpacked of it."""
    if source.member is not None:
        return source.member.file_size
    try:
        return source.path.stat().st_size
    except OSError:  # told when it is read
        return 0


def assess(
    predictor: Predictor,
    items: Iterable[Item],
    *,
    batch_size: int = 16,
    threads: int = THREADS,
    heat_map: bool = False,
) -> Iterator[list[Outcome]]:
    """Assess many radiographs; closing the iterator stops the reading too.

    Args:
        predictor: may be shared with others, who get their turn between batches.
        items: any number; pulled as they are needed.
        batch_size: radiographs computed together.
        threads: that read and decode meanwhile.
        heat_map: as of :meth:`Predictor.assess`.

    Returns:
        Outcomes in the order of the items, as many at once as were computed together.

    Raises:
        InputError: for a batch size or a number of threads below 1.
    """
    if batch_size < 1:
        raise InputError(f"The batch size is {batch_size}; it must be at least 1.")
    if threads < 1:
        raise InputError(f"The number of threads is {threads}; it must be at least 1.")
    with closing(_Reader(predictor, items, threads, batch_size + threads)) as reader:
        while batch := reader.take(batch_size):
            yield _assess_batch(predictor, batch, heat_map)
            reader.release(batch)


def _assess_batch(predictor: Predictor, batch: Sequence[Outcome], heat_map: bool) -> list[Outcome]:
    """The outcomes with assessments in place of bare radiographs."""
    read = [outcome for outcome in batch if outcome.radiograph is not None]
    assessed = iter(_settle(predictor, read, heat_map))
    return [outcome if outcome.radiograph is None else next(assessed) for outcome in batch]


def _settle(predictor: Predictor, read: Sequence[Outcome], heat_map: bool) -> list[Outcome]:
    """Assess together; what is refused together is halved until the reason meets its case."""
    if not read:
        return []
    try:
        assessments = predictor.assess(
            [outcome.radiograph for outcome in read if outcome.radiograph],
            [outcome.item.sex for outcome in read],
            heat_map=heat_map,
            batch_size=len(read),
        )
    except Exception as error:
        if len(read) == 1:
            return [Outcome(read[0].item, failure=_reason(error))]
        middle = len(read) // 2
        return [
            *_settle(predictor, read[:middle], heat_map),
            *_settle(predictor, read[middle:], heat_map),
        ]
    return [
        Outcome(outcome.item, assessment, radiograph=outcome.radiograph)
        for outcome, assessment in zip(read, assessments, strict=True)
    ]


def _reason(error: Exception) -> str:
    if isinstance(error, InputError):
        return str(error)
    return f"Something unforeseen went wrong with this file ({type(error).__name__})."


class _Reader:
    """Threads that read radiographs in order, no further ahead than accepted.

    They end when everything is read or when the reader is closed, each after the file in hand; the
    last one closes the items. Closing therefore never waits.
    """

    def __init__(
        self, predictor: Predictor, items: Iterable[Item], threads: int, ahead: int
    ) -> None:
        self._predictor = predictor
        self._contents = _contents(items)
        self._ahead = ahead
        self._pulling = threading.Lock()  # so that numbers follow the order of the items
        self._changed = threading.Condition()
        self._pulled = 0  # items so far
        self._taken = 0  # of them by the caller
        self._held = 0  # bytes of pixels
        self._read: dict[int, Outcome] = {}
        self._ended = False  # nothing more is pulled
        self._closed = False  # nor taken
        self._failed: Exception | None = None  # what the items raised
        self._running = threads
        for _ in range(threads):
            # Daemons: an interrupted program need not wait for a file in hand.
            threading.Thread(target=self._work, name="boneage-reader", daemon=True).start()

    def take(self, count: int) -> list[Outcome]:
        """The next outcomes of reading: fewer at the end or where they are large, none after it."""
        batch: list[Outcome] = []
        while len(batch) < count and sum(map(_bytes, batch)) < MAX_HELD // 2:
            with self._changed:
                self._changed.wait_for(lambda: self._taken in self._read or self._is_empty())
                if self._taken not in self._read:
                    break
                batch.append(self._read.pop(self._taken))
                self._taken += 1
                self._changed.notify_all()
        if not batch and self._failed:
            raise self._failed
        return batch

    def release(self, batch: list[Outcome]) -> None:
        """The caller has done with a batch; it is emptied."""
        with self._changed:
            self._held -= sum(map(_bytes, batch))
            self._changed.notify_all()
        batch.clear()

    def close(self) -> None:
        """Read nothing more."""
        with self._changed:
            self._ended = self._closed = True
            self._read.clear()
            self._changed.notify_all()

    def _is_empty(self) -> bool:
        return self._ended and self._taken == self._pulled

    def _may_read(self) -> bool:
        ahead = self._pulled - self._taken
        # What the caller waits for is read in any case.
        return self._ended or not ahead or (ahead < self._ahead and self._held < MAX_HELD)

    def _work(self) -> None:
        while (pulled := self._pull()) is not None:
            number, item, content = pulled
            outcome = _read(self._predictor, item, content)
            with self._changed:
                if not self._closed:
                    self._read[number] = outcome
                self._held += _bytes(outcome)
                self._changed.notify_all()
        with self._changed:
            self._running -= 1
            last = not self._running
        if last:
            self._contents.close()

    def _pull(self) -> tuple[int, Item, Path | bytes | InputError] | None:
        """The next item with its number, as soon as it may be read; ``None`` at the end."""
        with self._pulling:
            with self._changed:
                self._changed.wait_for(self._may_read)
                if self._ended:
                    return None
            try:
                item, content = next(self._contents)
            except Exception as error:
                with self._changed:
                    self._ended = True
                    self._failed = None if isinstance(error, StopIteration) else error
                    self._changed.notify_all()
                return None
            with self._changed:
                number = self._pulled
                self._pulled += 1
            return number, item, content


def _bytes(outcome: Outcome) -> int:
    return 0 if outcome.radiograph is None else outcome.radiograph.pixels.nbytes


def _contents(
    items: Iterable[Item],
) -> Iterator[tuple[Item, Path | bytes | InputError]]:
    """Every item with its path, its content if it is in a zip, or why there is none.

    Zips are opened when their first item comes, and closed after the last.
    """
    with ExitStack() as opened:
        archive: zipfile.ZipFile | None = None
        path: Path | None = None
        for item in items:
            source = item.source
            if source.problem is not None:
                yield item, InputError(source.problem)
            elif source.member is None:
                yield item, source.path
            else:
                if source.path != path:
                    opened.close()
                    archive, path = None, source.path
                try:
                    archive = archive or opened.enter_context(zips.open_zip(path, MAX_FILES))
                    content = zips.read_member(archive, source.member, images.MAX_BYTES)
                except InputError as error:
                    yield item, error
                except (zipfile.BadZipFile, OSError):
                    yield item, InputError("The zip cannot be read any more.")
                else:
                    yield item, content


def _read(predictor: Predictor, item: Item, content: Path | bytes | InputError) -> Outcome:
    """A radiograph, or why it cannot be read."""
    try:
        if isinstance(content, InputError):
            raise content
        radiograph = predictor.read(content, id=item.source.id)
    except Exception as error:
        return Outcome(item, failure=_reason(error))
    return Outcome(item, radiograph=radiograph)


def summary(
    assessed: Sequence[float], reference: Sequence[float], sexes: Sequence[str | None], unit: str
) -> dict[str, Any] | None:
    """How far ages lie from their references: of all, and by sex where there are both.

    Returns:
        ``{"unit", "all": {"n", "mae", "ci95": [low, high] | None, "bias"}, "F": ..., "M": ...}``;
        the interval is a bootstrap's and needs two cases. ``None`` where there is nothing to
        compare.
    """
    if not len(assessed):
        return None
    errors = metrics.errors(assessed, reference)
    found: dict[str, Any] = {"unit": unit, "all": _errors(errors)}
    if {"F", "M"} <= set(sexes):
        for sex in ("F", "M"):
            found[sex] = _errors(errors[np.array([given == sex for given in sexes])])
    return found


def _errors(errors: np.ndarray) -> dict[str, Any]:
    mae = metrics.estimate(np.abs(errors))
    return {
        "n": mae.n,
        "mae": round(mae.value, 2),
        "ci95": mae.interval and [round(end, 2) for end in mae.interval],
        "bias": round(float(errors.mean()), 2),
    }
