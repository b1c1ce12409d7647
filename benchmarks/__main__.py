"""``python -m benchmarks [NAME ...]``: run benchmarks and print a table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from benchmarks.measure import rows_apart

NAMES = (
    "assess", "reading", "folder", "training", "start", "ancestor", "ct_projection",
)  # fmt: skip
SLOW = ("many", "precision")  # run only by name
FEWEST = 1000  # files of the benchmark many: fewer are done before it can be killed
HEADER = ("benchmark", "what", "measured", "floor", "ratio", "target", "met")
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "nibabel", "pillow", "imagecodecs", "gradio")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Speed and memory, each beside its floor: the part of it that cannot be left "
        "out, done alone and by turns with it. Prints a Markdown table. Every benchmark has a "
        "process of its own; memory is counted above the imports'.",
    )
    p.add_argument(
        "names", nargs="*", metavar="NAME",
        help=f"of {', '.join(NAMES)} (default: all of these); by name only, as they take long: "
        f"{', '.join(SLOW)}; visitors of the page are a command of their own, "
        "python -m benchmarks.visitors",
    )  # fmt: skip
    p.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to a file")
    p.add_argument(
        "--count", type=int, default=100_000, metavar="N",
        help="radiographs of the benchmark many with a small network, and fifty times fewer with "
        "the released weights (default: 100000)",
    )  # fmt: skip
    args = p.parse_args(arguments)
    if args.count < FEWEST:
        p.error(f"--count is {args.count}; it must be at least {FEWEST}")
    known = (*NAMES, *SLOW)
    if unknown := set(args.names) - set(known):
        p.error(f"there is no benchmark {min(unknown)}; known: {', '.join(known)}")
    machine = describe_machine()
    print(", ".join(f"{key} {value}" for key, value in machine.items()), end="\n\n")
    print(_line(HEADER), _line(["---"] * len(HEADER)), sep="\n", flush=True)
    found = {}
    for name in args.names or NAMES:
        found[name] = rows_apart(name, {"count": args.count} if name == "many" else {})
        for row in found[name]:
            print(_line([name, *row.row()]), flush=True)
        if args.json:  # after each, so that nothing is lost if the next one fails
            benchmarks = {name: [row.record() for row in rows] for name, rows in found.items()}
            content = {"machine": machine, "benchmarks": benchmarks}
            args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


def describe_machine() -> dict[str, str | int]:
    """What the numbers depend on: processor, usable cores, threads, accelerator, versions."""
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": usable or 1,
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
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


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
