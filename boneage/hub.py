"""Weights folders: ``config.json``, ``model.safetensors`` and the model card ``README.md``.

No pickle is ever read. Loading checks tensor names and shapes against the architecture that the
config names.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boneage.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG = "config.json"
TENSORS = "model.safetensors"
CARD = "README.md"
FORMAT = 1
NEEDED = ("architecture", "task", "unit", "sexes", "preprocess", "age", "provenance", "sha256")


def save(folder: str | Path, model: nn.Module, config: dict[str, Any], card: str = "") -> Path:
    """Write a weights folder, the tensors in fp16 (integers as they are); returns the folder.

    Args:
        folder: to make, or to overwrite.
        model: the network.
        config: all but ``format`` and ``sha256``, which are added.
        card: the model card, Markdown; see :func:`boneage.card.model_card`.

    Raises:
        InputError: if a value is too large for fp16.
    """
    from safetensors.torch import save as serialise

    tensors = {
        name: (value.half() if value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in stored_tensors(model).items()
    }
    overflown = [n for n, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]
    if overflown:
        raise InputError(f"{overflown[0]} does not fit into 16-bit floating point.")
    data = serialise(tensors, metadata={"format": "pt"})
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"format": FORMAT, **config, "sha256": hashlib.sha256(data).hexdigest()}
    files = {TENSORS: data, CONFIG: (json.dumps(config, indent=2) + "\n").encode()}
    if card:
        files[CARD] = card.encode()
    # All written before any is replaced: a kill leaves the old folder or, at worst, one that
    # loading refuses by its hash.
    for name, content in files.items():
        (folder / f"{name}.part").write_bytes(content)
    for name in files:
        (folder / f"{name}.part").replace(folder / name)
    return folder


def fetch(repo: str, revision: str | None = None) -> tuple[Path, str]:
    """Download a weights folder from the Hugging Face Hub, or find it in the cache.

    Args:
        repo: ``organisation/name``.
        revision: commit, branch or tag; the newest on the main branch if left out.

    Returns:
        The folder and the commit it is.

    Raises:
        InputError: if there is no such repository or revision, or no network and nothing cached.
    """
    from huggingface_hub import errors, snapshot_download

    at = f" at revision {revision}" if revision else ""
    try:
        folder = snapshot_download(repo, revision=revision, allow_patterns=[CONFIG, TENSORS, CARD])
    except errors.RevisionNotFoundError:
        raise InputError(f"{repo} has no revision {revision} on the Hub.") from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"The Hub has no repository {repo}, or it is private and no valid token is set."
        ) from None
    except errors.HFValidationError:
        raise InputError(
            f"{repo} is neither a weights folder here nor a Hub name (organisation/name)."
        ) from None
    except (OSError, errors.HfHubHTTPError):
        raise InputError(
            f"{repo}{at} could not be downloaded, and it is not in the local cache."
        ) from None
    return Path(folder), Path(folder).name


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state of a network that a weights folder holds: all but counters of training steps."""
    return {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}


def load(folder: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a weights folder in fp32, in evaluation mode, and its config.

    Raises:
        InputError: if a file is missing, unreadable, altered, or does not fit the architecture.
    """
    from safetensors.torch import load as deserialise

    from boneage.models.registry import build

    folder = Path(folder)
    config = load_config(folder)
    try:
        data = (folder / TENSORS).read_bytes()
    except OSError:
        raise InputError(f"{folder.name} holds no {TENSORS}.") from None
    if hashlib.sha256(data).hexdigest() != config["sha256"]:
        raise InputError(f"{TENSORS} of {folder.name} is not the file that {CONFIG} describes.")
    try:
        tensors = deserialise(data)
    except Exception:  # safetensors raises its own, untyped errors
        raise InputError(
            f"{TENSORS} of {folder.name} is not a readable safetensors file."
        ) from None
    model = build(config["architecture"]["name"], config["architecture"]["arguments"])
    expected = {
        k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")
    }
    if expected.keys() != tensors.keys() or any(
        tensors[name].shape != value.shape for name, value in expected.items()
    ):
        raise InputError(f"{TENSORS} of {folder.name} does not fit its architecture.")
    model.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)
    return model.eval(), config


def load_config(folder: str | Path) -> dict[str, Any]:
    """The config of a weights folder.

    Raises:
        InputError: if it is missing, unreadable or of another format.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except OSError:
        raise InputError(
            f"{folder.name} is no weights folder: it has no readable {CONFIG}."
        ) from None
    except ValueError:
        raise InputError(f"{CONFIG} of {folder.name} is not valid JSON.") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise InputError(f"{CONFIG} of {folder.name} is not of format {FORMAT}.")
    if missing := [key for key in NEEDED if key not in config]:
        raise InputError(f"{CONFIG} of {folder.name} lacks {', '.join(missing)}.")
    return config
