"""The About tab: what the page is for, how to read it, its models, data, papers and licences.

The models' cards, the data's README and the NOTICE are shown as they are, so that each text has one
source.
"""

from __future__ import annotations

from html import escape
from importlib import metadata

import gradio as gr

from boneage import __version__, bundled, hub
from boneage.webui import markdown

NAME = "about"
TITLE = "About"
# The sections of a card that everybody should see; the rest is folded away.
SHOWN = ("Intended use and limits", "Data and licence")

WHAT = f"""
<p>boneage {__version__} assesses age from frontal images of the skeleton and shows the evidence.
It implements two published systems: AR-CNN (Liu et al.), whose attention agent finds the decisive
bone parts of a hand and whose recognition agent assesses the hand, each part, and all together;
and hierarchical features (Nguyen and Kim), whose middle layers reach the regressor directly, for
images of adults. The networks and numbers are this project's own; the Results tab shows them beside
the published ones.</p>
<p><strong>For research and education. Not a medical device, not for diagnosis, and not legal
evidence of anyone's age.</strong></p>"""

READING = """
<dl>
<dt>Bone age</dt><dd>How far the skeleton of the hand has matured, given as the age at which the
average girl or boy has reached this stage; it is not the chronological age. It depends on sex, so
the sex has to be given.</dd>
<dt>X, C, R1, R2, R3, assembled</dt><dd>The network's own votes: X from the whole hand, each R from
one part alone, C from the hand and its parts together. Assembled is the mean of them all, and the
age that is given. Votes that lie far apart are a reason for doubt.</dd>
<dt>Boxes</dt><dd>The parts R1 to R3, chosen by the network itself, best first. They show what it
used, not where a disease is.</dd>
<dt>Heat map</dt><dd>Grad-CAM: brighter where the image raised the age more, in hands for the
whole-hand vote X. It explains the network, not the bones.</dd>
<dt>Prediction interval</dt><dd>A range that contained the reference age in the stated share
of the cases on which it was calibrated. It is for one image, so it is wider than the confidence
interval of a mean error in Results. It is missing where the weights come without one; the errors in
Results apply then.</dd>
<dt>SD</dt><dd>Beside a chronological age: the difference from the bone age, in standard deviations
of the bone ages of Greulich and Pyle's healthy children of that age and sex. By convention, within
2 SD is the normal range. Ages that a file gives in whole years are not filled in, since they are
rounded down by up to a year, about one SD. The SD does not include the error of the
assessment.</dd>
<dt>Age of an adult</dt><dd>In years; the sex is not used. It is shown with the mean absolute
error that was measured for the weights.</dd>
<dt>Refusal</dt><dd>No age is given, and a sentence says why, where a file cannot be read, shows
something else, or is of a kind that the weights were not made for. An unsuitable image that is
not recognised as such still gets an age: check that the image is what the tab asks for.</dd>
</dl>"""

PRIVACY = """
<ul>
<li>A file is sent to the machine that serves this page, and nowhere else. It lies there in a
temporary folder until it is deleted, within an hour, or earlier when the page is shut down.</li>
<li>Results stay in that machine's memory, for at most the same hour; pictures of the radiograph
that you see travel inside the page and are not written to disk.</li>
<li>From a DICOM file's header, only what the picture needs, the age and the sex are read; of CT
slices also the patient's ID, so that two patients' slices make no volume, and no more than that.
The page itself logs no file name, address or result.</li>
<li>The page asks no other host for anything: no fonts, no analytics, no third-party cookies.</li>
<li>Remove names and other identifying marks from the picture itself before you upload it.</li>
</ul>"""

PAPERS = """
<ul>
<li>Liu C, Xie H, Liu Y, Zha Z, Lin F, Zhang Y. Extract Bone Parts Without Human Prior: End-to-end
Convolutional Neural Network for Pediatric Bone Age Assessment. MICCAI 2019.</li>
<li>Nguyen HD, Kim SH. Automatic Whole-body Bone Age Assessment Using Deep Hierarchical
Features.</li>
</ul>"""

API = """
<p>Everything on the tabs can be called from programs; “Use via API” at the foot of the page lists
all of it.</p>
<pre><code>from gradio_client import Client, handle_file

client = Client("http://127.0.0.1:7860")  # the address of this page
client.predict(handle_file("hand.png"), "F", api_name="/hand")
client.predict([handle_file("films.zip")], handle_file("sexes.csv"), "", api_name="/batch")
client.predict(handle_file("chest.png"), api_name="/adult")
</code></pre>
<p>The sex may be left out where a DICOM file states it. /batch takes a list of radiographs or zips
of them, a table of sexes (CSV) or None, and the sex for those of which the table says none; it
answers with assessments, failures and, where there are reference ages, a summary of the errors.
The answer of the others is the assessment as JSON: age, unit, interval, components, boxes,
warnings, the reason of a refusal, and the model. Bad input is answered with one sentence. When
too many are waiting, a call is answered with status 429; try again a minute later. An upload
for which the disk has no room is answered with status 507.</p>"""


def build() -> None:
    """Lay the tab out in the open Blocks."""
    gr.HTML(page(), elem_id="about", apply_default_css=False, js_on_load=None)


def page() -> str:
    """The tab's HTML."""
    cards = [
        (path.parent.name, markdown.sections(path.read_text(encoding="utf-8")))
        for path in sorted(bundled.folder("weights").glob(f"*/{hub.CARD}"))
    ]
    parts = [
        _card("What this is", WHAT),
        *(
            _card(name, markdown.joined([s for s in sections if s.title in SHOWN]))
            for name, sections in cards
        ),
        _card("How to read a result", READING),
        _card("Privacy", PRIVACY),
        _card("Models' cards", "".join(_folded(name, sections) for name, sections in cards)),
        _card("Images", _data()),
        _card("Papers", PAPERS),
        _card("Licence", "".join(f"<p>{escape(part)}</p>" for part in notice().split("\n\n"))),
        _card("For programs", API),
    ]
    return f'<div class="document about">{"".join(parts)}</div>'


def notice() -> str:
    """The project's NOTICE, from the checkout or from the installed package."""
    path = bundled.PACKAGE.parent / "NOTICE"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    return metadata.distribution("boneage").read_text("licenses/NOTICE") or ""


def _data() -> str:
    """The bundled data's own README; a sentence where no data came along."""
    path = bundled.folder("data") / "README.md"
    if not path.is_file():
        return "<p>No images come with this page.</p>"
    return markdown.joined(markdown.sections(path.read_text(encoding="utf-8")))


def _folded(name: str, sections: list[markdown.Section]) -> str:
    """A model's card behind its name."""
    return f"<details><summary>{escape(name)}</summary>{markdown.joined(sections)}</details>"


def _card(title: str, html: str) -> str:
    return f'<section class="card"><h2>{escape(title)}</h2>{html}</section>' if html else ""
