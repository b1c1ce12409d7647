"""A training that uploads what it has trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from boneage import hub
from boneage.predictor import Predictor
from tests.hub_server import NAMESPACE, READER, FakeHub, serve
from train import loop
from train.__main__ import main

REPO = f"{NAMESPACE}/trained"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    yield from serve(tmp_path / "client", monkeypatch)


def command(recipe: Path, data: Path, out: Path, *options: str) -> list[str]:
    files = [str(recipe), "--data", str(data), "--out", str(out), "--epochs", "1"]
    return [*files, "--precision", "no", "--push", REPO, *options]


def test_the_trained_weights_are_uploaded(
    fake: FakeHub,
    small_folder: Path,
    tmp_path: Path,
    write_recipe: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "tiny"
    assert main(command(write_recipe(), small_folder, out, "--private")) == 0
    *_, url, revision = capsys.readouterr().out.splitlines()
    commit = revision.removeprefix("revision ")
    assert url.endswith(f"/{REPO}/commit/{commit}")
    assert fake.repositories["models", REPO].private
    files = fake.files("models", REPO)
    for name in (hub.CONFIG, hub.TENSORS):
        assert files[name] == (out / "weights" / name).read_bytes()
    assert f'Predictor.load("{REPO}")' in files[hub.CARD].decode()
    assert Predictor.load(REPO, revision=commit).revision == commit


@pytest.mark.parametrize(
    ("token", "message"),
    [(None, "There is no token for the Hub"), (READER, f"may not write to {REPO} on the Hub.")],
)
def test_without_rights_nothing_is_trained(
    fake: FakeHub,
    small_folder: Path,
    tmp_path: Path,
    write_recipe: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    token: str | None,
    message: str,
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    else:
        monkeypatch.delenv("HF_TOKEN")
    assert main(command(write_recipe(), small_folder, tmp_path / "tiny")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "tiny").exists()


def test_weights_are_kept_if_the_hub_is_down_in_the_end(
    fake: FakeHub,
    small_folder: Path,
    tmp_path: Path,
    write_recipe: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = loop.Trainer.train

    def then_the_hub_goes_down(self: loop.Trainer) -> None:
        original(self)
        fake.failing = 503

    monkeypatch.setattr(loop.Trainer, "train", then_the_hub_goes_down)
    assert main(command(write_recipe(), small_folder, tmp_path / "tiny")) == 2
    said = capsys.readouterr().err
    assert "error 503; please try again later. The weights are trained and kept;" in said
    assert "Traceback" not in said
    assert Predictor.load(tmp_path / "tiny" / "weights").revision
