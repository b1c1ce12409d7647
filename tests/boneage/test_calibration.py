from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from boneage import calibration, hub
from boneage.calibration import Intervals, conformal_quantile, fit_intervals, half_selected
from boneage.datasets import Case
from boneage.errors import InputError
from boneage.predictor import Predictor
from boneage.refusal import Refusal


def case(id: str, patient: str | None = None) -> Case:
    return Case(id, Path(f"{id}.png"), "validation", 100.0, "F", patient)


class TestHalf:
    def test_is_about_half_and_always_the_same(self) -> None:
        chosen = [calibration.calibrates(case(str(id))) for id in range(2000)]
        assert 0.47 < np.mean(chosen) < 0.53
        assert chosen[:8] == [True, False, False, True, False, True, False, True]

    def test_never_parts_a_patient(self) -> None:
        for patient in map(str, range(20)):
            assert len({calibration.calibrates(case(str(id), patient)) for id in range(9)}) == 1


def test_too_few_hands_are_told_before_any_is_assessed(
    untrained: Path, rsna_test_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    for id in ("4360", "4361"):
        shutil.copy(rsna_test_dir / "images" / f"{id}.webp", tmp_path / "images")
    labels = "id,split,boneage,male\n4360,train,100,True\n4361,validation,100,False\n"
    (tmp_path / "labels.csv").write_text(labels)
    with pytest.raises(InputError, match=r"1 validation images; .* from 99 at least"):
        calibration.calibrate(untrained, tmp_path)


@pytest.fixture
def chests(nih_test_dir: Path, tmp_path: Path) -> Path:
    """A hundred and ten chest radiographs to learn from, as many to validate with."""
    labels = (nih_test_dir / "labels.csv").read_text().splitlines()
    place = labels[0].split(",").index("split")
    rows = [line.split(",") for line in labels[1:221]]
    for number, row in enumerate(rows):
        row[place] = ("train", "validation")[number % 2]
    for row in rows:  # a patient is in one split alone
        row[labels[0].split(",").index("patient")] += row[place]
    folder = tmp_path / "chests"
    folder.mkdir()
    (folder / "images").symlink_to(nih_test_dir / "images")
    (folder / "labels.csv").write_text("\n".join([labels[0], *map(",".join, rows)]) + "\n")
    return folder


def test_weights_for_adults_learn_what_to_refuse(
    untrained_adult: Path, chests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "UPRIGHT", 60)
    monkeypatch.setattr(calibration, "TURNED", 60)
    monkeypatch.setattr(calibration, "_threshold", lambda *learnt: 9.0)
    weights = shutil.copytree(untrained_adult, tmp_path / "weights")
    entries = calibration.calibrate(weights, chests)
    assert entries["refusal"].keys() == {"threshold", "data", "validation"}
    assert entries["refusal"]["validation"]["images"] == 110
    arrays = hub.load_calibration(weights, hub.load_config(weights))
    assert arrays.keys() == set(Refusal.ARRAYS)
    assert len(arrays["centre"]) == len(Refusal.POSES)
    predictor = Predictor.load(weights, task="adult", device="cpu")
    assert type(predictor.refusal) is Refusal


def test_of_few_adults_only_intervals_are_found(
    untrained_adult: Path, chests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "FEWEST", 111)
    weights = shutil.copytree(untrained_adult, tmp_path / "weights")
    entries = calibration.calibrate(weights, chests)
    assert entries["refusal"] is None
    assert entries["interval"]["cases"] == 26
    assert not (weights / hub.CALIBRATION).exists()


class TestConformalQuantile:
    @pytest.mark.parametrize(
        ("n", "coverage", "rank"), [(9, 0.9, 9), (10, 0.9, 10), (19, 0.9, 18), (99, 0.9, 90),
                                    (4, 0.5, 3), (9, 0.7, 7)]
    )  # fmt: skip
    def test_is_the_error_of_rank_n_plus_1_times_coverage(
        self, n: int, coverage: float, rank: int
    ) -> None:
        errors = np.random.default_rng(0).permutation(np.arange(1.0, n + 1))
        assert conformal_quantile(errors, coverage) == rank

    def test_too_few_cases(self) -> None:
        with pytest.raises(InputError, match=r"8 cases are too few .* at least 9"):
            conformal_quantile(np.arange(8.0), 0.9)

    def test_a_patient_with_many_films_counts_once(self) -> None:
        """Nine patients: the one with a hundred bad films is a ninth of them, not most."""
        errors = np.array([1, 2, 3, 4, 5, 6, 7, 8] + 100 * [50.0])
        patients = [*"abcdefgh", *(100 * ["i"])]
        assert conformal_quantile(errors, 0.8, patients) == 8
        assert conformal_quantile(errors, 0.9, patients) == 50
        with pytest.raises(InputError, match="9 cases"):
            conformal_quantile(errors, 0.95, patients)

    def test_covers_new_cases_as_promised(self) -> None:
        rng = np.random.default_rng(0)
        covered = [
            np.mean(np.abs(rng.laplace(size=500)) <= conformal_quantile(errors, 0.9))
            for errors in np.abs(rng.laplace(size=(1000, 60)))
        ]
        assert np.mean(covered) == pytest.approx(0.9, abs=0.01)


def sample(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Reference and assessed ages, whose error grows: 6 months SD below six years, 12 above."""
    assessed = rng.uniform(0, 216, n)
    return assessed + rng.normal(0, np.where(assessed < 72, 6, 12)), assessed


@pytest.fixture(scope="module")
def config() -> dict:
    """Of weights with intervals, as it is read back."""
    entry = fit_intervals(*sample(np.random.default_rng(1), 2000), "months")
    return json.loads(json.dumps({"interval": entry, "age": {"lowest": 0.0, "highest": 228.0}}))


class TestIntervals:
    def test_of_weights_without(self) -> None:
        assert Intervals.of({"interval": None}) is None
        assert Intervals.of({}) is None

    def test_cover_new_cases_in_every_band(self, config: dict) -> None:
        intervals = Intervals.of(config)
        ages, assessed = sample(np.random.default_rng(2), 5000)
        low, high = np.array([intervals.around(age) for age in assessed]).T
        inside = (low <= ages.clip(0, 228)) & (ages.clip(0, 228) <= high)
        assert 0.88 < inside[assessed < 72].mean() < 0.95
        assert 0.88 < inside[assessed >= 72].mean() < 0.95
        assert (high - low)[assessed > 100].mean() > 1.5 * (high - low)[assessed < 60].mean()

    def test_stay_in_the_reported_ages(self, config: dict) -> None:
        intervals = Intervals.of(config)
        assert intervals.around(1.0)[0] == 0
        assert intervals.around(227.0)[1] == 228

    def test_bands_hold_enough_cases(self, config: dict) -> None:
        bands = config["interval"]["bands"]
        assert bands[0]["from"] == 0
        assert all(band["cases"] >= calibration.LEAST for band in bands)
        assert all(band["from"] % 24 == 0 for band in bands)
        assert sum(band["cases"] for band in bands) == 2000
        assert len(bands) == 9

    def test_few_cases_make_one_band(self) -> None:
        assessed = np.linspace(20, 90, 40)
        entry = fit_intervals(assessed + 3, assessed, "years")
        assert [band["from"] for band in entry["bands"]] == [0]
        assert entry["bands"][0]["half_width"] == 3

    def test_bands_count_patients_not_films(self) -> None:
        assessed = np.repeat(np.linspace(20, 90, 60), 50)
        patients = np.repeat(np.arange(60), 50).astype(str)
        entry = fit_intervals(assessed + 3, assessed, "years", patients)
        assert [(band["cases"], band["patients"]) for band in entry["bands"]] == [(3000, 60)]

    def test_the_band_is_that_of_the_assessed_age(self) -> None:
        intervals = Intervals(0.9, (0, 60, 120), (10, 20, 30), 0, 228)
        for age, width in ((0, 10), (59.99, 10), (60, 20), (119, 20), (120, 30), (180, 30)):
            low, high = intervals.around(age)
            assert high - age == pytest.approx(width)
            assert age - low == pytest.approx(min(width, age))


HALF, WHOLE = {"provenance": {"selection_images": 5}}, {"provenance": {"epoch": 1}}


@pytest.mark.parametrize(
    ("provenance", "half"),
    [
        ({}, False),
        ({"selection_images": 5, "initialisation": "random"}, True),
        ({"selection_images": 5, "initialisation": {"file": "keras"}}, True),
        ({"selection_images": 5, "initialisation": {"provenance": {"epoch": 1}}}, False),
        ({"selection_images": 5, "initialisation": {"provenance": {"selection_images": 5}}}, True),
        ({"selection_images": 5, "initialisation": {"mean_of": [HALF, HALF]}}, True),
        ({"selection_images": 5, "initialisation": {"mean_of": [HALF, WHOLE]}}, False),
    ],
)
def test_which_images_selected_the_weights(provenance: dict, half: bool) -> None:
    """What a training started from counts too."""
    assert half_selected(provenance) is half


class TestWeightsFolder:
    @pytest.fixture
    def folder(self, untrained: Path, tmp_path: Path) -> Path:
        folder = shutil.copytree(untrained, tmp_path / "tiny")
        arrays = {"mean": np.arange(3, dtype=np.float32)}
        hub.save_calibration(folder, {"interval": {"coverage": 0.9}, "refusal": {"x": 1}}, arrays)
        return folder

    def test_holds_what_was_added(self, folder: Path, untrained: Path) -> None:
        config, before = hub.load_config(folder), hub.load_config(untrained)
        assert config["interval"] == {"coverage": 0.9}
        assert config["refusal"]["x"] == 1
        assert hub.load_calibration(folder, config)["mean"].tolist() == [0, 1, 2]
        added = ("interval", "refusal")
        assert {k: v for k, v in config.items() if k not in added} == {
            k: v for k, v in before.items() if k not in added
        }

    def test_without_a_refusal_there_is_no_file(self, untrained: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(untrained, tmp_path / "tiny")
        hub.save_calibration(folder, {"interval": {"coverage": 0.9}, "refusal": None}, {})
        assert not (folder / hub.CALIBRATION).exists()
        assert hub.load_calibration(folder, hub.load_config(folder)) == {}

    def test_an_altered_file_is_refused(self, folder: Path) -> None:
        data = (folder / hub.CALIBRATION).read_bytes()
        (folder / hub.CALIBRATION).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(InputError, match=r"not the file that config\.json describes"):
            hub.load(folder)

    def test_a_missing_file_is_named(self, folder: Path) -> None:
        (folder / hub.CALIBRATION).unlink()
        with pytest.raises(InputError, match=r"tiny holds no calibration\.safetensors"):
            hub.load(folder)

    def test_a_missing_file_can_be_made_anew(self, folder: Path, tmp_path: Path) -> None:
        (folder / hub.CALIBRATION).unlink()
        with pytest.raises(InputError, match="not a labelled folder"):  # the weights were no matter
            calibration.calibrate(folder, tmp_path)
