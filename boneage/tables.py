"""CSV files as people's spreadsheets write them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence

from boneage.errors import InputError, printable

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""With which a spreadsheet would begin to compute."""


def read_csv(content: bytes, name: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The header and the rows of a CSV file with their line numbers; blank rows are left out.

    Cells are separated by commas, semicolons or tabs, whichever the header has most of beside what
    is quoted there. Cells and column names are stripped; a short row is filled with empty cells.
    UTF-8 with or without a byte order mark.

    Args:
        content: of the file.
        name: of the file, for messages.

    Raises:
        InputError: if it is not UTF-8 text or not CSV.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{name} is not UTF-8 text. Save it as CSV in UTF-8.") from None
    header = re.sub(r'"[^"]*"', "", text.partition("\n")[0])  # what is quoted separates nothing
    separator = max(",;\t", key=header.count)
    lines = ([c.strip() for c in row] for row in csv.reader(io.StringIO(text), delimiter=separator))
    try:
        header = next(lines, [])
        return header, list(filled_rows(header, lines))
    except csv.Error:
        raise InputError(f"{name} is not a readable CSV file.") from None


def filled_rows(
    header: Sequence[str], rows: Iterable[Sequence[str]]
) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows below a header with their numbers; blank ones are left out, short ones filled."""
    for number, row in enumerate(rows, start=2):
        if any(row):
            filled = [*row, *[""] * (len(header) - len(row))]
            yield number, dict(zip(header, filled, strict=False))


def cell(text: str) -> str:
    """A text as a cell of a table: one that looks like a formula is quoted by an apostrophe."""
    return printable(f"'{text}" if text.startswith(FORMULA) else text)


def number(text: str) -> float:
    """A number with a decimal point or comma, as spreadsheets write either.

    Raises:
        ValueError: it is none.
    """
    return float(text.replace(",", "."))
