"""Weights to the Hub and back, by the Hub's own client over HTTP."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boneage import hub, images
from boneage.__main__ import main
from boneage.card import model_card
from boneage.errors import InputError
from boneage.models.registry import build
from boneage.predictor import Predictor
from tests.hub_server import READER, FakeHub, point_client_at, serve

REPO = "someone/bone-age"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    yield from serve(tmp_path / "client", monkeypatch)


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client asks a port at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    point_client_at(f"http://127.0.0.1:{port}", tmp_path / "client", monkeypatch)


@pytest.fixture(autouse=True, scope="module")
def small_network() -> Iterator[None]:
    """A network of few weights: here they are only moved."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("boneage.models.literature.BoNet.CHANNELS", (4,) * 5)
        patch.setattr("boneage.models.literature.BoNet.HIDDEN", 8)
        yield


def make_weights(folder: Path, config: dict[str, Any], seed: int) -> Path:
    """A weights folder of a small network that was never trained."""
    import torch

    torch.manual_seed(seed)
    architecture = {"name": "bonet", "arguments": {"sexes": 2}}
    model = build(architecture["name"], architecture["arguments"])
    return hub.save(folder, model, config | {"architecture": architecture})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, untrained: Path, small_network: None) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    return make_weights(folder, hub.load_config(untrained), seed=0)


@pytest.fixture(scope="module")
def other(tiny: Path) -> Path:
    """The same network with other numbers."""
    return make_weights(tiny.parent / "other", hub.load_config(tiny), seed=1)


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "tiny"))


def pushed(weights: Path, *options: str) -> int:
    return main(["push", str(weights), "--repo", REPO, *options])


def revision(capsys: pytest.CaptureFixture[str]) -> str:
    """The revision that a push printed."""
    url, last = capsys.readouterr().out.splitlines()
    commit = last.removeprefix("revision ")
    assert url.endswith(f"/{REPO}/commit/{commit}")
    return commit


def one_sentence(capsys: pytest.CaptureFixture[str], *unwanted: object) -> str:
    """What a refused command printed."""
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("boneage: ")
    assert line.endswith(".")
    assert not any(str(word) in line for word in ("/tmp", "http", "Error(", *unwanted))
    return line


class TestRoundTrip:
    def test_the_same_ages_to_the_last_bit(
        self,
        fake: FakeHub,
        untrained: Path,
        rsna_test_dir: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert pushed(untrained) == 0
        commit = revision(capsys)
        radiograph = images.read(rsna_test_dir / "images" / "4360.webp")
        there, here = Predictor.load(REPO, revision=commit), Predictor.load(untrained)
        assert (there.id, there.revision) == (REPO, commit)
        (a,), (b,) = there.assess(radiograph, "M"), here.assess(radiograph, "M")
        assert (a.age, a.components, a.boxes) == (b.age, b.components, b.boxes)

    def test_what_is_uploaded(self, fake: FakeHub, tiny: Path) -> None:
        assert pushed(tiny) == 0
        files = fake.files("models", REPO)
        assert files.keys() == {".gitattributes", hub.CONFIG, hub.TENSORS, hub.CARD}
        for name in (hub.CONFIG, hub.TENSORS):
            assert files[name] == (tiny / name).read_bytes()
        config = hub.load_config(tiny)
        assert files[hub.CARD].decode() == model_card("tiny", config, [], REPO)
        assert f'Predictor.load("{REPO}")' in files[hub.CARD].decode()
        assert not fake.repositories["models", REPO].private

    def test_an_evaluation_goes_into_the_card(
        self, fake: FakeHub, tiny: Path, tmp_path: Path
    ) -> None:
        record = {
            "table": "S4", "row": "tiny", "column": "MAE", "published": None, "measured": 6.123,
            "ci95": [5.9, 6.4], "n": 100, "unit": "months", "recorded": False, "refused": 0,
            "dataset": "rsna-test/test",
            "weights": f"tiny@{hub.load_config(tiny)['sha256'][:12]}",
        }  # fmt: skip
        (tmp_path / "metrics.json").write_text(json.dumps([record]))
        assert pushed(tiny, "--results", str(tmp_path)) == 0
        assert "value: 6.123" in fake.files("models", REPO)[hub.CARD].decode()

    def test_what_a_refusal_needs_goes_along(
        self, fake: FakeHub, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arrays = {"mean": np.arange(3, dtype=np.float32)}
        hub.save_calibration(folder, {"refusal": {"threshold": 1.0}}, arrays)
        assert pushed(folder) == 0
        there, _ = hub.fetch(REPO, revision(capsys))
        config = hub.load_config(there)
        assert hub.load_calibration(there, config)["mean"].tolist() == [0, 1, 2]
        assert "unlike the training images is refused" in (
            fake.files("models", REPO)[hub.CARD].decode()
        )

    def test_private(self, fake: FakeHub, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert pushed(tiny, "--private") == 0
        assert fake.repositories["models", REPO].private
        assert pushed(tiny, "--private") == 0
        monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(InputError, match="no repository someone/bone-age, or it is private"):
            Predictor.load(REPO)
        monkeypatch.setenv("HF_TOKEN", READER)
        assert Predictor.load(REPO).id == REPO

    def test_a_branch_leaves_the_main_one_as_it_is(
        self,
        fake: FakeHub,
        tiny: Path,
        other: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert pushed(tiny) == 0
        first = revision(capsys)
        for _ in range(2):  # made, then there
            assert pushed(other, "--revision", "trial") == 0
            second = revision(capsys)
        assert Predictor.load(REPO).revision == first
        branch = Predictor.load(REPO, revision="trial")
        assert branch.revision == second != first
        assert branch.config["sha256"] == hub.load_config(other)["sha256"]

    def test_an_old_revision_stays_after_a_second_push(
        self,
        fake: FakeHub,
        tiny: Path,
        other: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert pushed(tiny) == 0
        first = revision(capsys)
        assert pushed(other) == 0
        second = revision(capsys)
        old, new = Predictor.load(REPO, revision=first), Predictor.load(REPO)
        assert (old.revision, new.revision) == (first, second)
        for predictor, weights in ((old, tiny), (new, other)):
            assert predictor.config["sha256"] == hub.load_config(weights)["sha256"]

    def test_unchanged_weights_make_no_commit(
        self, fake: FakeHub, tiny: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert pushed(tiny) == 0
        first = revision(capsys)
        assert pushed(tiny) == 0
        assert revision(capsys) == first


class TestCache:
    @pytest.mark.parametrize("asked", ["main", None, "commit"])
    @pytest.mark.parametrize("why", ["offline", "no answer", "error 503"])
    def test_what_was_loaded_once_needs_no_hub(
        self,
        fake: FakeHub,
        tiny: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        asked: str | None,
        why: str,
    ) -> None:
        assert pushed(tiny) == 0
        commit = revision(capsys)
        asked = commit if asked == "commit" else asked
        Predictor.load(REPO, revision=asked)
        if why == "offline":
            monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        elif why == "no answer":
            point_client_at("http://127.0.0.1:9", tmp_path / "client", monkeypatch)
        else:
            fake.failing = 503
        assert Predictor.load(REPO, revision=asked).revision == commit

    def test_a_cached_commit_is_not_asked_for(
        self, fake: FakeHub, tiny: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert pushed(tiny) == 0
        commit = revision(capsys)
        Predictor.load(REPO, revision=commit)
        fake.requests.clear()
        Predictor.load(REPO, revision=commit)
        assert fake.requests == []

    def test_a_branch_is_looked_up_anew(
        self, fake: FakeHub, tiny: Path, other: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for weights in (tiny, other):
            assert pushed(weights) == 0
            assert Predictor.load(REPO, revision="main").revision == revision(capsys)


class TestFetchRefuses:
    def test_altered_tensors(self, fake: FakeHub, tiny: Path) -> None:
        assert pushed(tiny) == 0
        fake.alter(REPO, hub.TENSORS, lambda data: data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(InputError, match=f"model.safetensors of {REPO} is not the file"):
            Predictor.load(REPO)

    def test_truncated_tensors(self, fake: FakeHub, tiny: Path) -> None:
        assert pushed(tiny) == 0
        fake.alter(REPO, hub.TENSORS, lambda data: data[:-1])
        with pytest.raises(InputError, match=f"The download of {REPO} was interrupted"):
            Predictor.load(REPO)

    def test_a_repository_without_weights(self, fake: FakeHub) -> None:
        hub.open_repository(REPO)
        with pytest.raises(InputError, match="is not a weights folder: it lacks config"):
            Predictor.load(REPO)

    @pytest.mark.parametrize("asked", ["other", "0" * 40])
    def test_an_unknown_revision(self, fake: FakeHub, tiny: Path, asked: str) -> None:
        assert pushed(tiny) == 0
        with pytest.raises(InputError, match=f"^{REPO} has no revision {asked} on the Hub.$"):
            Predictor.load(REPO, revision=asked)

    def test_an_unknown_repository(self, fake: FakeHub) -> None:
        with pytest.raises(
            InputError, match="no folder someone/else here, and the Hub has no repository"
        ):
            Predictor.load("someone/else")

    def test_an_unknown_token(self, fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_expired")
        with pytest.raises(InputError, match=r"^The Hub does not know the token") as error:
            Predictor.load(REPO)
        assert "hf_expired" not in str(error.value)

    @pytest.mark.usefixtures("no_network")
    def test_without_network(self) -> None:
        with pytest.raises(InputError, match=r"^someone/bone-age could not be downloaded, and it"):
            Predictor.load(REPO)


class TestPushRefuses:
    def test_without_a_token(
        self,
        fake: FakeHub,
        tiny: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.delenv("HF_TOKEN")
        assert pushed(tiny) == 2
        assert "There is no token for the Hub" in one_sentence(capsys)

    @pytest.mark.parametrize(
        ("token", "repo", "message"),
        [
            ("hf_expired", REPO, "does not know the token"),
            (READER, REPO, f"may not write to {REPO}"),
            ("hf_writer", "another/bone-age", "may not write to another/bone-age"),
            ("hf_writer", "bone-age", "must be organisation/name"),
            ("hf_writer", "some one/bone-age", "nor a Hub name"),
        ],
    )
    def test_without_rights_or_name(
        self,
        fake: FakeHub,
        tiny: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        token: str,
        repo: str,
        message: str,
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", token)
        assert main(["push", str(tiny), "--repo", repo]) == 2
        assert message in one_sentence(capsys, token)
        assert not fake.repositories

    def test_a_repository_that_one_may_only_read(
        self,
        fake: FakeHub,
        tiny: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        hub.open_repository(REPO)
        monkeypatch.setenv("HF_TOKEN", READER)
        assert pushed(tiny) == 2
        assert f"may not write to {REPO}" in one_sentence(capsys)

    def test_a_public_repository_as_private(
        self, fake: FakeHub, tiny: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        hub.open_repository(REPO)
        assert pushed(tiny, "--private") == 2
        assert "already exists and is public" in one_sentence(capsys)
        assert hub.TENSORS not in fake.files("models", REPO)

    @pytest.mark.parametrize(
        ("branch", "message"), [("a..b", "error 400: Invalid reference"), ("0" * 40, "a commit")]
    )
    def test_what_is_no_branch(
        self,
        fake: FakeHub,
        tiny: Path,
        capsys: pytest.CaptureFixture[str],
        branch: str,
        message: str,
    ) -> None:
        assert pushed(tiny, "--revision", branch) == 2
        assert message in one_sentence(capsys)

    @pytest.mark.usefixtures("no_network")
    def test_without_network(self, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert pushed(tiny) == 2
        assert "cannot be reached" in one_sentence(capsys)

    def test_offline(
        self,
        fake: FakeHub,
        tiny: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert pushed(tiny) == 2
        assert "HF_HUB_OFFLINE" in one_sentence(capsys)

    def test_while_the_hub_is_down(
        self, fake: FakeHub, tiny: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fake.failing = 503
        assert pushed(tiny) == 2
        assert "answers with error 503" in one_sentence(capsys)

    def test_what_is_no_weights_folder(
        self, fake: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("client", "nothing"):
            assert pushed(tmp_path / name) == 2
            assert f"{name} is not a weights folder" in one_sentence(capsys, tmp_path)
        assert fake.requests == []

    @pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d[:-1] + bytes([d[-1] ^ 1])])
    def test_damaged_weights(
        self, fake: FakeHub, folder: Path, capsys: pytest.CaptureFixture[str], change: object
    ) -> None:
        data = (folder / hub.TENSORS).read_bytes()
        (folder / hub.TENSORS).write_bytes(change(data))  # type: ignore[operator]
        assert pushed(folder) == 2
        assert "is not the file that config.json describes" in one_sentence(capsys)
        assert fake.requests == []
