"""Seconds and peak memory of a function, in a process of its own."""

from __future__ import annotations

import importlib
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """What one run took.

    Attributes:
        what: was done, in words.
        seconds: of wall clock, imports left out.
        peak_mb: the most memory (MB of 10^6 bytes, resident) above what the imports take; None
            where the system does not tell.
    """

    what: str
    seconds: float
    peak_mb: float | None


@dataclass(frozen=True)
class Outcome:
    """A benchmark beside its floor.

    Attributes:
        subject: what is measured, on what.
        measured: the project's own run.
        floor: the least that any way of doing it takes.
    """

    subject: str
    measured: Measurement
    floor: Measurement


def measure(
    what: str, function: Callable[..., Any], *arguments: Any, imports: Sequence[str] = ()
) -> Measurement:
    """Run ``function(*arguments)`` once in a fresh process.

    Args:
        what: is done, in words.
        function: of a module; its result is dropped.
        arguments: for it.
        imports: modules it would load on its way, loaded before.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seconds, peak_mb = pool.apply(_run, (function, arguments, imports))
    return Measurement(what, seconds, peak_mb)


def _run(
    function: Callable[..., Any], arguments: tuple[Any, ...], imports: Sequence[str]
) -> tuple[float, float | None]:
    for module in imports:
        importlib.import_module(module)
    before = _memory_mb("VmRSS")
    start = time.perf_counter()
    result = function(*arguments)
    seconds = time.perf_counter() - start
    peak = _memory_mb("VmHWM")
    del result
    return seconds, None if before is None or peak is None else peak - before


def _memory_mb(field: str) -> float | None:
    """A line of Linux' /proc/self/status in MB; None on other systems."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    (kilobytes,) = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(kilobytes) * 1024 / 1e6
