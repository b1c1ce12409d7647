"""The Adult tab: a frontal image or a CT volume becomes an age in years with its evidence."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from boneage import bundled, datasets, images
from boneage.measured import measured_error, read_metrics
from boneage.sex import SEX_NAMES
from boneage.webui import adult_cards, cards, tab
from boneage.webui.regions import NAMES, Regions
from boneage.webui.tab import Visit
from boneage.wording import NO_BREAK

if TYPE_CHECKING:
    from boneage.datasets import Case
    from boneage.images import Radiograph

NAME = "adult"
TITLE = "Adult"
MAX_BYTES = 2**30
"""The largest file that is sent; what it unpacks to, :mod:`boneage.volumes` limits."""
CT_SAMPLE, CT_PICTURE = "torso_3mm.nii.gz", "torso_3mm.webp"
# A volume takes much memory, so one at a time; and it takes long, so hands do not wait for it.
MODEL = {"concurrency_limit": 1, "concurrency_id": "adult"}


def bundled_examples() -> list[Case]:
    """The bundled chest radiographs, youngest first; none where the data are not there."""
    folder = bundled.folder("data") / "nih-chest-fullsize"
    if not folder.is_dir():
        return []
    return sorted(datasets.load(folder).cases, key=lambda case: case.age)


def take(visit: Visit, path: str, reference: float | None = None) -> tuple[Any, ...]:
    """A new file: whatever stood on the tab before is gone.

    It is read when it is assessed, since a volume takes long.

    Returns:
        Updates of the file's card, the remove button and the result.
    """
    visit.empty()
    visit.path, visit.reference = path, reference
    return "", gr.update(visible=True), cards.BUSY


def choose(visit: Visit) -> Any:
    """The visitor chose another region: the old result goes."""
    visit.turn += 1
    return cards.BUSY if visit.path else gr.skip()


def remove(start: str, visit: Visit) -> tuple[Any, ...]:
    """The visitor took the file away, ``start`` is shown; returns what :func:`take` does."""
    visit.empty()
    return nothing(start)


def refuse_large(visit: Visit) -> tuple[Any, ...]:
    """The browser did not send a file because of its size; returns what :func:`take` does."""
    visit.empty()
    return nothing(tab.too_large(MAX_BYTES))


def nothing(card: str) -> tuple[Any, ...]:
    """The updates of :func:`take` where there is no image, ``card`` saying why."""
    return "", gr.update(visible=False), card


def assess(regions: Regions, visit: Visit, region: str) -> Any:
    """What :func:`take` returns, with the result; no change if the visitor has moved on."""
    reference, turn = visit.reference, visit.turn

    def refuse(card: str) -> tuple[Any, ...]:
        visit.empty()  # or another region would bring the same card again
        return nothing(card)

    def show(path: str) -> tuple[Any, ...]:
        predictor = regions.predictor(region)
        radiograph = predictor.read(path)
        (assessment,) = predictor.assess(radiograph, heat_map=True)
        error = measured_error(predictor, read_metrics())
        visit.assessed = turn, assessment
        view = predictor.preprocess.view
        lines = [] if reference is None else [adult_cards.reference_line(reference)]
        return (
            cards.given(radiograph, *lines),
            gr.update(visible=True),
            adult_cards.result(radiograph, assessment, region, view, error, reference),
        )

    return tab.assess(visit, show, refuse)


def report(regions: Regions, visit: Visit, region: str) -> tuple[str, str]:
    """What :func:`boneage.webui.tab.pdf` returns, of the adult shown."""
    predictor = regions.predictor(region)
    return tab.pdf(visit, predictor.read, measured_error(predictor, read_metrics()))


def assess_file(regions: Regions, file: str | None, region: str | None) -> dict[str, Any]:
    """The API's answer: the assessment as JSON.

    Raises:
        gr.Error: whatever is wrong with the input, in one sentence.
    """

    def assess(path: str) -> list[Any]:
        predictor = regions.predictor(region or regions.names[0])
        return predictor.assess(predictor.read(path))

    return tab.answer(file, assess)


def build(regions: Regions) -> None:
    """Lay the tab out in the open Blocks and connect it."""
    takes_ct = bool(regions.projection)
    start = adult_cards.start(tab.size_in_words(MAX_BYTES), takes_ct, regions.refuses)
    examples = _examples(regions.projection)
    visit = gr.State(Visit(), time_to_live=tab.KEPT_SECONDS)
    with gr.Row(elem_classes="two-sides"):
        with gr.Column(elem_classes="inputs"):
            inputs = tab.inputs(NAME, "Radiograph or CT" if takes_ct else "Radiograph")
            region = gr.Radio(
                [(NAMES[name], name) for name in regions.names],
                value=regions.names[0],
                label="Part of the image to assess",
                visible=len(regions.names) > 1,
                elem_id="adult-region",
            )
        with gr.Column(elem_classes="outputs"):
            result = tab.result(NAME, start)
            maker = tab.report_parts(NAME)
        with gr.Column(elem_classes="examples"):
            buttons = tab.example_buttons([(label, picture) for label, picture, _ in examples])

    shown = [inputs.given, inputs.clear, result]
    renewed = [visit, *shown]
    begun = [
        tab.on_upload(inputs, tab.with_visit(take), [visit], renewed),
        region.input(choose, visit, result, **tab.QUICK),
    ]
    for button, (_, _, example) in zip(buttons, examples, strict=True):
        taken = partial(tab.with_visit(take), **example)
        begun.append(button.click(taken, visit, renewed, **tab.QUICK))
    tab.assess_after(begun, partial(assess, regions), [visit, region], shown, MODEL)
    tab.on_report(maker, partial(report, regions), [visit, region], MODEL)
    inputs.clear.click(partial(remove, start), visit, shown, **tab.QUICK)
    inputs.too_large.click(refuse_large, visit, shown, **tab.QUICK)

    tab.endpoint(
        NAME,
        partial(assess_file, regions),
        "region",
        "Assess a frontal image of an adult (PNG, JPEG, TIFF, WebP, BMP or DICOM) or a CT volume "
        f"(NIfTI, or a zipped DICOM series); region is one of {', '.join(regions.names)}, or empty "
        f"for {regions.names[0]}. Returns the assessment.",
        MODEL,
    )


def _examples(projection: str | None) -> list[tuple[str, Radiograph, dict[str, Any]]]:
    """Label, picture, and what :func:`take` needs, of the examples; a CT only if it is taken."""
    examples = [
        (
            f"{SEX_NAMES[case.sex or ''].capitalize()}, {case.age:g}{NO_BREAK}y",
            images.read(case.path),
            {"path": str(case.path), "reference": case.age},
        )
        for case in bundled_examples()
    ]
    sample = bundled.folder("data") / "ct-samples" / CT_SAMPLE
    if projection and sample.is_file():
        # Its projection lies beside it: making it anew would hold up every start of the page.
        picture = images.read(sample.with_name(CT_PICTURE))
        examples.append(("CT without lungs: no age", picture, {"path": str(sample)}))
    return examples
