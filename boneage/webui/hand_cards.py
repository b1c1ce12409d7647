"""What the Hand tab says, as HTML: bone age, votes of the components, regions, heat map."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from boneage import explain, images
from boneage.growth import CAUTION
from boneage.sex import SEX_NAMES
from boneage.webui import cards
from boneage.webui.charts import components_table
from boneage.wording import age_in_short, age_in_words

if TYPE_CHECKING:
    from boneage.datasets import Case
    from boneage.growth import Comparison
    from boneage.images import Radiograph
    from boneage.predictor import Assessment

NEIGHBOUR = 299  # px, as large as the bundled films are

START = """
<section class="card empty">
  <h2>Give a radiograph, or choose an example</h2>
  <p>Then choose the sex. The assessment starts by itself and shows:</p>
  <ul>
    <li>the bone age, and how each component of the network voted;</li>
    <li>the three regions of the hand that it looked at most closely;</li>
    <li>a heat map of what in the whole image raised the age.</li>
  </ul>
  <p>A frontal view of one hand, fingers up. PNG, JPEG, TIFF, WebP, BMP or DICOM, up to 64 MB.</p>
</section>"""

SEX_MISSING = """
<section class="card empty">
  <h2>Choose the sex</h2>
  <p>Girls' bones mature earlier than boys', so the same hand means a different bone age in a girl
  than in a boy.</p>
</section>"""


FRAMED = """
<section class="card empty">
  <h2>The radiograph has been changed</h2>
  <p>When it looks as you want it, press <strong>Assess</strong>.</p>
</section>"""


def given(radiograph: Radiograph, reference: float | None) -> str:
    """The film as it will be assessed, with an example's reference bone age in months."""
    return cards.given(radiograph, *([] if reference is None else [reference_line(reference)]))


def reference_line(reference: float) -> str:
    """An example's reference bone age, months."""
    return f"Reference bone age: {age_in_words(reference)} ({reference:.1f} months)"


def result(
    radiograph: Radiograph,
    assessment: Assessment,
    *,
    reference: float | None = None,
    error: str = "",
    comparison: Comparison | None = None,
    problem: str | None = None,
    neighbours: Sequence[Case] = (),
) -> str:
    """An assessment in months with its evidence.

    Args:
        radiograph: as it was assessed.
        assessment: of it.
        reference: an example's reference bone age, months.
        error: how far these weights err, in a sentence.
        comparison: with the chronological age.
        problem: why there is no comparison though something of the chronological age was given.
        neighbours: bundled radiographs of nearly this bone age.
    """
    if assessment.age is None:
        return cards.refusal(assessment) + cards.details(assessment, cards.report_button("hand"))
    headline = _age(assessment, reference, error, comparison)
    not_compared = cards.warnings([problem] if problem else [], "Chronological age")
    return (
        f'<div class="result">{headline}{not_compared}{cards.warnings(assessment.warnings)}'
        f'<section class="card votes" aria-live="off">{components_table(assessment)}</section>'
        f'<div class="evidence" aria-live="off">{_figures(radiograph, assessment)}</div>'
        f"{_neighbours(radiograph, assessment, neighbours)}"
        f"{cards.details(assessment, cards.report_button('hand'))}</div>"
    )


def _age(
    assessment: Assessment, reference: float | None, error: str, comparison: Comparison | None
) -> str:
    age, interval = assessment.age, assessment.interval
    assert age is not None
    facts = [f'<data value="{age:.2f}">{age:.1f} months</data>']
    if assessment.sex:
        facts.append(f"assessed as <strong>{SEX_NAMES[assessment.sex]}</strong>")
    lines = ""
    if interval:
        lines += (
            f"<p>{100 * interval.coverage:g} % prediction interval: "
            f"{age_in_words(interval.low)} to {age_in_words(interval.high)} "
            f"({interval.low:.1f} to {interval.high:.1f} months)</p>"
        )
    if reference is not None:
        lines += (
            f"<p>Reference: {age_in_words(reference)} ({reference:.1f} months); "
            f"{cards.difference(age, reference, 'months')}</p>"
        )
    if comparison:
        reading = f" {comparison.reading}" if comparison.reading else ""
        lines += (
            f'<p class="comparison">{escape(comparison.sentence)}{escape(reading)}</p>'
            f"<p><small>{escape(CAUTION)}</small></p>"
        )
    if error:
        lines += f"<p><small>{escape(error)}</small></p>"
    return (
        f'<section class="card age"><h2>Bone age</h2><p class="large">{age_in_words(age)}</p>'
        f"<p>{' · '.join(facts)}</p>{lines}</section>"
    )


def _neighbours(radiograph: Radiograph, assessment: Assessment, cases: Sequence[Case]) -> str:
    """The film among radiographs of known bone age, youngest first."""
    age = assessment.age
    if not cases or age is None or not assessment.sex:
        return ""
    own = cards.data_url(explain.display_image(radiograph.pixels, NEIGHBOUR))
    films = [
        (case.age, case.id, _film(case.path), f"Reference {age_in_short(case.age)}", "")
        for case in cases
    ]
    films.append((age, radiograph.id, own, f"Assessed {age_in_short(age)}", ' class="own"'))
    figures = "".join(
        f'<figure{mark}><img src="{picture}" alt="The radiograph {escape(name)}">'
        f"<figcaption><strong>{caption}</strong><span>{escape(name)}</span></figcaption></figure>"
        for _, name, picture, caption, mark in sorted(films)
    )
    children = {"F": "girls", "M": "boys"}[assessment.sex]
    return (
        f'<section class="card neighbours" aria-live="off"><h2>Among radiographs of {children} of '
        f"nearly this bone age</h2><div>{figures}</div><p><small>From the test images of the RSNA "
        "Pediatric Bone Age Challenge 2017; reference ages by its radiologists.</small></p>"
        "</section>"
    )


@cache
def _film(path: Path) -> str:
    """A bundled film as the address of itself."""
    return cards.data_url(explain.display_image(images.read(path).pixels, NEIGHBOUR))


def _figures(radiograph: Radiograph, assessment: Assessment) -> str:
    picture = cards.large_picture(radiograph)
    figures = ""
    if assessment.boxes:
        ages = "; ".join(
            f"R{rank}: {age_in_words(box.age)}" for rank, box in enumerate(assessment.boxes, 1)
        )
        size = (radiograph.width, radiograph.height)
        boxes = cards.layer(
            explain.draw_boxes(picture, assessment, size),
            f"{radiograph.id} with the regions and their own ages. {ages}.",
            'class="boxes"',
        )
        figures += cards.figure(
            "Where the network looked",
            cards.layer(picture) + boxes,
            "Chosen by the network itself, best first, each with the age that it alone suggests.",
        )
    if assessment.heat_map is not None:
        figures += cards.heat_map_figure(
            picture,
            assessment.heat_map,
            f"{radiograph.id} with the Grad-CAM heat map of the whole-hand component, brighter "
            "where the image raised the age more",
            "Grad-CAM of the whole-hand component (X).",
        )
    return figures
