"""The Hand tab: a radiograph of a hand and the sex become a bone age with its evidence."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from boneage import bundled, datasets, growth, images
from boneage.errors import InputError
from boneage.framing import WHOLE, Framing
from boneage.measured import measured_error, read_metrics
from boneage.nearest import nearest
from boneage.sex import SEX_NAMES, parse_sex
from boneage.webui import cards, chronology, framing, hand_cards, tab
from boneage.wording import age_in_short

if TYPE_CHECKING:
    from boneage.datasets import Case
    from boneage.images import Radiograph
    from boneage.predictor import Assessment, Predictor

NAME = "hand"
TITLE = "Hand"
MAX_BYTES = images.MAX_BYTES
EXAMPLES = 6
# What of a result can be hidden, and its name in the style sheet.
PARTS = (("Boxes", "boxes"), ("Heat map", "heat-map"), ("Component ages", "votes"))
# One group for all that runs the network: Grad-CAM hooks into the network that all visitors share.
MODEL = {"concurrency_limit": 1, "concurrency_id": "model"}
# Gradio leaves a note as it is where the new one is empty.
NO_NOTE = "\N{ZERO WIDTH SPACE}"


@dataclass
class Visit(tab.Visit):
    """What one visitor has on the tab; the reference is a bone age in months.

    Attributes:
        framing: what of the radiograph is assessed, and which way up.
        fields: what those of the chronological age were set to since; ``None`` if nothing.
        years: chronological age as the file states it.
        replaces: the radiograph that is being read takes the place of another.
    """

    framing: Framing = WHOLE
    fields: tuple[Any, ...] | None = None
    years: float | None = None
    replaces: bool = False

    def empty(self) -> None:
        """Forget the radiograph."""
        super().empty()
        self.framing, self.fields, self.years, self.replaces = WHOLE, None, None, False

    def change(self) -> None:
        """What is to be assessed has changed: the result there is no longer holds."""
        self.turn += 1


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


@cache
def bundled_cases() -> tuple[Case, ...]:
    """The bundled test radiographs; none where the data are not there."""
    folder = bundled.folder("data") / "rsna-test"
    return datasets.load(folder).cases if folder.is_dir() else ()


OVERTAKEN = (gr.skip(),) * 4
"""The updates of :func:`take` where another file was given while this one was being read."""


def examples(predictor: Predictor, count: int = EXAMPLES) -> list[Case]:
    """Some of the bundled test radiographs, of sexes that the weights are for."""
    served = predictor.sexes or SEX_NAMES
    cases = tuple(case for case in bundled_cases() if case.sex in served)
    return choose_examples(cases, count) if cases else []


def take(
    visit: Visit,
    path: str,
    sex: str | None,
    example: Case | None = None,
    served: Sequence[str] = tuple(SEX_NAMES),
) -> tuple[Any, ...]:
    """A new radiograph: whatever stood on the tab before is gone, the other film's sex with it.

    Args:
        visit: whose it is.
        path: of the file.
        sex: as chosen on the tab.
        example: that the file is of.
        served: sexes that the weights are for; none if they need not know it.

    Returns:
        Updates of the radiograph's card, the remove button, the sex and the result. A sex that the
        visitor chose before any film is not named: it may have been chosen since the file was sent,
        and naming the old one would take that choice back.
    """
    replaces = visit.path is not None or visit.replaces
    if replaces:
        sex = None
    visit.empty()
    visit.replaces = replaces
    turn, file = visit.turn, visit.files
    radiograph, problem = None, ""
    try:
        radiograph = images.read(path)
    except InputError as error:
        problem = cards.problem(tab.UNREADABLE, str(error))
    if visit.files != file:
        return OVERTAKEN
    # What the fields were set to while it was read, is of the film before.
    visit.replaces, visit.fields = False, None
    if radiograph is None:
        return nothing(problem, clear=replaces and visit.turn == turn)
    visit.path, visit.years = path, chronology.known(radiograph.age_years)
    note = "Chosen before this radiograph was given: check that it is correct." if sex else NO_NOTE
    own = (example.sex if example else radiograph.sex) if served else None
    if example:
        visit.reference = example.age
    if own:
        sex = own
        filled = "Filled in from the file: check that it is correct."
        note = "The example's own." if example else filled
    card = cards.BUSY if sex or not served else hand_cards.SEX_MISSING
    if own and own not in served:
        others = " and ".join(SEX_NAMES[each] for each in served)
        reason = f"The patient is {SEX_NAMES[own]}; these weights are for {others} cases only."
        sex, note, card = None, NO_NOTE, cards.problem(tab.UNREADABLE, reason)
    named = own or (replaces and visit.turn == turn)
    return (
        tab.of_turn(turn, hand_cards.given(radiograph, visit.reference)),
        gr.update(visible=True),
        gr.update(value=sex, info=note) if named else gr.update(info=note),
        card,
    )


def choose(visit: Visit) -> tuple[Any, Any]:
    """The visitor chose the sex: its note goes, and the old result with it."""
    visit.change()
    return gr.update(info=NO_NOTE), cards.BUSY if visit.path else hand_cards.START


def remove(visit: Visit) -> tuple[Any, ...]:
    """The visitor took the radiograph away; returns what :func:`take` does."""
    visit.empty()
    return nothing(hand_cards.START, clear=True)


def refuse_large(visit: Visit) -> tuple[Any, ...]:
    """The browser did not send a file because of its size; returns what :func:`take` does."""
    replaces = visit.path is not None or visit.replaces
    visit.empty()
    return nothing(tab.too_large(MAX_BYTES), clear=replaces)


def nothing(card: str, *, clear: bool) -> tuple[Any, ...]:
    """The updates of :func:`take` where there is no radiograph, ``card`` saying why.

    Args:
        card: of the result.
        clear: take the sex back.
    """
    sex = gr.update(value=None, info=NO_NOTE) if clear else gr.update(info=NO_NOTE)
    return "", gr.update(visible=False), sex, card


def renew(take: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """``take`` with more before its updates: the visit, and what belonged to the film before.

    The visit is among the updates so that the page deletes it in time; the fields are those of
    framing and of the chronological age.
    """

    def taken(visit: Visit, *arguments: Any, **options: Any) -> tuple[Any, ...]:
        updates = take(visit, *arguments, **options)
        if updates is OVERTAKEN:  # the fields are the other film's
            return (visit, *(gr.skip(),) * (len(framing.values(WHOLE)) + 3), *updates)
        return (visit, *framing.values(visit.framing), None, None, visit.years, *updates)

    return taken


def assess(predictor: Predictor, visit: Visit, sex: str | None, *fields: Any) -> Any:
    """The result's card; no change if something is missing or the visitor has moved on.

    Args:
        predictor: of the page.
        visit: whose radiograph it is.
        sex: ``F`` or ``M``.
        *fields: what those of the chronological age held when this was asked for.
    """
    if sex is None and predictor.sexes:
        return gr.skip()
    turn = visit.turn  # read first: a framing that is set after it ends the turn
    at = visit.framing

    def show(path: str) -> str:
        radiograph = at.apply(images.read(path))
        (assessment,) = predictor.assess(radiograph, sex, heat_map=True)
        visit.assessed = turn, assessment
        card, latest = "", None
        # What :func:`compare` makes of fields that change now may reach the page before this card.
        while latest is not (now := fields if visit.fields is None else visit.fields):
            card, latest = result(predictor, visit, radiograph, assessment, now), now
        return tab.of_turn(turn, card)

    return tab.assess(visit, show, partial(tab.of_turn, turn))


def compare(predictor: Predictor, visit: Visit, *fields: Any) -> Any:
    """The result's card again, beside another chronological age; no change if there is none."""
    visit.fields = fields
    turn, assessment = visit.turn, visit.assessment
    if assessment is None:
        return gr.skip()

    def show(path: str) -> str:
        radiograph = visit.framing.apply(images.read(path))
        return tab.of_turn(turn, result(predictor, visit, radiograph, assessment, fields))

    return tab.assess(visit, show, partial(tab.of_turn, turn))


def report(predictor: Predictor, visit: Visit, *fields: Any) -> tuple[str, str]:
    """What :func:`boneage.webui.tab.pdf` returns, of the hand shown."""
    assessment = visit.assessment
    comparison = compared(assessment, fields)[0] if assessment else None

    def read(path: str) -> Radiograph:
        return visit.framing.apply(images.read(path))

    return tab.pdf(visit, read, error_of(predictor), comparison)


def error_of(predictor: Predictor) -> str:
    """How far the page's weights err, in a sentence."""
    return measured_error(predictor, read_metrics())


def result(
    predictor: Predictor,
    visit: Visit,
    radiograph: Radiograph,
    assessment: Assessment,
    fields: Sequence[Any],
) -> str:
    """The result's card; what the ``fields`` of the chronological age hold stands in it."""
    comparison, problem = compared(assessment, fields)
    neighbours: list[Case] = []
    if assessment.age is not None and assessment.sex:
        neighbours = nearest(bundled_cases(), assessment.age, assessment.sex, exclude=radiograph.id)
    return hand_cards.result(
        radiograph,
        assessment,
        reference=visit.reference,
        error=error_of(predictor),
        comparison=comparison,
        problem=problem,
        neighbours=neighbours,
    )


def compared(
    assessment: Assessment, fields: Sequence[Any]
) -> tuple[growth.Comparison | None, str | None]:
    """The bone age beside the chronological age, or why they cannot be compared."""
    if assessment.age is None or not assessment.sex:
        return None, None
    try:
        months = chronology.months(*fields)
    except InputError as error:
        return None, str(error)
    if months is None:
        return None, None
    return growth.compare(assessment.age, months, assessment.sex), None


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
    cases = examples(predictor)
    visit = gr.State(Visit(), time_to_live=tab.KEPT_SECONDS)
    with gr.Row(elem_classes="two-sides"):
        with gr.Column(elem_classes="inputs"):
            inputs = tab.inputs(NAME, "Radiograph")
            sex = gr.Radio(
                [(SEX_NAMES[s].capitalize(), s) for s in predictor.sexes],
                label="Sex",
                elem_id="hand-sex",
                visible=bool(predictor.sexes),
            )
            age = chronology.fields(visible=bool(predictor.sexes))
            frame = framing.controls()
        with gr.Column(elem_classes="outputs"):
            shown_parts()
            result = tab.result(NAME, hand_cards.START)
            maker = tab.report_parts(NAME)
        with gr.Column(elem_classes="examples"):
            buttons = tab.example_buttons([(_label(c), images.read(c.path)) for c in cases])

    shown = [inputs.given, inputs.clear, sex, result]
    renewed = [visit, *frame.fields, *age, *shown]
    taken = partial(renew(take), served=predictor.sexes)
    begun = [
        tab.on_upload(inputs, taken, [visit, sex], renewed),
        sex.input(choose, visit, [sex, result], **tab.QUICK),
        framing.connect(frame, visit, sex, inputs.given, result, bool(predictor.sexes)),
    ]
    for button, case in zip(buttons, cases, strict=True):
        example = partial(taken, path=str(case.path), sex=None, example=case)
        begun.append(button.click(example, visit, renewed, **tab.QUICK))
    tab.assess_after(begun, partial(assess, predictor), [visit, sex, *age], [result], MODEL)
    gr.on(
        [event for field in age for event in (field.blur, field.submit)],
        partial(compare, predictor),
        [visit, *age],
        result,
        **tab.LAST,
    )
    tab.on_report(maker, partial(report, predictor), [visit, *age])
    inputs.clear.click(renew(remove), visit, renewed, **tab.QUICK)
    inputs.too_large.click(renew(refuse_large), visit, renewed, **tab.QUICK)

    tab.endpoint(
        NAME,
        partial(assess_file, predictor),
        "sex",
        "Assess a radiograph of a hand (PNG, JPEG, TIFF, WebP, BMP or DICOM); "
        "sex is F or M, or empty for the DICOM file's own. Returns the assessment.",
        MODEL,
    )


def shown_parts() -> None:
    """Lay out the choice of what of a result is shown, which the browser alone acts on."""
    parts = [name for name, _ in PARTS]
    choice = gr.CheckboxGroup(parts, value=parts, label="Show", elem_id="hand-show")
    hidden = {name: f"hide-{part}" for name, part in PARTS}
    script = (
        f"(shown) => Object.entries({json.dumps(hidden)}).forEach(([name, hidden]) => "
        "document.body.classList.toggle(hidden, !shown.includes(name)))"
    )
    choice.change(None, choice, None, js=script, api_visibility="private")


def _label(case: Case) -> str:
    return f"{SEX_NAMES[case.sex or ''].capitalize()}, {age_in_short(case.age)}"
