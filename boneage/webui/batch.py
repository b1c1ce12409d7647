"""The Batch tab: many radiographs of hands become a table of bone ages, and their errors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from boneage import batch, case_table, images, zips
from boneage.batch import Item, Source
from boneage.case_table import CaseTable
from boneage.errors import InputError
from boneage.sex import SEX_NAMES, parse_sex
from boneage.webui import batch_cards, cards, hand, tab
from boneage.webui.batch_cards import Case

if TYPE_CHECKING:
    from boneage.predictor import Predictor

NAME = "batch"
TITLE = "Batch"
MAX_BYTES = 2**30
"""Of all files together, unpacked."""
MAX_FILES = 2000
EXAMPLES = 12
BATCH_SIZE = 4  # small, so that a single radiograph on another tab need not wait long
THREADS = 2
UNUSABLE = "These files cannot be assessed"
UNFORESEEN = "Something unforeseen went wrong, or the page is busy. Please try again."
CANCELLED = "Nothing was assessed: the batch was cancelled before it began."
# Apart from the other tabs' group: their visitors do not wait for a batch.
GROUP = {"concurrency_limit": 1, "concurrency_id": "batch"}
WIDTHS = {"File": "110px", "Sex": "72px", "90 % interval": "140px", "Notes": "170px"}
OTHER_WIDTH = "96px"
NUMBERS = ("Age", "Reference", "Difference")  # the columns that are sorted as such
# The components that a run changes, in order.
SHOWN = ("progress", "announced", "downloads", "table", "comparison", "start", "example", "cancel")


@dataclass
class Visit:
    """What one visitor has on the tab; files and results are not kept.

    Attributes:
        wanted: a run was asked for and is not cancelled.
    """

    wanted: bool = False


@dataclass(frozen=True)
class Given:
    """What is to be assessed.

    Attributes:
        items: the radiographs.
        notes: what does not fit between the table and the files, in sentences.
        without_file: names of rows of the table without a file.
    """

    items: list[Item]
    notes: Sequence[str] = ()
    without_file: Sequence[str] = ()


def gather(
    files: Sequence[str] | None, table: str | None, sex: str | None, *, needs_sex: bool = True
) -> Given:
    """Files and zips that were uploaded, with what the table says of them.

    Args:
        files: their paths.
        table: path of the CSV, if any.
        sex: for those of which the table says none.
        needs_sex: whether the weights do.

    Raises:
        InputError: nothing given, more than the tab's limits, or a table that is wrong.
    """
    if not files:
        raise InputError("No file was given.")
    paths = (path for path in map(Path, files) if not zips.is_junk(path.name))
    sources = batch.sources(paths, most=MAX_FILES, most_bytes=MAX_BYTES)
    if not sources:
        raise InputError("There is no radiograph among the files.")
    known = parse_sex(sex or "")
    if sex and not known:
        raise InputError(f"The sex is {sex[:40]!r}; expected F or M, or nothing.")
    cases = CaseTable()
    if table:
        path = Path(table)
        if not path.is_file():
            raise InputError(tab.GONE)
        cases = case_table.load(path, "hand")
    items = cases.items(sources, known, needs_sex=needs_sex)
    return Given(items, cases.report(sources), cases.without_file(sources))


def example(predictor: Predictor) -> Given:
    """Bundled test radiographs with their reference ages."""
    chosen = hand.examples(predictor, EXAMPLES)
    return Given([Item(Source(case.path, case.id), case.sex, case.age) for case in chosen])


def begin(visit: Visit) -> tuple[Any, ...]:
    """The visitor wants a run; returns updates of :data:`SHOWN`."""
    visit.wanted = True
    return _updates(
        progress=batch_cards.WAITING,
        announced="Waiting in the queue.",
        table=gr.update(visible=False),
        comparison="",
        downloads="",
        **_buttons(running=True),
    )


def cancel(visit: Visit) -> Any:
    """The visitor wants it to stop; returns an update of the button."""
    visit.wanted = False
    return gr.update(interactive=False)


def run(predictor: Predictor, visit: Visit, collect: Callable[[], Given]) -> Iterator[Any]:
    """Assess what was given, showing how far it is; closing it stops the work.

    Args:
        predictor: shared with the other tabs.
        visit: whose ``wanted`` is taken back to stop after the batch in hand.
        collect: gives what is to be assessed; may raise :class:`InputError`.

    Returns:
        Updates of :data:`SHOWN`.
    """
    if not visit.wanted:
        yield _end(cards.problem("Cancelled", CANCELLED), CANCELLED)
        return
    try:
        given = collect()
    except InputError as error:
        yield _end(cards.problem(UNUSABLE, str(error)), f"{UNUSABLE}. {escape(str(error))}")
        return
    total, unit = len(given.items), predictor.config["unit"]
    cases: list[Case] = []
    tabled = 0  # cases that the table shows
    begun = time.monotonic()
    yield _updates(
        progress=batch_cards.progress(0, total, 0), announced=f"Assessing {total} files."
    )
    outcomes = batch.assess(predictor, given.items, batch_size=BATCH_SIZE, threads=THREADS)
    with closing(outcomes):
        for done in outcomes:
            cases += map(Case.of, done)
            del done  # with its pixels
            if not visit.wanted or len(cases) == total:
                break
            changes: dict[str, Any] = {
                "progress": batch_cards.progress(len(cases), total, time.monotonic() - begun),
                "announced": batch_cards.announcement(len(cases), total),
            }
            if len(cases) > 1.1 * tabled:  # the whole table is sent, so not with every batch
                changes["table"] = _table(cases, unit)
                tabled = len(cases)
            yield _updates(**changes)
    failed = sum(case.failure is not None for case in cases)
    yield _end(
        batch_cards.ended(cases, total, given.notes),
        f"{len(cases)} of {total} files done, {failed} of them not assessed.",
        table=_table(cases, unit),
        comparison=batch_cards.comparison(cases, unit),
        downloads=batch_cards.downloads(cases, unit, given.without_file),
    )


def run_files(
    predictor: Predictor, visit: Visit, files: list[str] | None, table: str | None, sex: str | None
) -> Iterator[Any]:
    """:func:`run` of what was uploaded."""
    needs_sex = bool(predictor.sexes)
    yield from run(predictor, visit, lambda: gather(files, table, sex, needs_sex=needs_sex))


def run_example(predictor: Predictor, visit: Visit) -> Iterator[Any]:
    """:func:`run` of the bundled radiographs."""
    yield from run(predictor, visit, lambda: example(predictor))


def failed() -> tuple[Any, ...]:
    """Something unforeseen ended the run; returns updates of :data:`SHOWN`."""
    return _end(cards.problem("No result", UNFORESEEN), UNFORESEEN)


def assess_files(
    predictor: Predictor, files: list[str] | None, table: str | None, sex: str | None
) -> dict[str, Any]:
    """The API's answer: assessments, failures and a summary as JSON.

    Raises:
        gr.Error: whatever is wrong with the input as a whole, in one sentence.
    """
    try:
        given = gather(files, table, sex, needs_sex=bool(predictor.sexes))
    except InputError as error:
        raise gr.Error(str(error), print_exception=False) from None
    outcomes = batch.assess(predictor, given.items, batch_size=BATCH_SIZE, threads=THREADS)
    with closing(outcomes):
        cases = [Case.of(outcome) for done in outcomes for outcome in done]
    return batch_cards.answer(cases, predictor.config["unit"], given.without_file)


def build(predictor: Predictor) -> None:
    """Lay the tab out in the open Blocks and connect it."""
    visit = gr.State(Visit())
    limit, each = tab.size_in_words(MAX_BYTES), tab.size_in_words(images.MAX_BYTES)
    with gr.Row(elem_classes="two-sides"):
        with gr.Column(elem_classes="inputs"):
            files = gr.File(
                label="Radiographs, or zips of them",
                file_count="multiple",
                height=180,
                elem_id="batch-file",
            )
            table = gr.File(
                label="Table of sexes (CSV), optional", height=150, elem_id="batch-table"
            )
            sex = gr.Radio(
                [
                    ("From the DICOM file", ""),
                    *((SEX_NAMES[s].capitalize(), s) for s in predictor.sexes),
                ],
                value="",
                label="Sex where the table has none",
                elem_id="batch-sex",
            )
            with gr.Row(elem_classes="batch-buttons"):
                start = gr.Button("Start", variant="primary", elem_id="batch-start")
                stop = gr.Button("Cancel", variant="stop", visible=False, elem_id="batch-cancel")
            try_it = gr.Button(
                f"Try {EXAMPLES} of the bundled test radiographs with their reference ages",
                visible=bool(hand.examples(predictor, EXAMPLES)),
                size="sm",
                elem_id="batch-example",
            )
        with gr.Column(elem_classes="outputs"):
            progress = gr.HTML(
                batch_cards.start(MAX_FILES, limit, each),
                elem_id="batch-progress",
                apply_default_css=False,
                js_on_load=None,
            )
            announced = gr.HTML(
                elem_id="batch-announced",
                apply_default_css=False,
                js_on_load="element.setAttribute('aria-live', 'polite')",
            )
            downloads = gr.HTML(elem_id="batch-downloads", apply_default_css=False, js_on_load=None)
            results = gr.Dataframe(
                label="Results",
                interactive=False,
                visible=False,
                max_height=480,
                wrap=True,
                buttons=["fullscreen"],
                elem_id="batch-results",
            )
            comparison = gr.HTML(
                elem_id="batch-comparison", apply_default_css=False, js_on_load=None
            )

    shown = [progress, announced, downloads, results, comparison, start, try_it, stop]
    quick = {**tab.QUICK, "trigger_mode": "once"}
    for button, assess, arguments in (
        (start, run_files, [visit, files, table, sex]),
        (try_it, run_example, [visit]),
    ):
        button.click(begin, visit, shown, **quick).success(
            partial(assess, predictor), arguments, shown, **{**quick, **GROUP}
        ).failure(failed, None, shown, queue=False, **quick)
    stop.click(cancel, visit, stop, **tab.QUICK)
    _endpoint(predictor)


def _endpoint(predictor: Predictor) -> None:
    with gr.Group(visible=False):
        given = [
            gr.File(label="files", file_count="multiple"),
            gr.File(label="table"),
            gr.Textbox("", label="sex"),
        ]
        answered = gr.JSON(label="assessments")
        gr.Button().click(
            partial(assess_files, predictor),
            given,
            answered,
            api_name=NAME,
            api_description=f"Assess at most {MAX_FILES} radiographs of hands, or zips of them; "
            "table is a CSV file (id or file, sex or male, optionally boneage in months) or empty; "
            "sex is F or M for those of which the table says none, or empty for the DICOM files' "
            "own. Returns assessments, each with its file, failures (file, id and reason; no file "
            "for a row of the table that has none), and where there are reference ages a summary "
            "of the errors, else null.",
            **GROUP,
        )


def _updates(**changes: Any) -> tuple[Any, ...]:
    return tuple(changes.get(name, gr.skip()) for name in SHOWN)


def _end(progress: str, announced: str, **changes: Any) -> tuple[Any, ...]:
    return _updates(progress=progress, announced=announced, **changes, **_buttons(running=False))


def _buttons(running: bool) -> dict[str, Any]:
    return {
        "start": gr.update(interactive=not running),
        "example": gr.update(interactive=not running),
        "cancel": gr.update(visible=running, interactive=True),
    }


def _table(cases: Sequence[Case], unit: str) -> Any:
    table = batch_cards.table(cases, unit)
    names = [header.partition(" (")[0] for header in table["headers"]]
    return gr.update(
        value=table,
        visible=bool(cases),
        column_widths=[WIDTHS.get(name, OTHER_WIDTH) for name in names],
        datatype=["number" if name in NUMBERS else "str" for name in names],
    )
