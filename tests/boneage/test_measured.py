from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from boneage import hub
from boneage.errors import InputError
from boneage.measured import measured_error, read_metrics
from boneage.predictor import released

RECORDS = [{"table": "S4", "row": "mine", "measured": 6.1, "weights": "other@1"}]


@pytest.mark.parametrize(("some", "which"), [({}, "by"), ({"selection_images": 9}, "by 9 of")])
def test_error_on_validation_images_where_no_other_is_known(some: dict, which: str) -> None:
    metrics = {"metrics": {"validation_mae": 7.171}}
    provenance = {"validation_images": 1422, "data": "hands", **metrics, **some}
    weights = SimpleNamespace(
        id="mine", revision="0", config={"unit": "months", "provenance": provenance}
    )
    assert measured_error(weights, RECORDS).startswith(
        "Mean absolute error of these weights on the 1,422 validation images of hands, "
        f"{which} which they were selected: 7.17 months."
    )


class TestReadMetrics:
    def test_of_an_evaluation(self, tmp_path: Path) -> None:
        (tmp_path / "metrics.json").write_text(json.dumps(RECORDS))
        assert read_metrics(tmp_path) == RECORDS

    def test_that_comes_with_the_project(self) -> None:
        config = hub.load_config(released("hand"))
        label = f"{released('hand').name}@{config['sha256'][:12]}"
        assert label in {record["weights"] for record in read_metrics()}

    @pytest.mark.parametrize("text", [None, "{"])
    def test_none(self, tmp_path: Path, text: str | None) -> None:
        if text:
            (tmp_path / "metrics.json").write_text(text)
        with pytest.raises(InputError, match=r"holds no readable metrics\.json"):
            read_metrics(tmp_path)
