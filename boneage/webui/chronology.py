"""The Hand tab's fields for the chronological age, and the bone age beside it."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from boneage import growth
from boneage.errors import InputError

MONTHS_A_YEAR = 12


@dataclass(frozen=True)
class Fields:
    """The components: two dates, or in their place the age in years."""

    born: gr.Textbox
    examined: gr.Textbox
    years: gr.Number

    def __iter__(self):  # noqa: ANN204 - of components, as Gradio's events take them
        return iter((self.born, self.examined, self.years))


def fields(visible: bool) -> Fields:
    """Lay the fields out, folded.

    Args:
        visible: whether the weights know the sex, without which the ages cannot be compared.
    """
    # Plain text, since gr.DateTime keeps the date before to itself when it cannot read a new one.
    date = {"placeholder": "YYYY-MM-DD", "max_lines": 1}
    with gr.Accordion("Chronological age", open=False, visible=visible, elem_id="hand-chronology"):
        return Fields(
            born=gr.Textbox(label="Date of birth", elem_id="hand-born", **date),
            examined=gr.Textbox(label="Date of examination", elem_id="hand-examined", **date),
            years=gr.Number(
                label="Or the age at examination, years",
                step=0.1,
                elem_id="hand-years",
            ),
        )


def known(years: float | None) -> float | None:
    """The age that a file states, if it is one that a hand is compared at.

    Whole years, as files mostly have them, are rounded down: by up to a year, which is a standard
    deviation of the bone age.
    """
    if years is None or years == int(years) or years * MONTHS_A_YEAR > growth.MAX_MONTHS:
        return None
    return years


def months(born: str | None, examined: str | None, years: float | None) -> float | None:
    """The chronological age in months by what the fields hold; ``None`` where they are empty.

    Raises:
        InputError: for a date that is missing or impossible, or an age out of range.
    """
    if born or examined:
        if not (born and examined):
            missing = "date of examination" if born else "date of birth"
            raise InputError(f"The chronological age also needs the {missing}.")
        return growth.age_in_months(
            growth.parse_date(born, "date of birth"),
            growth.parse_date(examined, "date of examination"),
        )
    if years is None:
        return None
    if not 0 <= years * MONTHS_A_YEAR <= growth.MAX_MONTHS:
        raise InputError(
            f"The age at examination is {years:g} years; it must be 0 to "
            f"{growth.MAX_MONTHS / MONTHS_A_YEAR:g}."
        )
    return years * MONTHS_A_YEAR
