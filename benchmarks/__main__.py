"""``python -m benchmarks [NAME ...]``: run benchmarks, all by default."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from benchmarks import ct_projection
from benchmarks.measure import Measurement, Outcome

BENCHMARKS: dict[str, Callable[[], Outcome]] = {"ct_projection": ct_projection.run}
PACKAGES = ("numpy", "scipy", "nibabel", "pillow", "torch")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Speed and memory, each beside its floor: the least that any way of doing the "
        "same takes. Every run has a process of its own; memory is counted above the imports'.",
    )
    p.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (default: all)"
    )
    p.add_argument("--json", type=Path, metavar="FILE", help="also write the outcomes to a file")
    args = p.parse_args(arguments)
    if unknown := set(args.names) - set(BENCHMARKS):
        p.error(f"there is no benchmark {min(unknown)}; known are {', '.join(BENCHMARKS)}")
    machine = describe_machine()
    print("; ".join(f"{key} {value}" for key, value in machine.items()))
    outcomes = {}
    for name in args.names or BENCHMARKS:
        outcomes[name] = BENCHMARKS[name]()
        print(f"\n{name}: {outcomes[name].subject}")
        for label in ("measured", "floor"):
            print(f"  {label:<9}{_line(getattr(outcomes[name], label))}")
    if args.json:
        content = {
            "machine": machine,
            "benchmarks": {name: asdict(outcome) for name, outcome in outcomes.items()},
        }
        args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


def describe_machine() -> dict[str, str | int]:
    """What the numbers depend on: processor, usable cores, threads, versions."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": usable or 1,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "unset"),
        "Python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _line(measurement: Measurement) -> str:
    memory = "" if measurement.peak_mb is None else f"{measurement.peak_mb:8.0f} MB"
    return f"{measurement.seconds:8.2f} s{memory}  {measurement.what}"


if __name__ == "__main__":
    sys.exit(main())
