"""What the tabs share: inputs at the left, a result at the right, examples, and their events."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from boneage import explain
from boneage.errors import InputError
from boneage.report import to_pdf
from boneage.webui import cards

if TYPE_CHECKING:
    from boneage.growth import Comparison
    from boneage.images import Radiograph
    from boneage.predictor import Assessment

THUMBNAIL = 192  # px
# The name and the address of a file that is then downloaded.
DOWNLOAD = """(name, address) =>
  Object.assign(document.createElement("a"), { download: name, href: address }).click()"""
UNREADABLE = "This file cannot be assessed"
GONE = "Files are deleted within an hour, and this one is already gone. Please upload it again."
KEPT_SECONDS = 3000  # of what a visitor left, like the files
# Events that run no network.
QUICK = {
    "api_visibility": "private",
    "show_progress": "hidden",
    "trigger_mode": "multiple",
    "concurrency_limit": 4,
    "concurrency_id": "quick",
}
# One at a time, and of those meanwhile the last.
LAST = {**QUICK, "trigger_mode": "always_last"}


@dataclass
class Visit:
    """What one visitor has on a tab; it lives in the session alone.

    Attributes:
        path: the file given, in the folder that is emptied within the hour.
        reference: an example's reference age in the tab's unit.
        turn: counts the changes; a result that was begun in an earlier turn is not shown.
        files: counts the files that were given or taken away.
        assessed: the turn in which the last assessment was begun, and the assessment.
    """

    path: str | None = None
    reference: float | None = None
    turn: int = 0
    files: int = 0
    assessed: tuple[int, Assessment] | None = None

    @property
    def assessment(self) -> Assessment | None:
        """The one that is shown; ``None`` as soon as anything it was made of has changed."""
        turn, assessment = self.assessed or (None, None)
        return assessment if turn == self.turn else None

    def empty(self) -> None:
        """Forget the file; whatever is still being assessed is not shown."""
        self.turn += 1
        self.files += 1
        self.path, self.reference, self.assessed = None, None, None


@dataclass(frozen=True)
class Inputs:
    """The components by which a file comes and goes.

    Attributes:
        given: the card of the file given.
        clear: takes it away.
        too_large: clicked by page.js in place of sending a file over the limit.
        file: where it is dropped, chosen or pasted.
    """

    given: gr.HTML
    clear: gr.Button
    too_large: gr.Button
    file: gr.File


def inputs(name: str, label: str) -> Inputs:
    """Lay the inputs of the tab ``name`` out; ``label`` says what kind of file is meant."""
    return Inputs(
        given=gr.HTML(elem_id=f"{name}-given", apply_default_css=False, js_on_load=None),
        clear=gr.Button("Remove", visible=False, size="sm", elem_id=f"{name}-remove"),
        too_large=gr.Button(visible="hidden", elem_classes="too-large"),
        file=gr.File(
            label=f"{label}: drop, choose or paste",
            height=150,
            elem_id=f"{name}-file",
            elem_classes="takes-paste",
        ),
    )


def result(name: str, start: str) -> gr.HTML:
    """The place of the result, which holds ``start`` at first."""
    return gr.HTML(
        start,
        elem_id=f"{name}-result",
        apply_default_css=False,
        # Read out by screen readers when it changes.
        js_on_load="element.setAttribute('aria-live', 'polite')",
    )


def of_turn(turn: int, card: str) -> str:
    """A card that says of which turn of the :class:`Visit` it is.

    Updates may reach the page in another order than they were made in; page.js hides a result of an
    earlier turn than that in which the file beside it was given.
    """
    return f'<div data-turn="{turn}">{card}</div>'


def example_buttons(examples: Sequence[tuple[str, Radiograph]]) -> list[gr.Button]:
    """A button for each example, with its label and picture."""
    if not examples:
        return []
    gr.HTML("<h2>Examples</h2>", apply_default_css=False, js_on_load=None)
    with gr.Row(elem_classes="example-grid"):
        return [_example_button(label, radiograph) for label, radiograph in examples]


def _example_button(label: str, radiograph: Radiograph) -> gr.Button:
    picture = explain.display_image(radiograph.pixels, THUMBNAIL)
    return gr.Button(
        label,
        # As a data URL: the page's cached files are all deleted within the hour.
        icon={"path": f"{radiograph.id}.jpg", "url": cards.data_url(picture)},
        elem_classes="example",
    )


def with_visit(take: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """``take`` with the visit before its updates: Gradio deletes in time what it was given last."""

    def taken(visit: Visit, *arguments: Any, **options: Any) -> tuple[Any, ...]:
        return (visit, *take(visit, *arguments, **options))

    return taken


def on_upload(
    inputs: Inputs,
    take: Callable[..., tuple[Any, ...]],
    arguments: Sequence[Any],
    shown: Sequence[Any],
) -> Any:
    """Let ``take(visit, path, ...)`` have every file given; returns the event.

    Args:
        inputs: of the tab.
        take: returns updates of ``shown``.
        arguments: the visit, and what follows the path.
        shown: what the updates are for.
    """
    visit, *more = arguments
    return inputs.file.upload(
        # The file's own row would hide the drop zone, so the file moves to the card above.
        lambda visit, path, *more: (None, *take(visit, path, *more)),
        [visit, inputs.file, *more],
        [inputs.file, *shown],
        **QUICK,
    )


def assess_after(
    events: Sequence[Any],
    assess: Callable[..., Any],
    arguments: Sequence[Any],
    shown: Sequence[Any],
    group: Mapping[str, Any],
) -> None:
    """Run ``assess`` after each of the events; what fails is told in the last of ``shown``.

    Args:
        events: that change what is to be assessed.
        assess: returns updates of ``shown``.
        arguments: what it is given.
        shown: what the updates are for, the result last.
        group: which assessments wait for each other.
    """
    for event in events:
        event.success(assess, arguments, shown, **{**QUICK, **group}).failure(
            _failed, None, shown[-1], queue=False, **QUICK
        )
        event.failure(_failed, None, shown[-1], queue=False, **QUICK)


def assess(
    visit: Visit,
    show: Callable[[str], Any],
    refuse: Callable[[str], Any] = lambda card: card,
) -> Any:
    """What ``show`` makes of the visitor's file; no change if there is none or it was overtaken.

    Args:
        visit: whose file it is.
        show: from its path to updates; may raise :class:`InputError`.
        refuse: from the card of a problem to the same updates; may empty the visit.
    """
    turn, path = visit.turn, visit.path
    if path is None:
        return gr.skip()
    updates, reason = None, GONE
    if Path(path).is_file():
        try:
            updates = show(path)
        except InputError as error:
            reason = str(error)
    if visit.turn != turn:
        return gr.skip()
    return refuse(cards.problem(UNREADABLE, reason)) if updates is None else updates


def report_parts(name: str) -> tuple[gr.Button, list[gr.Textbox]]:
    """Lay out what makes a report, unseen: a button that a result's card clicks, and the file."""
    button = gr.Button(visible="hidden", elem_id=f"{name}-report")
    file = [gr.Textbox(visible="hidden", label=label) for label in ("name", "address")]
    return button, file


def on_report(
    parts: tuple[gr.Button, list[gr.Textbox]],
    report: Callable[..., tuple[str, str]],
    arguments: Sequence[Any],
    group: Mapping[str, Any] = QUICK,
) -> None:
    """Let the visitor download what ``report`` makes of the arguments, see :func:`pdf`.

    Args:
        parts: of :func:`report_parts`.
        report: makes it.
        arguments: what it is given.
        group: what it waits with, where it takes long.
    """
    button, file = parts
    once = {"show_progress": "full", "trigger_mode": "once"}
    made = button.click(report, arguments, file, **{**QUICK, **group, **once})
    made.success(None, file, None, js=DOWNLOAD, api_visibility="private")


def pdf(
    visit: Visit, read: Callable[[str], Radiograph], error: str, growth: Comparison | None = None
) -> tuple[str, str]:
    """The report of the assessment shown: a name for the file, and the PDF as address of itself.

    Args:
        visit: whose assessment it is.
        read: the radiograph as it was assessed, from the file's path.
        error: how far the weights err, in a sentence.
        growth: the bone age beside the chronological age.

    Raises:
        gr.Error: where there is nothing to report.
    """
    assessment, path = visit.assessment, visit.path
    if assessment is None or path is None or not Path(path).is_file():
        raise gr.Error(GONE, print_exception=False)
    try:
        radiograph = read(path)
    except InputError:  # deleted, just now
        raise gr.Error(GONE, print_exception=False) from None
    content = to_pdf(assessment, radiograph, growth=growth, error=error)
    address = "data:application/pdf;base64," + base64.b64encode(content).decode()
    return f"{assessment.id}.pdf", address


def too_large(limit: int) -> str:
    """The card for a file of more than ``limit`` bytes, which the browser did not send."""
    return cards.problem(UNREADABLE, f"The file is larger than {size_in_words(limit)}.")


def size_in_words(size: int) -> str:
    """Bytes in whole GB or MB."""
    return f"{size // 2**30} GB" if size >= 2**30 else f"{size // 2**20} MB"


def answer(file: str | None, assess: Callable[[str], Sequence[Assessment]]) -> dict[str, Any]:
    """The API's answer: the one assessment of a file as JSON.

    Raises:
        gr.Error: whatever is wrong with the input, in one sentence.
    """
    try:
        if not file:
            raise InputError("No file was given.")
        (assessment,) = assess(file)
    except InputError as error:
        raise gr.Error(str(error), print_exception=False) from None
    return assessment.to_dict()


def endpoint(
    name: str,
    assess_file: Callable[[str | None, str | None], dict[str, Any]],
    option: str,
    description: str,
    group: Mapping[str, Any],
) -> None:
    """Make ``assess_file(file, option)`` the API's endpoint ``name``."""
    with gr.Group(visible=False):
        given = [gr.File(label="file"), gr.Textbox("", label=option)]
        answered = gr.JSON(label="assessment")
        gr.Button().click(
            assess_file,
            given,
            answered,
            api_name=name,
            api_description=description,
            **group,
        )


def _failed() -> str:
    return cards.problem(
        "No result", "The page is busy, or something unforeseen went wrong. Please try again."
    )
