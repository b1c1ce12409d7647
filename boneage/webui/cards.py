"""What the page says about a radiograph and its assessment, as HTML.

Pictures travel inside the HTML: no file of them is ever written. Whatever comes from the visitor's
file (its name, its tags) is escaped.
"""

from __future__ import annotations

import base64
import io
import json
from html import escape
from typing import TYPE_CHECKING

from PIL import Image

from boneage import explain
from boneage.sex import SEX_NAMES
from boneage.webui.charts import age_in_words, components_table

if TYPE_CHECKING:
    from boneage.images import Radiograph
    from boneage.predictor import Assessment

SIDE = 900  # px of the pictures with evidence
PREVIEW = 480
OPACITY = 45  # per cent, when a result appears

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

BUSY = """
<section class="card busy"><h2><i class="spinner" aria-hidden="true"></i>Assessing</h2></section>"""


def problem(title: str, explanation: str) -> str:
    """Why there is no result."""
    return (
        f'<section class="card problem"><h2>{escape(title)}</h2>'
        f"<p>{escape(explanation)}</p></section>"
    )


def given(radiograph: Radiograph, reference: float | None = None) -> str:
    """The radiograph that the visitor gave, and what its file says."""
    lines = [escape(radiograph.description)]
    if radiograph.age_years is not None:
        lines.append(f"File says: {radiograph.age_years:.1f} years at examination")
    if reference is not None:
        lines.append(f"Reference bone age: {age_in_words(reference)} ({reference:.1f} months)")
    picture = explain.display_image(radiograph.pixels, PREVIEW)
    name = escape(radiograph.id)
    return (
        f'<figure class="given"><img src="{data_url(picture)}" alt="The radiograph {name}">'
        f"<figcaption><strong>{name}</strong>"
        + "".join(f"<span>{line}</span>" for line in lines)
        + "</figcaption></figure>"
    )


def result(radiograph: Radiograph, assessment: Assessment, reference: float | None = None) -> str:
    """An assessment in months with its evidence."""
    if assessment.age is None:
        return problem("No age is given for this image", assessment.refused or "") + _details(
            assessment
        )
    return (
        f'<div class="result">{_age(assessment, reference)}{_warnings(assessment)}'
        f'<section class="card votes" aria-live="off">{components_table(assessment)}</section>'
        f'<div class="evidence" aria-live="off">{_figures(radiograph, assessment)}</div>'
        f"{_details(assessment)}</div>"
    )


def data_url(picture: Image.Image) -> str:
    """A picture as the address of itself."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


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
        apart = round(age - reference, 1)
        direction = "above" if apart > 0 else "below"
        lines += (
            f"<p>Reference: {age_in_words(reference)} ({reference:.1f} months); the assessment is "
            f"{abs(apart):.1f} months {direction}.</p>"
        )
    return (
        f'<section class="card age"><h2>Bone age</h2><p class="large">{age_in_words(age)}</p>'
        f"<p>{' · '.join(facts)}</p>{lines}</section>"
    )


def _warnings(assessment: Assessment) -> str:
    if not assessment.warnings:
        return ""
    items = "".join(f"<li>{escape(warning)}</li>" for warning in assessment.warnings)
    return f'<section class="card warning"><h2>Take care</h2><ul>{items}</ul></section>'


def _figures(radiograph: Radiograph, assessment: Assessment) -> str:
    size = (radiograph.width, radiograph.height)
    picture = explain.display_image(radiograph.pixels, SIDE)
    if max(picture.size) < SIDE:  # so that names and lines are sharp on small images too
        factor = SIDE / max(picture.size)
        picture = picture.resize(
            [round(side * factor) for side in picture.size], Image.Resampling.BICUBIC
        )
    name = escape(radiograph.id)
    figures = ""
    if assessment.boxes:
        ages = "; ".join(
            f"R{rank}: {age_in_words(box.age)}" for rank, box in enumerate(assessment.boxes, 1)
        )
        figures += (
            '<figure class="card"><h2>Where the network looked</h2><div class="picture">'
            f'<img src="{data_url(explain.draw_boxes(picture, assessment, size))}" '
            f'alt="{name} with the regions and their own ages. {ages}."></div>'
            "<figcaption>Chosen by the network itself, best first, each with the age that it alone "
            "suggests.</figcaption></figure>"
        )
    if assessment.heat_map is not None:
        # Showing the full overlay at some opacity over the picture is the same as an overlay of
        # that opacity, so the slider needs neither the server nor the model.
        over = explain.overlay_heat_map(picture, assessment.heat_map, 1.0)
        figures += (
            '<figure class="card"><h2>What raised the age</h2><div class="picture">'
            f'<img src="{data_url(picture)}" alt="">'
            f'<img class="over" style="opacity:{OPACITY / 100}" src="{data_url(over)}" '
            f'alt="{name} with the Grad-CAM heat map of the whole-hand component, brighter where '
            'more raised the age"></div>'
            f'<label class="slider"><span>Heat map opacity</span><input class="opacity" '
            f'type="range" min="0" max="100" step="5" value="{OPACITY}">'
            f"<output>{OPACITY} %</output></label>"
            "<figcaption>Grad-CAM of the whole-hand component (X).</figcaption></figure>"
        )
    return figures


def _details(assessment: Assessment) -> str:
    text = json.dumps(assessment.to_dict(), indent=2) + "\n"
    href = "data:application/json;base64," + base64.b64encode(text.encode()).decode()
    model = assessment.model
    return (
        f'<section class="details"><a class="download" download="{escape(assessment.id)}.json" '
        f'href="{href}">Download as JSON</a><p>Model {escape(model.id)}, revision '
        f"<code>{escape(model.revision)}</code></p></section>"
    )
