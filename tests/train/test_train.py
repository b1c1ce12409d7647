from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch
from urllib.error import URLError

import pytest
import torch
import torchvision
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.profiler import ProfilerActivity, profile

from boneage import datasets, hub, images
from boneage.models.depthwise import StridedDepthwise
from boneage.models.finetuned import FineTuned
from boneage.predictor import Predictor
from train import loop
from train import recipe as recipes
from train.__main__ import chosen_precision, commit, main, thinned

WriteRecipe = Callable[..., Path]
Run = Callable[..., int]
KEPT = Path("weights") / hub.TENSORS
ONE, NO_EPOCH = ("--epochs", "1"), ("--epochs", "0")


class Killed(BaseException):
    """Stands in for the end of the process."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # sums in one order, so equal runs are equal to the last bit


@pytest.fixture
def run(small_folder: Path, tmp_path: Path, write_recipe: WriteRecipe) -> Run:
    """Trains into a folder of ``tmp_path``; returns the exit code."""

    def run(
        *options: str, recipe: Path | None = None, data: Path = small_folder, out: str = "run"
    ) -> int:
        places = ["--data", str(data), "--out", str(tmp_path / out)]
        return main([str(recipe or write_recipe()), *places, "--precision", "no", *options])

    return run


@pytest.fixture
def copied(small_folder: Path, tmp_path: Path) -> Path:
    """The small folder, to be changed."""
    return Path(shutil.copytree(small_folder, tmp_path / "data"))


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """Stands in for a file of ImageNet's weights."""
    file = tmp_path / "first.safetensors"
    state = torchvision.models.mobilenet_v2(weights=None).state_dict()
    save_file(state, file, {"source": "somewhere"})
    return file


def records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


class TestResume:
    @pytest.mark.parametrize(
        ("architecture", "schedule", "at"), [("finetuned", "cosine", 4), ("arcnn", "plateau", 3)]
    )
    def test_killed_and_resumed_ends_with_the_same_weights(
        self,
        run: Run,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        write_recipe: WriteRecipe,
        architecture: str,
        schedule: str,
        at: int,
    ) -> None:
        recipe = write_recipe(architecture, schedule)
        assert run(recipe=recipe, out="whole") == 0

        original = loop.Trainer.train_step

        def killed_at_a_step(self: loop.Trainer, batch: object) -> object:
            if self.step == at:
                raise Killed
            return original(self, batch)

        monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)  # after each step
        monkeypatch.setattr(loop.Trainer, "train_step", killed_at_a_step)
        with pytest.raises(Killed):
            run(recipe=recipe, out="killed")
        monkeypatch.setattr(loop.Trainer, "train_step", original)
        assert run("--resume", recipe=recipe, out="killed") == 0

        whole, killed = (load_file(tmp_path / name / KEPT) for name in ("whole", "killed"))
        assert whole.keys() == killed.keys()
        for name, tensor in whole.items():
            assert torch.equal(tensor, killed[name]), name
        states = [
            torch.load(tmp_path / name / loop.CHECKPOINT, weights_only=True)
            for name in ("whole", "killed")
        ]
        for name, tensor in states[0]["model"].items():
            assert torch.equal(tensor, states[1]["model"][name]), name

    def test_killed_while_validating(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert run(out="whole") == 0
        original = loop.Trainer.validate

        def killed_in_the_last_epoch(self: loop.Trainer) -> object:
            if self.step == self.schedule.total:
                raise Killed
            return original(self)

        monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
        monkeypatch.setattr(loop.Trainer, "validate", killed_in_the_last_epoch)
        with pytest.raises(Killed):
            run(out="killed")
        monkeypatch.setattr(loop.Trainer, "validate", original)
        assert run("--resume", out="killed") == 0
        maes = [
            [record["validation_mae"] for record in records(tmp_path / name)]
            for name in ("whole", "killed")
        ]
        assert len(maes[0]) == 2
        assert maes[0] == maes[1]

    def test_only_the_same_run_is_continued(
        self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        assert run(*NO_EPOCH) == 0
        for options, named in (
            ((*NO_EPOCH, "--seed", "5"), "seed"),
            ((*NO_EPOCH, "--sex", "M"), "architecture and sexes and training data"),
            (("--epochs", "3"), "recipe"),
            ((*NO_EPOCH, "--limit", "6"), "training data"),
        ):
            assert run("--resume", *options) == 2
            assert f"another {named}" in capsys.readouterr().err
        (tmp_path / "run" / loop.CHECKPOINT).write_bytes(b"damaged")
        assert run("--resume", *NO_EPOCH) == 2
        assert "checkpoint of run is damaged" in capsys.readouterr().err

    def test_resuming_keeps_the_provenance_and_needs_no_initial_weights(
        self, run: Run, imagenet: Path, tmp_path: Path
    ) -> None:
        """As on a machine without network, where ImageNet's cannot be downloaded."""
        assert run("--init", str(imagenet)) == 0
        state = torch.load(tmp_path / "run" / loop.CHECKPOINT, weights_only=True)
        state["step"] = 3  # as if the second epoch had still to come
        state["records"] = json.dumps(json.loads(state["records"])[:1])
        state["schedule"]["best"] = 1e9
        torch.save(state, tmp_path / "run" / loop.CHECKPOINT)
        imagenet.unlink()
        assert run("--init", str(imagenet), "--resume") == 0
        provenance = hub.load_config(tmp_path / "run" / "weights")["provenance"]
        assert provenance["initialisation"]["file"] == "first.safetensors"
        assert [record["epoch"] for record in records(tmp_path / "run")] == [1, 2]

    def test_resuming_keeps_to_the_precision(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Though another would be chosen now."""
        assert run(*NO_EPOCH) == 0
        monkeypatch.setattr("boneage.precision.fast_bf16", lambda *_: True)
        assert run("--resume", "--precision", "auto", *NO_EPOCH) == 0
        state = torch.load(tmp_path / "run" / loop.CHECKPOINT, weights_only=True)
        assert json.loads(state["run"])["precision"] == "no"

    def test_images_of_another_size_are_another_run(
        self, run: Run, copied: Path, capsys: pytest.CaptureFixture
    ) -> None:
        assert run(*NO_EPOCH, data=copied) == 0
        for path in (copied / "images").iterdir():
            with Image.open(path) as film:
                film.resize((48, 48)).save(path.with_suffix(".png"))
            path.unlink()
        assert run(*NO_EPOCH, "--resume", data=copied) == 2
        assert "begun with another size of the images" in capsys.readouterr().err

    def test_a_run_is_not_overwritten(
        self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / loop.CHECKPOINT).write_bytes(b"precious")
        assert run() == 2
        assert "--resume" in capsys.readouterr().err
        assert (tmp_path / "run" / loop.CHECKPOINT).read_bytes() == b"precious"
        (tmp_path / "run" / loop.CHECKPOINT).unlink()
        (tmp_path / "run" / "weights").mkdir()
        (tmp_path / "run" / "weights" / hub.CONFIG).write_text("precious")
        for options in ((), ("--resume",)):
            assert run(*options) == 2
            assert "holds trained weights" in capsys.readouterr().err
        assert (tmp_path / "run" / "weights" / hub.CONFIG).read_text() == "precious"


class TestRun:
    def test_writes_weights_that_assess(
        self, run: Run, small_folder: Path, tmp_path: Path, write_recipe: WriteRecipe
    ) -> None:
        """As they were validated: what training selects on is what assessment does."""
        assert run(*ONE, recipe=write_recipe("arcnn")) == 0
        predictor = Predictor.load(tmp_path / "run" / "weights", precision="fp32")
        cases = datasets.load(small_folder).split("validation").cases
        assessed = predictor.assess([images.read(c.path) for c in cases], [c.sex for c in cases])
        errors = [abs(a.age - c.age) for a, c in zip(assessed, cases, strict=True)]
        provenance = predictor.config["provenance"]
        reported = provenance["metrics"]["validation_mae"]
        assert sum(errors) / len(errors) == pytest.approx(reported, abs=0.05)  # fp16 tensors
        assert all(0 <= assessment.age <= 228 for assessment in assessed)
        seen = datasets.load(small_folder).split("train").cases
        assert provenance["training_images"] == len(seen) == 12
        assert provenance["training_sexes"] == {
            sex: [case.sex for case in seen].count(sex) for sex in ("F", "M")
        }
        ages = sorted(case.age for case in seen)
        assert provenance["training_ages"] == [ages[0], ages[-1]]
        assert provenance["validation_images"] == 4
        assert provenance["initialisation"] == "random"
        assert predictor.config["sexes"] == ["F", "M"]
        assert "# run\n" in (tmp_path / "run" / "weights" / hub.CARD).read_text()
        assert predictor.preprocess.resolution == 128  # 299 px, capped at twice the input

    def test_metrics_of_each_epoch(self, run: Run, tmp_path: Path) -> None:
        assert run("--epochs", "3") == 0
        found = records(tmp_path / "run")
        assert [record["epoch"] for record in found] == [1, 2, 3]
        best = min(found, key=lambda record: record["selection_mae"])["validation_mae"]
        config = hub.load_config(tmp_path / "run" / "weights")
        assert config["provenance"]["metrics"]["validation_mae"] == best

    def test_one_sex(self, run: Run, tmp_path: Path) -> None:
        assert run("--sex", "M", *ONE) == 0
        config = hub.load_config(tmp_path / "run" / "weights")
        assert config["sexes"] == ["M"]
        assert config["provenance"]["training_images"] < 12
        assert config["provenance"]["training_sexes"].keys() == {"M"}

    def test_adults_without_sex(
        self, run: Run, small_adults: Path, tmp_path: Path, write_recipe: WriteRecipe
    ) -> None:
        recipe = write_recipe("hierarchical", accumulate=2)
        options = ("--region", "upper", "--projection", "bone")
        assert run(*options, recipe=recipe, data=small_adults) == 0
        predictor = Predictor.load(tmp_path / "run" / "weights", task="adult")
        assert predictor.config["sexes"] == []
        assert predictor.config["projection"] == "bone"
        assert predictor.preprocess.region == "upper"
        assert "upper region" in predictor.config["provenance"]["summary"]
        assert predictor.config["fills"] == []
        radiograph = images.read(next((small_adults / "images").iterdir()))
        (assessment,) = predictor.assess(radiograph, heat_map=True)
        assert assessment.unit == "years"
        assert assessment.sex is None
        assert 0 <= assessment.age <= 120
        lower = assessment.heat_map[len(assessment.heat_map) // 2 :]
        assert lower.max() == 0

    def test_a_batch_in_parts_trains_alike(
        self, run: Run, imagenet: Path, tmp_path: Path, write_recipe: WriteRecipe
    ) -> None:
        """With normalisation frozen the parts of a batch know nothing of each other."""
        losses = []
        for parts in (1, 2):
            recipe = write_recipe(freeze="true", accumulate=parts)
            recipe.write_text(recipe.read_text().replace("dropout = 0.2", ""))
            assert run("--init", str(imagenet), recipe=recipe, out=f"run{parts}") == 0
            found = records(tmp_path / f"run{parts}")
            losses.append([record["loss_recognition"] for record in found])
        assert losses[0] == pytest.approx(losses[1], abs=1e-4)

    @pytest.mark.parametrize("recipe", ["nonsense", "gone.toml"])
    def test_unknown_recipe(self, run: Run, recipe: str, capsys: pytest.CaptureFixture) -> None:
        assert run(recipe=Path(recipe)) == 2
        assert "Unknown recipe" in capsys.readouterr().err


class TestStart:
    def test_frozen_statistics_need_some(
        self, run: Run, write_recipe: WriteRecipe, capsys: pytest.CaptureFixture
    ) -> None:
        assert run(recipe=write_recipe(freeze="true")) == 2
        assert "give --init FILE or --pretrained" in capsys.readouterr().err

    def test_a_second_stage_needs_the_first(
        self, run: Run, small_adults: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        assert run(recipe=Path("vgg"), data=small_adults) == 2
        assert (
            "options and --size 64 --epochs 3 --learning-rate 1e-3 first" in capsys.readouterr().err
        )
        assert not (tmp_path / "run").exists()

    def test_a_size_that_no_network_takes(self, run: Run, capsys: pytest.CaptureFixture) -> None:
        assert run("--size", "31") == 2
        assert "at least 32 px" in capsys.readouterr().err

    def test_rows_of_the_other_papers_tables_are_not_filled(
        self, run: Run, tmp_path: Path, write_recipe: WriteRecipe
    ) -> None:
        """They would stop the evaluation of these weights."""
        assert run(*NO_EPOCH, recipe=write_recipe("hierarchical")) == 0
        assert hub.load_config(tmp_path / "run" / "weights")["fills"] == []

    @pytest.mark.parametrize("seed", ["-1", "1.5", str(2**32)])
    def test_a_seed_that_is_none(self, run: Run, seed: str, capsys: pytest.CaptureFixture) -> None:
        with pytest.raises(SystemExit):
            run("--seed", seed)
        assert "--seed" in capsys.readouterr().err

    @pytest.mark.parametrize("rate", ["0", "-1", "inf", "nan", "fast"])
    def test_a_learning_rate_that_is_none(
        self, run: Run, rate: str, capsys: pytest.CaptureFixture
    ) -> None:
        with pytest.raises(SystemExit):
            run("--learning-rate", rate)
        assert "--learning-rate" in capsys.readouterr().err

    def test_options_in_place_of_the_recipes(
        self, run: Run, small_adults: Path, tmp_path: Path, write_recipe: WriteRecipe
    ) -> None:
        """Its own size changes nothing: the weights fill the recipe's rows."""
        options = ("--size", "64", "--learning-rate", "2e-4", *NO_EPOCH)
        assert run(*options, recipe=write_recipe("hierarchical"), data=small_adults) == 0
        kept = json.loads((tmp_path / "run" / "recipe.json").read_text())
        assert kept["optimisation"]["learning_rate"] == 2e-4
        assert kept["optimisation"]["epochs"] == 0
        assert kept["fills"] == ["B2:Early fusion"]

    def test_a_run_is_resumed_at_its_size(self, run: Run, capsys: pytest.CaptureFixture) -> None:
        size = ("--size", "32")
        assert run(*size, *NO_EPOCH) == 0
        assert run(*NO_EPOCH, "--resume") == 2
        assert "begun with another recipe" in capsys.readouterr().err
        assert run(*size, *NO_EPOCH, "--resume") == 0

    def test_unknown_sex_is_refused(
        self, run: Run, copied: Path, capsys: pytest.CaptureFixture
    ) -> None:
        labels = (copied / "labels.csv").read_text().replace("True", "", 1)
        (copied / "labels.csv").write_text(labels)
        assert run(data=copied) == 2
        assert "is unknown; training needs it" in capsys.readouterr().err

    def test_unknown_sex_of_a_test_image_is_of_no_matter(self, run: Run, copied: Path) -> None:
        head, _, tail = (copied / "labels.csv").read_text().rpartition("False")
        assert ",test" in head.splitlines()[-1] + tail
        (copied / "labels.csv").write_text(head + tail)
        assert run(*NO_EPOCH, data=copied) == 0

    def test_a_sex_that_nothing_can_be_learnt_of(
        self, run: Run, copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        assert run("--limit", "1") == 2
        assert "No training image is of sex" in capsys.readouterr().err
        labels = (copied / "labels.csv").read_text().replace("False", "True")
        (copied / "labels.csv").write_text(labels)
        assert run(data=copied) == 2
        assert "No training image is of sex F" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()

    def test_divergence_is_an_error(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        monkeypatch.setattr(loop.Schedule, "rate", lambda *_: float("nan"))
        assert run(*ONE) == 2
        assert "diverged" in capsys.readouterr().err

    @pytest.mark.parametrize("options", [("--epochs", "-1"), ("--limit", "0"), ("--seed", "-1")])
    def test_numbers_that_make_no_sense(self, run: Run, options: tuple[str, str]) -> None:
        with pytest.raises(SystemExit) as end:
            run(*options)
        assert end.value.code == 2

    def test_one_image_is_too_few(self, run: Run, capsys: pytest.CaptureFixture) -> None:
        assert run("--sex", "F", "--limit", "1") == 2
        assert "two different ages" in capsys.readouterr().err

    def test_pretrained_takes_torchvisions_weights(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        imagenet = torchvision.models.mobilenet_v2(weights=None).state_dict()
        urls = []

        def download(url: str, *_: object, **__: object) -> dict[str, torch.Tensor]:
            urls.append(url)
            return imagenet

        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
        assert run("--pretrained", *NO_EPOCH) == 0
        assert "mobilenet_v2" in urls[0]
        state = torch.load(tmp_path / "run" / loop.CHECKPOINT, weights_only=True)
        assert torch.equal(
            state["model"]["backbone.features.0.0.weight"], imagenet["features.0.0.weight"]
        )

    def test_pretrained_without_network(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        def no_network(*_: object, **__: object) -> None:
            raise URLError("name resolution failed")

        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
        assert run("--pretrained") == 2
        assert "--init" in capsys.readouterr().err

    def test_init_is_recorded_with_its_origin(
        self, run: Run, imagenet: Path, tmp_path: Path, write_recipe: WriteRecipe
    ) -> None:
        assert run("--init", str(imagenet), *NO_EPOCH, out="a") == 0
        second = ("--init", str(tmp_path / "a" / KEPT))
        assert run(*second, *NO_EPOCH, recipe=write_recipe("arcnn"), out="b") == 0
        origin = hub.load_config(tmp_path / "b" / "weights")["provenance"]["initialisation"]
        assert origin["provenance"]["recipe"] == "tiny"
        assert origin["provenance"]["initialisation"] == {
            "file": "first.safetensors",
            "source": "somewhere",
        }

    def test_without_epochs_the_start_is_measured_and_kept(
        self, run: Run, small_folder: Path, tmp_path: Path
    ) -> None:
        """Random weights, and the mean of two of them."""
        for seed in ("1", "2"):
            assert run(*NO_EPOCH, "--seed", seed, out=seed) == 0
        starts = [o for seed in ("1", "2") for o in ("--init", str(tmp_path / seed / KEPT))]
        for more in ((), ("--resume",)):  # it has come to its end: nothing is measured again
            assert run(*NO_EPOCH, *starts, *more, out="mean") == 0
        (record,) = records(tmp_path / "mean")
        assert record["epoch"] == 0
        one, two, mean = (load_file(tmp_path / name / KEPT) for name in ("1", "2", "mean"))
        for name, tensor in mean.items():
            between = (one[name].double() + two[name].double()) / 2
            assert torch.allclose(tensor.double(), between, rtol=1e-2, atol=1e-4), name
        predictor = Predictor.load(tmp_path / "mean" / "weights", precision="fp32")
        cases = datasets.load(small_folder).split("validation").cases
        assessed = predictor.assess([images.read(c.path) for c in cases], [c.sex for c in cases])
        errors = [abs(a.age - c.age) for a, c in zip(assessed, cases, strict=True)]
        assert sum(errors) / len(errors) == pytest.approx(record["validation_mae"], abs=0.05)

    @pytest.mark.parametrize("architecture", ["arcnn", "hierarchical", "finetuned"])
    def test_progressive_resizing_goes_on_with_the_whole_network(
        self, run: Run, tmp_path: Path, write_recipe: WriteRecipe, architecture: str
    ) -> None:
        recipe = write_recipe(architecture)
        assert run("--size", "128", *NO_EPOCH, recipe=recipe, out="a") == 0
        first = tmp_path / "a" / KEPT
        assert run("--init", str(first), *NO_EPOCH, recipe=recipe, out="b") == 0
        small, config = hub.load(first.parent)
        assert config["preprocess"]["size"] == 128
        assert config["fills"] == []
        assert config["provenance"]["summary"].endswith("at 128 px")
        large, config = hub.load(tmp_path / "b" / "weights")
        assert config["provenance"]["initialisation"]["size"] == 128
        learnt = dict(small.named_parameters())
        kept = [n for n, p in large.named_parameters() if p.shape == learnt[n].shape]
        assert len(kept) >= len(learnt) - 3  # but two connections and the regressor's first layer
        for name in kept:
            assert torch.allclose(large.get_parameter(name), learnt[name], atol=1e-6), name
        for name in learnt.keys() - set(kept):  # resampled
            now, before = large.get_parameter(name), learnt[name]
            assert torch.allclose(now.sum(1), before.sum(1), atol=0.05), name


@pytest.mark.parametrize(("most", "ids"), [(18, 18), (10, 10), (7, 7), (1, 1), (99, 18)])
def test_a_limit_is_reached(small_folder: Path, most: int, ids: int) -> None:
    folder = datasets.load(small_folder)
    found = thinned(folder, most).cases
    assert len({case.id for case in found}) == len(found) == ids
    assert found[0] == folder.cases[0]
    assert list(found) == sorted(found, key=lambda case: case.id)


def test_commit_says_whether_the_code_was_changed_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.check_output(["git", *who, *arguments], cwd=tmp_path, text=True).strip()

    code = tmp_path / "code.py"
    monkeypatch.setattr("train.__main__.__file__", str(code))
    code.write_text("1")
    assert commit() == "unknown"
    git("init", "--quiet")
    git("add", "code.py")
    git("commit", "--quiet", "--message", "one")
    assert commit() == git("rev-parse", "HEAD")
    code.write_text("2")
    assert commit() == git("rev-parse", "HEAD") + "-dirty"


@pytest.fixture
def another_precision() -> Iterator[None]:
    """accelerate keeps a process's precision."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("another_precision")
def test_in_bf16(run: Run, write_recipe: WriteRecipe, imagenet: Path, tmp_path: Path) -> None:
    """Normalisations are folded, and strided depthwise gradients the fast ones."""
    options = ("--precision", "bf16", "--init", str(imagenet), *ONE)
    with (
        patch.object(StridedDepthwise, "apply", wraps=StridedDepthwise.apply) as applied,
        profile(activities=[ProfilerActivity.CPU]) as profiled,
    ):
        assert run(*options, recipe=write_recipe(freeze="true")) == 0
    assert applied.called
    assert not any("batch_norm" in event.key for event in profiled.key_averages())
    assert Predictor.load(tmp_path / "run" / "weights").preprocess.size == 64


def test_a_whole_step_decides_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that a gradient moves on: by 2 s in fp32, by 1 s in bf16."""
    now = 0.0
    backward = torch.Tensor.backward

    def timed(of: torch.Tensor) -> None:
        nonlocal now
        backward(of)
        now += 1.0 if torch.is_autocast_enabled("cpu") else 2.0

    monkeypatch.setattr("boneage.precision.fast_bf16", lambda *_: None)
    monkeypatch.setattr("boneage.precision.time.perf_counter", lambda: now)
    monkeypatch.setattr(torch.Tensor, "backward", timed)
    model = FineTuned("mobilenet_v2")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = recipes.load("whole_mobilenetv2_192").at_size(32)
    assert chosen_precision("auto", model, recipe) == "bf16"
    assert now == 4 * (1.0 + 2.0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
