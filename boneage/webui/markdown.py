"""The project's own Markdown documents as HTML: results, model cards, the data's README.

Raw HTML in a document is shown as text, links to other hosts open in a tab of their own, and every
table lies in a box that scrolls by itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

LONG = 40  # characters from which on a table's cell may break into lines


@dataclass(frozen=True)
class Section:
    """A heading of the second level and what follows it.

    Attributes:
        title: its text; empty for what stands before the first of them.
        blocks: the HTML of each block below it, in order.
    """

    title: str
    blocks: tuple[str, ...]

    @property
    def html(self) -> str:
        """All blocks."""
        return "".join(self.blocks)


def sections(text: str) -> list[Section]:
    """The sections of a document; YAML front matter and headings of the first level are left out.

    Headings of the third level become HTML's fourth, so that a section may stand below a third.
    """
    tokens = _parser().parse(re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL))
    found: list[tuple[str, list[str]]] = [("", [])]
    for block in _blocks(tokens):
        if block[0].type == "heading_open" and block[0].tag == "h1":
            continue
        if block[0].type == "heading_open" and block[0].tag == "h2":
            found.append((block[1].content, []))
        else:
            found[-1][1].append(_html(block))
    return [Section(title, tuple(blocks)) for title, blocks in found if title or blocks]


def joined(sections: Sequence[Section]) -> str:
    """Sections one below the other, each under a heading of the third level."""
    return "".join(
        (f"<h3>{escape(section.title)}</h3>" if section.title else "") + section.html
        for section in sections
    )


def scrolling(table: str, name: str) -> str:
    """A table's HTML in a box that scrolls, by keys too; ``name`` says what the box holds."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}">{table}</div>'
    )


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable("table")


def _blocks(tokens: Sequence[Token]) -> list[list[Token]]:
    """The tokens of each outermost block."""
    blocks: list[list[Token]] = []
    depth = 0
    for token in tokens:
        if depth == 0:
            blocks.append([])
        blocks[-1].append(token)
        depth += token.nesting
    return blocks


def _html(block: list[Token]) -> str:
    for token in block:
        if token.tag == "h3":
            token.tag = "h4"
        for child in token.children or ():
            if child.type == "link_open" and str(child.attrGet("href")).startswith("http"):
                child.attrSet("target", "_blank")
                child.attrSet("rel", "noopener")
    is_table = block[0].type == "table_open"
    if is_table:
        _mark(block)
    parser = _parser()
    html = parser.renderer.render(block, parser.options, {})
    return scrolling(html, "Table") if is_table else html


def _mark(table: list[Token]) -> None:
    """Classes for cells: ``long`` ones may break, rows without a measured value are ``empty``."""
    header: list[str] = []
    row = table[0]
    column = 0
    for token, following in pairwise(table):
        if token.type == "tr_open":
            row, column = token, 0
        elif token.type in ("th_open", "td_open"):
            text = following.content
            if token.type == "th_open":
                header.append(text)
                token.attrSet("scope", "col")
            elif header[column] == "Measured" and text == "-":
                row.attrJoin("class", "empty")
            if len(text) > LONG:
                token.attrJoin("class", "long")
            column += 1
