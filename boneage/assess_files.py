"""``boneage assess``: files assessed in batches, drawn, entered as they come, and printed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from boneage import batch, explain
from boneage.errors import system_reason, tell
from boneage.ledger import LEDGER, TABLES, Failures, Ledger, replacing, write_csv, write_json
from boneage.measured import measured_error, read_metrics
from boneage.report import HEAT_MAP_OPACITY, to_pdf

if TYPE_CHECKING:
    from boneage.batch import Item, Outcome
    from boneage.predictor import Predictor


def assess_items(
    predictor: Predictor, items: Sequence[Item], folder: Path, args: argparse.Namespace
) -> int:
    """Assess what the ledger in ``folder`` does not hold yet, and print all; the exit code."""
    wanted = ((".png", ".pdf") if args.report else (".png",)) if args.out else ()
    with Ledger(folder, predictor.id, predictor.revision, predictor.settings, wanted) as ledger:
        failures = Failures(folder)
        pending = ledger.pending(items)
        without_age = 0
        if len(pending) < len(items):
            without_age += _tell_earlier(ledger, items, len(pending))
        without_age += _assess_pending(predictor, pending, ledger, failures, args)
        if args.out:
            _write_tables(ledger, items, folder)
            _tell_others(ledger, items)
        _print_table(ledger, items, args)
    return 1 if without_age else 0


def _tell(item: Item, reason: str) -> None:
    named = f"{item.source.shown}: "
    tell("boneage", f"{named}{reason.removeprefix(named)}")


def _tell_earlier(ledger: Ledger, items: Sequence[Item], pending: int) -> int:
    """Say what was assessed before; the number of refusals among it."""
    print(f"boneage: {len(items) - pending} of {len(items)} were assessed before.", file=sys.stderr)
    refused = 0
    for item, line in ledger.lines(items):
        if reason := line["assessment"]["refused"]:
            refused += 1
            _tell(item, reason)
    return refused


def _assess_pending(
    predictor: Predictor,
    pending: Sequence[Item],
    ledger: Ledger,
    failures: Failures,
    args: argparse.Namespace,
) -> int:
    """Assess and enter batch by batch; the number of items without an age, each told."""
    error = measured_error(predictor, read_metrics()) if args.report else ""
    batches = batch.assess(
        predictor,
        ledger.stamped(pending),
        batch_size=args.batch_size,
        heat_map=args.report or (bool(args.out) and predictor.config["task"] == "adult"),
    )
    bar = tqdm(
        total=len(pending),
        desc="assessing",
        disable=len(pending) < 2 or not sys.stderr.isatty(),
    )
    without_age = 0
    with bar, closing(batches), ThreadPoolExecutor(batch.THREADS) as pool:
        for outcomes in batches:
            for item, reason in _enter(outcomes, ledger, failures, pool, error):
                if reason:
                    without_age += 1
                    bar.clear()
                    _tell(item, reason)
            bar.update(len(outcomes))
    return without_age


def _enter(
    outcomes: Sequence[Outcome],
    ledger: Ledger,
    failures: Failures,
    pool: ThreadPoolExecutor,
    error: str,
) -> Iterator[tuple[Item, str | None]]:
    """Enter a batch, drawn together, into the ledger or the failures.

    Returns:
        Each item with the reason why it has no age, if it has none.
    """
    drawings: list[tuple[str, Future[None]] | None] = []
    for outcome in outcomes:
        drawing = None
        if ledger.wanted and outcome.assessment is not None:
            picture = ledger.picture(outcome.item.source)
            drawing = picture, pool.submit(draw, outcome, ledger.part(picture, ".png"))
        drawings.append(drawing)
    for outcome, drawing in zip(outcomes, drawings, strict=True):
        failure = outcome.failure
        if drawing is not None:
            failure = _finish(outcome, *drawing, ledger, error)
        if failure is not None:
            failures.add(outcome.item.source, failure)
            yield outcome.item, failure
        elif outcome.assessment is not None:
            ledger.add(outcome, drawing[0] if drawing else None)
            yield outcome.item, outcome.assessment.refused


def _finish(
    outcome: Outcome, picture: str, drawing: Future[None], ledger: Ledger, error: str
) -> str | None:
    """Put picture and report in their places; why that cannot be done, if it cannot."""
    try:
        drawing.result()
        if ".pdf" in ledger.wanted:
            write_report(outcome, error, ledger.part(picture, ".pdf"))
        ledger.keep(picture)
    except Exception as problem:
        ledger.discard(picture)
        what = "Its picture or report" if ".pdf" in ledger.wanted else "Its picture"
        if isinstance(problem, OSError):
            return f"{what} cannot be written: {system_reason(problem)}."
        return f"{what} cannot be made ({type(problem).__name__})."
    return None


def _write_tables(ledger: Ledger, items: Sequence[Item], folder: Path) -> None:
    as_csv, as_json = (folder / name for name in TABLES)
    with replacing(as_json) as file:
        write_json(ledger.lines(items), file)
    with replacing(as_csv) as file:
        _write_csv(ledger, items, file)


def _tell_others(ledger: Ledger, items: Sequence[Item]) -> None:
    if others := ledger.others(items):
        print(
            f"boneage: the tables list the files of this command; {others} assessed there before "
            f"are listed only in {LEDGER}.",
            file=sys.stderr,
        )


def _print_table(ledger: Ledger, items: Sequence[Item], args: argparse.Namespace) -> None:
    if args.json:
        write_json(ledger.lines(items), sys.stdout)
    else:
        _write_csv(ledger, items, sys.stdout)


def _write_csv(ledger: Ledger, items: Sequence[Item], file: Any) -> None:
    write_csv(
        ledger.lines(items),
        ledger.components,
        file,
        has_picture=bool(ledger.wanted),
        has_reference=any(item.reference is not None for item in items),
    )


def draw(outcome: Outcome, path: Path) -> None:
    """Write the radiograph that was assessed as a PNG picture, whatever the name.

    Boxes are drawn where there are any; an adult's has the heat map laid over it.
    """
    radiograph, assessment = outcome.radiograph, outcome.assessment
    assert radiograph is not None
    assert assessment is not None
    film = explain.display_image(radiograph.pixels)
    if assessment.task == "adult" and assessment.heat_map is not None:
        film = explain.overlay_heat_map(film, assessment.heat_map, HEAT_MAP_OPACITY)
    size = (radiograph.width, radiograph.height)
    # A third of the usual level's time for a quarter more bytes.
    explain.draw_boxes(film, assessment, size).save(path, "PNG", compress_level=1)


def write_report(outcome: Outcome, error: str, path: Path) -> None:
    """Write the report of one assessment; ``error`` says how far the weights err."""
    assert outcome.radiograph is not None
    assert outcome.assessment is not None
    path.write_bytes(to_pdf(outcome.assessment, outcome.radiograph, error=error))
