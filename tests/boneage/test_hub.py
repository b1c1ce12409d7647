from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from boneage import hub
from boneage.errors import InputError
from boneage.models.registry import build
from boneage.predictor import Predictor


@pytest.fixture
def folder(untrained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(untrained, tmp_path / "tiny"))


def edit(folder: Path, **changes: object) -> None:
    config = json.loads((folder / hub.CONFIG).read_text())
    (folder / hub.CONFIG).write_text(json.dumps(config | changes))


class TestRoundTrip:
    def test_tensors_come_back_in_fp32(self, untrained: Path) -> None:
        torch.manual_seed(0)
        original = build(
            "arcnn", {"backbone": "resnet18", "size": 128, "part_size": 64, "sexes": 2}
        )
        model, config = hub.load(untrained)
        assert not model.training
        assert config["sexes"] == ["F", "M"]
        for name, value in hub.stored_tensors(original).items():
            loaded = model.state_dict()[name]
            assert loaded.dtype == torch.float32
            assert torch.equal(loaded, value.half().float()), name

    def test_overflow_of_16_bit_is_refused(self, tmp_path: Path) -> None:
        model = nn.Linear(1, 1)
        nn.init.constant_(model.weight, 1e6)
        with pytest.raises(InputError, match="weight does not fit"):
            hub.save(tmp_path, model, {})


class TestLoadRefuses:
    def test_a_missing_config(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"no readable config\.json") as error:
            hub.load(tmp_path)
        assert str(tmp_path) not in str(error.value)

    def test_missing_tensors(self, folder: Path) -> None:
        (folder / hub.TENSORS).unlink()
        with pytest.raises(InputError, match=r"holds no model\.safetensors"):
            hub.load(folder)

    @pytest.mark.parametrize("text", ["{", "[]", '{"format": 99}', ""])
    def test_an_invalid_config(self, folder: Path, text: str) -> None:
        (folder / hub.CONFIG).write_text(text)
        with pytest.raises(InputError, match=r"config\.json of tiny is not"):
            hub.load(folder)

    @pytest.mark.parametrize("key", hub.NEEDED)
    def test_a_config_that_lacks_a_key(self, folder: Path, key: str) -> None:
        config = json.loads((folder / hub.CONFIG).read_text())
        del config[key]
        (folder / hub.CONFIG).write_text(json.dumps(config))
        with pytest.raises(InputError, match=f"lacks {key}"):
            hub.load(folder)

    @pytest.mark.parametrize(
        "changes",
        [
            {"architecture": "arcnn"},
            {"architecture": {"name": "arcnn", "options": {}}},
            {"preprocess": {"size": 128}},
            {"age": {"mean": 120.0}},
        ],
    )
    def test_an_entry_that_lacks_something(self, folder: Path, changes: dict[str, object]) -> None:
        edit(folder, **changes)
        (key,) = changes
        with pytest.raises(InputError, match=rf"{key} in config\.json of tiny needs"):
            hub.load_config(folder)

    @pytest.mark.parametrize("kind", ["unknown", "another"])
    def test_entries_of_another_version(self, folder: Path, kind: str) -> None:
        config = json.loads((folder / hub.CONFIG).read_text())
        changes = {
            "unknown": {"preprocess": config["preprocess"] | {"of_another_version": 1}},
            "another": {"interval": {"coverage": 0.9}},
        }
        edit(folder, **changes[kind])
        with pytest.raises(InputError, match=r"config\.json of tiny does not fit this version"):
            Predictor.load(folder, device="cpu", wait=False)

    def test_altered_tensors(self, folder: Path) -> None:
        data = bytearray((folder / hub.TENSORS).read_bytes())
        data[-1] ^= 1
        (folder / hub.TENSORS).write_bytes(data)
        with pytest.raises(InputError, match="is not the file that"):
            hub.load(folder)

    def test_what_is_no_safetensors_file(self, folder: Path) -> None:
        import hashlib

        (folder / hub.TENSORS).write_bytes(b"\x80\x04pickled")
        edit(folder, sha256=hashlib.sha256(b"\x80\x04pickled").hexdigest())
        with pytest.raises(InputError, match="readable safetensors file"):
            hub.load(folder)

    def test_tensors_of_another_network(self, folder: Path) -> None:
        import hashlib

        save_file({"weight": torch.zeros(3)}, folder / hub.TENSORS)
        data = (folder / hub.TENSORS).read_bytes()
        edit(folder, sha256=hashlib.sha256(data).hexdigest())
        with pytest.raises(InputError, match="does not fit its architecture"):
            hub.load(folder)

    def test_an_unknown_architecture(self, folder: Path) -> None:
        edit(folder, architecture={"name": "oracle", "arguments": {}})
        with pytest.raises(InputError, match="Unknown architecture 'oracle'"):
            hub.load(folder)


class TestFetch:
    def test_of_a_cached_repository(
        self, untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The client's own cache, filled by hand: what it downloads ends up like this."""
        commit = "0123456789abcdef0123456789abcdef01234567"
        repo = tmp_path / "models--someone--tiny"
        shutil.copytree(untrained, repo / "snapshots" / commit)
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text(commit)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        predictor = Predictor.load("someone/tiny")
        assert (predictor.id, predictor.revision) == ("someone/tiny", commit)
        assert Predictor.load("someone/tiny", revision=commit).revision == commit
        with pytest.raises(InputError, match="at revision other could not be downloaded"):
            Predictor.load("someone/tiny", revision="other")

    @pytest.mark.parametrize(
        ("name", "message"),
        [("someone/unknown", "not in the local cache"), ("some one/tiny", "neither a weights")],
    )
    def test_what_is_not_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(InputError, match=message):
            hub.fetch(name)
