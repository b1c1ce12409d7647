"""What the Adult tab says, as HTML: age in years, its measured error, the picture, the heat map."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from boneage.predictor import NOT_CT
from boneage.webui import cards
from boneage.webui.regions import NAMES

if TYPE_CHECKING:
    from boneage.images import Radiograph
    from boneage.predictor import Assessment

UNSEEN = 0.4  # brightness that is left where the network does not look


def start(limit: str, takes_ct: bool, refuses: bool) -> str:
    """The card before anything is given.

    Args:
        limit: the size of the largest CT file in words.
        takes_ct: whether the weights assess CT volumes.
        refuses: whether they refuse images of other kinds.
    """
    what = "a chest radiograph or a CT volume" if takes_ct else "a chest radiograph"
    others = (
        "an image that shows something else is refused where it is recognised as such"
        if refuses
        else "these weights cannot tell when an image shows something else"
    )
    ct = f" CT as NIfTI or as a zipped DICOM series, up to {limit}." if takes_ct else ""
    return f"""
<section class="card empty">
  <h2>Give {what}, or choose an example</h2>
  <p>The assessment starts by itself and shows:</p>
  <ul>
    <li>the age in years, and the error that was measured for these weights;</li>
    <li>the image as it was assessed{", which for CT is a projection" if takes_ct else ""};</li>
    <li>a heat map of what in it raised the age.</li>
  </ul>
  <p>A frontal view of the chest, upright; {others}.
  PNG, JPEG, TIFF, WebP, BMP or DICOM, up to 64 MB.{ct}</p>
</section>"""


def reference_line(reference: float) -> str:
    """An example's age as its source states it, years."""
    return f"Age stated with the image: {reference:g} years"


def result(
    radiograph: Radiograph,
    assessment: Assessment,
    region: str,
    view: np.ndarray,
    error: str,
    reference: float | None = None,
) -> str:
    """An assessment in years with its evidence.

    Args:
        radiograph: the image, or the projection of a volume.
        assessment: of it.
        region: a name of :data:`boneage.views.REGIONS`.
        view: what the network sees: (x0, y0, x1, y1) as shares of width and height.
        error: how far these weights err, in a sentence.
        reference: an example's age as its source states it, years.
    """
    headline = (
        cards.refusal(assessment)
        if assessment.age is None
        else _age(assessment, assessment.age, region, error, reference)
    )
    notes = [note for note in assessment.warnings if note != NOT_CT]
    return (
        f'<div class="result">{_ct_notice(assessment)}{headline}{cards.warnings(notes)}'
        f'<div class="evidence" aria-live="off">{_figures(radiograph, assessment, view)}</div>'
        f"{cards.details(assessment, cards.report_button('adult'))}</div>"
    )


def _ct_notice(assessment: Assessment) -> str:
    if NOT_CT not in assessment.warnings:
        return ""
    return (
        '<section class="card warning notice"><h2>Trained on chest radiographs, not on CT</h2>'
        f"<p>{escape(NOT_CT)}</p></section>"
    )


def _age(
    assessment: Assessment, age: float, region: str, error: str, reference: float | None
) -> str:
    lines = ""
    if region != "whole":
        lines += f"<p>Assessed from the <strong>{NAMES[region].lower()}</strong> of the image</p>"
    if interval := assessment.interval:
        lines += (
            f"<p>{100 * interval.coverage:g} % prediction interval: {interval.low:.1f} to "
            f"{interval.high:.1f} years</p>"
        )
    if reference is not None:
        lines += f"<p>{reference_line(reference)}; {cards.difference(age, reference, 'years')}</p>"
    return (
        '<section class="card age"><h2>Age</h2>'
        f'<p class="large"><data value="{age:.2f}">{age:.1f} years</data></p>'
        f"{lines}<p>{escape(error)}</p></section>"
    )


def _figures(radiograph: Radiograph, assessment: Assessment, view: np.ndarray) -> str:
    picture = cards.large_picture(radiograph)
    name = radiograph.id
    if assessment.age is None:
        what = "Projection" if radiograph.format == "CT" else "Image"
        return cards.figure(what, cards.layer(picture, f"{name}, not assessed"), "")
    seen, caption = picture, ""
    if (view != (0, 0, 1, 1)).any():
        seen, caption = _darkened(picture, view), "The network does not see the darkened part."
    layer = cards.layer(seen, f"{name} as it was assessed")
    figures = cards.figure("As assessed", layer, caption)
    if assessment.heat_map is not None:
        figures += cards.heat_map_figure(
            picture,
            assessment.heat_map,
            f"{name} with the Grad-CAM heat map, brighter where the image raised the age more",
            "Grad-CAM of the network's last convolutional block.",
        )
    return figures


def _darkened(picture: Image.Image, view: np.ndarray) -> Image.Image:
    """The picture, darker outside what the network sees."""
    x0, y0, x1, y1 = np.rint(view * np.tile(picture.size, 2)).astype(int)
    pixels = np.asarray(picture)
    darkened = (pixels * UNSEEN).astype(np.uint8)
    darkened[y0:y1, x0:x1] = pixels[y0:y1, x0:x1]
    return Image.fromarray(darkened)
