"""The About tab: every text from its one source."""

from __future__ import annotations

import re
from html import escape, unescape
from importlib import metadata
from pathlib import Path

import pytest

from boneage import __version__, bundled
from boneage.webui import about


@pytest.fixture(scope="module")
def page() -> str:
    return about.page()


def words(text: str) -> str:
    """Text without tags and line breaks."""
    return " ".join(unescape(re.sub("<[^>]+>", " ", text)).split())


def plain(document: Path) -> list[str]:
    """The paragraphs of a document that are free of Markdown's signs."""
    text = re.sub(r"\A---\n.*?\n---\n", "", document.read_text(), flags=re.DOTALL)
    paragraphs = (" ".join(part.split()) for part in text.split("\n\n"))
    return [part for part in paragraphs if part and not re.search(r"[`<>|#*\[\]]|^- |^```", part)]


def test_cards_are_shown_whole_and_without_front_matter(page: str, repo_root: Path) -> None:
    shown = words(page)
    cards = sorted((repo_root / "weights").glob("*/README.md"))
    assert cards
    for card in cards:
        assert f"<summary>{card.parent.name}</summary>" in page
        assert len(plain(card)) >= 2
        for paragraph in plain(card):
            assert paragraph in shown
    assert "model-index" not in page
    assert "license_name" not in page


def test_intended_use_and_populations_are_not_folded_away(page: str) -> None:
    unfolded = words(re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL))
    for text in (
        "Populations other than that of the training data",
        "Hands from the United States",
        "(4,915 female, 5,867 male) with ages of 4 to 228 months",
        "not legal evidence of anyone's age",
    ):
        assert text in unfolded
    assert "Not a medical device" in unfolded


def test_data_sources_with_links_and_terms(page: str, repo_root: Path) -> None:
    readme = repo_root / "data" / "README.md"
    shown = words(page)
    for paragraph in plain(readme):
        assert paragraph in shown
    for link in re.findall(r"<(https://[^>]+)>", readme.read_text()):
        assert f'href="{link}" target="_blank" rel="noopener"' in page


def test_version_papers_licence_and_api(page: str, repo_root: Path) -> None:
    shown = words(page)
    assert f"boneage {__version__}" in shown
    assert "Extract Bone Parts Without Human Prior" in shown
    assert "Automatic Whole-body Bone Age Assessment Using Deep Hierarchical Features" in shown
    assert " ".join((repo_root / "NOTICE").read_text().split()) in shown
    for name in ("hand", "batch", "adult"):
        assert escape(f'api_name="/{name}"', quote=False) in page


def test_every_number_of_a_result_is_explained(page: str) -> None:
    reading = page[page.index("How to read a result") : page.index("<h2>Privacy")]
    for term in ("Bone age", "Prediction interval", "SD", "Refusal"):
        assert f"<dt>{term}</dt>" in reading


def test_notice_of_an_installed_package(
    tmp_path: Path, repo_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no checkout, the text is the one beside the package's metadata."""
    info = tmp_path / "boneage-0.dist-info"
    (info / "licenses").mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: boneage\nVersion: 0\n")
    (info / "licenses" / "NOTICE").write_text("Installed notice.")
    monkeypatch.setattr(bundled, "PACKAGE", tmp_path / "boneage")
    monkeypatch.setattr(metadata, "distribution", lambda _: metadata.PathDistribution(info))
    assert about.notice() == "Installed notice."


def test_without_weights_and_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "folder", lambda name: tmp_path / name)
    page = about.page()
    assert "No images come with this page." in page
    assert "<summary>" not in page
    assert "How to read a result" in page
