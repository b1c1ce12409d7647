"""The Hand tab: a radiograph of a hand and the sex become a bone age with its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from boneage import bundled, datasets, images
from boneage.errors import InputError
from boneage.sex import SEX_NAMES, parse_sex
from boneage.webui import cards, hand_cards, tab
from boneage.webui.charts import age_in_short

if TYPE_CHECKING:
    from boneage.datasets import Case
    from boneage.predictor import Predictor

NAME = "hand"
TITLE = "Hand"
MAX_BYTES = images.MAX_BYTES
EXAMPLES = 6
# One group for all that runs the network: Grad-CAM hooks into the network that all visitors share.
MODEL = {"concurrency_limit": 1, "concurrency_id": "model"}


@dataclass
class Visit(tab.Visit):
    """What one visitor has on the tab; the reference is a bone age in months.

    Attributes:
        sex_filled: the sex came from the file or the example, so it goes with it.
    """

    sex_filled: bool = False

    def empty(self) -> None:
        """Forget the radiograph."""
        super().empty()
        self.sex_filled = False


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
    visit.empty()
    try:
        radiograph = images.read(path)
    except InputError as error:
        return nothing(cards.problem(tab.UNREADABLE, str(error)), sex)
    visit.path = path
    note = "Chosen before this radiograph: check that it is right." if sex else None
    reference = ""
    if example:
        sex, note, visit.sex_filled = example.sex, "The example's own.", True
        visit.reference = example.age
        reference = hand_cards.reference_line(example.age)
    elif radiograph.sex:
        sex, visit.sex_filled = radiograph.sex, True
        note = "Filled in from the file: check that it is right."
    return (
        cards.given(radiograph, reference),
        gr.update(visible=True),
        gr.update(value=sex, info=note),
        cards.BUSY if sex else hand_cards.SEX_MISSING,
    )


def choose(visit: Visit) -> tuple[Any, Any]:
    """The visitor chose the sex: its note goes, and the old result with it."""
    visit.turn += 1
    visit.sex_filled = False
    return gr.update(info=None), cards.BUSY if visit.path else gr.skip()


def remove(visit: Visit) -> tuple[Any, ...]:
    """The visitor took the radiograph away; returns what :func:`take` does."""
    visit.empty()
    return nothing(hand_cards.START)


def refuse_large(visit: Visit) -> tuple[Any, ...]:
    """The browser did not send a file because of its size; returns what :func:`take` does."""
    visit.empty()
    return nothing(tab.too_large(MAX_BYTES))


def nothing(card: str, sex: str | None = None) -> tuple[Any, ...]:
    """The updates of :func:`take` where there is no radiograph, ``card`` saying why."""
    return "", gr.update(visible=False), gr.update(value=sex, info=None), card


def assess(predictor: Predictor, visit: Visit, sex: str | None) -> Any:
    """The result's card; no change if something is missing or the visitor has moved on."""
    if sex is None:
        return gr.skip()
    reference = visit.reference

    def show(path: str) -> str:
        radiograph = images.read(path)
        (assessment,) = predictor.assess(radiograph, sex, heat_map=True)
        return hand_cards.result(radiograph, assessment, reference)

    return tab.assess(visit, show)


def assess_file(predictor: Predictor, file: str | None, sex: str | None) -> dict[str, Any]:
    """The API's answer: the assessment as JSON.

    Raises:
        gr.Error: whatever is wrong with the input, in one sentence.
    """
    # An unknown spelling goes on as it is, so that the refusal names it.
    known = parse_sex(sex or "") or sex or None
    return tab.answer(file, lambda path: predictor.assess(images.read(path), known))


def build(predictor: Predictor) -> None:
    """Lay the tab out in the open Blocks and connect it."""
    cases = bundled_examples()
    visit = gr.State(Visit())
    with gr.Row(elem_classes="two-sides"):
        with gr.Column(elem_classes="inputs"):
            inputs = tab.inputs(NAME, "Radiograph")
            sex = gr.Radio(
                [(SEX_NAMES[s].capitalize(), s) for s in predictor.sexes],
                label="Sex",
                elem_id="hand-sex",
            )
        with gr.Column(elem_classes="outputs"):
            result = tab.result(NAME, hand_cards.START)
        with gr.Column(elem_classes="examples"):
            buttons = tab.example_buttons([(_label(c), images.read(c.path)) for c in cases])

    shown = [inputs.given, inputs.clear, sex, result]
    begun = [
        tab.on_upload(inputs, take, [visit, sex], shown),
        sex.input(choose, visit, [sex, result], **tab.QUICK),
    ]
    for button, case in zip(buttons, cases, strict=True):
        example = partial(take, path=str(case.path), sex=None, example=case)
        begun.append(button.click(example, visit, shown, **tab.QUICK))
    tab.assess_after(begun, partial(assess, predictor), [visit, sex], [result], MODEL)
    inputs.clear.click(remove, visit, shown, **tab.QUICK)
    inputs.too_large.click(refuse_large, visit, shown, **tab.QUICK)

    tab.endpoint(
        NAME,
        partial(assess_file, predictor),
        "sex",
        "Assess a radiograph of a hand (PNG, JPEG, TIFF, WebP, BMP or DICOM); "
        "sex is F or M, or empty for the DICOM file's own. Returns the assessment.",
        MODEL,
    )


def _label(case: Case) -> str:
    return f"{SEX_NAMES[case.sex or ''].capitalize()}, {age_in_short(case.age)}"
