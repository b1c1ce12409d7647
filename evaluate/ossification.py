"""Do attention boxes land on bones? Boxes against annotated ossification regions: tables S6 to S9.

Liu et al. (MICCAI 2019, Section 3) judge by eye that the attention agent finds the bones that
clinicians look at. Here the boxes are scored on radiographs whose ossification regions an expert
annotated (Koitka et al., PLOS ONE 2018, 13(11):e0207496), and beside them boxes that were chosen
without looking at the radiograph, by :data:`CHOOSERS`. Regions and boxes are compared as shares of
the image's sides. Of every image three things are measured:

- *inside*: share of the boxes whose centre lies in a region;
- *overlapping*: share of the boxes that overlap a region, however little;
- *covered*: share of the regions whose centre lies in at least one of the boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boneage.errors import InputError
from boneage.sex import SEX_NAMES
from boneage.tables import read_csv
from evaluate.cases import Outcome, read_rows, write_rows
from evaluate.records import Record, empty_record, fill

if TYPE_CHECKING:
    from boneage.models.arcnn import AttentionAgent
    from evaluate.run import Assessor, Dataset

REGIONS = "regions.csv"  # beside labels.csv
SCORES = "ossification.csv"
NAMES = ("DIP", "PIP", "MCP", "Radius", "Ulna", "Wrist")
OBSERVERS = ("expert", "nonexpert")
ANY = "any"

AGENT = "AR-CNN"
RANDOM = "random anchors"
SAME_SIZES = "random anchors of the same sizes"
CENTRAL = "central anchors"
MEAN = "mean boxes"
USUAL = "usual anchors"
CHOOSERS = {
    AGENT: "the attention agent's boxes",
    RANDOM: "the agent with random scores in place of its own, all its anchors alike",
    SAME_SIZES: "every box of the agent moved to a random place of its level and ratio",
    CENTRAL: "random scores weighted by a Gaussian about the middle of the image, whose SD is a "
    "quarter of the side",
    MEAN: "the mean of R1, of R2 and of R3 over the other images of the sex",
    USUAL: "the anchors that the agent chose most often in the other images of the sex",
}
BASELINES = tuple(CHOOSERS)[1:]
TOP = 3  # boxes that are looked at
DRAWS = 10_000  # of random scores
CENTRAL_SD = 0.25  # share of the side

MEASURES = {
    "inside": "box centres inside a region",
    "overlapping": "boxes that overlap a region",
    "covered": "regions covered",
}
AREA = "mean area of a box, share of the image"
RANKS = ("R1", "R1-R2", "R1-R3")
COLUMNS = (*RANKS, *(f"{RANKS[-1]}, {name}" for name in SEX_NAMES.values()))
SCORED_BY_NAME = (AGENT, RANDOM, CENTRAL, USUAL)
BY_NAME = (AGENT, *(f"{AGENT}, {name}" for name in SEX_NAMES.values()), *SCORED_BY_NAME[1:])
AGREEMENT = ("mean IoU", "centres inside the other's box")


@dataclass(frozen=True)
class Region:
    """An annotated region, as shares of the image's width and height."""

    name: str
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class Annotated:
    """Radiographs with annotated regions.

    Attributes:
        dataset: the radiographs.
        regions: by observer and case id.
    """

    dataset: Dataset
    regions: Mapping[tuple[str, str], tuple[Region, ...]]


@dataclass(frozen=True)
class Score:
    """How boxes fit the regions of one image, a line of ``ossification.csv``.

    Attributes:
        boxes: who chose them, of :data:`CHOOSERS`.
        ranks: of :data:`RANKS`.
        region: of :data:`NAMES`, or ``any``.
        inside, overlapping, covered: %, the expected value where chance has a part.
        area: mean area of the boxes, % of the image.
    """

    dataset: str
    weights: str
    id: str
    sex: str | None
    boxes: str
    ranks: str
    region: str
    inside: float
    overlapping: float
    covered: float
    area: float


def read_regions(folder: Path) -> dict[tuple[str, str], tuple[Region, ...]]:
    """Read a labelled folder's ``regions.csv``: id, annotator, region, x0, y0, x1, y1.

    Raises:
        InputError: if it is missing, lacks a column, or holds an unknown name or an impossible box.
    """
    path = folder / REGIONS
    if not path.is_file():
        raise InputError(f"{folder.name} has no {REGIONS}.")
    columns, rows = read_csv(path.read_bytes(), path.name)
    needed = ("id", "annotator", "region", "x0", "y0", "x1", "y1")
    if missing := [name for name in needed if name not in columns]:
        raise InputError(f"{REGIONS} has no column {', '.join(missing)}.")
    found: dict[tuple[str, str], list[Region]] = {}
    for line, row in rows:
        try:
            region = Region(row["region"], *(float(row[name]) for name in needed[3:]))
        except ValueError:
            raise InputError(f"{REGIONS} line {line}: a coordinate is not a number.") from None
        if not (0 <= region.x0 < region.x1 <= 1 and 0 <= region.y0 < region.y1 <= 1):
            raise InputError(f"{REGIONS} line {line}: the box is not within 0 to 1.")
        if region.name not in NAMES or row["annotator"] not in OBSERVERS:
            raise InputError(f"{REGIONS} line {line}: unknown region or annotator.")
        found.setdefault((row["annotator"], row["id"]), []).append(region)
    return {key: tuple(regions) for key, regions in found.items()}


def has_boxes(predictor: Assessor) -> bool:
    """Whether these weights choose boxes among anchors."""
    return predictor.config.get("architecture", {}).get("name") == "arcnn"


def score(
    outcomes: Sequence[Outcome], annotated: Annotated, predictor: Any, weights: str
) -> list[Score]:
    """Score the boxes of every assessed image, and those of every baseline.

    Args:
        outcomes: of ``annotated``, assessed by ``predictor``.
        annotated: the radiographs and their regions; the expert's count.
        predictor: a :class:`boneage.predictor.Predictor` of an AR-CNN.
        weights: its label.
    """
    from boneage import images

    cases, boxes = [], []
    for outcome in outcomes:
        if outcome.assessment is not None and outcome.refused is None:
            source = images.read(outcome.case.path)
            sides = np.array([source.width, source.height] * 2)
            top = outcome.assessment.boxes[:TOP]
            cases.append(outcome.case)
            boxes.append(np.array([[b.x0, b.y0, b.x1, b.y1] for b in top]) / sides)
    if not cases:
        return []
    agent: AttentionAgent = predictor.model.attention
    anchors = predictor.preprocess.locate(agent.anchors.cpu().numpy())
    found = np.stack(boxes)
    chosen = np.abs(found[:, :, None] - anchors).sum(axis=-1).argmin(axis=-1)
    count = chosen.shape[1]
    middle = (anchors[:, :2] + anchors[:, 2:]) / 2 - 0.5
    at_random = _draw(agent, np.zeros(len(anchors)))[:, :count]
    central = _draw(agent, -(middle**2).sum(axis=1) / (2 * CENTRAL_SD**2))[:, :count]
    shapes = _shapes(predictor.model.size)
    sexes = np.array([case.sex or "" for case in cases])

    rows: list[Score] = []
    for i, case in enumerate(cases):
        regions = annotated.regions[OBSERVERS[0], case.id]
        hits = _Hits(anchors, regions)
        others = (sexes == sexes[i]) & (np.arange(len(cases)) != i)
        choosers = {
            AGENT: (hits, chosen[i : i + 1]),
            RANDOM: (hits, at_random),
            CENTRAL: (hits, central),
        }
        if others.any():
            means = found[others].mean(axis=0)
            often = np.bincount(chosen[others].ravel(), minlength=len(anchors))
            choosers[MEAN] = (_Hits(means, regions), np.arange(count)[None])
            choosers[USUAL] = (hits, _propose(agent, often[None])[:, :count])
        for k, ranks in enumerate(RANKS[:count], start=1):
            values = {name: h.expected(choice[:, :k]) for name, (h, choice) in choosers.items()}
            values[SAME_SIZES] = hits.expected_elsewhere(chosen[i, :k], shapes)
            place = (annotated.dataset.name, weights, case.id, case.sex)
            rows += [Score(*place, name, ranks, ANY, *values[name]) for name in CHOOSERS
                     if name in values]  # fmt: skip
            if k == count:
                rows += [
                    Score(*place, name, ranks, region, *h.expected(choice, region))
                    for name, (h, choice) in choosers.items()
                    if name in SCORED_BY_NAME
                    for region in NAMES
                ]
    return rows


class _Hits:
    """Which of some boxes fit which regions of one image.

    Args:
        boxes: (B, 4) as shares of the image's sides.
        regions: R of them.
    """

    def __init__(self, boxes: np.ndarray, regions: Sequence[Region]) -> None:
        places = np.array([[r.x0, r.y0, r.x1, r.y1] for r in regions])
        self.names = np.array([r.name for r in regions])
        low, high = boxes[:, None, :2], boxes[:, None, 2:]
        centres = (low + high) / 2
        targets = (places[:, :2] + places[:, 2:]) / 2
        # All three (B, R).
        self.inside = ((places[:, :2] <= centres) & (centres <= places[:, 2:])).all(axis=-1)
        self.overlapping = ((low < places[:, 2:]) & (places[:, :2] < high)).all(axis=-1)
        self.covers = ((low <= targets) & (targets <= high)).all(axis=-1)
        self.areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=-1)

    def expected(self, choice: np.ndarray, region: str = ANY) -> list[float]:
        """Mean of inside, overlapping, covered and area in % over choices (D, k) of boxes."""
        names = (self.names == region) | (region == ANY)
        return [
            100 * float(values.mean())
            for values in (
                self.inside[:, names].any(axis=1)[choice],
                self.overlapping[:, names].any(axis=1)[choice],
                self.covers[:, names][choice].any(axis=1),
                self.areas[choice],
            )
        ]

    def expected_elsewhere(self, chosen: np.ndarray, shapes: np.ndarray) -> list[float]:
        """The same if each chosen box (k,) lay anywhere among the boxes of its shape, exactly.

        Args:
            chosen: indices of boxes.
            shapes: (B,) a number for each shape.
        """
        alike = shapes[chosen][:, None] == shapes  # (k, B)
        share = alike / alike.sum(axis=1, keepdims=True)
        missed = (1 - share @ self.covers).prod(axis=0)  # every region, by all of them
        return [
            100 * float(values.mean())
            for values in (
                share @ self.inside.any(axis=1),
                share @ self.overlapping.any(axis=1),
                1 - missed,
                share @ self.areas,
            )
        ]


def _shapes(size: int) -> np.ndarray:
    """A number for each anchor's level and ratio, in the anchors' order; clipping is ignored."""
    from boneage.models.arcnn import RATIOS, STRIDES

    cells = np.repeat([(-(-size // stride)) ** 2 for stride in STRIDES], len(RATIOS))
    return np.repeat(np.arange(len(cells)), cells)


def _draw(agent: AttentionAgent, log_weights: np.ndarray) -> np.ndarray:
    """(DRAWS, M) anchors that the agent proposes with random scores.

    Weights plus Gumbel noise, so that an anchor comes first with a probability in proportion to its
    weight.
    """
    noise = np.random.default_rng(0).gumbel(size=(DRAWS, len(log_weights)))
    return _propose(agent, log_weights + noise)


def _propose(agent: AttentionAgent, scores: np.ndarray) -> np.ndarray:
    """Indices (N, M) of the anchors that the agent proposes by scores (N, A)."""
    import torch

    anchors = agent.anchors
    boxes = agent.propose(torch.as_tensor(scores, dtype=torch.float32).to(anchors.device)).boxes
    return torch.cdist(boxes, anchors, p=1).argmin(dim=-1).cpu().numpy()


def write(folder: Path, scores: Sequence[Score]) -> None:
    """Write ``ossification.csv``, or take away an old one where there is nothing to write."""
    if scores:
        write_rows(folder / SCORES, scores)
    else:
        (folder / SCORES).unlink(missing_ok=True)


def read(path: Path) -> list[Score]:
    """Read an ``ossification.csv``; a missing one has no lines."""
    return list(read_rows(path, Score)) if path.is_file() else []


def score_records(scores: Sequence[Score]) -> list[Record]:
    """Table S6: every measure of every chooser, by number of boxes and by sex.

    Args:
        scores: on one data set, by one set of weights; so too below.
    """
    return [
        _record("S6", f"{what}, {chooser}", column, scores, _values(scores, chooser, column, key))
        for key, what in (*MEASURES.items(), ("area", AREA))
        for chooser in CHOOSERS
        for column in COLUMNS
    ]


def difference_records(scores: Sequence[Score]) -> list[Record]:
    """Table S7: the agent's boxes less those of every baseline, paired by image."""
    records = []
    for key, what in MEASURES.items():
        for baseline in BASELINES:
            for column in COLUMNS:
                own, other = (_values(scores, name, column, key) for name in (AGENT, baseline))
                paired = {id: own[id] - other[id] for id in own if id in other}
                row = f"{what}, {AGENT} - {baseline}"
                records.append(_record("S7", row, column, scores, paired))
    return records


def name_records(scores: Sequence[Score]) -> list[Record]:
    """Table S8: regions covered, and centres inside, by the name of the region."""
    records = []
    for name in NAMES:
        for key, what in (("covered", "covered"), ("inside", "box centres inside")):
            for column in BY_NAME:
                chooser, _, sex = column.partition(", ")
                ranks = f"{RANKS[-1]}, {sex}" if sex else RANKS[-1]
                values = _values(scores, chooser, ranks, key, name)
                records.append(_record("S8", f"{name}, {what}", column, scores, values))
    return records


def _values(
    scores: Sequence[Score], chooser: str, column: str, measure: str, region: str = ANY
) -> dict[str, float]:
    """A measure of one chooser's boxes by case id; ``column`` is of :data:`COLUMNS`."""
    ranks, _, sex = column.partition(", ")
    return {
        score.id: getattr(score, measure)
        for score in scores
        if (score.boxes, score.ranks, score.region) == (chooser, ranks, region)
        and (not sex or SEX_NAMES.get(score.sex or "") == sex)
    }


def _record(
    table: str, row: str, column: str, scores: Sequence[Score], values: Mapping[str, float]
) -> Record:
    dataset, weights = scores[0].dataset, scores[0].weights
    empty = empty_record(table, row, column, dataset, "%", weights=weights)
    return fill(empty, np.array(list(values.values())), None)


def by_weights(scores: Sequence[Score]) -> list[tuple[Score, ...]]:
    """The scores of each data set and weights."""
    found: dict[tuple[str, str], list[Score]] = {}
    for item in scores:
        found.setdefault((item.dataset, item.weights), []).append(item)
    return [tuple(group) for group in found.values()]


def agreement_records(annotated: Annotated) -> list[Record]:
    """Table S9: how the two observers' boxes agree; each of the expert's with the other's nearest.

    Intervals resample images.
    """
    overlaps: dict[str, list[tuple[str, float, float]]] = {}
    for case in annotated.dataset.folder.cases:
        first, second = (annotated.regions[observer, case.id] for observer in OBSERVERS)
        for region in first:
            same = [other for other in second if other.name == region.name]
            iou, other = max((_iou(region, other), i) for i, other in enumerate(same))
            hit = _Hits(_array(region), [same[other]]).inside[0, 0]
            overlaps.setdefault(region.name, []).append((case.id, 100 * iou, 100.0 * hit))
    overlaps["all"] = [value for values in overlaps.values() for value in values]
    return [
        fill(
            empty_record("S9", name, column, annotated.dataset.name, "%"),
            np.array([value[place] for value in overlaps[name]]),
            np.array([value[0] for value in overlaps[name]]),
        )
        for name in (*NAMES, "all")
        for place, column in enumerate(AGREEMENT, start=1)
    ]


def _array(region: Region) -> np.ndarray:
    return np.array([[region.x0, region.y0, region.x1, region.y1]])


def _iou(a: Region, b: Region) -> float:
    width = max(0.0, min(a.x1, b.x1) - max(a.x0, b.x0))
    height = max(0.0, min(a.y1, b.y1) - max(a.y0, b.y0))
    areas = sum((r.x1 - r.x0) * (r.y1 - r.y0) for r in (a, b))
    return width * height / (areas - width * height)
