"""What the Hand tab says, as HTML: bone age, votes of the components, regions, heat map."""

from __future__ import annotations

from typing import TYPE_CHECKING

from boneage import explain
from boneage.sex import SEX_NAMES
from boneage.webui import cards
from boneage.webui.charts import age_in_words, components_table

if TYPE_CHECKING:
    from boneage.images import Radiograph
    from boneage.predictor import Assessment

START = """
<section class="card empty">
  <h2>Give a radiograph, or choose an example</h2>
  <p>Then the sex. The assessment starts by itself and shows:</p>
  <ul>
    <li>the bone age, and how each part of the network voted;</li>
    <li>the three regions of the hand that it looked at most closely;</li>
    <li>a heat map of what in the whole image raised the age.</li>
  </ul>
  <p>A frontal view of one hand, upright. PNG, JPEG, TIFF, WebP, BMP or DICOM, up to 64 MB.</p>
</section>"""

SEX_MISSING = """
<section class="card empty">
  <h2>Choose the sex</h2>
  <p>Girls' bones mature earlier than boys', so the same hand means another age.</p>
</section>"""


def reference_line(reference: float) -> str:
    """An example's reference bone age, months."""
    return f"Reference bone age: {age_in_words(reference)} ({reference:.1f} months)"


def result(radiograph: Radiograph, assessment: Assessment, reference: float | None = None) -> str:
    """An assessment in months with its evidence."""
    if assessment.age is None:
        return cards.refusal(assessment) + cards.details(assessment)
    return (
        f'<div class="result">{_age(assessment, reference)}{cards.warnings(assessment.warnings)}'
        f'<section class="card votes" aria-live="off">{components_table(assessment)}</section>'
        f'<div class="evidence" aria-live="off">{_figures(radiograph, assessment)}</div>'
        f"{cards.details(assessment)}</div>"
    )


def _age(assessment: Assessment, reference: float | None) -> str:
    age, interval = assessment.age, assessment.interval
    assert age is not None
    facts = [f'<data value="{age:.2f}">{age:.1f} months</data>']
    if assessment.sex:
        facts.append(f"assessed as <strong>{SEX_NAMES[assessment.sex]}</strong>")
    lines = ""
    if interval:
        lines += (
            f"<p>{interval.coverage:.0%} prediction interval: {age_in_words(interval.low)} to "
            f"{age_in_words(interval.high)} ({interval.low:.1f} to {interval.high:.1f} months)</p>"
        )
    if reference is not None:
        lines += (
            f"<p>Reference: {age_in_words(reference)} ({reference:.1f} months); "
            f"{cards.difference(age, reference, 'months')}</p>"
        )
    return (
        f'<section class="card age"><h2>Bone age</h2><p class="large">{age_in_words(age)}</p>'
        f"<p>{' · '.join(facts)}</p>{lines}</section>"
    )


def _figures(radiograph: Radiograph, assessment: Assessment) -> str:
    picture = cards.large_picture(radiograph)
    figures = ""
    if assessment.boxes:
        ages = "; ".join(
            f"R{rank}: {age_in_words(box.age)}" for rank, box in enumerate(assessment.boxes, 1)
        )
        size = (radiograph.width, radiograph.height)
        figures += cards.figure(
            "Where the network looked",
            explain.draw_boxes(picture, assessment, size),
            f"{radiograph.id} with the regions and their own ages. {ages}.",
            "Chosen by the network itself, best first, each with the age that it alone suggests.",
        )
    if assessment.heat_map is not None:
        figures += cards.heat_map_figure(
            picture,
            assessment.heat_map,
            f"{radiograph.id} with the Grad-CAM heat map of the whole-hand component, brighter "
            "where more raised the age",
            "Grad-CAM of the whole-hand component (X).",
        )
    return figures
