from __future__ import annotations

from typing import Any

import pytest

from boneage.card import model_card

RECORD = {
    "table": "B2", "row": "VGG with hierarchical features", "column": "MAE", "published": 4.856,
    "measured": 6.123, "ci95": [5.9, 6.4], "n": 100, "unit": "years", "recorded": False,
    "dataset": "nih-chest-test/test", "weights": "mine@0123456789ab",
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
    assert "sex is no input" in card
    assert 'Predictor.load("weights/mine", task="adult")' in card
    assert "| B2 VGG with hierarchical features MAE | 4.856 | 6.12 | 5.90 to 6.40 | 100 |" in card
    assert "| assembled | 5.55 |" in card


def test_hands() -> None:
    card = model_card("mine", config("hand", ["F", "M"], "rsna-299"), [])
    assert "rsna-bone-age-non-commercial" in card
    assert "sex as an input" in card
    assert 'Predictor.load("weights/mine")' in card


@pytest.mark.parametrize("data", ["clinic", "nihon-ct", ""])
def test_unknown_data_claim_no_terms(data: str) -> None:
    card = model_card("mine", config("adult", [], data), [])
    assert "license_name: see-data" in card
    assert "who passes the weights on states its terms" in card


@pytest.mark.parametrize(("id", "sha256"), [("other", "0123456789ab"), ("mine", "ff")])
def test_results_of_other_weights_are_left_out(id: str, sha256: str) -> None:
    card = model_card(id, config("adult", [], "nih-chest-128") | {"sha256": sha256}, [RECORD])
    assert "6.12" not in card
    assert "Test results: none yet" in card


def test_results_outside_the_papers_tables_are_its_own_too() -> None:
    record = RECORD | {"table": "S4", "row": "mine", "published": None}
    card = model_card("mine", config("adult", [], "nih-chest-128"), [record])
    assert "| S4 mine MAE |  | 6.12 | 5.90 to 6.40 | 100 |" in card
    assert "value: 6.123" in card
