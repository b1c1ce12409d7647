from __future__ import annotations

from typing import Any

import pytest
import yaml

from boneage.card import model_card, origin

RECORD = {
    "table": "B2", "row": "VGG with hierarchical features", "column": "MAE", "published": 4.856,
    "measured": 6.123, "ci95": [5.9, 6.4], "n": 100, "unit": "years", "recorded": False,
    "dataset": "nih-chest-test/test", "weights": "mine@0123456789ab", "refused": 0,
}  # fmt: skip


def config(task: str, sexes: list[str], data: str) -> dict[str, Any]:
    return {
        "architecture": {"name": "finetuned", "arguments": {"backbone": "resnet18"}},
        "task": task,
        "unit": {"hand": "months", "adult": "years"}[task],
        "sexes": sexes,
        "sha256": "0123456789abcdef",
        "preprocess": {"size": 64, "resolution": 128},
        "provenance": {
            "data": data, "validation_images": 7, "initialisation": "random",
            "metrics": {"validation_mae_assembled": 5.55},
        },
    }  # fmt: skip


def test_adults() -> None:
    card = model_card("mine", config("adult", [], "nih-chest-128"), [RECORD])
    assert "license: apache-2.0" in card
    assert "ChestX-ray14" in card
    assert "RSNA" not in card
    assert "sex is not an input" in card
    assert 'Predictor.load("weights/mine", task="adult")' in card
    assert (
        "| nih-chest-test/test | B2 VGG with hierarchical features MAE | 4.856 | 6.12 "
        "| 5.90 to 6.40 | 100 | 0 |" in card
    )
    assert "Refused images" not in card
    assert "| assembled | 5.55 |" in card


def test_errors_on_images_that_chose_the_weights_are_not_told_as_test_results() -> None:
    detail = {**RECORD, "table": "S1", "row": "MAE", "column": "all"}
    elsewhere = [{**r, "dataset": "mine/test", "measured": 8.5} for r in (RECORD, detail)]
    seen = [
        {**r, "dataset": f"nih/{split}", "measured": 1.25}
        for r in (RECORD, detail)
        for split in ("train", "validation", "all")
    ]
    card = model_card(
        "mine", config("adult", [], "nih-chest-128"), [RECORD, detail, *elsewhere, *seen]
    )
    assert "1.25" not in card
    for dataset, measured in (("nih-chest-test", "6.12"), ("mine", "8.50")):
        assert (
            f"| {dataset}/test | B2 VGG with hierarchical features MAE | 4.856 | {measured}" in card
        )
        details = card.partition(f"by age, on {dataset}/test")[2]
        assert details.partition("| MAE (years) | ")[2].startswith(measured)


def test_training_images_with_their_sexes_and_ages() -> None:
    weights = config("adult", [], "nih-chest-128")
    said = "- Trained on frontal chest radiographs; nothing is known about others."
    assert said in model_card("mine", weights, [])
    weights["provenance"]["training_ages"] = [4.0, 93.5]  # all that members have in common
    assert said in model_card("mine", weights, [])
    weights["preprocess"]["region"] = "upper"
    weights["provenance"] |= {
        "training_images": 1234,
        "training_sexes": {"F": 1000, "M": 233, "unknown": 1},
    }  # fmt: skip
    card = model_card("mine", weights, [])
    assert (
        "- Trained on 1,234 upper halves of frontal chest radiographs (1,000 female, 233 male, 1 "
        "unknown) with ages of 4 to 93.5 years;"
    ) in card
    assert "training sexes" not in card
    weights["provenance"]["from_ct"] = True
    weights["preprocess"]["region"] = "whole"
    assert "- Trained on 1,234 projections of CT volumes (" in model_card("mine", weights, [])


def test_half_of_the_validation_images_selected_the_weights() -> None:
    weights = config("adult", [], "nih-chest-128")
    assert "7 validation images of nih-chest-128, on which" in model_card("mine", weights, [])
    weights["provenance"]["selection_images"] = 4
    weights["provenance"]["initialisation"] = "random"
    assert "on 4 of which the weights were selected:\n" in model_card("mine", weights, [])
    weights["provenance"]["initialisation"] = {"file": "a.safetensors", "provenance": {}}
    assert "were selected; earlier weights were selected on all of them:\n" in model_card(
        "mine", weights, []
    )


def test_the_origin_is_followed_back_to_the_first() -> None:
    first = {"file": "keras.safetensors", "source": "Keras ImageNet", "bn_stats": "nih"}
    stage = {
        "recipe": "vgg", "initialisation": first, "metrics": {"epoch": 3, "validation_mae": 8.214},
    }  # fmt: skip
    assert origin({"file": "model.safetensors", "size": 64, "provenance": stage}) == (
        "recipe vgg at 64 px (epoch 3, validation MAE 8.214), itself from Keras ImageNet, "
        "batch-norm statistics anew of nih images"
    )
    before = {"file": "model.safetensors", "provenance": stage}  # of a version that named no size
    assert origin(before).startswith("recipe vgg (epoch 3, ")
    fusion = {"file": "model.safetensors", "size": 96, "provenance": {"recipe": "late_fusion"}}
    assert origin(fusion) == "recipe late_fusion at 96 px, itself from that of its members"


def test_the_origin_of_a_mean_names_what_its_members_share_once() -> None:
    first = {"file": "keras.safetensors", "source": "Keras ImageNet"}

    def stage(recipe: str, start: dict) -> dict:
        return {"file": "model.safetensors", "provenance": {
            "recipe": recipe, "initialisation": start,
        }}  # fmt: skip

    start = stage("whole", stage("small", first))
    mean = {"mean_of": [stage("a", start), stage("b", start)]}
    assert origin(stage("mean", mean)) == (
        "recipe mean, itself from the mean of [recipe a] and [recipe b], itself from recipe whole, "
        "itself from recipe small, itself from Keras ImageNet"
    )
    alone = {"mean_of": [stage("a", "random"), stage("b", "random")]}
    assert origin(alone) == (
        "the mean of [recipe a, itself from random] and [recipe b, itself from random]"
    )
    assert origin({"mean_of": [start, stage("a", start)]}) == (
        "the mean of [recipe whole] and [recipe a, itself from recipe whole], itself from recipe "
        "small, itself from Keras ImageNet"
    )


def test_hands() -> None:
    card = model_card("mine", config("hand", ["F", "M"], "rsna-299"), [])
    assert "rsna-bone-age-non-commercial" in card
    assert "sex as an input" in card
    assert 'Predictor.load("weights/mine")' in card


@pytest.mark.parametrize(
    ("task", "sexes", "call"),
    [
        ("hand", ["F", "M"], 'read("hand.png"), sex="F")'),
        ("hand", ["M"], 'read("hand.png"), sex="M")'),
        ("hand", [], 'read("hand.png"))'),
        ("adult", [], 'read("image.png"))'),
    ],
)
def test_the_example_names_a_sex_that_the_weights_are_for(
    task: str, sexes: list[str], call: str
) -> None:
    assert call in model_card("mine", config(task, sexes, "clinic"), [])


@pytest.mark.parametrize("data", ["clinic", "nihon-ct", ""])
def test_unknown_data_claim_no_terms(data: str) -> None:
    card = model_card("mine", config("adult", [], data), [])
    assert "license_name: see-data" in card
    assert "whoever passes the weights on must state its terms" in card


@pytest.mark.parametrize(("id", "sha256"), [("other", "0123456789ab"), ("mine", "ff")])
def test_results_of_other_weights_are_left_out(id: str, sha256: str) -> None:
    card = model_card(id, config("adult", [], "nih-chest-128") | {"sha256": sha256}, [RECORD])
    assert "6.12" not in card
    assert "Test results: none yet" in card


def test_results_outside_the_papers_tables_are_its_own_too() -> None:
    record = RECORD | {"table": "S4", "row": "mine", "published": None}
    card = model_card("mine", config("adult", [], "nih-chest-128"), [record])
    assert "| S4 mine MAE | - | 6.12 | 5.90 to 6.40 | 100 | 0 |" in card
    assert "Refused images" not in card
    assert "value: 6.123" in card


class TestOrderOfMethods:
    def card(self, architecture: str, *rows: tuple[str, float, float | None]) -> str:
        weights = config("adult", [], "nih-chest-128")
        weights["architecture"] = {"name": architecture, "arguments": {}}
        records = [
            RECORD | {"row": row, "published": published, "measured": measured, "weights": "other"}
            for row, published, measured in rows
        ]
        return model_card("mine", weights, records)

    def test_another_than_published(self) -> None:
        rows = (("VGG", 9.7, 9.84), ("GoogLeNet", 5.5, 14.2), ("connected", 4.9, 10.19))
        card = self.card("hierarchical", *rows, ("early fusion", 6.9, None))
        assert "same order here? No." in card
        assert "- published: connected 4.90; GoogLeNet 5.50; VGG 9.70\n" in card
        assert "- measured: VGG 9.84; connected 10.19; GoogLeNet 14.20\n" in card

    def test_as_published(self) -> None:
        card = self.card("hierarchical", ("VGG", 9.7, 9.84), ("connected", 4.9, 9.1))
        assert "same order here? Yes." in card

    def test_nothing_to_compare(self) -> None:
        assert "same order" not in self.card("hierarchical", ("VGG", 9.7, 9.8))

    def test_of_hands_says_nothing(self) -> None:
        weights = config("hand", ["F", "M"], "rsna-299")
        weights["architecture"] = {"name": "hierarchical", "arguments": {}}
        rows = [RECORD | {"row": row} for row in "ab"]
        assert "same order" not in model_card("mine", weights, rows)

    def test_of_other_networks_says_nothing(self) -> None:
        assert "same order" not in self.card("finetuned", ("VGG", 9.7, 9.8), ("other", 4.9, 9.1))


def test_on_the_hub_it_says_how_to_load_it_from_there() -> None:
    card = model_card("mine", config("hand", ["F", "M"], "rsna-299"), [], "someone/bone-age")
    assert 'Predictor.load("someone/bone-age")' in card
    assert "`revision=`" in card
    assert "weights/mine" not in card


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("rsna-299", {"datasets": ["rsna-pediatric-bone-age-2017"], "license": "other"}),
        ("nih-chest-128", {"datasets": ["nih-chestx-ray14"], "license": "apache-2.0"}),
        ("clinic", {"datasets": None, "license": "other"}),
    ],
)
def test_metadata_name_data_and_licence(data: str, expected: dict[str, Any]) -> None:
    card = model_card("mine", config("adult", [], data), [RECORD])
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert {key: metadata.get(key) for key in expected} == expected
    ((result,),) = [index["results"] for index in metadata["model-index"]]
    assert result["dataset"]["type"] == "nih-chest-test"
    assert result["metrics"][0]["value"] == 6.123
    assert ("license_link" in metadata) == (data == "rsna-299")


def test_errors_by_age_and_sex() -> None:
    overall = RECORD | {"table": "S1", "row": "RMSE", "column": "all", "measured": 8.0}
    old = RECORD | {"table": "S2", "row": "70 to 80 years", "column": "all", "n": 9}
    women = old | {"column": "female", "measured": 1.25, "n": 1, "ci95": None}
    card = model_card("mine", config("adult", [], "nih-chest-128"), [overall, old, women])
    assert "| RMSE (years) | 8.00 (5.90 to 6.40), 100 |  |  |" in card
    cells = "6.12 (5.90 to 6.40), 9 | 1.25, 1 |  |"
    assert f"| MAE, 70 to 80 years (years) | {cells}" in card


def test_refused_cases_are_counted() -> None:
    card = model_card(
        "mine", config("adult", [], "nih-chest-128"), [RECORD | {"refused": 2, "n": 98}]
    )
    assert "| 98 | 2 |\n" in card
    assert "Refused images have no age" in card


def test_what_was_calibrated() -> None:
    plain = model_card("mine", config("hand", ["F", "M"], "rsna-299"), [])
    assert "is not recognised as such" in plain
    assert "Prediction intervals" not in plain
    bands = [
        {"from": 0.0, "half_width": 30.5, "cases": 50},
        {"from": 48.0, "half_width": 14.25, "cases": 661},
    ]
    interval = {"coverage": 0.9, "bands": bands, "weights_selected_on": "the other half"}
    calibrated = {"interval": interval, "refusal": {"threshold": 1.0}}
    card = model_card("mine", config("hand", ["F", "M"], "rsna-299") | calibrated, [])
    assert "An image that is recognised as unlike the training images is refused." in card
    assert "with a probability of 90 %" in card
    assert "Images that did: the other half." in card
    assert "| 48 | 14.25 | 661 |" in card
