"""Rows of the table, and how their numbers are taken."""

from __future__ import annotations

import importlib
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """What doing something once took.

    Attributes:
        what: was done, in words.
        seconds: of wall clock, imports left out.
        peak_mb: the most memory (MB of 10^6 bytes, resident) above what the imports take; None
            where it was not measured or the system does not tell.
    """

    what: str
    seconds: float
    peak_mb: float | None = None

    def __str__(self) -> str:
        memory = "" if self.peak_mb is None else f", {self.peak_mb:.0f} MB"
        return f"{self.what}: {_seconds(self.seconds)}{memory}"


@dataclass(frozen=True)
class Outcome:
    """Something beside its floor: a row of the table.

    Attributes:
        subject: what is measured, on what.
        measured: the project's own way.
        floor: the part of it that cannot be left out, done alone, or another way of doing it.
        at_most: target for the time, as a multiple of the floor's; None where there is none.
        at_least: target for the speed, likewise.
        as_speed: whether the ratio is of the speeds where there is no target.
    """

    subject: str
    measured: Measurement
    floor: Measurement
    at_most: float | None = None
    at_least: float | None = None
    as_speed: bool = False

    @property
    def ratio(self) -> float:
        """Measured to floor, of the times or of the speeds."""
        ratio = self.measured.seconds / self.floor.seconds
        return 1 / ratio if self._of_speeds else ratio

    @property
    def _of_speeds(self) -> bool:
        return self.as_speed or self.at_least is not None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.at_least is not None:
            return self.ratio >= self.at_least
        return None if self.at_most is None else self.ratio <= self.at_most

    def row(self) -> tuple[str, str, str, str, str, str]:
        """Subject, measured, floor, ratio, target and whether it is met, as text."""
        of = "of the speed" if self._of_speeds else "of the time"
        target = ""
        if self.at_most is not None:
            target = f"at most {self.at_most:g}"
        if self.at_least is not None:
            target = f"at least {self.at_least:g}"
        ratio = f"{self.ratio:.2f} {of}"
        return self.subject, str(self.measured), str(self.floor), ratio, target, _met(self.met)

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "ratio": self.ratio, "met": self.met}


@dataclass(frozen=True)
class Figure:
    """A number that has no floor: a row of the table.

    Attributes:
        subject: what is measured, on what.
        value: in ``unit``.
        unit: in words; empty for a count.
        at_most: target; None where there is none.
    """

    subject: str
    value: float
    unit: str
    at_most: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        return None if self.at_most is None else self.value <= self.at_most

    def row(self) -> tuple[str, str, str, str, str, str]:
        """As :meth:`Outcome.row`."""
        target = "" if self.at_most is None else f"at most {self.at_most:g} {self.unit}".strip()
        value = f"{self.value:.3g}" if self.value < 100 else f"{self.value:.0f}"
        return self.subject, f"{value} {self.unit}".strip(), "", "", target, _met(self.met)

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "met": self.met}


Row = Outcome | Figure


def rows_apart(name: str, options: Mapping[str, Any]) -> list[Row]:
    """The rows of a benchmark, run in a process of its own.

    Args:
        name: of its module in this package.
        options: arguments of the module's ``run``.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        return process.submit(_rows, name, options).result()


def _rows(name: str, options: Mapping[str, Any]) -> list[Row]:
    return list(importlib.import_module(f"benchmarks.{name}").run(**options))


def alternate(
    functions: Mapping[str, Callable[[], Any]], repeats: int = 5, warm_up: int = 1
) -> dict[str, float]:
    """Median seconds of each function, called in turns so that a busy moment meets all of them.

    Every second turn goes backwards, so that none always follows the same one.

    Args:
        functions: by name.
        repeats: measured calls of each.
        warm_up: calls of each before.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    forwards = list(functions.items())
    for turn in range(warm_up + repeats):
        for name, function in forwards[:: -1 if turn % 2 else 1]:
            start = time.perf_counter()
            function()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def measure(
    what: str, function: Callable[..., Any], *arguments: Any, imports: Sequence[str] = ()
) -> Measurement:
    """Run ``function(*arguments)`` once in a fresh process, for its peak of memory.

    Args:
        what: is done, in words.
        function: of a module; its result is dropped.
        arguments: for it.
        imports: modules it would load on its way, loaded before.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seconds, peak_mb = pool.apply(_run, (function, arguments, imports))
    return Measurement(what, seconds, peak_mb)


def memory_mb(field: str = "VmRSS", process: int | str = "self") -> float | None:
    """A line of Linux' /proc/PROCESS/status in MB; None on other systems."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(found[0]) * 1024 / 1e6 if found else None  # none of a process that has ended


def _run(
    function: Callable[..., Any], arguments: tuple[Any, ...], imports: Sequence[str]
) -> tuple[float, float | None]:
    for module in imports:
        importlib.import_module(module)
    before = memory_mb()
    start = time.perf_counter()
    result = function(*arguments)
    seconds = time.perf_counter() - start
    peak = memory_mb("VmHWM")
    del result
    return seconds, None if before is None or peak is None else peak - before


def _seconds(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{1000 * seconds:.3g} ms"


def _met(met: bool | None) -> str:
    return {None: "", True: "yes", False: "**no**"}[met]
