"""The papers' tables as data: what was published, and what here can fill each cell.

Tables A1 to A3 are Tables 1 to 3 of Liu et al., "Extract Bone Parts Without Human Prior:
End-to-end Convolutional Neural Network for Pediatric Bone Age Assessment", MICCAI 2019 (Section 3).
Tables B1 to B4 are Tables 1 to 4 of Nguyen and Kim, "Automatic Whole-body Bone Age Assessment Using
Deep Hierarchical Features" (Section 4.3), each value the best of several trainings. All values are
mean absolute errors, in months (A) or years (B).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from boneage.errors import InputError
from boneage.models.registry import UNITS
from boneage.sex import SEX_NAMES

ASSEMBLED = "assembled"  # the component that is the assessment's final age
FURTHER = "S4"  # the project's own table of weights that fill no row of a comparison of methods
TASKS = {unit: task for task, unit in UNITS.items()}


@dataclass(frozen=True)
class Cell:
    """One number of one table.

    Attributes:
        table, row, column: its place, as in ``cases.csv`` and ``metrics.json``.
        published: mean absolute error in the table's unit; ``None`` in the project's own tables.
        component: which of an assessment's ages is measured; ``assembled`` is the final one.
        sex: ``F`` or ``M`` if only cases of one sex count.
        recipe: the recipe of ``python -m train`` that makes weights for it; of the late fusion its
            name, since nothing is trained for it.
        unavailable: why nothing can be run for it, in place of a recipe.
        remark: what a reader must know to compare.
    """

    table: str
    row: str
    column: str
    published: float | None
    component: str = ASSEMBLED
    sex: str | None = None
    recipe: str | None = None
    unavailable: str | None = None
    remark: str = ""

    @property
    def method(self) -> str:
        """What the cell is named by where methods are compared."""
        return self.row if self.column == "MAE" else self.column

    @property
    def why(self) -> str:
        """Why the cell is empty as long as no weights fill it."""
        if self.unavailable:
            return self.unavailable
        if self.recipe == _LATE_FUSION:
            members = " ".join(f"runs/{name}/weights" for name in _FUSED)
            command = f"python -m boneage fuse {members} --out runs/{_LATE_FUSION}"
            return f"no weights of its three members fill it; `{command}` makes it of them"
        one_sex = self.sex if self.table.startswith("A") else None
        # Of each training its recipe, its options and the end of its run's name.
        chain = [(recipe, "", "") for recipe in (*_BEFORE.get(self.recipe, ()), self.recipe)]
        if self.recipe in _SMALL_FIRST:
            chain.insert(0, (self.recipe, " --size 64 --epochs 3 --learning-rate 1e-3", "-64"))
        start = " --pretrained" if chain[0][0] in _PRETRAINED else ""
        commands = []
        for number, (recipe, options, end) in enumerate(chain, 1):
            run = f"runs/{recipe}{end}"
            if one_sex and number == len(chain):  # those before it gain by all images
                run, options = f"{run}-{one_sex}", f" --sex {one_sex}"
            command = f"python -m train {recipe}{options} --data DIR --out {run}{start}"
            commands.append(f"`{command}`")
            start = f" --init {run}/weights/model.safetensors"
        return f"no weights at hand fill it; {', then '.join(commands)} would make it"


@dataclass(frozen=True)
class Table:
    """A published table.

    Attributes:
        task: ``hand`` or ``adult``.
        cells: in reading order.
        headline: compares whole methods on all cases, so its rows get the further statistics.
        own: row and column of the paper's own method, which the others are compared with.
    """

    id: str
    title: str
    source: str
    task: str
    cells: tuple[Cell, ...]
    headline: bool = False
    own: tuple[str, str] | None = None

    @property
    def unit(self) -> str:
        """``months`` or ``years``."""
        return UNITS[self.task]


_ARCNN = "arcnn_mobilenetv2_256"
# Recipes that start from ImageNet weights (or --init, without a network).
_PRETRAINED = ("month_classifier", "whole_mobilenetv2_192")
_LATE_FUSION = "late_fusion"
_FUSED = ("vgg", "googlenet", "resnet")
# Of the tables' recipes those with a `first_stage`, on small images.
_SMALL_FIRST = (
    *_FUSED, "early_fusion", "hierarchical", "hierarchical_upper", "hierarchical_lower"
)  # fmt: skip
# Recipes that start from the weights of others, one after the other.
_BEFORE = {_ARCNN: ("whole_mobilenetv2_192",)}
_BEFORE |= {f"arcnn_k{k}": (*_BEFORE[_ARCNN], _ARCNN) for k in (1, 2, 3, 4)}

# Revisions of weights with parts and without, trained from the same weights for about the same
# processor time, each to the end of its schedule: arcnn_mobilenetv2_288 and whole_mobilenetv2_288,
# arcnn-mobilenetv2-384 and whole_mobilenetv2_384.
EQUAL_TIME = (("25a0f98f4261", "57f816f1e4bf"), ("4e9ea3453ff3", "447b6ba56bb0"))

_LIU = "Liu et al., MICCAI 2019"
_NGUYEN = "Nguyen and Kim, whole-body bone age"
_SINGLE = "single-stage, on RSNA"
_MULTI = "multi-stage, on RSNA"
_OWN_DATA = "published on 813 whole-body images that were not released"
_BY_SEX = (
    f"{_OWN_DATA}, 679 female and 134 male; how many of each are among its 244 test images is not "
    "said"
)


def _a1(k: int, published: float) -> Cell:
    return Cell("A1", "male", f"K={k}", published, sex="M", recipe=f"arcnn_k{k}")


def _a2(sex: str, column: str, component: str, published: float) -> Cell:
    return Cell("A2", SEX_NAMES[sex], column, published, component, sex, _ARCNN)


def _row(table: str, row: str, published: float, **details: Any) -> Cell:
    return Cell(table, row, "MAE", published, **details)


_A2_COLUMNS = ("X", "C", "R1", "R2", "R3", "assembling")
_A2_PUBLISHED = {
    "M": (5.76, 4.99, 5.55, 5.59, 6.03, 4.32),
    "F": (6.20, 5.46, 6.58, 6.31, 7.04, 4.44),
}

TABLES: tuple[Table, ...] = (
    Table(
        "A1",
        "AR-CNN, number K of bone parts, boys",
        f"{_LIU}, Table 1",
        "hand",
        (_a1(1, 5.87), _a1(2, 5.45), _a1(3, 4.32), _a1(4, 7.43)),
        own=("male", "K=3"),
    ),
    Table(
        "A2",
        "AR-CNN, each unit's own assessment and the assembled one",
        f"{_LIU}, Table 2",
        "hand",
        tuple(
            _a2(sex, column, ASSEMBLED if column == "assembling" else column, value)
            for sex, values in _A2_PUBLISHED.items()
            for column, value in zip(_A2_COLUMNS, values, strict=True)
        ),
    ),
    Table(
        "A3",
        "Comparison of methods",
        f"{_LIU}, Table 3",
        "hand",
        (
            _row(
                "A3",
                "Human reviewers",
                7.32,
                unavailable="readings of human reviewers (Larson 2018): there is nothing to run",
                remark="on RSNA",
            ),
            _row(
                "A3",
                "Spampinato 2017",
                9.12,
                recipe="bonet",
                remark="single-stage; published on another data set than RSNA",
            ),
            _row("A3", "Larson 2018", 6.24, recipe="month_classifier", remark=_SINGLE),
            _row(
                "A3",
                "Iglovikov 2018",
                4.97,
                unavailable="an external ensemble that needs segmented hands and expert-chosen "
                "regions: there is nothing to run",
                remark=_MULTI,
            ),
            _row(
                "A3",
                "Ren 2018",
                5.20,
                unavailable="an external method that needs extra expert labels: there is nothing "
                "to run",
                remark=_MULTI,
            ),
            _row("A3", "AR-CNN", 4.38, recipe=_ARCNN, remark=_SINGLE),
        ),
        headline=True,
        own=("AR-CNN", "MAE"),
    ),
    Table(
        "B1",
        "VGG without and with hierarchical features",
        f"{_NGUYEN}, Table 1",
        "adult",
        (
            _row("B1", "Fine-tuned VGG", 9.741, recipe="vgg", remark=_OWN_DATA),
            _row(
                "B1",
                "VGG with hierarchical features",
                4.856,
                recipe="hierarchical",
                remark=_OWN_DATA,
            ),
        ),
    ),
    Table(
        "B2",
        "Comparison of methods",
        f"{_NGUYEN}, Table 2",
        "adult",
        tuple(
            _row("B2", row, published, recipe=recipe, remark=_OWN_DATA)
            for row, published, recipe in (
                ("Fine-tuned VGG", 9.741, "vgg"),
                ("Fine-tuned GoogLeNet", 5.522, "googlenet"),
                ("Fine-tuned ResNet", 5.738, "resnet"),
                ("Early fusion", 6.870, "early_fusion"),
                ("Late fusion", 5.140, _LATE_FUSION),
                ("VGG with hierarchical features", 4.856, "hierarchical"),
            )
        ),
        headline=True,
        own=("VGG with hierarchical features", "MAE"),
    ),
    Table(
        "B3",
        "VGG with hierarchical features, retrained on half of the image",
        f"{_NGUYEN}, Table 3",
        "adult",
        (
            _row("B3", "upper body", 4.854, recipe="hierarchical_upper", remark=_OWN_DATA),
            _row("B3", "lower body", 5.100, recipe="hierarchical_lower", remark=_OWN_DATA),
        ),
    ),
    Table(
        "B4",
        "VGG with hierarchical features, by sex",
        f"{_NGUYEN}, Table 4",
        "adult",
        (
            _row("B4", "female", 4.351, sex="F", recipe="hierarchical", remark=_BY_SEX),
            _row("B4", "male", 6.969, sex="M", recipe="hierarchical", remark=_BY_SEX),
        ),
    ),
)

# What stands in for the adult paper's images, by the first word of the data set's name; otherwise
# the user's own.
STAND_INS = {
    "nih": "The images measured are frontal chest radiographs (NIH ChestX-ray14), not the paper's "
    "whole-body CT."
}
OWN_IMAGES = (
    "The images measured are this data set's own, not the paper's whole-body CT, which was never "
    "released."
)
BEST_OF_SEVERAL = (
    "Every published value is of the paper's own images and the best of several trainings; "
    "measured is one training on others."
)

# Text claim of Liu et al., Section 3 and Fig. 2(b): every absolute deviation is below this.
LARGEST_DEVIATION_MONTHS = 20.0


def tables(task: str) -> tuple[Table, ...]:
    """The published tables of ``hand`` or ``adult``."""
    return tuple(table for table in TABLES if table.task == task)


def filled_cells(config: Mapping[str, Any], id: str) -> tuple[Cell, ...]:
    """The cells that a weights folder says it fills.

    Its ``config.json`` lists them under ``fills`` as ``TABLE``, ``TABLE:ROW`` or
    ``TABLE:ROW:COLUMN``: ``["A2:male", "A3:AR-CNN"]``. Weights that fill no row of a
    comparison of methods (A3, B2) also get a row named ``id`` in the project's own table S4, so
    that everything that is run is also reported.

    Args:
        config: the weights folder's config; ``task`` and ``fills`` are read.
        id: name of the weights.

    Raises:
        InputError: for an entry that names no cell of the task's tables.
    """
    known = tables(config["task"])
    found: list[Cell] = []
    for entry in config.get("fills") or ():
        place = str(entry).split(":")
        cells = [
            cell
            for table in known
            for cell in table.cells
            if [cell.table, cell.row, cell.column][: len(place)] == place
        ]
        if not cells:
            names = ", ".join(table.id for table in known)
            raise InputError(
                f"{id} says it fills {entry!r}, which is no TABLE, TABLE:ROW or TABLE:ROW:COLUMN "
                f"of the tables {names}."
            )
        found += cells
    headlines = {table.id for table in known if table.headline}
    if not any(cell.table in headlines for cell in found):
        found.append(Cell(FURTHER, id, "MAE", None))
    return tuple(dict.fromkeys(found))
