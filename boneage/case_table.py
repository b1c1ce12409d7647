"""A table of what is known of each radiograph: its sex, and a reference age to compare with."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from boneage.batch import Item, Source
from boneage.datasets import AGE_COLUMNS
from boneage.errors import InputError
from boneage.sex import parse_sex
from boneage.tables import read_csv

MAX_BYTES = 32 * 2**20
"""The largest table that is read."""
NAMED = 5  # cases that a note names, of any number


@dataclass(frozen=True)
class Row:
    """What the table says of one radiograph; ``None`` where it says nothing.

    Attributes:
        sex: ``F`` or ``M``.
        reference: reference age in the unit of the task.
    """

    sex: str | None
    reference: float | None


@dataclass(frozen=True)
class CaseTable:
    """A table of sexes.

    Attributes:
        rows: by file name, with or without ending.
        notes: what the user should know about it.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def key(self, source: Source) -> str | None:
        """The name of the row that is meant for a file; ``None`` if there is none."""
        return next((name for name in (source.file, source.id) if name in self.rows), None)

    def items(self, sources: Iterable[Source], sex: str | None = None) -> list[Item]:
        """What to assess: ``sex`` holds where the table has none, as does the file's own."""
        items = []
        for source in sources:
            row = self.rows.get(self.key(source) or "", Row(None, None))
            items.append(Item(source, row.sex or sex, row.reference))
        return items

    def without_file(self, sources: Iterable[Source]) -> list[str]:
        """Names of rows for which there is no file."""
        used = {self.key(source) for source in sources}
        return [name for name in self.rows if name not in used]

    def report(self, sources: Sequence[Source]) -> list[str]:
        """What does not fit between the table and the files, in sentences."""
        if not self.rows:
            return list(self.notes)
        without_row = [source.file for source in sources if self.key(source) is None]
        pairs = (("no row in the table", without_row, "file"),
                 ("no file", self.without_file(sources), "row of the table"))  # fmt: skip
        return [
            *self.notes,
            *(
                f"{len(names)} {what}{'s' * (len(names) != 1)} "
                f"{'has' if len(names) == 1 else 'have'} {lacking}: {_named(names)}."
                for lacking, names, what in pairs
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
        InputError: no such table, or a row that cannot be understood, which is named.
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
        rows[id] = Row(
            _sex(cells.get(sex or "", ""), sex or "", f"{where} ({id})"),
            _age(cells.get(age or "", ""), age or "", unit, oldest, f"{where} ({id})"),
        )
    return CaseTable(rows, _notes(places, task, age_column, unit))


def _notes(places: dict[str, str], task: str, age_column: str, unit: str) -> tuple[str, ...]:
    other = next(column for column, (of, _, _) in AGE_COLUMNS.items() if of != task)
    if age_column in places or other not in places:
        return ()
    return (
        f"The column {other} of the table was not used: reference ages are looked for in the "
        f"column {age_column}, in {unit}.",
    )


def _sex(text: str, column: str, where: str) -> str | None:
    asks_male = column.lower() == "male"
    sex = parse_sex(text, asks_male=asks_male)
    if sex is None and text:
        expected = "True or False" if asks_male else "F or M"
        raise InputError(
            f"{where}: {column} is {text[:40]!r}; expected are {expected}, or nothing if unknown."
        )
    return sex


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
