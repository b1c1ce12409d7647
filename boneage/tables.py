"""CSV files as people's spreadsheets write them."""

from __future__ import annotations

import csv
import io
import re

from boneage.errors import InputError


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
    lines = csv.reader(io.StringIO(text), delimiter=separator)
    try:
        table = [[cell.strip() for cell in row] for row in lines]
    except csv.Error:
        raise InputError(f"{name} is not a readable CSV file.") from None
    header = table[0] if table else []
    rows = []
    for line, row in enumerate(table[1:], start=2):
        if any(row):
            filled = [*row, *[""] * (len(header) - len(row))]
            rows.append((line, dict(zip(header, filled, strict=False))))
    return header, rows


def number(text: str) -> float:
    """A number with a decimal point or comma, as spreadsheets write either.

    Raises:
        ValueError: it is none.
    """
    return float(text.replace(",", "."))
