"""What every tab says about a radiograph and its assessment, as HTML.

Pictures travel inside the HTML: no file of them is ever written. Whatever comes from the visitor's
file (its name, its tags) is escaped.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from boneage import explain

if TYPE_CHECKING:
    from boneage.images import Radiograph
    from boneage.predictor import Assessment

SIDE = 900  # px of the pictures with evidence
PREVIEW = 480
OPACITY = 45  # per cent, when a result appears

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


def given(radiograph: Radiograph, reference: str = "") -> str:
    """The radiograph that the visitor gave, what its file says, and an example's reference."""
    lines = [escape(radiograph.description)]
    if radiograph.age_years is not None:
        lines.append(f"File says: {radiograph.age_years:.1f} years at examination")
    if reference:
        lines.append(escape(reference))
    picture = explain.display_image(radiograph.pixels, PREVIEW)
    name = escape(radiograph.id)
    return (
        f'<figure class="given"><img src="{data_url(picture)}" alt="The radiograph {name}">'
        f"<figcaption><strong>{name}</strong>"
        + "".join(f"<span>{line}</span>" for line in lines)
        + "</figcaption></figure>"
    )


def difference(age: float, reference: float, unit: str) -> str:
    """How far an age lies from the reference, in words, to a tenth of the unit."""
    apart = round(age - reference, 1)
    if apart == 0:
        return "the assessment is the same."
    return f"the assessment is {abs(apart):.1f} {unit} {'above' if apart > 0 else 'below'}."


def warnings(notes: Iterable[str], title: str = "Take care") -> str:
    """What may make the age less reliable; nothing where there is nothing."""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    if not items:
        return ""
    return f'<section class="card warning"><h2>{escape(title)}</h2><ul>{items}</ul></section>'


def large_picture(radiograph: Radiograph) -> Image.Image:
    """The radiograph as the evidence shows it, enlarged where it is small."""
    picture = explain.display_image(radiograph.pixels, SIDE)
    if max(picture.size) < SIDE:  # so that names and lines are sharp on small images too
        factor = SIDE / max(picture.size)
        picture = picture.resize(
            [round(side * factor) for side in picture.size], Image.Resampling.BICUBIC
        )
    return picture


def figure(title: str, picture: Image.Image, alt: str, caption: str) -> str:
    """A picture with evidence; all texts are plain, and the caption may be empty."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure class="card"><h2>{escape(title)}</h2><div class="picture">'
        f'<img src="{data_url(picture)}" alt="{escape(alt)}"></div>{below}</figure>'
    )


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
    return (
        '<figure class="card"><h2>What raised the age</h2><div class="picture">'
        f'<img src="{data_url(picture)}" alt="">'
        f'<img class="over" style="opacity:{OPACITY / 100}" src="{data_url(over)}" '
        f'alt="{escape(alt)}"></div>'
        f'<label class="slider"><span>Heat map opacity</span><input class="opacity" '
        f'type="range" min="0" max="100" step="5" value="{OPACITY}">'
        f"<output>{OPACITY} %</output></label>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def details(assessment: Assessment) -> str:
    """The assessment to be downloaded, and the weights that it comes from."""
    text = json.dumps(assessment.to_dict(), indent=2) + "\n"
    href = "data:application/json;base64," + base64.b64encode(text.encode()).decode()
    model = assessment.model
    return (
        f'<section class="details"><a class="download" download="{escape(assessment.id)}.json" '
        f'href="{href}">Download as JSON</a><p>Model {escape(model.id)}, revision '
        f"<code>{escape(model.revision)}</code></p></section>"
    )


def data_url(picture: Image.Image) -> str:
    """A picture as the address of itself."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
