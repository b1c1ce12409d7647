"""A table of what is known of each radiograph: its sex, and a reference age to compare with."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from boneage.batch import Item, Source
from boneage.datasets import AGE_COLUMNS
from boneage.errors import InputError
from boneage.sex import parse_sex
from boneage.tables import number, read_csv

MAX_BYTES = 32 * 2**20
"""The largest table that is read."""
MAX_ROWS = 1_000_000
MAX_FOLDERS = 32
"""In a file's name; each is an entry of the index by which rows are found."""
NAMED = 5  # cases that a note names, of any number
SEVERAL_FILES = (
    "Several files are called {}, and the table does not tell them apart: write their folders, or "
    "the names of their zips, before the names, as in folder/name."
)
SEVERAL_ROWS = "Several rows of the table may be meant for it: {}."
NO_SEX = ("", "u", "unknown", "o", "other", "n/a", "na", "nan", "none", "?", "-")


@dataclass(frozen=True)
class Row:
    """What the table says of one radiograph; ``None`` where it says nothing.

    Attributes:
        sex: ``F`` or ``M``.
        reference: reference age in the unit of the task.
        problem: why it cannot be assessed: its sex is not understood.
    """

    sex: str | None
    reference: float | None
    problem: str | None = None


@dataclass(frozen=True)
class Match:
    """The row that is meant for a file.

    Attributes:
        row: its name in the table; ``None`` where there is none.
        problem: why that cannot be told.
        possible: the rows that may be meant then.
    """

    row: str | None = None
    problem: str | None = None
    possible: Sequence[str] = ()


@dataclass(frozen=True)
class CaseTable:
    """A table of sexes.

    Attributes:
        rows: by file name, with or without ending, and with the folders that the table names.
        notes: what the user should know about it.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def matches(self, sources: Sequence[Source]) -> list[Match]:
        """The row that is meant for each file.

        Of rows and files of one name those belong together that agree in most folders above it, or
        in none where the table names folders of another place. Two files of one name may not share
        a row: scanners and archives call the films of all their patients alike. A row that no file
        is named as exactly may differ in upper and lower case.
        """
        hits = self._hits(sources)
        claims: dict[str, list[int]] = {}
        for place, hit in enumerate(hits):
            if len(hit.rows) == 1 and not sources[place].problem:
                claims.setdefault(hit.rows[0], []).append(place)
        matches = [Match(hit.rows[0]) if len(hit.rows) == 1 else Match() for hit in hits]
        for place, hit in enumerate(hits):
            if len(hit.rows) > 1:
                problem = SEVERAL_ROWS.format(_named(hit.rows))
                matches[place] = Match(None, problem, hit.rows)
        for row, places in claims.items():
            most = max(hits[place].folders for place in places)
            closest = [place for place in places if hits[place].folders == most]
            for place in places:
                if hits[place].folders < most:
                    matches[place] = Match()
            # A row that no file is named as exactly is meant for any spelling.
            names = Counter(_composed(sources[place].file).casefold() for place in closest)
            for place in closest:
                name = _composed(sources[place].file)
                if names[name.casefold()] > 1:
                    matches[place] = Match(None, SEVERAL_FILES.format(name), (row,))
                elif others := self._contradicting(row, hits[place].others, claims):
                    rows = (row, *others)
                    matches[place] = Match(None, SEVERAL_ROWS.format(_named(rows)), rows)
        return matches

    def _contradicting(
        self, row: str, others: Sequence[str], claims: Mapping[str, Sequence[int]]
    ) -> list[str]:
        """Of ``others``, which no file is named as more closely, those that say something else."""
        said = self.rows[row]
        return [other for other in others if other not in claims and self.rows[other] != said]

    def _hits(self, sources: Sequence[Source]) -> list[_Hit]:
        """The rows that fit each file best by its name and the folders above it."""
        exact, folded = _index(self.rows, str), _index(self.rows, str.casefold)
        hits = [_hit(exact, source, str) for source in sources]
        are_own = any(hit.folders for hit in hits)  # the table's folders, and of no other place
        for place, source in enumerate(sources):
            if are_own and hits[place].contradicts(source):
                hits[place] = _Hit()
        taken = {hit.rows[0] for hit in hits if len(hit.rows) == 1}
        for place, source in enumerate(sources):
            if not hits[place].rows:
                other = _hit(folded, source, str.casefold)
                is_taken = len(other.rows) == 1 and other.rows[0] in taken
                if not is_taken and not (are_own and other.contradicts(source)):
                    hits[place] = other
        return hits

    def items(
        self, sources: Sequence[Source], sex: str | None = None, *, needs_sex: bool = True
    ) -> list[Item]:
        """What to assess: ``sex`` holds where the table has none, as does the file's own.

        Args:
            sources: the files.
            sex: ``F`` or ``M``.
            needs_sex: whether a sex that is not understood is a reason not to assess.

        Raises:
            InputError: the table has a row for none of the files.
        """
        matches = self.matches(sources)
        if self.rows and sources and not any(match.row or match.problem for match in matches):
            raise InputError(
                "The table has no row for any of the files: its rows are "
                f"{_named(list(self.rows))}; the files are "
                f"{_named([source.shown for source in sources])}."
            )
        items = []
        for source, match in zip(sources, matches, strict=True):
            row = self.rows.get(match.row or "", Row(None, None, match.problem))
            if row.problem and (needs_sex or match.problem):
                source = replace(source, problem=source.problem or row.problem)
            items.append(Item(source, row.sex or (None if row.problem else sex), row.reference))
        return items

    def without_file(self, sources: Sequence[Source]) -> list[str]:
        """Names of rows for which there is no file."""
        matches = self.matches(sources)
        # Films of one name share a list of the rows that may be meant, which may be long.
        possible = {id(match.possible): match.possible for match in matches}.values()
        used = {match.row for match in matches}.union(*possible)
        return [name for name in self.rows if name not in used]

    def report(self, sources: Sequence[Source]) -> list[str]:
        """What does not fit between the table and the files, in sentences."""
        if not self.rows:
            return list(self.notes)
        without_row = [
            source.shown
            for source, match in zip(sources, self.matches(sources), strict=True)
            if match.row is None and match.problem is None
        ]
        pairs = (
            (without_row, "file has no row", "files have no row", " in the table"),
            (
                self.without_file(sources),
                "row of the table has",
                "rows of the table have",
                " no file",
            ),
        )
        return [
            *self.notes,
            *(
                f"{len(names)} {one if len(names) == 1 else several}{lacking}: {_named(names)}."
                for names, one, several, lacking in pairs
                if names
            ),
        ]


def load(path: Path, task: str) -> CaseTable:
    """:func:`read` of a file.

    Raises:
        InputError: likewise.
        OSError: the file cannot be read.
    """
    with path.open("rb") as opened:
        return read(opened.read(MAX_BYTES + 1), path.name, task)


def read(content: bytes, name: str, task: str) -> CaseTable:
    """Read a CSV table: ``id`` or ``file``, ``sex`` or ``male``, and optionally a reference age.

    Reference ages are in the column ``boneage`` (months) for hands, ``age`` (years) for adults.
    Columns may be named in upper or lower case, names of files with their folders.

    Args:
        content: of the file.
        name: of the file, for messages.
        task: ``hand`` or ``adult``.

    Raises:
        InputError: no such table, or a row whose name or age cannot be understood, which is named;
            a sex that cannot is the row's ``problem``.
    """
    if len(content) > MAX_BYTES:
        raise InputError(f"{name} is larger than {MAX_BYTES // 2**20} MB.")
    if content.count(b"\n") > MAX_ROWS + 1:
        raise InputError(f"{name} has more than {MAX_ROWS:,} rows.")
    columns, lines = read_csv(content, name)
    places = {column.lower(): column for column in reversed(columns)}
    keys = [places[column] for column in ("file", "id") if column in places]
    sexes = [places[column] for column in ("sex", "male") if column in places]
    age_column, (_, unit, oldest) = next((c, a) for c, a in AGE_COLUMNS.items() if a[0] == task)
    age = places.get(age_column)
    if not keys or not (sexes or age):
        has = ", ".join(filter(None, columns)) or "none"
        raise InputError(
            f"{name} has the columns {has[:200]}; it needs id or file, and sex or male, or "
            f"{age_column} ({unit}), or both."
        )
    rows: dict[str, Row] = {}
    for line, cells in lines:
        where = f"{name}, row {line}"
        written = next((cells[key] for key in keys if cells[key]), "")
        id = _composed("/".join(re.split(r"[/\\]+", written)))
        if not id.rpartition("/")[2]:
            raise InputError(f"{where}: the {' or '.join(keys)} is missing.")
        if id.count("/") > MAX_FOLDERS:
            raise InputError(f"{where}: the name has more than {MAX_FOLDERS} folders.")
        if id in rows:
            raise InputError(f"{where}: {id} appears twice.")
        given, problem = _agreed({column: cells[column] for column in sexes}, where)
        reference = _age(cells.get(age or "", ""), age or "", unit, oldest, f"{where} ({id})")
        rows[id] = Row(given, reference, problem)
    if not rows:
        raise InputError(f"{name} has no rows.")
    return CaseTable(rows, _notes(places, task, age_column, unit))


def _notes(places: dict[str, str], task: str, age_column: str, unit: str) -> tuple[str, ...]:
    other = next(column for column, (of, _, _) in AGE_COLUMNS.items() if of != task)
    if age_column in places or other not in places:
        return ()
    return (
        f"The column {other} of the table was not used: reference ages are looked for in the "
        f"column {age_column}, in {unit}.",
    )


def _agreed(cells: Mapping[str, str], where: str) -> tuple[str | None, str | None]:
    """What :func:`_sex` returns, of one or two columns that may tell the sex."""
    found = [_sex(text, column, where) for column, text in cells.items()]
    if problem := next((problem for _, problem in found if problem), None):
        return None, problem
    sexes = sorted({sex for sex, _ in found if sex})
    if len(sexes) > 1:
        return None, f"{where}: {' and '.join(cells)} contradict each other."
    return (sexes[0] if sexes else None), None


def _sex(text: str, column: str, where: str) -> tuple[str | None, str | None]:
    """The sex, ``None`` where the table says that it is not known; or why it is not understood."""
    asks_male = column.lower() == "male"
    sex = parse_sex(text, asks_male=asks_male)
    if sex or text.lower() in NO_SEX:
        return sex, None
    expected = "True or False" if asks_male else "F or M"
    return None, (
        f"{where}: {column} is {text[:40]!r}; expected {expected}, or nothing if unknown."
    )


def _age(text: str, column: str, unit: str, oldest: float, where: str) -> float | None:
    if not text:
        return None
    try:
        age = number(text)
    except ValueError:
        age = math.nan
    if not 0 <= age <= oldest:
        raise InputError(
            f"{where}: {column} is {text[:40]!r}; expected {unit}, 0 to {oldest:g}, or nothing."
        )
    return age


def _composed(name: str) -> str:
    """A name as it is compared: file systems differ in how they compose letters."""
    return unicodedata.normalize("NFC", name)


@dataclass(frozen=True)
class _Hit:
    """Rows that fit a file, and in how many folders they agree with it.

    Others would fit as well if these were not there: those that leave the file's ending out.
    """

    rows: Sequence[str] = ()
    folders: int = 0
    others: Sequence[str] = ()

    def contradicts(self, source: Source) -> bool:
        """Whether both have folders, and agree in none."""
        return not self.folders and bool(source.folders) and any("/" in row for row in self.rows)


def _index(rows: Iterable[str], spelt: Callable[[str], str]) -> dict[tuple[str, ...], list[str]]:
    """Rows by their names, alone and with one or more of the folders above; ``spelt`` alike."""
    found: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        *folders, name = row.split("/")
        above = tuple(map(_folder, folders))
        for start in range(len(above) + 1):
            found.setdefault((*above[start:], spelt(name)), []).append(row)
    return found


def _hit(
    index: Mapping[tuple[str, ...], list[str]], source: Source, spelt: Callable[[str], str]
) -> _Hit:
    """The rows of an index that agree with a file's name in most folders."""
    names = [spelt(_composed(name)) for name in (source.file, source.id)]
    above = tuple(map(_folder, source.folders))
    for start in range(len(above) + 1):
        found = [index.get((*above[start:], name), []) for name in dict.fromkeys(names)]
        if fitting := list(filter(None, found)):
            return _Hit(fitting[0], len(above) - start, list(chain(*fitting[1:])))
    return _Hit()


def _folder(name: str) -> str:
    """A folder's name, or a zip's, as it is compared."""
    return _composed(name).casefold().removesuffix(".zip")


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"
