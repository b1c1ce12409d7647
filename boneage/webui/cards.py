"""What every tab says about a radiograph and its assessment, as HTML.

Pictures travel inside the HTML: no file of them is ever written. Whatever comes from the visitor's
file (its name, its tags) is escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from boneage import explain
from boneage.report import to_json

if TYPE_CHECKING:
    from boneage.images import Radiograph
    from boneage.predictor import Assessment

SIDE = 900  # px that the pictures with evidence have at least
LARGEST = 1400  # and at most: what a visitor zooms into
PREVIEW = 480
OPACITY = 45  # per cent, when a result appears

ZOOM = (
    '<div class="zoom" role="group" aria-label="Zoom">'
    '<button type="button" data-zoom="0.6667" aria-label="Zoom out">\N{MINUS SIGN}</button>'
    "<output>100 %</output>"
    '<button type="button" data-zoom="1.5" aria-label="Zoom in">+</button>'
    '<button type="button" data-zoom="0">Whole</button></div>'
)

BUSY = """
<section class="card busy"><h2><i class="spinner" aria-hidden="true"></i>Assessing</h2></section>"""


def problem(title: str, explanation: str) -> str:
    """Why there is no result."""
    return (
        f'<section class="card problem"><h2>{escape(title)}</h2>'
        f"<p>{escape(explanation)}</p></section>"
    )


def refusal(assessment: Assessment) -> str:
    """Why no age is given."""
    return problem("No age is given for this image", assessment.refused or "")


def given(radiograph: Radiograph, *more: str) -> str:
    """The radiograph that the visitor gave, what its file says, and further lines, plain text."""
    lines = [escape(radiograph.description)]
    if radiograph.age_years is not None:
        lines.append(f"Age in the file: {radiograph.age_years:.1f} years at examination")
    lines += map(escape, more)
    picture = explain.display_image(radiograph.pixels, PREVIEW)
    name = escape(radiograph.id)
    return (
        '<figure class="given"><div class="frame">'
        f'<img src="{data_url(picture)}" alt="The radiograph {name}"></div>'
        f"<figcaption><strong>{name}</strong>"
        + "".join(f"<span>{line}</span>" for line in lines)
        + "</figcaption></figure>"
    )


def difference(age: float, reference: float, unit: str) -> str:
    """How far an age lies from the reference, in words, to a tenth of the unit."""
    apart = round(age - reference, 1)
    if apart == 0:
        return "the assessment is the same."
    return f"the assessment is {abs(apart):.1f} {unit} {'above' if apart > 0 else 'below'} it."


def warnings(notes: Iterable[str], title: str = "Caution") -> str:
    """What may make the age less reliable; nothing where there is nothing."""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    if not items:
        return ""
    return f'<section class="card warning"><h2>{escape(title)}</h2><ul>{items}</ul></section>'


def large_picture(radiograph: Radiograph) -> Image.Image:
    """The radiograph as the evidence shows it: enlarged where it is small, shrunk where large."""
    picture = explain.display_image(radiograph.pixels, LARGEST)
    if max(picture.size) < SIDE:  # so that names and lines are sharp on small images too
        factor = SIDE / max(picture.size)
        picture = picture.resize(
            [round(side * factor) for side in picture.size], Image.Resampling.BICUBIC
        )
    return picture


def figure(title: str, layers: str, caption: str, controls: str = "") -> str:
    """Pictures one over another, which can be zoomed, under a title.

    Args:
        title: plain text.
        layers: from :func:`layer`, the lowest first.
        caption: plain text, or nothing.
        controls: HTML between the picture and the caption.
    """
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure class="card evidence-figure"><h2>{escape(title)}</h2>'
        f'<div class="picture" tabindex="0" role="group" aria-label="{escape(title)}: plus and '
        f'minus zoom, arrow keys move"><div class="layers">{layers}</div></div>'
        f"{ZOOM}{controls}{below}</figure>"
    )


def layer(picture: Image.Image, alt: str = "", attributes: str = "") -> str:
    """One picture of a figure; ``alt`` is plain text, and ``attributes`` HTML."""
    return f'<img src="{data_url(picture)}" alt="{escape(alt)}" {attributes}>'


def heat_map_figure(picture: Image.Image, heat_map: np.ndarray, alt: str, caption: str) -> str:
    """A picture with a heat map over it, and the slider for its opacity.

    Args:
        picture: RGB.
        heat_map: (h, w) in [0, 1], over the whole picture.
        alt: what the picture with the map shows, plain text.
        caption: plain text.
    """
    # Showing the full overlay at some opacity over the picture is the same as an overlay of
    # that opacity, so the slider needs neither the server nor the model.
    over = explain.overlay_heat_map(picture, heat_map, 1.0)
    slider = (
        '<label class="slider"><span>Heat map opacity</span><input class="opacity" '
        f'type="range" min="0" max="100" step="5" value="{OPACITY}">'
        f"<output>{OPACITY} %</output></label>"
    )
    layers = layer(picture) + layer(over, alt, f'class="over" style="opacity:{OPACITY / 100}"')
    return figure("What raised the age", layers, caption, slider)


def details(assessment: Assessment, downloads: str = "") -> str:
    """The assessment to be downloaded, and the weights that it comes from.

    Args:
        assessment: to be downloaded as JSON.
        downloads: HTML of further downloads.
    """
    href = "data:application/json;base64," + base64.b64encode(to_json(assessment).encode()).decode()
    model = assessment.model
    return (
        f'<section class="details"><a class="download" download="{escape(assessment.id)}.json" '
        f'href="{href}">Download as JSON</a>{downloads}<p>Model {escape(model.id)}, revision '
        f"<code>{escape(model.revision)}</code></p></section>"
    )


def report_button(tab: str) -> str:
    """The button of a result's card that asks the tab for its report."""
    return f'<button type="button" class="download" data-clicks="{tab}-report">PDF report</button>'


def data_url(picture: Image.Image) -> str:
    """A picture as the address of itself."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
