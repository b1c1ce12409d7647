"""``python -m evaluate``: the papers' tables and figures on labelled images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from boneage.arguments import path, positive
from boneage.errors import InputError, run_command

if TYPE_CHECKING:
    from boneage.predictor import Predictor
    from evaluate.ossification import Annotated
    from evaluate.run import Dataset

ROOT = Path(__file__).resolve().parents[1]
BUNDLED = ("rsna-test", "nih-chest-test")  # under data/
ANNOTATED = "rsna-ossification"  # likewise: hands with annotated regions

EPILOG = """\
what is written to OUT:
  cases.csv        one line for each case and table cell
  assessments.csv  prediction intervals and reasons of refusals
  boxes.csv        attention boxes, in pixels of the source image
  ossification.csv how attention boxes fit annotated regions, on the bundled rsna-ossification
  refusals.csv     images of other kinds, and turned ones: which were refused, and why
  heat-maps.npz    Grad-CAMs of some adults
  weights.json     what the weights are: network, data, start, epochs
  tables.md        the papers' tables, published beside measured, and further statistics
  metrics.json     the same numbers as records
  figures/         figure-2a.png, figure-2b.png, figure-3.png, figure-robustness.png,
                   figure-ossification.png for hands; figure-4.png, figure-5.png,
                   figure-adult-assessed.png, figure-adult-deviation.png for adults
  run.json         versions, device, hashes of weights and data, duration, command

exit codes: 0 evaluated, 2 bad arguments or input

Table S5, robustness to rotation, scaling and contrast, is recorded by a command of its own:
python -m evaluate.robustness --help

examples:
  python -m evaluate --split test
  python -m evaluate --split validation --data DIR --weights runs/NAME/weights --out runs/NAME
  python -m evaluate --from-cases results/cases.csv
  torchrun --nproc_per_node 2 -m evaluate --split test --data DIR --out OUT
  accelerate launch --multi_gpu --num_processes 8 -m evaluate --split test --data DIR --out OUT
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m evaluate",
        description="Assess labelled images with released weights and set the errors beside the "
        "papers' published ones. Hands (labels with a boneage column, months) are measured for "
        "tables A1 to A3, adults (age column, years) for tables B1 to B4.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--split", choices=("train", "validation", "test", "all"), default="test",
        help="which cases of each labelled folder (default: test)",
    )  # fmt: skip
    p.add_argument(
        "--data", nargs="+", action="extend", type=path, metavar="DIR",
        help="labelled folders: labels.csv beside images/ (default: the bundled "
        f"{', '.join(BUNDLED)})",
    )  # fmt: skip
    p.add_argument(
        "--weights", nargs="+", action="extend", type=path, metavar="DIR",
        help="weights folders; each one's config.json names the table rows that it fills "
        "(default: all under weights/)",
    )  # fmt: skip
    p.add_argument(
        "--out", type=path, metavar="DIR",
        help="folder for the results (default: results, or with --from-cases that of the file)",
    )  # fmt: skip
    p.add_argument(
        "--batch-size", type=positive, default=16, metavar="N",
        help="images assessed together (default: 16)",
    )  # fmt: skip
    p.add_argument(
        "--from-cases", type=path, metavar="FILE",
        help="assess nothing: make tables, metrics.json and figures again from this cases.csv; "
        "without --data and --split as they were, figures that show images are left out",
    )  # fmt: skip
    return p


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = parser().parse_args(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    return run_command("evaluate", lambda: _run(args, words))


def _run(args: argparse.Namespace, arguments: list[str]) -> int:
    from boneage import hub
    from boneage.memory import keep_freed_memory
    from evaluate import recorded
    from evaluate.processes import Processes
    from evaluate.run import evaluate, render

    keep_freed_memory()
    if args.from_cases and args.weights:
        raise InputError("--from-cases assesses nothing, so it takes no --weights.")
    out = args.out or (args.from_cases.parent if args.from_cases else Path("results"))
    datasets = _datasets(args.data, args.split)
    if args.weights and not args.data:  # of the bundled data, those the weights are for
        tasks = {hub.load_config(folder)["task"] for folder in args.weights}
        datasets = [dataset for dataset in datasets if dataset.folder.task in tasks]
    annotated = [_annotated()] if args.from_cases or not args.data else []
    if args.from_cases:
        report = render(args.from_cases, out, datasets, annotated)
    else:
        processes = Processes()
        report = evaluate(
            datasets,
            _predictors(args.weights, {d.folder.task for d in datasets}, processes.device),
            out,
            batch_size=args.batch_size,
            recorded=recorded.load(),
            annotated=annotated,
            processes=processes,
            command=["python", "-m", "evaluate", *arguments],
        )
        processes.close()
    if report:
        files = "tables.md, metrics.json, figures/"
        if not args.from_cases:
            files += ", cases.csv and the other files that they are made from, run.json"
        print(f"{report.text()}\n\nWritten to {out}: {files}")
    return 0


def _datasets(folders: list[Path] | None, split: str) -> list[Dataset]:
    from boneage import datasets
    from evaluate.run import Dataset

    found = []
    for each in folders or [ROOT / "data" / name for name in BUNDLED]:
        folder = datasets.load(each)
        found.append(
            Dataset(f"{folder.name}/{split}", folder if split == "all" else folder.split(split))
        )
    return found


def _annotated() -> Annotated:
    """The bundled radiographs with annotated regions."""
    from boneage import datasets
    from evaluate.ossification import Annotated, read_regions
    from evaluate.run import Dataset

    root = ROOT / "data" / ANNOTATED
    folder = datasets.load(root).split("validation")
    return Annotated(Dataset(f"{ANNOTATED}/validation", folder), read_regions(root))


def _predictors(folders: list[Path] | None, tasks: set[str], device: str | None) -> list[Predictor]:
    """The predictors of the tasks; released weights of other tasks are not loaded."""
    from boneage import hub
    from boneage.predictor import Predictor

    found = []
    for folder in folders or sorted(p.parent for p in (ROOT / "weights").glob("*/config.json")):
        task = hub.load_config(folder)["task"]
        if task in tasks:
            # One precision for all processes and machines, so that their numbers agree.
            found.append(Predictor.load(folder, task=task, device=device, precision="fp32"))
        elif folders:
            raise InputError(
                f"The weights {folder.name} are for the task {task}, the data for "
                f"{' and '.join(sorted(tasks))}."
            )
    return found


if __name__ == "__main__":
    sys.exit(main())
