"""The page as a Space: its files, their upload, and that they run by themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from boneage import hub, space
from boneage.__main__ import main
from boneage.errors import InputError
from boneage.predictor import released
from tests.hub_server import NAMESPACE, FakeHub, point_client_at, serve

WEIGHTS, SPACE = f"{NAMESPACE}/bone-age", f"{NAMESPACE}/page"
NOWHERE = "http://127.0.0.1:9"  # nothing listens there
FEW = ("app.py", "LICENSE", "boneage/models")
# Builds the page, but neither serves it nor builds the network that it would wait for; without what
# the Space's requirements leave out.
START = """
import sys
for name in ("accelerate", "openpyxl"):
    sys.modules[name] = None
import boneage, app
from boneage import space
from boneage.webui import page
load_pinned = space.load_pinned
def loaded(folder, **options):
    predictor = load_pinned(folder, **options)
    print(predictor.id, predictor.revision)
    return predictor
space.load_pinned = loaded
app.prepare = lambda predictor: None
page.launch = lambda blocks, host, port: print(
    boneage.__file__, host, port, len(blocks.blocks), "torch" in sys.modules
)
sys.exit(app.main([]))
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    yield from serve(tmp_path / "client", monkeypatch)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Space of few files, where it does not matter which."""
    monkeypatch.setattr(space, "FILES", FEW)


@pytest.fixture
def weights(fake: FakeHub) -> hub.Commit:
    """The released weights on a branch of the Hub."""
    return hub.push(released("hand"), WEIGHTS, "---\nlicense: other\n---\n", branch="trial")


def metadata(card: bytes) -> dict[str, object]:
    return yaml.safe_load(card.decode().split("---\n")[1])


class TestAssemble:
    def test_what_is_in_it(self, repo_root: Path) -> None:
        files = space.assemble()
        made = {space.CARD, space.REQUIREMENTS}
        for name in files.keys() - made:
            assert files[name] == (repo_root / name).read_bytes(), name
        for folder in ("boneage", "weights", "data/rsna-test", "data/nih-chest-fullsize"):
            there = {
                path.relative_to(repo_root).as_posix()
                for path in (repo_root / folder).rglob("*")
                if path.is_file() and "__pycache__" not in path.parts
            }
            assert there <= files.keys()
        assert {"app.py", "LICENSE", "NOTICE", "data/README.md"} <= files.keys()
        assert {"results/metrics.json", "results/tables.md"} <= files.keys()
        tops = {name.split("/")[0] for name in files}
        assert not tops & {"tests", "train", "evaluate", "runs", ".git", space.PIN}
        assert not [name for name in files if "__pycache__" in name or "/." in name]
        assert sum(map(len, files.values())) < 50_000_000

    @pytest.mark.usefixtures("few")
    def test_metadata(self, repo_root: Path) -> None:
        (gradio,) = [
            line.split("==")[1].split()[0]
            for line in (repo_root / "requirements.txt").read_text().splitlines()
            if line.startswith("gradio==")
        ]
        card = metadata(space.assemble()[space.CARD])
        assert (card["sdk"], card["sdk_version"]) == ("gradio", gradio)
        assert (card["app_file"], card["python_version"]) == ("app.py", "3.11")
        assert card["pinned"] is False
        assert card["license_name"] == "rsna-bone-age-non-commercial"
        assert len(str(card["short_description"])) <= 60  # the Hub's limit
        assert "models" not in card

    @pytest.mark.usefixtures("few")
    def test_requirements_are_the_projects_with_torch_for_processors(self, repo_root: Path) -> None:
        index, *pins = space.assemble()[space.REQUIREMENTS].decode().splitlines()
        assert index == "--extra-index-url https://download.pytorch.org/whl/cpu"
        theirs = {
            line.split()[0] for line in (repo_root / "requirements.txt").open() if "==" in line
        }
        assert {pin.removesuffix("+cpu") for pin in pins} == {
            pin for pin in theirs if pin.split("==")[0] not in ("accelerate", "openpyxl")
        }
        assert [pin for pin in pins if pin.endswith("+cpu")] == pins[:2]
        assert [pin.split("==")[0] for pin in pins[:2]] == ["torch", "torchvision"]

    @pytest.mark.usefixtures("few")
    def test_weights_are_pinned_to_the_commit_that_a_branch_is_now(
        self, weights: hub.Commit
    ) -> None:
        files = space.assemble(WEIGHTS, "trial")
        pin = {"weights": WEIGHTS, "revision": weights.revision}
        assert json.loads(files[space.PIN]) == pin
        assert metadata(files[space.CARD])["models"] == [WEIGHTS]
        assert weights.revision in files[space.CARD].decode()

    def test_weights_for_adults_are_refused(self, fake: FakeHub, untrained_adult: Path) -> None:
        hub.push(untrained_adult, WEIGHTS, "---\nlicense: other\n---\n")
        with pytest.raises(InputError, match="are for the task adult, not hand"):
            space.assemble(WEIGHTS)

    def test_an_unknown_revision_is_refused(self, weights: hub.Commit) -> None:
        with pytest.raises(InputError, match="has no revision other"):
            space.assemble(WEIGHTS, "other")

    def test_a_revision_of_nothing_is_refused(self) -> None:
        with pytest.raises(InputError, match="name their repository"):
            space.assemble(revision="main")

    def test_outside_a_checkout(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(space, "CHECKOUT", tmp_path)
        with pytest.raises(InputError, match="assembled from a checkout"):
            space.assemble()


class TestPush:
    def test_every_file_arrives(self, fake: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["push-space", "--repo", SPACE]) == 0
        url, revision = capsys.readouterr().out.splitlines()
        made = fake.repositories["spaces", SPACE]
        assert revision == f"revision {made.branches['main']}"
        assert url.endswith(f"/spaces/{SPACE}/commit/{made.branches['main']}")
        assert (made.sdk, made.private) == ("gradio", False)
        there = dict(fake.files("spaces", SPACE))
        del there[".gitattributes"]
        expected = space.assemble()
        assert there.keys() == expected.keys()
        for name, content in expected.items():
            assert there[name] == content, name

    @pytest.mark.usefixtures("few")
    def test_what_is_gone_here_goes_there(
        self, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert main(["push-space", "--repo", SPACE, "--private"]) == 0
        assert fake.repositories["spaces", SPACE].private
        assert "LICENSE" in fake.files("spaces", SPACE)
        monkeypatch.setattr(space, "FILES", ("app.py",))
        assert main(["push-space", "--repo", SPACE]) == 0
        names = {".gitattributes", "app.py", space.CARD, space.REQUIREMENTS}
        assert fake.files("spaces", SPACE).keys() == names

    @pytest.mark.usefixtures("few")
    def test_an_account_that_may_make_no_space(
        self, fake: FakeHub, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fake.free_spaces = False
        assert main(["push-space", "--repo", SPACE]) == 2
        assert "with a subscription or a payment method" in capsys.readouterr().err


class TestFolder:
    def test_it_runs_by_itself_with_its_pinned_weights(
        self, fake: FakeHub, weights: hub.Commit, tmp_path: Path
    ) -> None:
        folder = tmp_path / "space"
        command = ["push-space", "--out", str(folder), "--weights", WEIGHTS]
        assert main([*command, "--revision", "trial"]) == 0
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
            "SPACE_ID": SPACE,
            "HF_ENDPOINT": fake.url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
        }
        run = subprocess.run(
            [sys.executable, "-c", START], cwd=folder, env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        served, address, launched = run.stdout.splitlines()
        assert served == f"{WEIGHTS} {weights.revision}"
        assert address.startswith("boneage: http://0.0.0.0:7860 ")
        package, host, port, components, torch = launched.split()
        assert Path(package) == folder / "boneage" / "__init__.py"
        assert (host, port) == ("0.0.0.0", "7860")
        assert int(components) > 50
        assert torch == "False"  # the page does not wait for it

    @pytest.mark.usefixtures("few")
    def test_it_overwrites_nothing(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["push-space", "--out", str(tmp_path / "new")]) == 0
        assert (tmp_path / "new" / "app.py").is_file()
        assert main(["push-space", "--out", str(tmp_path / "new")]) == 2
        assert "new already exists" in capsys.readouterr().err


class TestLoadPinned:
    @pytest.fixture
    def pinned(self, tmp_path: Path) -> Path:
        pin = {"weights": WEIGHTS, "revision": "0" * 40}
        (tmp_path / space.PIN).write_text(json.dumps(pin))
        return tmp_path

    def test_the_released_weights_stand_in_for_a_hub_that_does_not_answer(
        self,
        pinned: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        point_client_at(NOWHERE, tmp_path / "client", monkeypatch)
        assert space.load_pinned(pinned).id == released("hand").name
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith("not in the local cache. The bundled weights serve instead.")

    def test_without_a_pin(self, tmp_path: Path) -> None:
        assert space.load_pinned(tmp_path).id == released("hand").name

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"weights": "a/b"}'])
    def test_a_damaged_pin(self, tmp_path: Path, text: str) -> None:
        (tmp_path / space.PIN).write_text(text)
        with pytest.raises(InputError, match="does not name weights"):
            space.load_pinned(tmp_path)
