"""The project's documents as HTML."""

from __future__ import annotations

from boneage.webui import markdown

DOCUMENT = """---
license: other
---

# Title

Before <script>alert(1)</script>.

## First

See <https://example.org/a>.

| Row | Measured | Remark |
| --- | --- | --- |
| male | - | [1] |
| female | 6.33 | a remark that is so long that it has to be broken |

### Below

## Second
"""


def test_sections_without_front_matter_and_title() -> None:
    before, first, second = markdown.sections(DOCUMENT)
    assert (before.title, first.title, second.title) == ("", "First", "Second")
    assert "license" not in before.html
    assert "Title" not in before.html
    assert len(first.blocks) == 3
    assert second.blocks == ()


def test_raw_html_is_text_and_links_open_apart() -> None:
    before, first, _ = markdown.sections(DOCUMENT)
    assert "<script>" not in before.html
    assert "&lt;script&gt;" in before.html
    assert '<a href="https://example.org/a" target="_blank" rel="noopener">' in first.html


def test_tables_scroll_and_mark_what_is_missing() -> None:
    table = markdown.sections(DOCUMENT)[1].blocks[1]
    assert table.startswith('<div class="scroll" tabindex="0" role="region"')
    assert table.count('<tr class="empty">') == 1
    assert table.index('<tr class="empty">') < table.index("male")
    assert table.count('<td class="long">') == 1


def test_headings_below_a_section() -> None:
    assert "<h4>Below</h4>" in markdown.joined(markdown.sections(DOCUMENT))
    assert "<h3>First</h3>" in markdown.joined(markdown.sections(DOCUMENT))
