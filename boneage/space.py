"""A Gradio Space of the page: assembled from this checkout, pinned to weights on the Hub.

The folder runs by itself (``python app.py``). Which weights it serves stands in ``space.json``:
a repository and a commit of it. The weights released with the project go along and serve where
the Hub gives none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boneage import bundled, hub
from boneage.card import SOURCES
from boneage.errors import InputError, tell

if TYPE_CHECKING:
    from boneage.predictor import Predictor

PIN = "space.json"
CARD = "README.md"
REQUIREMENTS = "requirements.txt"
CHECKOUT = bundled.PACKAGE.parent
PYTHON = "3.11"
# The page and what it shows, by name: other data and results may not be meant for publication.
FILES = (
    "app.py",
    "LICENSE",
    "NOTICE",
    "boneage",
    "data/README.md",
    "data/rsna-test",
    "data/nih-chest-fullsize",
    "data/ct-samples",
    "results/metrics.json",
    "results/run.json",
    "results/tables.md",
    "results/figures",
    "weights",
)
# torch for Linux brings CUDA libraries of several GB by default; CPU Spaces cannot use them.
CPU_INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu"
CPU_BUILDS = ("torch", "torchvision")
NOT_OF_THE_PAGE = ("accelerate", "openpyxl")  # for training and data preparation

ABOUT = """\
# boneage

Bone age from a radiograph of the hand, and age from an adult's skeleton, with the evidence shown.

**For research and education. Not a medical device, not for diagnosis.** Do not upload images from
which a patient can be identified. Files are deleted within an hour and are not logged.

$WEIGHTS

The code is under Apache-2.0 (`LICENSE`, `NOTICE`). The radiographs of hands (`data/rsna-test`) and
the weights made from such are for academic, educational and other non-commercial use, without any
attempt to identify a patient; sources and terms are in `data/README.md` and in each card below
`weights/`.
"""


def assemble(weights: str | None = None, revision: str | None = None) -> dict[str, bytes]:
    """The files of a Space, by their paths in it.

    Args:
        weights: ``organisation/name`` on the Hub, for hands; left out, the released weights.
        revision: commit, branch or tag; what it is now is written into the Space as a commit.

    Raises:
        InputError: outside a checkout, or if there are no such weights, or not for hands.
    """
    if not (CHECKOUT / "app.py").is_file():
        raise InputError("A Space is assembled from a checkout of the project; this is none.")
    if revision and not weights:
        raise InputError("A revision is one of weights on the Hub: name their repository, too.")
    pin = resolve(weights, revision) if weights else None
    files = {name: (CHECKOUT / name).read_bytes() for name in _names()}
    files[CARD] = card(pin).encode()
    files[REQUIREMENTS] = requirements().encode()
    if pin:
        files[PIN] = (json.dumps(pin, indent=2) + "\n").encode()
    return dict(sorted(files.items()))


def write(files: dict[str, bytes], folder: Path) -> None:
    """Write the files of a Space into a new or empty folder.

    Raises:
        InputError: if the folder holds something.
    """
    hub.refuse_filled(folder)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def push(files: dict[str, bytes], repo: str, *, private: bool = False) -> hub.Commit:
    """Upload the files of a Space, in one commit; what it held besides is deleted.

    Args:
        files: of :func:`assemble`.
        repo: ``organisation/name``; made if there is none.
        private: make the Space private; one that is there must be so already.

    Raises:
        InputError: if the Hub refuses or cannot be reached.
    """
    hub.open_repository(repo, kind="space", private=private)
    return hub.upload(repo, files, "The page", kind="space", replace=True)


def resolve(weights: str, revision: str | None = None) -> dict[str, str]:
    """A repository of weights for hands, and the commit that a revision of it is now.

    Raises:
        InputError: if there are no such weights, or they are damaged or not for hands.
    """
    folder, commit = hub.fetch(weights, revision)
    _, config = hub.load(folder)
    if config["task"] != "hand":
        raise InputError(f"The weights {weights} are for the task {config['task']}, not hand.")
    return {"weights": weights, "revision": commit}


def load_pinned(folder: Path, *, wait: bool = True) -> Predictor:
    """The weights that a Space is pinned to; the released ones if the Hub does not give them.

    Args:
        folder: of the Space. One without ``space.json`` serves the released weights.
        wait: as of :meth:`boneage.predictor.Predictor.load`; without, no others are taken where
            arguments or tensors turn out not to fit the architecture.

    Raises:
        InputError: if there are none either, or ``space.json`` is damaged.
    """
    from boneage.predictor import Predictor

    if not (folder / PIN).is_file():
        return Predictor.load(wait=wait)
    try:
        pin = json.loads((folder / PIN).read_text(encoding="utf-8"))
        weights, revision = pin["weights"], pin["revision"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{PIN} does not name weights and their revision.") from None
    try:
        return Predictor.load(weights, revision=revision, wait=wait)
    except InputError as error:
        tell("boneage", f"{error} The bundled weights serve instead.")
        return Predictor.load(wait=wait)


def requirements() -> str:
    """The requirements of the page on a processor, pinned as the project's are.

    Of Linux, that is: there are no such builds of torch for other systems.
    """
    lines = [CPU_INDEX]
    for name, version in pins().items():
        if name not in NOT_OF_THE_PAGE:
            lines.append(f"{name}=={version}{'+cpu' if name in CPU_BUILDS else ''}")
    return "\n".join(lines) + "\n"


def pins() -> dict[str, str]:
    """The project's direct requirements: version by name."""
    text = (CHECKOUT / REQUIREMENTS).read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w-]+)==([\w.]+)", text, re.MULTILINE))


def card(pin: dict[str, str] | None) -> str:
    """The README.md of a Space, with the metadata from which the Hub builds it.

    Args:
        pin: of :func:`resolve`; ``None`` for the released weights.
    """
    from huggingface_hub import SpaceCardData

    data: dict[str, Any] = {
        "title": "boneage",
        "emoji": "🦴",
        "colorFrom": "blue",
        "colorTo": "gray",
        "sdk": "gradio",
        "sdk_version": pins()["gradio"],
        "python_version": PYTHON,
        "app_file": "app.py",
        "pinned": False,
        "short_description": "Bone age from hand radiographs, for research",
        **SOURCES["rsna"].licence,
    }
    text = "It serves the weights that come with the project."
    if pin:
        data["models"] = [pin["weights"]]
        text = (
            f"It serves the weights `{pin['weights']}` at revision `{pin['revision']}`; those that "
            "come with the project stand in where the Hub does not give them."
        )
    return f"---\n{SpaceCardData(**data).to_yaml()}\n---\n\n{ABOUT.replace('$WEIGHTS', text)}"


def _names() -> Iterator[str]:
    """Paths in the checkout of the files that a Space takes over as they are."""
    for name in FILES:
        path = CHECKOUT / name
        for file in [path] if path.is_file() else path.rglob("*"):
            inside = file.relative_to(CHECKOUT)
            skipped = any(part == "__pycache__" or part.startswith(".") for part in inside.parts)
            if file.is_file() and not skipped:
                yield inside.as_posix()
