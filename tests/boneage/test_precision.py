from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from boneage import images, precision
from boneage.errors import InputError
from boneage.precision import choose_precision, computing_in, fast_bf16, forbid_tf32
from boneage.predictor import Predictor

CPU = torch.device("cpu")


def never() -> None:
    raise AssertionError("no trial is needed")


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def have(*names: str) -> None:
        found = dict.fromkeys(names, True)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, **found})

    return have


class TestChoice:
    def test_what_is_asked_for_is_taken(self, flags: Callable[..., None]) -> None:
        flags()
        assert choose_precision("bf16", CPU, never) == "bf16"
        flags("amx_bf16")
        assert choose_precision("fp32", CPU, never) == "fp32"

    def test_unknown_precisions_are_refused(self) -> None:
        with pytest.raises(InputError, match="no precision 'fp16'; known: auto, bf16, fp32"):
            choose_precision("fp16", CPU, never)

    @pytest.mark.parametrize(
        ("names", "fast", "taken"),
        [(("amx_bf16", "avx512_bf16"), True, "bf16"), ((), False, "fp32")],
    )
    def test_by_the_processors_flags(
        self, flags: Callable[..., None], names: tuple[str, ...], fast: bool, taken: str
    ) -> None:
        flags(*names)
        assert fast_bf16(CPU) is fast
        assert choose_precision("auto", CPU, never) == taken

    @pytest.mark.parametrize("flag", ["avx512_bf16", "bf16"])
    @pytest.mark.parametrize(("bf16", "taken"), [(1.0, "bf16"), (1.9, "fp32"), (3.0, "fp32")])
    def test_by_a_trial_where_flags_do_not_tell(
        self,
        flags: Callable[..., None],
        monkeypatch: pytest.MonkeyPatch,
        flag: str,
        bf16: float,
        taken: str,
    ) -> None:
        """The clock is moved on by the trial itself: by 2 s in fp32."""
        now = 0.0

        def trial() -> None:
            nonlocal now
            now += bf16 if torch.is_autocast_enabled("cpu") else 2.0

        flags(flag)
        assert fast_bf16(CPU) is None
        monkeypatch.setattr(precision.time, "perf_counter", lambda: now)
        assert choose_precision("auto", CPU, trial) == taken


def test_fp32_on_a_gpu_is_not_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    forbid_tf32()
    assert not torch.backends.cudnn.allow_tf32


def test_predictors_forbid_it(monkeypatch: pytest.MonkeyPatch, untrained: Path) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    Predictor.load(untrained, device="cpu")
    assert not torch.backends.cudnn.allow_tf32


def test_computing_in_a_precision() -> None:
    convolution, image = torch.nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8)
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with computing_in(CPU, name):
            assert convolution(image).dtype == dtype


@pytest.fixture(scope="module")
def predictors(untrained: Path) -> dict[str, Predictor]:
    return {
        name: Predictor.load(untrained, device="cpu", precision=name) for name in ("bf16", "fp32")
    }


class TestPredictor:
    def test_bf16_moves_ages_little(
        self, predictors: dict[str, Predictor], rsna_test_dir: Path
    ) -> None:
        films = [images.read(rsna_test_dir / "images" / f"{id}.webp") for id in (4400, 4401)]
        ages = {
            name: [a.components["X"] for a in predictor.assess(films, "F")]
            for name, predictor in predictors.items()
        }
        assert ages["bf16"] != ages["fp32"]
        assert ages["bf16"] == pytest.approx(ages["fp32"], abs=1)

    def test_heads_and_scores_stay_in_fp32(self, predictors: dict[str, Predictor]) -> None:
        with torch.inference_mode(), computing_in(CPU, "bf16"):
            output = predictors["bf16"].model(torch.rand(1, 3, 128, 128), torch.tensor([0]))
        assert output.proposals.scores.dtype == output.proposals.boxes.dtype == torch.float32
        assert {age.dtype for age in output.components.values()} == {torch.float32}

    def test_heat_map_in_bf16(self, predictors: dict[str, Predictor], rsna_test_dir: Path) -> None:
        film = images.read(rsna_test_dir / "images" / "4400.webp")
        (bf16,), (fp32,) = (
            predictors[name].assess(film, "F", heat_map=True) for name in ("bf16", "fp32")
        )
        assert bf16.heat_map.dtype == np.float32
        assert np.abs(bf16.heat_map - fp32.heat_map).max() < 0.1

    def test_unknown_precision(self, untrained: Path) -> None:
        with pytest.raises(InputError, match="There is no precision 'int8'"):
            Predictor.load(untrained, precision="int8")
