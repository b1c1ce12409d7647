"""Model cards: what a weights folder is, where it comes from and how well it does.

Every number comes from the folder's config (validation, written by the training) or from the
``metrics.json`` of an evaluation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boneage.models.registry import MODELS
from boneage.sex import SEX_NAMES
from boneage.wording import as_published


@dataclass(frozen=True)
class Source:
    """A published data set.

    Attributes:
        images: what they are.
        text: how to credit it, and its terms.
        licence: the Hub's metadata on the licence of weights made from it.
        datasets: its name in the Hub's metadata.
    """

    images: str
    text: str
    licence: Mapping[str, str]
    datasets: tuple[str, ...] = ()


CHALLENGE = "https://www.rsna.org/rsnai/ai-image-challenge/rsna-pediatric-bone-age-challenge-2017"


SOURCES: Mapping[str, Source] = {
    "rsna": Source(
        "radiographs of hands",
        f"""\
RSNA Pediatric Bone Age Challenge 2017, Radiological Society of North America
(<{CHALLENGE}>); Halabi
et al., Radiology 2019; 290(2):498-503. Hands from the United States; the reference ages are
readings by the method of Greulich and Pyle, those of the test images by several paediatric
radiologists.
The images are for academic, educational and other non-commercial use, without any attempt to
identify a patient; these weights, made from them, are released on the same terms.""",
        {
            "license": "other",
            "license_name": "rsna-bone-age-non-commercial",
            "license_link": CHALLENGE,
        },
        ("rsna-pediatric-bone-age-2017",),
    ),
    "nih": Source(
        "frontal chest radiographs",
        """\
ChestX-ray14, provided by the NIH Clinical Center (<https://nihcc.app.box.com/v/ChestXray-NIHCC>);
Wang et al., ChestX-ray8, IEEE CVPR 2017, 3462-3471. There are no restrictions on the images' use;
these weights, made from them, are released under Apache-2.0.""",
        {"license": "apache-2.0"},
        ("nih-chestx-ray14",),
    ),
}
GROUPS = {"S1": "", "S2": "MAE, "}  # the evaluation's tables of measures, and of errors by age
REFUSED = "Refused images have no age and are left out of all errors.\n"
# Of the provenance, what has a sentence of its own.
ELSEWHERE = ("metrics", "initialisation", "training_sexes", "training_ages")
COLUMNS = ("all", "female", "male")
PINNING = (
    "`revision=` with a commit of this repository pins the weights; without it they are the "
    "newest.\n"
)
ROBUSTNESS = "S5"  # the evaluation's table of changed images
COMPARISON = "B2"  # the evaluation's table of the second paper's methods
ORDER = """\
The paper's networks start from ImageNet and see whole-body CT. What those measured here started
from and for how many epochs they were trained stands in the evaluation's table of weights: after a
few epochs from scratch the order is that of how fast networks learn, and says nothing against the
paper's. Table S4 has what the connections add to a network that starts from ImageNet."""
OWN = "S4"  # the evaluation's table of weights that fill no row of a paper's comparison
OWN_DATA = Source(
    "images",
    "The folder is not one of the published data sets; whoever passes the weights on must state "
    "its terms.",
    {"license": "other", "license_name": "see-data"},
)

LIMITS = {
    "hand": """\
For research and education. Not a medical device, not for diagnosis, and no substitute for a
radiologist's reading.

- $SEEN
- Frontal radiographs of one hand, either side. Populations other than that of the training data,
  malformations, casts and skeletal dysplasias were not tested.
- The age is bone age as the training data's readers assessed it, not chronological age.
- $FOREIGN
- The attention boxes show which regions the network used, not where a disease is.""",
    "adult": """\
For research and education. Not a medical device, not for diagnosis, and not legal evidence of
anyone's age.

- $SEEN
- The reference is the chronological age that the image's source states, in whole years where it
  states no more.
- The error differs with age: see the results by age.
- $FOREIGN
- The heat map shows which regions raised the age, not where a disease is.""",
}

# By whether the weights refuse anything.
FOREIGN = {
    False: """\
An image of another kind than the training images is not recognised as such: it gets an age that
  means nothing.""",
    True: """\
An image that is recognised as unlike the training images is refused. Not every image unlike them
  is recognised: one that is not gets an age that means nothing.""",
}


def model_card(
    id: str,
    config: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    repo: str | None = None,
) -> str:
    """The README.md of a weights folder.

    Args:
        id: name of the folder.
        config: its config.
        metrics: records of an evaluation (``metrics.json``); those of other weights, and of images
            that are no test images, are left out.
        repo: where it goes on the Hub, ``organisation/name``; left out, it stays a folder.

    Returns:
        Markdown with the Hub's metadata (licence, data sets, model-index results) on top.
    """
    label = f"{id}@{config.get('sha256', '')[:12]}"
    metrics = [r for r in metrics if r["dataset"].endswith("/test")]
    records = [r for r in metrics if _is_of(r, label)]
    own = [r for r in records if r["table"][0] in "AB" or r["table"] == OWN]
    provenance = config["provenance"]
    sexes = config["sexes"]
    policy = {0: "sex is not an input", 1: f"for sex {''.join(sexes)} only"}.get(
        len(sexes), "one network, sex as an input"
    )
    source = _source(provenance.get("data", ""))
    hand = config["task"] == "hand"
    load, file = ("", "hand.png") if hand else (', task="adult"', "image.png")
    sex = f', sex="{sexes[0]}"' if sexes else ""
    lines = [
        _metadata(id, own, source, hand),
        f"# {id}\n",
        f"{MODELS[config['architecture']['name']].summary}: the {_what(config)} from a frontal "
        f"image, in {config['unit']}, {policy}. Part of boneage.\n",
        "## Use\n",
        "```python\nfrom boneage.predictor import Predictor\n\n"
        f'predictor = Predictor.load("{repo or f"weights/{id}"}"{load})\n'
        f'(assessment,) = predictor.assess(predictor.read("{file}"){sex})\n'
        "print(assessment.age, assessment.unit)\n```\n",
        *([PINNING] if repo else []),
        "## Intended use and limits\n",
        _limits(config, source) + "\n",
        "## Results\n",
        *_validation(provenance),
        *_test(own, config["unit"]),
        *(
            line
            for dataset in dict.fromkeys(r["dataset"] for r in records)
            for line in _groups([r for r in records if r["dataset"] == dataset])
        ),
        *_robustness(metrics, label),
        *_order(metrics, config),
        *_intervals(config),
        "## Training\n",
        *(f"- {key.replace('_', ' ')}: {value}" for key, value in provenance.items()
          if key not in ELSEWHERE),
        f"- initialisation: {origin(provenance.get('initialisation'))}",
        f"- resolution of the training images: {config['preprocess']['resolution']} px; network "
        f"input {config['preprocess']['size']} px",
        f"- architecture: {config['architecture']}\n",
        "## Data and licence\n",
        source.text + "\n",
    ]  # fmt: skip
    if "keras" in json.dumps(provenance).lower():
        lines.append(
            "The backbone started from Keras' MobileNetV2 trained on ImageNet (Apache-2.0).\n"
        )
    return "\n".join(lines)


def _limits(config: Mapping[str, Any], source: Source) -> str:
    text = LIMITS[config["task"]].replace("$FOREIGN", FOREIGN[bool(config.get("refusal"))])
    return text.replace("$SEEN", _seen(config, source))


def _seen(config: Mapping[str, Any], source: Source) -> str:
    """On which images the weights were trained, beyond which nothing is known of them."""
    provenance = config["provenance"]
    images = "projections of CT volumes" if provenance.get("from_ct") else source.images
    if (region := config["preprocess"].get("region", "whole")) != "whole":
        images = f"{region} halves of {images}"
    # Members of a late fusion may have their own.
    if not {"training_images", "training_sexes", "training_ages"} <= provenance.keys():
        return f"Trained on {images}; nothing is known about others."
    counts = ", ".join(
        f"{count:,} {SEX_NAMES.get(sex, sex)}"
        for sex, count in provenance["training_sexes"].items()
    )
    lowest, highest = provenance["training_ages"]
    return (
        f"Trained on {provenance['training_images']:,} {images} ({counts}) with ages of "
        f"{lowest:g} to {highest:g} {config['unit']}; nothing is known about other images and ages."
    )


def _is_of(record: Mapping[str, Any], label: str) -> bool:
    # Weights of one sex each stand together as "girls@revision + boys@revision".
    return record["measured"] is not None and label in str(record["weights"]).split(" + ")


def origin(initialisation: Any) -> str:
    """One line on where the initial weights came from, followed back to the first."""
    return ", itself from ".join(_stages(initialisation))


def _stages(initialisation: Any) -> list[str]:
    """What the initial weights came from, the last first."""
    if not isinstance(initialisation, Mapping):
        return [str(initialisation or "that of its members")]
    if source := initialisation.get("source"):
        statistics = initialisation.get("bn_stats")
        anew = f", batch-norm statistics anew of {statistics} images" if statistics else ""
        return [f"{source}{anew}"]
    if members := initialisation.get("mean_of"):
        return _merged([_stages(member) for member in members])
    before = initialisation.get("provenance")
    if not before:
        return [str(initialisation["file"])]
    size = f" at {initialisation['size']} px" if "size" in initialisation else ""
    trained = ""
    if metrics := before.get("metrics"):  # a late fusion has none
        trained = f" (epoch {metrics['epoch']}, validation MAE {metrics['validation_mae']})"
    return [f"recipe {before['recipe']}{size}{trained}", *_stages(before.get("initialisation"))]


def _merged(chains: list[list[str]]) -> list[str]:
    """The stages of a mean: of each member its own, then once those that all went through."""
    shared, most = 0, min(map(len, chains)) - 1  # of which each keeps one for itself
    while shared < most and len({chain[-1 - shared] for chain in chains}) == 1:
        shared += 1
    if shared == 1 and chains[0][-1] == "random":
        shared = 0  # each began with its own
    own = (", itself from ".join(chain[: len(chain) - shared]) for chain in chains)
    common = chains[0][len(chains[0]) - shared :]
    return ["the mean of " + " and ".join(f"[{stages}]" for stages in own), *common]


def _what(config: Mapping[str, Any]) -> str:
    return "bone age of a hand" if config["task"] == "hand" else "age of a person"


def _source(data: str) -> Source:
    """Of a labelled folder, by the name that ``boneage prepare`` and the bundled ones give it."""
    return SOURCES.get(re.split(r"[-_]", data)[0], OWN_DATA)


def _metadata(id: str, records: Sequence[Mapping[str, Any]], source: Source, hand: bool) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-regression",
            task_name="Bone age assessment" if hand else "Age assessment",
            dataset_type=record["dataset"].split("/")[0],
            dataset_name=record["dataset"],
            dataset_split=record["dataset"].rpartition("/")[2],
            metric_type="mae",
            metric_name=f"MAE ({record['unit']}), {_name(record)}",
            metric_value=record["measured"],
        )
        for record in records
    ]
    data = ModelCardData(
        **source.licence,
        library_name="boneage",
        tags=["bone-age" if hand else "age", "medical-imaging", "safetensors"],
        model_name=id if results else None,
        eval_results=results or None,
        datasets=list(source.datasets) or None,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _name(record: Mapping[str, Any]) -> str:
    parts = (record["table"], record["row"], record["column"])
    return " ".join(str(part) for part in parts if part)


def _validation(provenance: Mapping[str, Any]) -> list[str]:
    metrics = provenance.get("metrics", {})
    prefix = "validation_mae_"
    rows = [
        f"| {name.removeprefix(prefix)} | {value:.2f} |"
        for name, value in metrics.items()
        if name.startswith(prefix)
    ]
    if not rows:
        return []
    from boneage.calibration import half_selected  # slow to import: NumPy and the readers

    selecting = provenance.get("selection_images")
    which = "on which" if selecting is None else f"on {selecting} of which"
    before = (
        ""
        if selecting is None or half_selected(provenance)
        else "; earlier weights were selected on all of them"
    )
    return [
        f"Mean absolute error (MAE) on the {provenance['validation_images']} validation images of "
        f"{provenance['data']}, {which} the weights were selected{before}:\n",
        "| component or sex | MAE |\n|---|---|",
        *rows,
        "",
    ]


def _test(records: Sequence[Mapping[str, Any]], unit: str) -> list[str]:
    if not records:
        return ["Test results: none yet.\n"]
    return [
        f"On the test images (`python -m evaluate --split test`), MAE in {unit} with its 95 % "
        "bootstrap interval beside the published value:\n",
        "| images | table, row | published | measured | 95 % | n | refused |\n"
        "|---|---|---|---|---|---|---|",
        *(
            f"| {r['dataset']} | {_name(r)} | {as_published(r['published'], unit)} "
            f"| {r['measured']:.2f} | {_interval(r['ci95'])} | {r['n']} | {r['refused']} |"
            for r in records
        ),
        "",
        *([REFUSED] if any(r["refused"] for r in records) else []),
    ]


def _groups(records: Sequence[Mapping[str, Any]]) -> list[str]:
    lines: dict[str, dict[str, str]] = {}
    for r in records:
        if r["table"] in GROUPS:
            name = f"{GROUPS[r['table']]}{r['row']} ({r['unit']})"
            interval = f" ({_interval(r['ci95'])})" if r["ci95"] else ""
            cell = f"{r['measured']:.2f}{interval}, {r['n']}"
            lines.setdefault(name, {})[r["column"]] = cell
    if not lines:
        return []
    return [
        f"Errors in more detail, and the MAE by age, on {records[0]['dataset']}, each with its "
        "95 % interval and the number of cases:\n",
        "| | " + " | ".join(COLUMNS) + " |\n|---|" + "---|" * len(COLUMNS),
        *(
            f"| {name} | " + " | ".join(cells.get(column, "") for column in COLUMNS) + " |"
            for name, cells in lines.items()
        ),
        "",
    ]


def _robustness(metrics: Sequence[Mapping[str, Any]], label: str) -> list[str]:
    """How far changes of the image move the ages, where that was measured with these weights."""
    found = [
        r
        for r in metrics
        if (r["table"], r["weights"]) == (ROBUSTNESS, f"recorded:{label}")
        and r["measured"] is not None
    ]
    if not found:
        return []
    columns = list(dict.fromkeys(r["column"] for r in found))
    changes: dict[str, dict[str, str]] = {}
    for r in found:
        changes.setdefault(r["row"], {})[r["column"]] = f"{r['measured']:.2f}"
    return [
        f"The same test images changed before they are assessed, in {found[0]['unit']} (positive "
        "rotation is anticlockwise):\n",
        f"| change | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}",
        *(
            f"| {name} | {' | '.join(cells.get(column, '') for column in columns)} |"
            for name, cells in changes.items()
        ),
        "",
    ]


def _order(metrics: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> list[str]:
    """Whether the published order of the methods held where all of them were trained anew.

    For weights with the hierarchical features that the comparison is about.
    """
    if (config["task"], config["architecture"]["name"]) != ("adult", "hierarchical"):
        return []
    rows = [r for r in metrics if r["table"] == COMPARISON and r["measured"] is not None]
    if len(rows) < 2:
        return []
    orders = [sorted(rows, key=lambda r: r[value]) for value in ("published", "measured")]
    held = [r["row"] for r in orders[0]] == [r["row"] for r in orders[1]]
    told = (
        "; ".join(f"{r['row']} {r[value]:.2f}" for r in order)
        for value, order in zip(("published", "measured"), orders, strict=True)
    )
    return [
        f"Does the paper's comparison of methods (table {COMPARISON}) come out in the same order "
        f"here? {'Yes' if held else 'No'}. MAE in {config['unit']}, the lowest first:\n",
        *(f"- {name}: {line}" for name, line in zip(("published", "measured"), told, strict=True)),
        "",
        *([] if held else [ORDER, ""]),
    ]


def _intervals(config: Mapping[str, Any]) -> list[str]:
    if not (interval := config.get("interval")):
        return []
    return [
        f"Prediction intervals: an assessed age plus and minus the half-width of its band covers "
        f"the reference age with a probability of {100 * interval['coverage']:g} %, for cases "
        "drawn as the validation images are (split-conformal). This holds only if these images did "
        "not help to select the weights or those that they went on from. Images that did: "
        f"{interval['weights_selected_on']}.\n",
        f"| assessed age from, {config['unit']} | half-width | validation cases |",
        "|---|---|---|",
        *(f"| {b['from']:g} | {b['half_width']:.2f} | {b['cases']} |" for b in interval["bands"]),
        "",
    ]


def _interval(ci95: Sequence[float] | None) -> str:
    return "" if ci95 is None else f"{ci95[0]:.2f} to {ci95[1]:.2f}"
