"""How soon commands and the page answer."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from benchmarks import visitors
from benchmarks.measure import Figure, Measurement, Outcome, alternate, memory_mb

ROOT = Path(__file__).parents[1]
HELP = 0.4  # s
PAGE = 1.3
END = "os._exit(0)  # the page is measured without its end, too"
GRADIO = f"import gradio, os; {END}"
ALL = f"""
import os, sys
import gradio, torch
from safetensors.torch import load_file
load_file(sys.argv[1])
{END}
"""


def run(repeats: int = 5) -> Iterator[Figure | Outcome]:
    """Help texts, the page's first answer, and what it then keeps in memory."""
    for package in ("boneage", "evaluate"):
        command = ("-m", package, "--help")
        seconds = alternate({"help": lambda command=command: _python(*command)}, repeats)
        yield Figure(f"python -m {package} --help", seconds["help"], "s", at_most=HELP)
    from boneage import hub
    from boneage.predictor import released

    gradio, everything, page, assessed, memory = [], [], [], [], 0.0
    film = min((ROOT / "data" / "rsna-test" / "images").iterdir())
    tensors = str(released("hand") / hub.TENSORS)
    for _ in range(1 + repeats):
        for code, seconds in ((GRADIO, gradio), (ALL, everything)):
            start = time.perf_counter()
            _python("-c", code, tensors)
            seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
        with visitors.serve() as (process, url):
            httpx.get(url).raise_for_status()
            page.append(time.perf_counter() - start)
            memory = _after_an_assessment(process.pid, url, film)
            assessed.append(time.perf_counter() - start)
    imported = "torch and gradio imported, weights read"
    first, age = "until its first answer", "until a visitor who came at once has an age"
    for what, seconds, floor, floors, limit in (
        (first, page, imported, everything, PAGE),
        (first, page, "gradio imported", gradio, None),
        (age, assessed, imported, everything, None),
    ):
        taken, least = (statistics.median(times[1:]) for times in (seconds, floors))
        measured = Measurement(what, taken)
        yield Outcome("python app.py", measured, Measurement(floor, least), at_most=limit)
    yield Figure("the page's memory after its first assessment", memory, "MB")


def _python(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)


def _after_an_assessment(process: int, url: str, film: Path) -> float:
    with httpx.Client(base_url=url, timeout=visitors.START) as client:
        events = visitors.Events.of(client.get("config").json())
    with httpx.Client(base_url=f"{url}/gradio_api/", timeout=visitors.START) as client:
        visitors.visit(client, events, film)
    return memory_mb(process=process) or float("nan")
