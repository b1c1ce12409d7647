"""The Results tab: the papers' tables and figures as last evaluated, and what made them.

Everything is read from the evaluation that comes with the project. The figures load when they come
into view.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import gradio as gr
from PIL import Image

from boneage import bundled
from boneage.webui import markdown

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from boneage.webui.markdown import Section

NAME = "results"
TITLE = "Results"
COMMAND = "python -m evaluate --split test"
TABLES, RECORDS, RUN, FIGURES = "tables.md", "metrics.json", "run.json", "figures"

NONE = f"""
<section class="card empty">
  <h2>No evaluation comes with this page</h2>
  <p>In a checkout of the project, <code>{COMMAND}</code> assesses the bundled test images within
  minutes and writes the tables and figures that are shown here after the next start.</p>
</section>"""

# By the beginning of a figure's file name; the longest that fits counts.
CAPTIONS = {
    "figure-2a": "Hands: assessed against reference bone age of every test radiograph, after "
    "figure 2a of Liu et al.",
    "figure-2b": "Hands: deviation of the assessed from the reference bone age, after figure 2b of "
    "Liu et al.",
    "figure-3": "Hands: the regions that the network chose on test radiographs of girls and boys, "
    "after figure 3 of Liu et al.",
    "figure-4": "Adults: ages and sexes of the test images, after figure 4 of Nguyen and Kim.",
    "figure-5": "Adults: test images and what in them raised the age (Grad-CAM), after figure 5 of "
    "Nguyen and Kim.",
    "figure-robustness": "Hands: MAE on the test radiographs turned, scaled or changed in "
    "contrast.",
    "figure-ossification": "Hands: the regions that the network chose beside ossification regions "
    "that an expert drew.",
    "figure-adult-assessed": "Adults: assessed against actual age of every test image.",
    "figure-adult-deviation": "Adults: deviation of the assessed from the actual age.",
}


def build() -> None:
    """Lay the tab out in the open Blocks."""
    gr.HTML(
        page(bundled.folder("results")),
        elem_id="results",
        apply_default_css=False,
        js_on_load=None,
    )


def routes() -> list[BaseRoute]:
    """Serve tables and figures below ``results/``; the list of the cases may be nobody's to see."""
    from starlette.responses import FileResponse
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    folder = bundled.folder("results")
    found: list[BaseRoute] = []
    for name in (TABLES, RECORDS):
        if (folder / name).is_file():
            found.append(Route(f"/{NAME}/{name}", lambda _, path=folder / name: FileResponse(path)))
    if (folder / FIGURES).is_dir():
        found.append(Mount(f"/{NAME}/{FIGURES}", StaticFiles(directory=folder / FIGURES)))
    return found


def page(folder: Path) -> str:
    """The tab's HTML.

    Args:
        folder: what ``python -m evaluate`` wrote; any part of it may be missing.
    """
    try:
        introduction, *tables = markdown.sections((folder / TABLES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return NONE
    return (
        f'<div class="document results">{_made(folder, introduction)}'
        f"{''.join(map(_table, tables))}{_figures(folder)}</div>"
    )


def _made(folder: Path, introduction: Section) -> str:
    """What the tables mean, and how they were made."""
    files = [name for name in (TABLES, RECORDS) if (folder / name).is_file()]
    links = ", ".join(f'<a href="{NAME}/{name}" target="_blank">{name}</a>' for name in files)
    return (
        f'<section class="card"><h2>Published and measured errors</h2>{introduction.html}'
        f"{_run(folder)}<p>The same as files: {links}.</p></section>"
    )


def _run(folder: Path) -> str:
    """Command, date, versions, weights and data of ``run.json``; nothing where it is missing."""
    try:
        run: dict[str, Any] = json.loads((folder / RUN).read_text(encoding="utf-8"))
        started = datetime.fromisoformat(run["started"])
        versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
        weights = [(f"{w['id']}@{w['revision']}", w["sha256"]) for w in run["weights"]]
        data = [(f"{d['name']}, {d['cases']:,} images", d["sha256"]) for d in run["datasets"]]
        facts = f"{run['duration_s']:.0f} s on {run['device']}, {run['cores']} cores"
        command = run["command"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    hashes = "".join(
        f"<dt>{escape(name)}</dt><dd><code>{escape(sha)}</code></dd>"
        for name, sha in weights + data
    )
    return (
        f"<p>Made by <code>{escape(command)}</code> on {started:%Y-%m-%d} at {started:%H:%M} "
        f"{escape(started.tzname() or '')} in {escape(facts)}.</p>"
        f"<details><summary>Versions and SHA-256 of weights and data</summary>"
        f"<p>{escape(versions)}</p><dl>{hashes}</dl></details>"
    )


def _table(section: Section) -> str:
    """A table; its numbered remarks, which are long, are folded away."""
    remarks = [block for block in section.blocks if re.match(r"<p>\[\d", block)]
    others = [block for block in section.blocks if block not in remarks]
    folded = ""
    if remarks:
        numbers = "[1]" if len(remarks) == 1 else f"[1] to [{len(remarks)}]"
        folded = f"<details><summary>Remarks {numbers}</summary>{''.join(remarks)}</details>"
    name = escape(section.title)
    html = "".join(others).replace('aria-label="Table"', f'aria-label="{name}"')
    return f'<section class="card"><h2>{name}</h2>{html}{folded}</section>'


def _figures(folder: Path) -> str:
    figures = "".join(map(_figure, sorted((folder / FIGURES).glob("*.png"))))
    return f'<div class="figures">{figures}</div>' if figures else ""


def _figure(path: Path) -> str:
    caption = escape(_caption(path.stem))
    address = f"{NAME}/{FIGURES}/{quote(path.name)}"
    with Image.open(path) as picture:
        width, height = picture.size
    wide = " wide" if width > 1.2 * height else ""
    return (
        f'<figure class="card{wide}"><a href="{address}" target="_blank" title="Full size">'
        f'<img loading="lazy" src="{address}" width="{width}" height="{height}" alt="{caption}">'
        f"</a><figcaption>{caption}</figcaption></figure>"
    )


def _caption(name: str) -> str:
    """What a figure shows; of those of further weights the name tells data and weights."""
    known = max((start for start in CAPTIONS if name.startswith(start)), key=len, default="")
    rest = name.removeprefix(known).strip("-")
    return " ".join(part for part in (CAPTIONS.get(known), rest and f"({rest})") if part)
