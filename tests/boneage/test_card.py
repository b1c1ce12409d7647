from __future__ import annotations

from typing import Any

import pytest

from boneage.card import model_card

RECORD = {
    "table": "B2", "row": "VGG with hierarchical features", "column": "MAE", "published": 4.856,
    "measured": 6.123, "ci95": [5.9, 6.4], "n": 100, "unit": "years", "recorded": False,
    "dataset": "nih-chest-test/test", "weights": "mine@abc",
}  # fmt: skip


def config(task: str, sexes: list[str], data: str) -> dict[str, Any]:
    return {
        "architecture": {"name": "finetuned", "arguments": {"backbone": "resnet18"}},
        "task": task,
        "unit": {"hand": "months", "adult": "years"}[task],
        "sexes": sexes,
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


@pytest.mark.parametrize("data", ["clinic", ""])
def test_unknown_data_claim_no_terms(data: str) -> None:
    card = model_card("mine", config("adult", [], data), [])
    assert "license_name: see-data" in card
    assert "who passes the weights on states its terms" in card


def test_results_of_other_weights_are_left_out() -> None:
    card = model_card("other", config("adult", [], "nih-chest-128"), [RECORD])
    assert "6.12" not in card
    assert "Test results: none yet" in card
