from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from boneage import bundled, hub, images
from boneage.errors import InputError
from boneage.images import Radiograph
from boneage.predictor import Predictor, released
from boneage.refusal import NO_HAND, POSES, Features, Judgement


@pytest.fixture(scope="module")
def predictor(untrained: Path) -> Predictor:
    return Predictor.load(untrained, device="cpu")


@pytest.fixture(scope="module")
def radiographs(rsna_test_dir: Path) -> list[Radiograph]:
    return [images.read(rsna_test_dir / "images" / f"{id}.webp") for id in range(4400, 4408)]


class TestAssess:
    def test_always_a_list(self, predictor: Predictor, radiographs: list[Radiograph]) -> None:
        assert len(predictor.assess(radiographs[0], "F")) == 1
        assert len(predictor.assess(radiographs[:3], "F")) == 3
        assert predictor.assess([], "F") == []

    def test_assembled_age_is_equation_1(
        self, predictor: Predictor, radiographs: list[Radiograph]
    ) -> None:
        (assessment,) = predictor.assess(radiographs[0], "M")
        ages = assessment.components
        parts = [ages[name] for name in ("C", "X", "R1", "R2", "R3")]
        assert assessment.age == ages["assembled"] == pytest.approx(sum(parts) / 5, abs=1e-3)
        assert [box.age for box in assessment.boxes] == [ages["R1"], ages["R2"], ages["R3"]]
        assert sorted((box.score for box in assessment.boxes), reverse=True) == [
            box.score for box in assessment.boxes
        ]

    def test_one_sex_for_all_or_one_each(
        self, predictor: Predictor, radiographs: list[Radiograph]
    ) -> None:
        mixed = predictor.assess(radiographs[:2], ["F", "M"])
        girls = predictor.assess(radiographs[:2], "F")
        assert [a.sex for a in mixed] == ["F", "M"]
        assert mixed[0].age == pytest.approx(girls[0].age, abs=0.01)
        assert mixed[1].age != pytest.approx(girls[1].age, abs=0.01)

    def test_boxes_are_in_source_pixels(
        self, predictor: Predictor, radiographs: list[Radiograph]
    ) -> None:
        """The same picture stretched to 3 : 1 has the same boxes, stretched alike."""
        pixels = np.asarray(radiographs[0].pixels)
        wide = images.from_array(np.repeat(np.repeat(pixels, 2, axis=0), 6, axis=1))
        (small,) = predictor.assess(radiographs[0], "F")
        (large,) = predictor.assess(wide, "F")
        assert small.boxes
        for a, b in zip(small.boxes, large.boxes, strict=True):
            assert (b.x0, b.x1) == pytest.approx((a.x0 * 6, a.x1 * 6))
            assert (b.y0, b.y1) == pytest.approx((a.y0 * 2, a.y1 * 2))
            assert 0 <= a.x0 < a.x1 <= 299
            assert 0 <= a.y0 < a.y1 <= 299

    def test_heat_map_on_request(self, predictor: Predictor, radiographs: list[Radiograph]) -> None:
        plain, explained = (
            predictor.assess(radiographs[:2], "F", heat_map=wanted) for wanted in (False, True)
        )
        assert plain[0].heat_map is None
        for a, b in zip(plain, explained, strict=True):
            assert b.age == pytest.approx(a.age, abs=1e-3)
            assert b.heat_map.shape == (4, 4)
            assert b.heat_map.min() >= 0
            assert b.heat_map.max() == pytest.approx(1) or not b.heat_map.any()

    def test_threads_may_share_a_predictor(
        self, predictor: Predictor, radiographs: list[Radiograph]
    ) -> None:
        def assess(number: int) -> float:
            (assessment,) = predictor.assess(radiographs[0], "F", heat_map=number % 2 == 0)
            return assessment.age

        with ThreadPoolExecutor(4) as pool:
            ages = list(pool.map(assess, range(12)))
        assert max(ages) - min(ages) < 0.01

    def test_any_iterable(self, predictor: Predictor, radiographs: list[Radiograph]) -> None:
        assert len(predictor.assess((r for r in radiographs[:3]), "F", batch_size=2)) == 3
        with pytest.raises(InputError, match="at least 1"):
            predictor.assess(radiographs[:3], "F", batch_size=0)


class TestRefusal:
    @pytest.mark.parametrize("heat_map", [False, True])
    def test_what_seems_turned_is_righted_and_looked_at_again(
        self,
        predictor: Predictor,
        radiographs: list[Radiograph],
        monkeypatch: pytest.MonkeyPatch,
        heat_map: bool,
    ) -> None:
        """Of an upright hand and two that seem turned, the first of these is none."""
        turned, seen = POSES[1], []
        first = [Judgement(), Judgement(turned.reason), Judgement(turned.reason)]
        judgements = iter([first, [Judgement(NO_HAND), Judgement(None, ("cut off",))]])

        def judge(features: Features) -> list[Judgement]:
            seen.append(features)
            return next(judgements)

        refusal = SimpleNamespace(
            judge=judge,
            poses=lambda features: (None, np.array([0, 1, 1])),
            FOREIGN=NO_HAND,
            POSES=POSES,
        )
        monkeypatch.setattr(predictor, "refusal", refusal)
        upright, *others = radiographs[:3]
        posed = [replace(r, pixels=np.ascontiguousarray(turned.apply(r.pixels))) for r in others]
        found = predictor.assess([upright, *posed], ["F", "M", "F"], heat_map=heat_map)
        assert [assessment.refused for assessment in found] == [None, NO_HAND, turned.reason]
        assert found[0].age is not None
        assert len(seen[0].content) == 3
        np.testing.assert_allclose(
            seen[1].content, predictor.features(others).content, rtol=1e-4, atol=1e-4
        )


class TestSex:
    def test_of_the_file_where_none_is_given(
        self, predictor: Predictor, radiographs: list[Radiograph]
    ) -> None:
        import dataclasses

        tagged = dataclasses.replace(radiographs[0], sex="M")
        (own,) = predictor.assess(tagged)
        assert own.sex == "M"
        assert not any("patient" in warning for warning in own.warnings)
        (given,) = predictor.assess(tagged, "F")
        assert given.sex == "F"  # what is given wins, and is told
        assert any("says that the patient is male" in warning for warning in given.warnings)

    @pytest.mark.parametrize("sex", [None, "X", "female"])
    def test_missing_or_unknown_is_refused(
        self, predictor: Predictor, radiographs: list[Radiograph], sex: str | None
    ) -> None:
        with pytest.raises(InputError, match="this model needs it: F or M"):
            predictor.assess(radiographs[0], sex)

    def test_counts_must_agree(self, predictor: Predictor, radiographs: list[Radiograph]) -> None:
        with pytest.raises(InputError, match="3 radiographs but 2 sexes"):
            predictor.assess(radiographs[:3], ["F", "M"])

    @pytest.mark.parametrize("foreign", ["film.png", Path("film.png"), np.zeros((64, 64)), [b""]])
    def test_anything_but_radiographs(self, predictor: Predictor, foreign: Any) -> None:
        with pytest.raises(InputError, match="A radiograph comes from read or from_array"):
            predictor.assess(foreign, "F")

    def test_a_sex_that_is_no_text(
        self, predictor: Predictor, radiographs: list[Radiograph]
    ) -> None:
        with pytest.raises(InputError, match="is 1; this model needs it"):
            predictor.assess(radiographs[0], 1)

    def test_weights_for_the_other_sex(
        self, untrained: Path, tmp_path: Path, radiographs: list[Radiograph]
    ) -> None:
        from boneage.models.registry import build

        arguments = {"backbone": "resnet18", "size": 128, "part_size": 64, "sexes": 1}
        config = hub.load_config(untrained) | {
            "architecture": {"name": "arcnn", "arguments": arguments},
            "sexes": ["M"],
        }
        hub.save(tmp_path, build("arcnn", arguments), config)
        predictor = Predictor.load(tmp_path)
        assert predictor.assess(radiographs[0], "M")[0].sex == "M"
        with pytest.raises(InputError, match="for male cases only"):
            predictor.assess(radiographs[0], "F")


class TestToDict:
    def test_is_the_contract(self, predictor: Predictor, radiographs: list[Radiograph]) -> None:
        (assessment,) = predictor.assess(radiographs[0], "F", heat_map=True)
        document = json.loads(json.dumps(assessment.to_dict()))
        assert list(document) == [
            "id", "task", "sex", "age", "unit", "interval", "components", "boxes", "warnings",
            "refused", "model",
        ]  # fmt: skip
        assert document["id"] == "4400"
        assert document["task"] == "hand"
        assert document["unit"] == "months"
        assert document["age"] == round(assessment.age, 2)
        assert list(document["components"]) == ["X", "C", "R1", "R2", "R3", "assembled"]
        assert list(document["boxes"][0]) == ["x0", "y0", "x1", "y1", "score", "age"]
        assert document["model"] == {"id": "tiny", "revision": predictor.revision}
        assert document["interval"] is None
        assert document["refused"] is None


class TestReleased:
    @pytest.fixture
    def weights(
        self,
        untrained: Path,
        untrained_adult: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Path:
        """Three folders; by name the adult one for the upper half comes first."""
        shutil.copytree(untrained, tmp_path / "hand")
        shutil.copytree(untrained_adult, tmp_path / "adult-whole")
        config = hub.load_config(untrained_adult)
        config["preprocess"]["region"] = "upper"
        upper = shutil.copytree(untrained_adult, tmp_path / "adult-upper")
        (upper / hub.CONFIG).write_text(json.dumps(config))
        monkeypatch.setattr(bundled, "folder", lambda _: tmp_path)
        return tmp_path

    def test_by_task_and_region(self, weights: Path) -> None:
        assert released("hand") == weights / "hand"
        assert released("adult") == weights / "adult-whole"
        assert released("adult", "upper") == weights / "adult-upper"
        with pytest.raises(InputError, match="task adult and the lower half"):
            released("adult", "lower")

    def test_are_loaded(self, weights: Path) -> None:
        assert Predictor.load(task="adult").preprocess.region == "whole"
        assert Predictor.load(task="adult", region="upper").preprocess.region == "upper"


class TestLoad:
    def test_of_another_task(self, untrained: Path) -> None:
        with pytest.raises(InputError, match="are for the task hand, not adult"):
            Predictor.load(untrained, task="adult")

    def test_a_missing_folder_is_named_without_its_path(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no weights folder gone") as error:
            Predictor.load(tmp_path / "gone")
        assert str(tmp_path) not in str(error.value)

    @pytest.mark.parametrize("device", ["abacus", "hpu", "meta", "privateuseone"])
    def test_an_unknown_device(self, untrained: Path, device: str) -> None:
        with pytest.raises(InputError, match=f"no device '{device}'"):
            Predictor.load(untrained, device=device)

    def test_a_folder_has_no_revisions(self, untrained: Path) -> None:
        for weights in (untrained, None):
            with pytest.raises(InputError, match="a folder here, which has no revisions"):
                Predictor.load(weights, revision="main")

    def test_id_and_revision(self, untrained: Path, tmp_path: Path) -> None:
        copy = shutil.copytree(untrained, tmp_path / "mine")
        predictor = Predictor.load(copy)
        assert predictor.id == "mine"
        assert hub.load_config(copy)["sha256"].startswith(predictor.revision)


class TestWithoutWaiting:
    def test_the_network_is_built_by_the_first_assessment(
        self, untrained: Path, predictor: Predictor, radiographs: list[Radiograph]
    ) -> None:
        late, known = (
            Predictor.load(untrained, device="cpu", precision="fp32", wait=wait)
            for wait in (False, True)
        )
        assert late.sexes == predictor.sexes
        assert late._network is None
        (assessment,), (known,) = (p.assess(radiographs[0], "F") for p in (late, known))
        assert assessment == known

    def test_it_is_built_once_whoever_asks(
        self, untrained: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        built = []
        build = hub.build_network

        def counted(*arguments: Any) -> Any:
            built.append(build(*arguments))
            return built[-1]

        monkeypatch.setattr(hub, "build_network", counted)
        late = Predictor.load(untrained, device="cpu", wait=False)
        with ThreadPoolExecutor(4) as threads:
            networks = list(threads.map(lambda _: late.model, range(8)))
        assert len(built) == 1
        assert all(network is built[0] for network in networks)

    def test_an_unknown_architecture_is_found_at_once(
        self, untrained: Path, tmp_path: Path
    ) -> None:
        folder = shutil.copytree(untrained, tmp_path / "later")
        config = json.loads((folder / hub.CONFIG).read_text())
        config["architecture"]["name"] = "transformer"
        (folder / hub.CONFIG).write_text(json.dumps(config))
        with pytest.raises(InputError, match="Unknown architecture 'transformer'"):
            Predictor.load(folder, wait=False)

    def test_altered_tensors_are_found_at_once(self, untrained: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(untrained, tmp_path / "altered")
        tensors = bytearray((folder / hub.TENSORS).read_bytes())
        tensors[-1] ^= 1
        (folder / hub.TENSORS).write_bytes(tensors)
        with pytest.raises(InputError, match="altered is not the file"):
            Predictor.load(folder, wait=False)

    def test_another_task_is_found_at_once(self, untrained: Path) -> None:
        with pytest.raises(InputError, match="for the task hand, not adult"):
            Predictor.load(untrained, task="adult", wait=False)

    def test_what_fails_is_told_each_time(self, untrained: Path) -> None:
        late = Predictor.load(untrained, device="abacus", wait=False)
        for _ in range(2):
            with pytest.raises(InputError, match="no device 'abacus'"):
                late.prepare()


def test_precisions_are_tried_without_gradients(
    untrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def choose(wanted: str, device: torch.device, trial: Callable[[], None]) -> str:
        note = register_module_forward_pre_hook(
            lambda *_: seen.append(torch.is_inference_mode_enabled())
        )
        trial()
        note.remove()
        return "fp32"

    monkeypatch.setattr("boneage.predictor.choose_precision", choose)
    Predictor.load(untrained).prepare()
    assert seen
    assert all(seen)
