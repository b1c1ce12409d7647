"""The Hand tab's controls to turn, cut and invert the film before it is assessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import gradio as gr

from boneage import images
from boneage.errors import InputError
from boneage.framing import MAX_CUT, WHOLE, Framing
from boneage.webui import cards, hand_cards, tab

if TYPE_CHECKING:
    from boneage.webui.hand import Visit

EDGES = ("left", "top", "right", "bottom")
# A visitor's quick clicks are served side by side, and each must begin where the last one ended.
_ONE_AT_A_TIME = Lock()


@dataclass(frozen=True)
class Controls:
    """The components.

    Attributes:
        fields: rotation in degrees clockwise, what is cut off at :data:`EDGES` in per cent, and
            whether black and white are swapped.
        anticlockwise, clockwise: turn by a quarter.
        whole: undoes everything.
        drawn: where page.js writes a rectangle drawn on the film: what is cut off at the edges of
            what is shown, four shares with spaces between, and a running number.
        assess: begins the assessment.
    """

    fields: Sequence[gr.Slider | gr.Checkbox]
    anticlockwise: gr.Button
    clockwise: gr.Button
    whole: gr.Button
    drawn: gr.Textbox
    assess: gr.Button


def controls() -> Controls:
    """Lay the controls out, folded."""
    with gr.Accordion("Turn, crop, invert", open=False, elem_id="hand-framing"):
        gr.HTML(
            "<p>Draw a rectangle on the radiograph above, or use the sliders.</p>",
            apply_default_css=False,
            js_on_load=None,
        )
        with gr.Row():
            anticlockwise = gr.Button(
                "\N{ANTICLOCKWISE OPEN CIRCLE ARROW} 90°", size="sm", min_width=60
            )
            clockwise = gr.Button("\N{CLOCKWISE OPEN CIRCLE ARROW} 90°", size="sm", min_width=60)
            whole = gr.Button("Reset all", size="sm", min_width=60)
        rotation = gr.Slider(-180, 180, 0, step=1, label="Turn clockwise, °")
        cuts = [
            gr.Slider(
                0,
                round(100 * MAX_CUT),
                0,
                step=1,
                label=f"Crop {edge}, %",
                elem_id=f"hand-crop-{edge}",
            )
            for edge in EDGES
        ]
        inverted = gr.Checkbox(label="Swap black and white", elem_id="hand-inverted")
        assess = gr.Button("Assess", variant="primary", size="sm")
    return Controls(
        fields=(rotation, *cuts, inverted),
        anticlockwise=anticlockwise,
        clockwise=clockwise,
        whole=whole,
        drawn=gr.Textbox(visible="hidden", elem_id="hand-drawn", label="Rectangle drawn"),
        assess=assess,
    )


def values(framing: Framing) -> tuple[float | bool, ...]:
    """What the fields of the controls show for a framing."""
    cuts = (round(100 * getattr(framing, edge)) for edge in EDGES)
    return (framing.rotation, *cuts, framing.inverted)


def move(visit: Visit, *fields: float | bool) -> tuple[Any, ...]:
    """The fields were moved; returns what :func:`turn` does, the fields as they are if possible."""
    if visit.path is None:
        return (gr.skip(),) * (2 + len(fields))
    rotation, *cuts, inverted = fields
    shares = [cut / 100 for cut in cuts]
    card, result, *shown = _reframe(visit, lambda: Framing(rotation, *shares, inverted=inverted))
    moved = tuple(shown) == fields  # or a hand that still moves one would lose it
    return (card, result, *((gr.skip(),) * len(fields) if moved else shown))


def turn(quarters: int, visit: Visit) -> tuple[Any, ...]:
    """Turn by quarters clockwise; returns updates of the film's card, the result and the fields."""
    return _reframe(visit, lambda: visit.framing.turned(quarters))


def draw(visit: Visit, drawn: str) -> tuple[Any, ...]:
    """A rectangle was drawn; returns what :func:`turn` does."""

    def within() -> Framing:
        try:
            left, top, right, bottom, _ = map(float, drawn.split())
        except ValueError:
            raise InputError("The rectangle that was drawn could not be understood.") from None
        return visit.framing.within(left, top, right, bottom)

    return _reframe(visit, within)


def undo(visit: Visit) -> tuple[Any, ...]:
    """The whole film, as it came; returns what :func:`turn` does."""
    return _reframe(visit, lambda: WHOLE)


def begin(visit: Visit, sex: str | None, needs_sex: bool = True) -> Any:
    """The visitor asks for the assessment; returns an update of the result."""
    if visit.path is None:
        return gr.skip()
    visit.change()
    return cards.BUSY if sex or not needs_sex else hand_cards.SEX_MISSING


def _reframe(visit: Visit, make: Any) -> tuple[Any, ...]:
    """The film's card, the result and the fields once ``make()`` is the visit's framing.

    A framing that cannot be changes nothing, and the result says why. Nor does one of a film that
    another was given for meanwhile.
    """
    path, file = visit.path, visit.files
    if path is None:
        return (gr.skip(), gr.skip(), *values(WHOLE))
    overtaken = (gr.skip(),) * (2 + len(values(WHOLE)))
    try:
        film = images.read(path)
        with _ONE_AT_A_TIME:
            if visit.files != file:
                return overtaken
            framing = make()
            radiograph = framing.apply(film)
            visit.framing = framing
            visit.change()
            turn = visit.turn
    except InputError as error:
        if visit.files != file:
            return overtaken
        visit.change()
        card = cards.problem("The radiograph cannot be framed like this", str(error))
        return (gr.skip(), card, *values(visit.framing))
    card = tab.of_turn(turn, hand_cards.given(radiograph, visit.reference))
    if visit.files != file or visit.framing is not framing:
        return overtaken
    # A sex that was chosen meanwhile has begun another assessment.
    return (card, hand_cards.FRAMED if visit.turn == turn else gr.skip(), *values(framing))


def connect(
    parts: Controls,
    visit: gr.State,
    sex: gr.Radio,
    given: gr.HTML,
    result: gr.HTML,
    needs_sex: bool,
) -> Any:
    """Connect the controls; returns the event after which to assess."""
    changed = [given, result, *parts.fields]
    for field in parts.fields:
        field.input(
            move,
            [visit, *parts.fields],
            changed,
            **tab.LAST,
        )
    for button, quarters in ((parts.anticlockwise, -1), (parts.clockwise, 1)):
        button.click(lambda visit, by=quarters: turn(by, visit), visit, changed, **tab.QUICK)
    parts.whole.click(undo, visit, changed, **tab.QUICK)
    parts.drawn.change(draw, [visit, parts.drawn], changed, **tab.QUICK)
    asked = partial(begin, needs_sex=needs_sex)
    return parts.assess.click(asked, [visit, sex], result, **tab.QUICK)
