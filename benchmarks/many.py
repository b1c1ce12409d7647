"""A large folder through ``boneage assess``, killed half-way and begun again."""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from benchmarks.assess import DATA
from benchmarks.measure import Figure, memory_mb

ROOT = Path(__file__).parents[1]
FEWER = 50  # times with the released weights
SMALL = 64  # px
DAMAGED = 1000  # every so many files
GROWTH = 2.0  # kB for a file: names and places in the ledger; a film of 299 px has 89


def run(count: int = 100_000) -> Iterator[Figure]:
    """``count`` small images with a small network, fifty times fewer with the released weights."""
    from boneage.predictor import released

    with tempfile.TemporaryDirectory() as folder:
        weights = small_weights(Path(folder) / "small")
        yield from through(weights, count, "a small network", small=True)
    yield from through(released("hand"), count // FEWER, "the released weights", small=False)


def through(weights: Path, count: int, name: str, small: bool) -> Iterator[Figure]:
    """Assess so many files in two runs, of which the first is killed.

    Args:
        weights: folder of the weights.
        count: files, some of them damaged.
        name: of the weights, in words.
        small: images of 64 px in place of the bundled radiographs as they are.
    """
    with tempfile.TemporaryDirectory() as folder:
        films, out = Path(folder) / "films", Path(folder) / "out"
        damaged = make(films, Path(folder) / "pool", count, small)
        command = [sys.executable, "-m", "boneage", "assess", str(films), "--sex", "F"]
        command += ["--weights", str(weights), "--out", str(out)]
        ledger = out / "assessments.jsonl"
        _follow(command, ledger, until=count // 2)
        before = len(ledger.read_bytes().splitlines())
        finished = _follow(command, ledger)
        lines = ledger.read_text().splitlines()
        reported = failed(out)
    missing, twice = tally(lines, count - len(damaged))
    subject = f"{count} files with {name}"
    yield Figure(f"{subject}: assessed before the kill", before, "")
    speed = (len(lines) - before) / finished[-1][0]
    yield Figure(f"{subject}: second run, start included", speed, "a second")
    yield Figure(f"{subject}: never assessed", missing, "", at_most=0)
    yield Figure(f"{subject}: written twice", twice, "", at_most=0)
    wrong = len(damaged ^ reported)
    what = f"{subject}: failures not reported, or wrongly, of {len(damaged)}"
    yield Figure(what, wrong, "", at_most=0)
    start = before + (len(lines) - before) // 10
    warm = [(done, mb) for _, done, mb in finished if mb is not None and done > start]
    if memory := [mb for _, _, mb in finished if mb is not None]:
        yield Figure(f"{subject}: most memory of the second run", max(memory), "MB")
    if (each := growth(warm)) is not None:
        what = f"{subject}: memory grown for a file, in the last nine tenths of the second run"
        yield Figure(what, each, "kB", at_most=GROWTH)


def growth(seen: Sequence[tuple[int, float]]) -> float | None:
    """How much memory another file keeps, kB: between the medians of the first and last quarter.

    A batch's own memory comes and goes, so that of two moments would tell little.

    Args:
        seen: files done and memory in MB, each time.

    Returns:
        ``None`` if too little was seen to tell.
    """
    quarter = len(seen) // 4
    if not quarter:
        return None
    (done, mb), (done_later, mb_later) = (
        [statistics.median(values) for values in zip(*part, strict=True)]
        for part in (seen[:quarter], seen[-quarter:])
    )
    return 1000 * (mb_later - mb) / (done_later - done) if done_later > done else None


def failed(out: Path) -> set[str]:
    """The names of the files in ``failures.csv``; none where there is no such file."""
    path = out / "failures.csv"
    if not path.is_file():
        return set()
    with path.open(newline="", encoding="utf-8") as file:
        return {Path(line["file"]).name for line in csv.DictReader(file)}


def tally(lines: Sequence[str], expected: int) -> tuple[int, int]:
    """Of a ledger's lines: files that are missing of so many, and lines that repeat a file."""
    files = {json.loads(line)["file"] for line in lines}
    return expected - len(files), len(lines) - len(files)


def make(films: Path, pool: Path, count: int, small: bool) -> set[str]:
    """Fill a folder with the bundled test radiographs over and over; names those damaged.

    They are hard links, so that the folder takes no room.
    """
    for folder in (films, pool):
        folder.mkdir()
    originals = []
    for path in sorted((DATA / "rsna-test" / "images").iterdir()):
        copy = pool / path.with_suffix(".png" if small else path.suffix).name
        if small:
            with Image.open(path) as image:
                image.convert("L").resize((SMALL, SMALL)).save(copy)
        else:
            copy.write_bytes(path.read_bytes())
        originals.append(copy)
    damaged = pool / f"damaged{originals[0].suffix}"
    damaged.write_bytes(originals[0].read_bytes()[:-200])
    names = set()
    for number in range(count):
        is_damaged = number % DAMAGED == DAMAGED - 1
        original = damaged if is_damaged else originals[number % len(originals)]
        name = f"{number:06d}{original.suffix}"
        os.link(original, films / name)
        if is_damaged:
            names.add(name)
    return names


def small_weights(folder: Path) -> Path:
    """A weights folder of a small network that was never trained."""
    from boneage import hub
    from boneage.models.registry import build

    arguments = {"backbone": "mobilenet_v2", "sexes": 1}
    config = {
        "architecture": {"name": "finetuned", "arguments": arguments},
        "task": "hand",
        "unit": "months",
        "sexes": [],
        "preprocess": {"size": 32, "resolution": SMALL, "percentiles": [1, 99], "mean": 0.5,
                       "std": 0.5},
        "age": {"mean": 127.0, "sd": 41.0, "lowest": 0.0, "highest": 228.0},
        "interval": None,
        "refusal": None,
        "fills": [],
        "provenance": {},
    }  # fmt: skip
    return hub.save(folder, build("finetuned", arguments), config)


def _follow(
    command: list[str], ledger: Path, until: int | None = None
) -> list[tuple[float, int, float | None]]:
    """Run a command and look at it until it ends, or until the ledger has so many lines.

    Returns:
        Seconds since its start, lines of the ledger, and its memory in MB, each time.
    """
    seen, lines, place = [], 0, 0
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while process.poll() is None and (until is None or lines < until):
            time.sleep(0.2)
            if ledger.is_file():
                with ledger.open("rb") as file:
                    file.seek(place)
                    new = file.read()
                lines, place = lines + new.count(b"\n"), place + len(new)
            seen.append((time.perf_counter() - start, lines, memory_mb(process=process.pid)))
    finally:
        process.kill()
        process.wait()
    return seen
