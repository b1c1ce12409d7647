"""The Hand tab: a radiograph of a hand and the sex become a bone age with its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from boneage import bundled, datasets, explain, images
from boneage.errors import InputError
from boneage.sex import SEX_NAMES, parse_sex
from boneage.webui import cards
from boneage.webui.charts import age_in_short

if TYPE_CHECKING:
    from boneage.datasets import Case
    from boneage.predictor import Predictor

TITLE = "Hand"
EXAMPLES = 6
THUMBNAIL = 192  # px
# One group for all that runs the network: Grad-CAM hooks into the network that all visitors share.
MODEL = {"concurrency_limit": 1, "concurrency_id": "model"}
UNREADABLE = "This file cannot be assessed"
GONE = "Files are deleted within an hour, and this one is gone by now. Please give it again."


@dataclass
class Visit:
    """What one visitor has on the tab; it lives in the session alone.

    Attributes:
        path: the file given, in the folder that is emptied within the hour.
        reference: an example's reference bone age in months.
        sex_filled: the sex came from the file or the example, so it goes with it.
        turn: counts the changes; a result that was begun in an earlier turn is not shown.
    """

    path: str | None = None
    reference: float | None = None
    sex_filled: bool = False
    turn: int = 0


def choose_examples(cases: tuple[Case, ...], count: int = EXAMPLES) -> list[Case]:
    """Cases at evenly spread quantiles of age, girls and boys by turns, youngest first."""
    by_sex = {sex: sorted((c.age, c.id) for c in cases if c.sex == sex) for sex in SEX_NAMES}
    by_id = {case.id: case for case in cases}
    sexes = [sex for sex in by_sex if by_sex[sex]]
    chosen = []
    for i in range(count):
        ranked = by_sex[sexes[i % len(sexes)]]
        chosen.append(by_id[ranked[int(len(ranked) * (i + 0.5) / count)][1]])
    return sorted(chosen, key=lambda case: case.age)


def bundled_examples() -> list[Case]:
    """Six of the bundled test radiographs; none where the data are not there."""
    folder = bundled.folder("data") / "rsna-test"
    return choose_examples(datasets.load(folder).cases) if folder.is_dir() else []


def take(
    visit: Visit,
    path: str,
    sex: str | None,
    example: Case | None = None,
) -> tuple[Any, ...]:
    """A new radiograph: whatever stood on the tab before is gone.

    Returns:
        Updates of the radiograph's card, the remove button, the sex and the result.
    """
    if visit.sex_filled:
        sex = None
    empty(visit)
    try:
        radiograph = images.read(path)
    except InputError as error:
        return nothing(cards.problem(UNREADABLE, str(error)), sex)
    visit.path = path
    note = "Chosen before this radiograph: check that it is right." if sex else None
    if example:
        sex, note, visit.sex_filled = example.sex, "The example's own.", True
        visit.reference = example.age
    elif radiograph.sex:
        sex, visit.sex_filled = radiograph.sex, True
        note = "Filled in from the file: check that it is right."
    return (
        cards.given(radiograph, visit.reference),
        gr.update(visible=True),
        gr.update(value=sex, info=note),
        cards.BUSY if sex else cards.SEX_MISSING,
    )


def choose(visit: Visit) -> tuple[Any, Any]:
    """The visitor chose the sex: its note goes, and the old result with it."""
    visit.turn += 1
    visit.sex_filled = False
    return gr.update(info=None), cards.BUSY if visit.path else gr.skip()


def remove(visit: Visit) -> tuple[Any, ...]:
    """The visitor took the radiograph away; returns what :func:`take` does."""
    empty(visit)
    return nothing(cards.START)


def refuse_large(visit: Visit) -> tuple[Any, ...]:
    """The browser did not send a file because of its size; returns what :func:`take` does."""
    empty(visit)
    return nothing(
        cards.problem(UNREADABLE, f"The file is larger than {images.MAX_BYTES // 2**20} MB.")
    )


def empty(visit: Visit) -> None:
    """Forget the radiograph; whatever is still being assessed is not shown."""
    visit.turn += 1
    visit.path, visit.reference, visit.sex_filled = None, None, False


def nothing(card: str, sex: str | None = None) -> tuple[Any, ...]:
    """The updates of :func:`take` where there is no radiograph, ``card`` saying why."""
    return "", gr.update(visible=False), gr.update(value=sex, info=None), card


def assess(predictor: Predictor, visit: Visit, sex: str | None) -> Any:
    """The result's card; no change if something is missing or the visitor has moved on."""
    turn, path, reference = visit.turn, visit.path, visit.reference
    if path is None or sex is None:
        return gr.skip()
    if not Path(path).is_file():
        return cards.problem(UNREADABLE, GONE)
    try:
        radiograph = images.read(path)
        (assessment,) = predictor.assess(radiograph, sex, heat_map=True)
    except InputError as error:
        card = cards.problem(UNREADABLE, str(error))
    else:
        card = cards.result(radiograph, assessment, reference)
    return card if visit.turn == turn else gr.skip()


def assess_file(predictor: Predictor, file: str | None, sex: str | None) -> dict[str, Any]:
    """The API's answer: the assessment as JSON.

    Raises:
        gr.Error: whatever is wrong with the input, in one sentence.
    """
    try:
        if not file:
            raise InputError("No file was given.")
        # An unknown spelling goes on as it is, so that the refusal names it.
        (assessment,) = predictor.assess(images.read(file), parse_sex(sex or "") or sex or None)
    except InputError as error:
        raise gr.Error(str(error), print_exception=False) from None
    return assessment.to_dict()


def build(predictor: Predictor) -> None:
    """Lay the tab out in the open Blocks and connect it."""
    visit = gr.State(Visit())
    with gr.Row(elem_classes="two-sides"):
        with gr.Column(elem_classes="inputs"):
            given = gr.HTML(elem_id="hand-given", apply_default_css=False, js_on_load=None)
            clear = gr.Button("Remove", visible=False, size="sm", elem_id="hand-remove")
            too_large = gr.Button(visible="hidden", elem_classes="too-large")  # see page.js
            file = gr.File(
                label="Radiograph: drop, choose or paste",
                height=150,
                elem_id="hand-file",
                elem_classes="takes-paste",
            )
            sex = gr.Radio(
                [(SEX_NAMES[s].capitalize(), s) for s in predictor.sexes],
                label="Sex",
                elem_id="hand-sex",
            )
        with gr.Column(elem_classes="outputs"):
            result = gr.HTML(
                cards.START,
                elem_id="hand-result",
                apply_default_css=False,
                # Read out by screen readers when it changes.
                js_on_load="element.setAttribute('aria-live', 'polite')",
            )
        with gr.Column(elem_classes="examples"):
            examples = _example_buttons()

    shown = [given, clear, sex, result]
    quick = {
        "api_visibility": "private",
        "show_progress": "hidden",
        "trigger_mode": "multiple",
        "concurrency_limit": 4,
        "concurrency_id": "quick",
    }
    begun = [
        file.upload(
            # The file's own row would hide the drop zone, so the file moves to the card above.
            lambda visit, path, sex: (None, *take(visit, path, sex)),
            [visit, file, sex],
            [file, *shown],
            **quick,
        ),
        sex.input(choose, visit, [sex, result], **quick),
    ]
    for button, case in examples:
        begun.append(
            button.click(
                partial(take, path=str(case.path), sex=None, example=case), visit, shown, **quick
            )
        )
    for event in begun:
        event.success(
            partial(assess, predictor),
            [visit, sex],
            result,
            **{**quick, **MODEL},
        ).failure(_failed, None, result, queue=False, **quick)
        event.failure(_failed, None, result, queue=False, **quick)
    clear.click(remove, visit, shown, **quick)
    too_large.click(refuse_large, visit, shown, **quick)

    with gr.Group(visible=False):
        api_file, api_sex = gr.File(label="file"), gr.Textbox("", label="sex")
        api_result = gr.JSON(label="assessment")
        gr.Button().click(
            partial(assess_file, predictor),
            [api_file, api_sex],
            api_result,
            api_name="hand",
            api_description="Assess a radiograph of a hand (PNG, JPEG, TIFF, WebP, BMP or DICOM); "
            "sex is F or M, or empty for the DICOM file's own. Returns the assessment.",
            **MODEL,
        )


def _failed() -> str:
    return cards.problem(
        "No result", "The page is busy, or something unforeseen went wrong. Please try again."
    )


def _example_buttons() -> list[tuple[gr.Button, Case]]:
    cases = bundled_examples()
    if not cases:
        return []
    gr.HTML("<h2>Examples</h2>", apply_default_css=False, js_on_load=None)
    with gr.Row(elem_classes="example-grid"):
        return [(_example_button(case), case) for case in cases]


def _example_button(case: Case) -> gr.Button:
    picture = explain.display_image(images.read(case.path).pixels, THUMBNAIL)
    return gr.Button(
        f"{SEX_NAMES[case.sex or ''].capitalize()}, {age_in_short(case.age)}",
        # As a data URL: the page's cached files are all deleted within the hour.
        icon={"path": case.path.name, "url": cards.data_url(picture)},
        elem_classes="example",
    )
