from __future__ import annotations

import json
from pathlib import Path

import pytest

from boneage import hub
from boneage.errors import InputError
from boneage.measured import read_metrics
from boneage.predictor import released

RECORDS = [{"table": "S4", "row": "mine", "measured": 6.1}]


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
