"""Radiographs read, assessed and written, by folder and by evaluation, and the backbone alone."""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.assess import DATA, backbone_alone, released_backbone
from benchmarks.measure import Measurement, Outcome, alternate

BATCH = 16
TARGET = 0.9
FOLDED = "backbone, normalisation folded"


def run(repeats: int = 5, most: int | None = None) -> Iterator[Outcome]:
    """The bundled test radiographs with the released weights.

    Args:
        repeats: measured runs.
        most: take only so many radiographs.
    """
    from boneage import batch, datasets
    from boneage.__main__ import parser
    from boneage.assess_files import assess_items
    from boneage.memory import keep_freed_memory
    from boneage.predictor import Predictor
    from evaluate.cases import Writer
    from evaluate.processes import Processes
    from evaluate.published import filled_cells
    from evaluate.run import Dataset, assess_cases, lines_of

    keep_freed_memory()  # as both commands do
    predictor = Predictor.load(device="cpu")
    exact = Predictor.load(device="cpu", precision="fp32")  # as an evaluation computes
    files = sorted((DATA / "rsna-test" / "images").iterdir())[:most]
    items = [batch.Item(source, "F") for source in batch.sources(files)]
    whole, rest = divmod(len(items), BATCH)

    def floors(predictor: Predictor) -> dict[str, Callable[[], None]]:
        backbones = {"backbone as trained": released_backbone(), FOLDED: predictor.model.backbone}
        return {
            name: partial(
                _in_turn,
                [backbone_alone(backbone, predictor, BATCH)] * whole
                + [backbone_alone(backbone, predictor, rest)] * bool(rest),
            )
            for name, backbone in backbones.items()
        }

    arguments = ["assess", ".", "--batch-size", str(BATCH), "--out", "."]
    drawing = parser().parse_args(arguments)
    plain = parser().parse_args(arguments[:-2])

    def assess(options: argparse.Namespace) -> None:
        with (
            tempfile.TemporaryDirectory() as folder,
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            assess_items(predictor, items, Path(folder), options)

    cells = filled_cells(exact.config, exact.id)
    folder = datasets.load(DATA / "rsna-test")
    test = Dataset("rsna-test/test", replace(folder, cases=folder.cases[:most]))

    def evaluate() -> None:
        with tempfile.TemporaryDirectory() as out, Writer(Path(out), patients=False) as writer:
            for outcomes in assess_cases(test, exact, BATCH, Processes()):
                writer.write(lines_of(outcomes, test, exact.id, cells))

    tasks = {
        predictor: {
            "boneage assess: read, assessed, printed": partial(assess, plain),
            "boneage assess --out: read, assessed, drawn, written": partial(assess, drawing),
        },
        exact: {"evaluate: read, assessed, cases.csv written": evaluate},
    }
    for computing, measured in tasks.items():
        seconds = alternate({**measured, **floors(computing)}, repeats)
        subject = f"{len(items)} files of 299 px, batches of {BATCH}, {computing.precision}"
        for task in measured:
            for name, target in (("backbone as trained", TARGET), (FOLDED, None)):
                yield Outcome(
                    subject,
                    Measurement(task, seconds[task]),
                    Measurement(name, seconds[name]),
                    at_least=target,
                    as_speed=True,
                )


def _in_turn(batches: Sequence[Callable[[], object]]) -> None:
    for compute in batches:
        compute()
