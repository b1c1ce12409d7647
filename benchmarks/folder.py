"""A folder of radiographs, read, assessed and written, beside the backbone alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.assess import DATA, backbone_alone, released_backbone
from benchmarks.measure import Measurement, Outcome, alternate

BATCH = 16
TARGET = 0.9


def run(repeats: int = 5, most: int | None = None) -> Iterator[Outcome]:
    """The bundled test radiographs with the released weights.

    Args:
        repeats: measured runs.
        most: take only so many radiographs.
    """
    from boneage import batch
    from boneage.ledger import Ledger
    from boneage.predictor import Predictor

    predictor = Predictor.load(device="cpu")
    files = sorted((DATA / "rsna-test" / "images").iterdir())[:most]
    items = [batch.Item(source, "F") for source in batch.sources(files)]
    whole, rest = divmod(len(items), BATCH)
    bare = released_backbone()
    batches = [backbone_alone(bare, predictor, BATCH)] * whole
    batches += [backbone_alone(bare, predictor, rest)] * bool(rest)

    def assess() -> None:
        with (
            tempfile.TemporaryDirectory() as folder,
            Ledger(Path(folder), predictor.id, predictor.revision) as ledger,
        ):
            for outcomes in batch.assess(predictor, items, batch_size=BATCH):
                for outcome in outcomes:
                    ledger.add(outcome)

    def floor() -> None:
        for compute in batches:
            compute()

    seconds = alternate({"assess": assess, "floor": floor}, repeats)
    yield Outcome(
        f"{len(items)} files of 299 px, batches of {BATCH}",
        Measurement("read, assessed, written to disk", seconds["assess"]),
        Measurement("backbone as trained", seconds["floor"]),
        at_least=TARGET,
    )
