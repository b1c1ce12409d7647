"""Weights folders: ``config.json``, ``model.safetensors`` and the model card ``README.md``.

They are kept here or on the Hugging Face Hub. No pickle is ever read. Loading checks tensor names
and shapes against the architecture that the config names.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boneage.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG = "config.json"
TENSORS = "model.safetensors"
CALIBRATION = "calibration.safetensors"  # what the refusal of foreign images needs; may be missing
CARD = "README.md"
FORMAT = 1
COMMIT = re.compile(r"[0-9a-f]{40}")
PATIENCE = 10  # seconds in which the Hub must begin to answer
BUSY = frozenset({408, 429, 500, 502, 503, 504})
NO_TOKEN = "There is no token for the Hub: run `hf auth login`, or set HF_TOKEN."
REFUSALS = {
    401: "The Hub does not know the token that is set here (by HF_TOKEN or `hf auth login`).",
    402: "The Hub makes {repo} only for an account with a subscription or a payment method.",
    403: "The token that is set here may not write to {repo} on the Hub.",
}
# What a config must hold, and what its entries must.
NEEDED: dict[str, tuple[str, ...]] = {
    "architecture": ("name", "arguments"),
    "task": (),
    "unit": (),
    "sexes": (),
    "preprocess": ("size", "resolution", "percentiles"),
    "age": ("mean", "sd", "lowest", "highest"),
    "provenance": (),
    "sha256": (),
}


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


@dataclass(frozen=True)
class Commit:
    """What a push made on the Hub.

    Attributes:
        url: of the commit's page.
        revision: the commit itself, 40 hexadecimal digits: it names these files for good.
    """

    url: str
    revision: str


def refuse_filled(folder: Path) -> None:
    """Refuse a folder to make that is there and holds something, which would be overwritten.

    Raises:
        InputError: if it does, or is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        name = folder.resolve().name
        raise InputError(f"{name} already exists; name a new or an empty folder.")


def fetch(repo: str, revision: str | None = None) -> tuple[Path, str]:
    """Download a weights folder from the Hugging Face Hub, or find it in the cache.

    A commit that is in the cache is not asked for; of a branch or tag the cached commit is taken
    where the Hub does not answer.

    Args:
        repo: ``organisation/name``.
        revision: commit, branch or tag; the newest on the main branch if left out.

    Returns:
        The folder and the commit it is.

    Raises:
        InputError: if there is no such repository or revision, or it holds no weights, or no
            network and nothing cached.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    with _in_one_sentence("download", repo, revision):
        pinned = revision is not None and COMMIT.fullmatch(revision)
        cached = pinned and isinstance(
            try_to_load_from_cache(repo, TENSORS, revision=revision), str
        )
        offline = bool(cached) or not _answers(repo, revision)
        config = Path(hf_hub_download(repo, CONFIG, revision=revision, local_files_only=offline))
        commit = config.parent.name
        # Of the same commit, even if the branch moves on in between; the tensors last, so that
        # where they are cached everything is.
        refuses = load_config(config.parent).get("refusal")
        for name in (CALIBRATION, TENSORS) if refuses else (TENSORS,):
            hf_hub_download(repo, name, revision=commit, local_files_only=offline)
    return config.parent, commit


def _answers(repo: str, revision: str | None) -> bool:
    """Whether the Hub answers; the client's own downloads would retry for long to find out.

    Raises:
        HfHubHTTPError: if it answers that there is no such thing, or not for this token.
    """
    from huggingface_hub import HfApi, errors

    try:
        HfApi().model_info(repo, revision=revision, timeout=PATIENCE)
    except errors.HfHubHTTPError as error:
        if error.response.status_code not in BUSY:
            raise
        return False
    except (errors.OfflineModeIsEnabled, errors.HTTPError):
        return False
    return True


def push(
    folder: str | Path, repo: str, card: str, *, private: bool = False, branch: str | None = None
) -> Commit:
    """Upload a weights folder to the Hugging Face Hub, in one commit.

    Args:
        folder: the weights folder; its own card is not read.
        repo: ``organisation/name``; made if there is none.
        card: the model card to go with it, Markdown.
        private: make the repository private; one that is there must be so already.
        branch: made if there is none; the main branch if left out.

    Raises:
        InputError: if the folder is none of weights, or is damaged, or the Hub refuses.
    """
    folder = Path(folder)
    _, config = load(folder)
    open_repository(repo, private=private, branch=branch)
    files = {
        TENSORS: (folder / TENSORS).read_bytes(),
        CONFIG: (folder / CONFIG).read_bytes(),
        CARD: card.encode(),
    }
    if config.get("refusal"):
        files[CALIBRATION] = (folder / CALIBRATION).read_bytes()
    return upload(repo, files, f"Weights {config['sha256'][:12]}", branch=branch)


def open_repository(
    repo: str, *, kind: str = "model", private: bool = False, branch: str | None = None
) -> None:
    """Make sure that one may upload: make repository and branch where there are none.

    Args:
        repo: ``organisation/name``.
        kind: ``model`` or ``space``.
        private: make it private; one that is there must be so already.
        branch: the main branch if left out.

    Raises:
        InputError: without a token or the right to write, without network, for a malformed name,
            and for a public repository that should be private.
    """
    from huggingface_hub import HfApi, get_token

    if branch is not None and COMMIT.fullmatch(branch):
        raise InputError("You can push only to a branch; this revision is a commit.")
    with _in_one_sentence("upload", repo, branch):
        _check_name(repo)
        if get_token() is None:
            raise InputError(NO_TOKEN)
        api = HfApi()
        sdk = "gradio" if kind == "space" else None
        visible = True if private else None  # None: public, or as the organisation has it
        api.create_repo(repo, repo_type=kind, private=visible, space_sdk=sdk, exist_ok=True)
        api.auth_check(repo, repo_type=kind, write=True)
        if private and not api.repo_info(repo, repo_type=kind).private:
            raise InputError(f"{repo} already exists and is public; make it private on the Hub.")
        if branch is not None:
            api.create_branch(repo, branch=branch, repo_type=kind, exist_ok=True)


def upload(
    repo: str,
    files: Mapping[str, bytes],
    message: str,
    *,
    kind: str = "model",
    branch: str | None = None,
    replace: bool = False,
) -> Commit:
    """Commit files to a repository that :func:`open_repository` has opened.

    Args:
        repo: ``organisation/name``.
        files: content by path in the repository.
        message: of the commit.
        kind: ``model`` or ``space``.
        branch: the main branch if left out.
        replace: delete all other files, but for the Hub's own ``.gitattributes``.

    Returns:
        The commit; the branch's last one if nothing has changed.

    Raises:
        InputError: if the Hub refuses or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    with _in_one_sentence("upload", repo, branch):
        api = HfApi()
        stale: set[str] = set()
        if replace:
            there = api.list_repo_files(repo, repo_type=kind, revision=branch)
            stale = {*there} - {*files, ".gitattributes"}
        commit = api.create_commit(
            repo,
            [CommitOperationDelete(path) for path in sorted(stale)]
            + [CommitOperationAdd(path, content) for path, content in files.items()],
            commit_message=message,
            repo_type=kind,
            revision=branch,
        )
    return Commit(str(commit.commit_url), commit.oid)


def _check_name(repo: str) -> None:
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(repo)
    if "/" not in repo:
        raise InputError(f"{repo} is no Hub name: it must be organisation/name.")


@contextmanager
def _in_one_sentence(doing: str, repo: str, revision: str | None) -> Iterator[None]:
    """What the Hub's client raises inside becomes one sentence.

    Raises:
        InputError: with it.
    """
    from huggingface_hub import errors

    try:
        yield
    except InputError:
        raise
    # The client raises OSError and HTTPError on its own; RuntimeError around an upload's error,
    # ValueError for names and metadata.
    except (OSError, errors.HTTPError, RuntimeError, ValueError) as error:
        raise InputError(_sentence(error, doing, repo, revision)) from None


def _sentence(error: BaseException, doing: str, repo: str, revision: str | None) -> str:
    from huggingface_hub import errors

    if isinstance(error, RuntimeError) and error.__cause__:
        error = error.__cause__
    at = f" at revision {revision}" if revision else ""
    match error:
        case errors.RevisionNotFoundError():
            return f"{repo} has no revision {revision} on the Hub."
        case errors.GatedRepoError():
            return f"{repo} is gated: accept its terms on the Hub with the account of your token."
        case errors.RepositoryNotFoundError():
            hub = (
                f"There is no folder {repo} here, and the Hub" if doing == "download" else "The Hub"
            )
            return f"{hub} has no repository {repo}, or it is private and no valid token is set."
        case errors.RemoteEntryNotFoundError():
            return f"{repo}{at} on the Hub is not a weights folder: it lacks {CONFIG} or {TENSORS}."
        case errors.HFValidationError():
            return f"{repo} is neither a weights folder here nor a Hub name (organisation/name)."
        case errors.LocalEntryNotFoundError():
            return f"{repo}{at} could not be downloaded, and it is not in the local cache."
        case errors.OfflineModeIsEnabled():
            return "Nothing can be pushed while HF_HUB_OFFLINE is set."
        case errors.HfHubHTTPError():
            status = error.response.status_code
            if status in BUSY:
                return f"The Hub answers with error {status}; please try again later."
            if status in REFUSALS:
                return REFUSALS[status].format(repo=repo)
            said = (error.server_message or "it gives no reason").splitlines()[0].rstrip(".")
            return f"The Hub refuses {repo}{at} with error {status}: {said}."
        case errors.HTTPError():
            return "The Hugging Face Hub cannot be reached."
        case OSError() if error.errno:
            return f"The {doing} of {repo}{at} failed on this machine: {error.strerror}."
        case ValueError() if "metadata in README.md" in str(error):
            return "The Hub does not take the metadata of the card."
        case _:
            return f"The {doing} of {repo}{at} was interrupted; please try again."


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state of a network that a weights folder holds: all but counters of training steps."""
    return {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}


def load(folder: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a weights folder in fp32, in evaluation mode, and its config.

    Raises:
        InputError: if a file is missing, unreadable, altered, or does not fit the architecture.
    """
    config = load_config(folder)
    network = build_network(folder, config, checked_data(folder, config))
    load_calibration(folder, config)
    return network, config


def checked_data(folder: str | Path, config: Mapping[str, Any]) -> bytes:
    """The content of the file of tensors of a weights folder, if it is the one its config means.

    Raises:
        InputError: if it is missing or altered.
    """
    folder = Path(folder)
    name = _shown(folder)
    try:
        data = (folder / TENSORS).read_bytes()
    except OSError:
        raise InputError(f"{name} holds no {TENSORS}.") from None
    if hashlib.sha256(data).hexdigest() != config["sha256"]:
        raise InputError(f"{TENSORS} of {name} is not the file that {CONFIG} describes.")
    return data


def build_network(folder: str | Path, config: Mapping[str, Any], data: bytes) -> nn.Module:
    """The network of a config with these tensors, in fp32, in evaluation mode.

    Args:
        folder: of weights, for messages.
        config: of it.
        data: of :func:`checked_data`.

    Raises:
        InputError: if the tensors are unreadable or do not fit the architecture.
    """
    from safetensors.torch import load as deserialise

    from boneage.models.registry import build

    name = _shown(Path(folder))
    try:
        tensors = deserialise(data)
    except Exception:  # safetensors raises its own, untyped errors
        raise InputError(f"{TENSORS} of {name} is not a readable safetensors file.") from None
    model = build(config["architecture"]["name"], config["architecture"]["arguments"])
    expected = stored_tensors(model)
    if expected.keys() != tensors.keys() or any(
        tensors[name].shape != value.shape for name, value in expected.items()
    ):
        raise InputError(f"{TENSORS} of {name} does not fit its architecture.")
    model.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)
    return model.eval()


def load_calibration(folder: str | Path, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays that the ``refusal`` of a config needs; none where it has no such entry.

    Raises:
        InputError: if the file is missing, unreadable or not the one that the config describes.
    """
    from safetensors.numpy import load as deserialise

    folder = Path(folder)
    if not (refusal := config.get("refusal")):
        return {}
    name = _shown(folder)
    try:
        data = (folder / CALIBRATION).read_bytes()
    except OSError:
        raise InputError(f"{name} holds no {CALIBRATION}.") from None
    if hashlib.sha256(data).hexdigest() != refusal.get("sha256"):
        raise InputError(f"{CALIBRATION} of {name} is not the file that {CONFIG} describes.")
    try:
        return deserialise(data)
    except Exception:  # safetensors raises its own, untyped errors
        raise InputError(f"{CALIBRATION} of {name} is not a readable safetensors file.") from None


def save_calibration(
    folder: str | Path, entries: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Add what was found after the training to a weights folder.

    Args:
        folder: of weights.
        entries: of its config, ``interval`` and ``refusal``; the latter gets the arrays' hash.
        arrays: what the refusal needs.

    Raises:
        InputError: if it is no weights folder.
    """
    from safetensors.numpy import save as serialise

    folder = Path(folder)
    config = {**load_config(folder), **entries}
    files = {}
    if config.get("refusal"):
        data = serialise({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        config["refusal"] = {**config["refusal"], "sha256": hashlib.sha256(data).hexdigest()}
        files[CALIBRATION] = data
    files[CONFIG] = (json.dumps(config, indent=2) + "\n").encode()
    for name, content in files.items():
        (folder / f"{name}.part").write_bytes(content)
    for name in files:
        (folder / f"{name}.part").replace(folder / name)


def load_config(folder: str | Path) -> dict[str, Any]:
    """The config of a weights folder.

    Raises:
        InputError: if it is missing, unreadable or of another format.
    """
    folder = Path(folder)
    name = _shown(folder)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"{name} is not a weights folder: it has no readable {CONFIG}.") from None
    except ValueError:
        raise InputError(f"{CONFIG} of {name} is not valid JSON.") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise InputError(f"{CONFIG} of {name} is not of format {FORMAT}.")
    if missing := [key for key in NEEDED if key not in config]:
        raise InputError(f"{CONFIG} of {name} lacks {', '.join(missing)}.")
    for key, inside in NEEDED.items():
        entry = config[key] if inside else {}
        if not isinstance(entry, dict) or set(inside) - entry.keys():
            raise InputError(f"{key} in {CONFIG} of {name} needs {', '.join(inside)}.")
    return config


@contextmanager
def entries_of(folder: str | Path) -> Iterator[None]:
    """For what reads the entries of a config, which another version may have written.

    Args:
        folder: of weights, for the message.

    Raises:
        InputError: in place of the error of an entry that is missing, unknown or of another kind.
    """
    try:
        yield
    except InputError:
        raise
    except (TypeError, KeyError, AttributeError, ValueError):
        raise InputError(
            f"{CONFIG} of {_shown(Path(folder))} does not fit this version of boneage: an entry is "
            "missing, unknown or of another kind."
        ) from None


def _shown(folder: Path) -> str:
    """A folder's name; that of its repository if it lies in the Hub's cache."""
    repo = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repo.startswith("models--"):
        return repo.removeprefix("models--").replace("--", "/")
    return folder.name
