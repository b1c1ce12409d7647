"""What the released hand weights must do on real radiographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from boneage import datasets, hub, images
from boneage.datasets import Case
from boneage.images import Radiograph
from boneage.models.arcnn import ARCNN, Proposals
from boneage.predictor import Assessment, Predictor, released

LARGEST = 60_000_000  # bytes, so that a release fits an ordinary repository
EVERY = 3  # of the test radiographs: enough to tell, quick enough to run often


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.load(device="cpu", precision="fp32")  # whatever the processor is fast at


@pytest.fixture(scope="module")
def cases(rsna_test_dir: Path) -> tuple[Case, ...]:
    return datasets.load(rsna_test_dir).cases[::EVERY]


@pytest.fixture(scope="module")
def radiographs(cases: tuple[Case, ...]) -> list[Radiograph]:
    return [images.read(case.path) for case in cases]


@pytest.fixture(scope="module")
def assessed(
    predictor: Predictor, cases: tuple[Case, ...], radiographs: list[Radiograph]
) -> list[Assessment]:
    return predictor.assess(radiographs, [case.sex for case in cases])


def mae(ages: np.ndarray, cases: tuple[Case, ...]) -> float:
    return float(np.abs(ages - [case.age for case in cases]).mean())


def test_the_error_is_near_what_validation_promised(
    predictor: Predictor, assessed: list[Assessment], cases: tuple[Case, ...]
) -> None:
    promised = predictor.config["provenance"]["metrics"]["validation_mae"]
    assert promised <= 7.6
    # The test radiographs have a reference of several readers, and are assessed better.
    assert mae(np.array([a.age for a in assessed]), cases) < 0.9 * promised


def test_boxes_differ_from_image_to_image(assessed: list[Assessment]) -> None:
    centres = np.array(
        [[((b.x0 + b.x1) / 2, (b.y0 + b.y1) / 2) for b in a.boxes] for a in assessed]
    )
    assert len({tuple(row) for row in centres.reshape(len(centres), -1).round(1)}) > 20
    assert centres[:, 0].std(axis=0).max() > 10  # of 299 px


def test_random_boxes_are_worse(
    predictor: Predictor,
    cases: tuple[Case, ...],
    radiographs: list[Radiograph],
    assessed: list[Assessment],
) -> None:
    model = predictor.model
    assert isinstance(model, ARCNN)
    anchors, generator = model.attention.anchors, torch.Generator().manual_seed(0)
    ages = []
    with torch.inference_mode():
        for start in range(0, len(cases), 16):
            batch = slice(start, start + 16)
            inputs = predictor.preprocess([r.pixels for r in radiographs[batch]])
            sex = torch.tensor([predictor.sexes.index(case.sex or "") for case in cases[batch]])
            chosen = torch.randint(len(anchors), (len(sex), 3), generator=generator)
            anywhere = Proposals(anchors[chosen], torch.zeros(chosen.shape))
            ages.append(model(inputs, sex, anywhere).assembled)
    age = predictor.config["age"]
    at_random = (torch.cat(ages) * age["sd"] + age["mean"]).numpy()
    assert mae(np.array([a.age for a in assessed]), cases) < mae(at_random, cases)


def test_batch_of_1_equals_batch_of_8(
    predictor: Predictor, cases: tuple[Case, ...], radiographs: list[Radiograph]
) -> None:
    sexes = [case.sex for case in cases[:8]]
    together = predictor.assess(radiographs[:8], sexes, batch_size=8)
    alone = predictor.assess(radiographs[:8], sexes, batch_size=1)
    for a, b in zip(together, alone, strict=True):
        assert a.age == pytest.approx(b.age, abs=0.01)
        for name, age in a.components.items():
            assert age == pytest.approx(b.components[name], abs=0.01)


@pytest.mark.parametrize(("id", "sex"), [("1380", "M"), ("1418", "F")])
def test_a_full_size_film_gets_the_age_of_its_small_copy(
    predictor: Predictor, rsna_fullsize_dir: Path, id: str, sex: str
) -> None:
    full = images.read(rsna_fullsize_dir / "images" / f"{id}.png")
    copy = images.read(rsna_fullsize_dir / "copies-299" / f"{id}.webp")
    assert min(full.width, full.height) > 1500
    first, second = predictor.assess([full, copy], sex)
    assert first.age == pytest.approx(second.age, abs=2.5)
    assert not any(w.startswith("Part ") for w in first.warnings + second.warnings)


@pytest.mark.parametrize("depth", [8, 12, 16])
def test_bit_depth_does_not_matter(
    predictor: Predictor, cases: tuple[Case, ...], radiographs: list[Radiograph], depth: int
) -> None:
    deep = [images.from_array(r.pixels.astype(np.uint16) << (depth - 8)) for r in radiographs[:4]]
    sexes = [case.sex for case in cases[:4]]
    for a, b in zip(predictor.assess(radiographs[:4], sexes), predictor.assess(deep, sexes),
                    strict=True):  # fmt: skip
        assert a.age == pytest.approx(b.age, abs=0.1)


def test_weights_folder_is_whole() -> None:
    folder = released("hand")
    config = hub.load_config(folder)
    assert (folder / hub.TENSORS).stat().st_size <= LARGEST
    card = (folder / hub.CARD).read_text()
    assert card.startswith("---\n")
    assert "model-index" in card
    for key in ("data", "training_images", "recipe", "seed", "commit", "metrics"):
        assert config["provenance"][key] not in (None, "", "unknown"), key
    assert config["preprocess"]["resolution"] == 299


def test_the_same_film_mirrored_is_a_hand_of_the_other_side(
    predictor: Predictor, cases: tuple[Case, ...], radiographs: list[Radiograph],
    assessed: list[Assessment],
) -> None:  # fmt: skip
    mirrored = [images.from_array(r.pixels[:, ::-1].copy()) for r in radiographs]
    ages = predictor.assess(mirrored, [case.sex for case in cases])
    differences = [abs(a.age - b.age) for a, b in zip(ages, assessed, strict=True)]
    assert np.median(differences) < 4


def test_tensors_are_finite(predictor: Predictor) -> None:
    values: dict[str, Tensor] = predictor.model.state_dict()
    assert all(value.isfinite().all() for value in values.values())
