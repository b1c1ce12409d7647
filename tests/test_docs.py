"""The documents say what was measured, of the weights that are released."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from pathlib import Path

import pytest

from boneage import __version__, hub
from boneage.card import FOREIGN, model_card
from boneage.predictor import released
from boneage.quality import warnings_of_parts
from boneage.views import REGIONS
from evaluate.cases import read_cases
from evaluate.published import EQUAL_TIME
from evaluate.records import EQUAL_TIME_NOTE
from evaluate.refusal import FITTING, TOLD

FOLDERS = [released("hand"), *(released("adult", region) for region in REGIONS)]


@pytest.fixture(scope="module")
def metrics(repo_root: Path) -> list[dict]:
    return json.loads((repo_root / "results" / "metrics.json").read_text())


def test_results_are_of_the_released_weights(metrics: list[dict]) -> None:
    labels = {f"{folder.name}@{hub.load_config(folder)['sha256'][:12]}" for folder in FOLDERS}
    own = [r for r in metrics if r["measured"] is not None and not r["recorded"]]
    weights = {r["weights"] for r in own if r["weights"]}  # two observers need none
    assert weights == labels


@pytest.fixture(scope="module")
def accuracy(repo_root: Path) -> str:
    return " ".join((repo_root / "docs" / "accuracy.md").read_text().split())


def test_documents_and_card_state_the_measured_numbers(
    repo_root: Path, accuracy: str, metrics: list[dict]
) -> None:
    readme = (repo_root / "README.md").read_text()
    card = (released("hand") / hub.CARD).read_text()
    measured = [r for r in metrics if r["table"][0] == "A" and r["measured"] is not None]
    own = [r for r in measured if not r["recorded"]]
    assert len(own) == 12 + 1
    for record in measured:
        # Beside the published figure.
        published = f"({record['published']:.2f}" if record["published"] else ""
        assert f"{record['measured']:.2f} {published}" in accuracy, record
    for record in own:
        assert f"{record['measured']:.2f}" in card, record
    (whole,) = [r for r in own if r["table"] == "A3"]
    low, high = whole["ci95"]
    validation = hub.load_config(released("hand"))["provenance"]["metrics"]["validation_mae"]
    for text in (readme, accuracy):
        assert f"{whole['measured']:.2f} months ({low:.2f} to {high:.2f})" in text
        assert f"{validation:.2f}" in text


def test_documents_and_card_state_the_adults_error(
    repo_root: Path, accuracy: str, metrics: list[dict]
) -> None:
    readme = (repo_root / "README.md").read_text()
    folder = released("adult")
    (row,) = [r for r in metrics if r["table"] == "S4" and r["row"] == folder.name]
    low, high = row["ci95"]
    for text in (readme, accuracy):
        assert f"{row['measured']:.2f} years ({low:.2f} to {high:.2f})" in text
    assert f"| {row['measured']:.2f} | {low:.2f} to {high:.2f} |" in (folder / hub.CARD).read_text()
    validation = hub.load_config(folder)["provenance"]["metrics"]["validation_mae"]
    assert f"{validation:.2f} years" in accuracy
    for region in ("upper", "lower"):
        (row,) = [r for r in metrics if r["row"] == released("adult", region).name]
        low, high = row["ci95"]
        assert f"{row['measured']:.2f}" in accuracy
        assert f"({low:.2f} to {high:.2f})" in accuracy
    errors = {r["row"]: r["measured"] for r in metrics if r["table"] == "B2"}
    named = (
        "Fine-tuned VGG",
        "Fine-tuned ResNet",
        "VGG with hierarchical features",
        "Early fusion",
        "Late fusion",
        "Fine-tuned GoogLeNet",
    )
    assert len(errors) == len(named)
    assert "| " + " | ".join(f"{errors[name]:.2f}" for name in named) + " |" in accuracy


@pytest.fixture(scope="module")
def validation(repo_root: Path) -> list[dict]:
    return json.loads((repo_root / "results" / "validation" / "metrics.json").read_text())


def _of(records: list[dict], table: str, column: str) -> dict[str, float]:
    """What a column of a table has, by row; of several weights those that come first."""
    found = [r for r in records if (r["table"], r["column"]) == (table, column)]
    return {r["row"]: r["measured"] for r in reversed(found)}


def test_readme_states_its_table(
    repo_root: Path, metrics: list[dict], validation: list[dict]
) -> None:
    readme = " ".join((repo_root / "README.md").read_text().split())
    # The hands' released weights come first in both.
    test, held_out = _of(metrics, "S1", "all"), _of(validation, "S1", "all")
    near = [test[f"within {months} months"] for months in (12, 20, 24)]
    assert f"| {near[0]:.1f} %, {near[1]:.1f} %, {near[2]:.0f} % |" in readme
    inside = "cases inside the 90 % prediction interval"
    width = test["mean width of the 90 % prediction interval"]
    assert f"contains {test[inside]:.1f} % of the reference ages, is {width:.1f} months" in readme
    assert f"{held_out[inside]:.1f} % on validation images" in readme
    assert f"the MAE is {held_out['MAE']:.2f} months" in readme


def test_readme_states_the_limits(repo_root: Path, metrics: list[dict]) -> None:
    readme = " ".join((repo_root / "README.md").read_text().split())
    for gain in (
        -_of(metrics, "S3", "assembling - X")["both"],
        _of(metrics, "S12", "AR-CNN - whole_mobilenetv2_384")["A3"],
    ):
        assert f"by {gain:.2f} " in readme
    scores = _of(metrics, "S6", "R1-R3")
    for placed in ("AR-CNN", "random anchors", "mean boxes"):
        assert f"{scores[f'box centres inside a region, {placed}']:.0f} %" in readme
    moves = _of(metrics, "S5", "mean change of the age")
    turned = sorted(moves[f"rotation by {sign}30 degrees"] for sign in "-+")
    compressed = f"by {moves['JPEG of quality 75']:.1f} when"
    assert f"by {turned[0]:.1f} to {turned[1]:.1f} months on average, {compressed}" in readme


def test_accuracy_states_the_differences_on_test_and_validation(
    accuracy: str, metrics: list[dict], validation: list[dict]
) -> None:
    for table, name, column in (
        ("S3", "both", "C - X"),
        ("S3", "both", "assembling - X"),
        ("S12", "A3", "AR-CNN - whole_mobilenetv2_384"),
        ("S12", "S4", "arcnn_mobilenetv2_288 - whole_mobilenetv2_288"),
    ):
        cells = []
        for records in (metrics, validation):
            (row,) = [
                r for r in records if (r["table"], r["row"], r["column"]) == (table, name, column)
            ]
            assert (row.get("note") == EQUAL_TIME_NOTE) == (table == "S12")
            pair = tuple(re.findall(r"@(\w+)", row["weights"]))
            assert (pair in EQUAL_TIME) == (table == "S12")
            low, high = row["ci95"]
            cells.append(f"{row['measured']:.2f} ({low:.2f} to {high:.2f})")
        assert f"| {cells[0]} | {cells[1]} |" in accuracy


def test_accuracy_states_what_the_weights_for_adults_refuse(
    repo_root: Path, accuracy: str, metrics: list[dict]
) -> None:
    readme = " ".join((repo_root / "README.md").read_text().split())
    told = {
        "whole": "all are refused but 2 of noise",
        "upper": "all but 3 of noise and 2 of shapes",
        "lower": "all but 8 of noise, 2 of shapes and 2 hands",
    }
    posed: list[float] = []
    short = {"noise": "of noise", "shapes": "of shapes", "hand radiographs": "hands"}
    for region, sentence in told.items():
        label = f"{released('adult', region).name}@"
        rows = [
            r for r in metrics if r["table"] == "S10" and r["weights"].startswith(label)
        ]  # fmt: skip
        foreign = [r for r in rows if r["column"] == FITTING and not r["row"].startswith("images")]
        left = {r["row"]: round(r["n"] * (1 - r["measured"] / 100)) for r in foreign}
        assert len(left) == 13
        named = [f"{count} {short[row]}" for row, count in left.items() if count]
        assert sorted(re.findall(r"\d+ (?:of \w+|hands)", sentence)) == sorted(named)
        assert sentence in accuracy
        posed += [r["measured"] for r in rows if r["column"] == TOLD]
    turned = "turned by quarters, with dark bones, or both, are refused or get a warning in"
    assert f"{turned} {min(posed):.0f} to {max(posed):.0f} %" in accuracy
    assert len(posed) == 3 * 7
    assert "all refused but two of noise" in readme


def test_accuracy_states_what_moves_an_age(accuracy: str, metrics: list[dict]) -> None:
    robustness = {(r["row"], r["column"]): r["measured"] for r in metrics if r["table"] == "S5"}
    for rows in (
        ["a white border of 6 %"],
        ["noise of 1 % of the grey range"],
        ["enlarged 2 times", "enlarged 4 times"],
        ["mirrored"],
        ["noise of 3 % of the grey range"],
        ["within a dark frame of 15 %"],
        [f"JPEG of quality {quality}" for quality in (90, 75, 50)],
    ):
        moves = ", ".join(f"{robustness[row, 'mean change of the age']:.1f}" for row in rows)
        errors = ", ".join(f"{robustness[row, 'MAE']:.2f}" for row in rows)
        assert f"| {moves} | {errors} |" in accuracy


def test_accuracy_states_how_many_hands_have_a_part_far_from_the_others(
    repo_root: Path, accuracy: str
) -> None:
    hands: dict[str, dict[str, float]] = {}
    for row in read_cases(repo_root / "results" / "validation" / "cases.csv"):
        if row.table == "A2" and row.assessed is not None:
            hands.setdefault(row.id, {})[row.column] = row.assessed
    ages = [{name: hand[name] for name in ("X", "C", "R1", "R2", "R3")} for hand in hands.values()]
    warned = sum(bool(warnings_of_parts(each, "months")) for each in ages)
    stated = f"{warned} of {len(ages):,} validation hands"
    assert stated in accuracy
    assert stated in " ".join((repo_root / "boneage" / "quality.py").read_text().split())


def test_accuracy_states_where_boxes_land(accuracy: str, metrics: list[dict]) -> None:
    scores = _of(metrics, "S6", "R1-R3")
    for placed in (
        "AR-CNN",
        "random anchors",
        "random anchors of the same sizes",
        "mean boxes",
        "usual anchors",
    ):
        inside = scores[f"box centres inside a region, {placed}"]
        covered = scores[f"regions covered, {placed}"]
        assert f"| {inside:.0f} % | {covered:.0f} % |" in accuracy


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_cards_are_those_of_config_and_results(folder: Path, metrics: list[dict]) -> None:
    config = hub.load_config(folder)
    card = model_card(folder.name, config, metrics)
    assert (folder / hub.CARD).read_text() == card
    assert FOREIGN[bool(config.get("refusal"))] in card
    for band in config["interval"]["bands"] if config.get("interval") else []:
        assert f"| {band['from']:g} | {band['half_width']:.2f} | {band['cases']} |" in card


DOCUMENTS = (
    "README.md", "CONTRIBUTING.md", "docs/accuracy.md", "docs/experiments.md",
    "docs/performance.md", "docs/scale.md", "data/README.md", "evaluate/recorded/README.md",
)  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_name_commands_recipes_and_files_that_exist(repo_root: Path, name: str) -> None:
    text = (repo_root / name).read_text()
    targets = set(re.findall(r"^(\w+):", (repo_root / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make (\w+)", text, re.MULTILINE)) <= targets
    recipes = {path.stem for path in (repo_root / "train" / "recipes").glob("*.toml")} | {"RECIPE"}
    assert set(re.findall(r"-m train (\w+) ", text)) <= recipes
    assert set(re.findall(r"`((?:arcnn|whole|hierarchical)_\w+)`", text)) <= recipes
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert ((repo_root / name).parent / path).exists(), path
    for file in re.findall(r"`([\w/]+\.py)`", text):
        found = list(repo_root.glob(file)) or list((repo_root / "boneage").rglob(file))
        assert found, file
    for module in re.findall(r"python -m (\w+(?:\.\w+)*)", text):
        assert importlib.util.find_spec(module), module


def test_one_version_everywhere(repo_root: Path) -> None:
    assert f"version: {__version__}\n" in (repo_root / "CITATION.cff").read_text()
    assert f"## {__version__} (" in (repo_root / "CHANGELOG.md").read_text()
    project = tomllib.loads((repo_root / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["dynamic"]["version"]["attr"] == "boneage.__version__"


def test_every_requirement_is_pinned_with_its_reason(repo_root: Path) -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (repo_root / name).read_text().splitlines():
            if line and not line.startswith(("#", "-r")):
                assert re.fullmatch(r"[\w-]+==[\w.]+ +# .+", line), line
