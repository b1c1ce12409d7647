"""A table of what is known of each radiograph: its sex, and a reference age to compare with."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from boneage.batch import Item, Source
from boneage.datasets import AGE_COLUMNS
from boneage.errors import InputError
from boneage.sex import parse_sex
from boneage.tables import read_csv

MAX_BYTES = 32 * 2**20
"""The largest table that is read."""
NAMED = 5  # cases that a note names, of any number
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
class CaseTable:
    """A table of sexes.

    Attributes:
        rows: by file name, with or without ending.
        notes: what the user should know about it.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def keys(self, sources: Iterable[Source]) -> list[str | None]:
        """The name of the row that is meant for each file; ``None`` where there is none.

        A row that no file is named as exactly may differ in upper and lower case, where one row
        alone is named so.
        """
        named = [(source.file, source.id) for source in sources]
        keys = [next((name for name in names if name in self.rows), None) for names in named]
        folded: dict[str, list[str]] = {}
        for row in self.rows:
            folded.setdefault(row.casefold(), []).append(row)
        exact = set(keys)
        for place, names in enumerate(named):
            rows = next(filter(None, (folded.get(name.casefold()) for name in names)), [])
            if keys[place] is None and len(rows) == 1 and rows[0] not in exact:
                keys[place] = rows[0]
        return keys

    def items(self, sources: Sequence[Source], sex: str | None = None) -> list[Item]:
        """What to assess: ``sex`` holds where the table has none, as does the file's own.

        Raises:
            InputError: the table has a row for none of the files.
        """
        keys = self.keys(sources)
        if self.rows and sources and not any(keys):
            raise InputError(
                f"The table has a row for none of the files: its rows are {_named(list(self.rows))}"
                f"; the files are {_named([source.file for source in sources])}."
            )
        items = []
        for source, key in zip(sources, keys, strict=True):
            row = self.rows.get(key or "", Row(None, None))
            if row.problem:
                source = replace(source, problem=source.problem or row.problem)
            items.append(Item(source, row.sex or (None if row.problem else sex), row.reference))
        return items

    def without_file(self, sources: Iterable[Source]) -> list[str]:
        """Names of rows for which there is no file."""
        used = set(self.keys(sources))
        return [name for name in self.rows if name not in used]

    def report(self, sources: Sequence[Source]) -> list[str]:
        """What does not fit between the table and the files, in sentences."""
        if not self.rows:
            return list(self.notes)
        keys = self.keys(sources)
        without_row = [
            source.file for source, key in zip(sources, keys, strict=True) if key is None
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


def read(content: bytes, name: str, task: str) -> CaseTable:
    """Read a CSV table: ``id`` or ``file``, ``sex`` or ``male``, and optionally a reference age.

    Reference ages are in the column ``boneage`` (months) for hands, ``age`` (years) for adults.
    Columns may be separated by commas, semicolons or tabs, and named in upper or lower case.

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
    columns, lines = read_csv(_with_commas(content), name)
    places = {column.lower(): column for column in reversed(columns)}
    keys = [places[column] for column in ("file", "id") if column in places]
    sex = places.get("sex", places.get("male"))
    age_column, (_, unit, oldest) = next((c, a) for c, a in AGE_COLUMNS.items() if a[0] == task)
    age = places.get(age_column)
    if not keys or (sex is None and age is None):
        has = ", ".join(filter(None, columns)) or "none"
        raise InputError(
            f"{name} has the columns {has[:200]}; it needs id or file, and sex or male; "
            f"{age_column} ({unit}) is optional."
        )
    rows: dict[str, Row] = {}
    for line, cells in lines:
        where = f"{name}, row {line}"
        id = re.split(r"[/\\]", next((cells[key] for key in keys if cells[key]), ""))[-1]
        if not id:
            raise InputError(f"{where}: the {' or '.join(keys)} is missing.")
        if id in rows:
            raise InputError(f"{where}: {id} comes twice.")
        given, problem = _sex(cells.get(sex or "", ""), sex or "", where)
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


def _sex(text: str, column: str, where: str) -> tuple[str | None, str | None]:
    """The sex, ``None`` where the table says that it is not known; or why it is not understood."""
    asks_male = column.lower() == "male"
    sex = parse_sex(text, asks_male=asks_male)
    if sex or text.lower() in NO_SEX:
        return sex, None
    expected = "True or False" if asks_male else "F or M"
    return None, (
        f"{where}: {column} is {text[:40]!r}; expected are {expected}, or nothing if unknown."
    )


def _age(text: str, column: str, unit: str, oldest: float, where: str) -> float | None:
    if not text:
        return None
    try:
        age = float(text.replace(",", "."))  # spreadsheets write either
    except ValueError:
        age = math.nan
    if not 0 <= age <= oldest:
        raise InputError(
            f"{where}: {column} is {text[:40]!r}; expected are {unit}, 0 to {oldest:g}, or nothing."
        )
    return age


def _with_commas(content: bytes) -> bytes:
    """The same table with commas between its cells where those were semicolons or tabs."""
    text = content.decode("utf-8-sig", errors="surrogateescape")
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    if separator == ",":
        return content
    rewritten = io.StringIO()
    try:
        csv.writer(rewritten).writerows(csv.reader(io.StringIO(text), delimiter=separator))
    except csv.Error:
        return content  # refused there
    return rewritten.getvalue().encode(errors="surrogateescape")


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"
