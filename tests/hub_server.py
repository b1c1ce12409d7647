"""A small stand-in for the Hugging Face Hub on the loopback address.

It speaks as much of the Hub's HTTP interface as its own client needs to make repositories and
branches, to commit (with large files beside, by the LFS protocol's basic transfer), to list and to
download. Nothing here knows about boneage.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

WRITER, READER = "hf_writer", "hf_reader"
NAMESPACE = "someone"  # WRITER's; READER reads its private repositories
LARGE = (".safetensors", ".png", ".webp", ".gz")


@dataclass
class Repository:
    """Branches and commits; a commit is the files of its tree."""

    private: bool
    sdk: str | None
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        text = json.dumps([len(self.commits), branch, sorted(files)])
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit

    def tree(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commit = self.branches.get(revision, revision)
        return (commit, self.commits[commit]) if commit in self.commits else None


class Refusal(Exception):  # noqa: N818 - an answer, no error of this server
    """An answer that is no success."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class FakeHub:
    """The Hub's state, and what it is told to do wrong.

    Attributes:
        repositories: by kind (models, spaces) and name.
        stored: large files by their SHA-256.
        requests: method and path of every one, in order.
        failing: error with which everything is answered.
        free_spaces: whether an account without a subscription may make Spaces.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.stored: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.failing: int | None = None
        self.free_spaces = True
        hub = self

        class Handler(_Handler):
            state = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def files(self, kind: str, repo: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a revision, as they would be downloaded."""
        found = self.repositories[kind, repo].tree(revision)
        assert found is not None
        return found[1]

    def alter(self, repo: str, name: str, change: Callable[[bytes], bytes]) -> None:
        """Change what the Hub sends of a file, in all of a model's commits."""
        for files in self.repositories["models", repo].commits.values():
            if name in files:
                digest = hashlib.sha256(files[name]).hexdigest()
                self.stored[digest] = change(files[name])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: FakeHub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        self.state.requests.append(f"{self.command} {path}")
        try:
            if self.state.failing:
                raise Refusal(self.state.failing)
            for pattern, action in ROUTES:
                method, _, route = pattern.partition(" ")
                match = re.fullmatch(route, path)
                if match and self.command in method.split(","):
                    return action(self, *map(unquote, match.groups("")))
            raise Refusal(404, message="no such page")
        except Exception as error:
            # An error of this server's own must not read as a lost connection: clients retry that.
            refusal = error if isinstance(error, Refusal) else Refusal(501, message=repr(error))
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            content = json.dumps({"error": refusal.message}).encode()
            self.send(refusal.status, content, {k: v for k, v in headers.items() if v})

    def send(
        self, status: int, content: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_json(self, value: Any) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def token(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        if token not in (None, WRITER, READER):
            raise Refusal(401, message="Invalid credentials in Authorization header")
        return token

    def repository(self, kind: str, name: str, write: bool = False) -> Repository:
        token = self.token()
        repository = self.state.repositories.get((kind, name))
        if repository is None or (repository.private and token is None):
            raise Refusal(404 if token else 401, "RepoNotFound", "Repository not found")
        if write and token is None:
            raise Refusal(401, message="Invalid username or password.")
        if write and not (token == WRITER and name.startswith(f"{NAMESPACE}/")):
            raise Refusal(403, message="You do not have the right to write to it")
        return repository

    def revision(self, kind: str, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        found = self.repository(kind, name).tree(revision)
        if found is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def create(self) -> None:
        given = json.loads(self.body)
        kind, name = f"{given.get('type', 'model')}s", f"{given['organization']}/{given['name']}"
        token = self.token()
        if token is None:
            raise Refusal(401, message="Invalid username or password.")
        if token != WRITER or given["organization"] != NAMESPACE:
            raise Refusal(403, message="You do not have the right to create a repository there")
        if kind == "spaces" and not self.state.free_spaces:
            raise Refusal(402, message="Subscribe to PRO")
        prefix = "" if kind == "models" else f"{kind}/"
        there = {"url": f"{self.state.url}/{prefix}{name}", "name": name}
        if (kind, name) in self.state.repositories:
            content = json.dumps({"error": "You already created this repo", **there}).encode()
            return self.send(409, content, {"Content-Type": "application/json"})
        made = Repository(given.get("visibility") == "private", given.get("sdk"))
        made.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        self.state.repositories[kind, name] = made
        self.send_json(there)

    def validate(self) -> None:
        import yaml

        given = json.loads(self.body)
        data = yaml.safe_load(given["content"].split("---\n")[1])
        wrong = [name for name in ("license",) if not isinstance(data.get(name), str)]
        if given["repoType"] == "space" and data.get("sdk") != "gradio":
            wrong.append("sdk")
        errors = [{"message": f'"{name}" is wrong'} for name in wrong]
        content = json.dumps({"errors": errors, "warnings": []}).encode()
        self.send(400 if wrong else 200, content, {"Content-Type": "application/json"})

    def may_write(self, kind: str, name: str) -> None:
        self.repository(kind, name, write=True)
        self.send_json({})

    def info(self, kind: str, name: str, revision: str = "main") -> None:
        commit, files = self.revision(kind, name, revision)
        siblings = [{"rfilename": path} for path in files]
        private = self.state.repositories[kind, name].private
        self.send_json({"id": name, "sha": commit, "private": private, "siblings": siblings})

    def branch(self, kind: str, name: str, branch: str) -> None:
        repository = self.repository(kind, name, write=True)
        if branch in repository.branches:
            raise Refusal(409, message="Reference already exists")
        if " " in branch or ".." in branch:
            raise Refusal(400, message=f"Invalid reference: {branch}")
        repository.branches[branch] = repository.branches["main"]
        self.send_json({})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        self.repository(kind, name, write=True)
        _, there = self.revision(kind, name, revision)
        answers = []
        for file in json.loads(self.body)["files"]:
            path, large = file["path"], file["path"].endswith(LARGE)
            oid = None
            if path in there:
                content = there[path]
                oid = hashlib.sha256(content).hexdigest() if large else git_hash(content)
            mode = "lfs" if large else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.send_json({"files": answers})

    def batch(self, prefix: str, name: str) -> None:
        self.repository(prefix or "models", name, write=True)
        objects = []
        for item in json.loads(self.body)["objects"]:
            if item["oid"] not in self.state.stored:
                item["actions"] = {"upload": {"href": f"{self.state.url}/lfs/{item['oid']}"}}
            objects.append(item)
        self.send_json({"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, message="not what was announced")
        self.state.stored[oid] = self.body
        self.send(200)

    def commit(self, kind: str, name: str, branch: str) -> None:
        repository = self.repository(kind, name, write=True)
        _, before = self.revision(kind, name, branch)
        files = dict(before)
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.state.stored[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        commit = repository.commit(branch, files)
        prefix = "" if kind == "models" else f"{kind}/"
        url = f"{self.state.url}/{prefix}{name}/commit/{commit}"
        self.send_json({"commitUrl": url, "commitOid": commit, "success": True})

    def tree(self, kind: str, name: str, revision: str) -> None:
        _, files = self.revision(kind, name, revision)
        self.send_json(
            [
                {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
                for path, content in files.items()
            ]
        )

    def resolve(self, prefix: str, name: str, revision: str, path: str) -> None:
        commit, files = self.revision(prefix or "models", name, revision)
        if path not in files:
            raise Refusal(404, "EntryNotFound", "Entry not found")
        content = files[path]
        digest = hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": commit}
        if not path.endswith(LARGE):
            return self.send(200, content, headers | {"ETag": f'"{git_hash(content)}"'})
        # As the Hub, from another host than its own.
        location = f"http://localhost:{self.state.port}/store/{digest}"
        linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        self.send(302, b"", headers | linked | {"Location": location})

    def store(self, oid: str) -> None:
        if self.headers.get("Authorization"):
            raise Refusal(400, message="a token went to another host than the Hub's")
        self.send(200, self.state.stored[oid])


def git_hash(content: bytes) -> str:
    """The name that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


KIND, NAME, REST = r"/api/(models|spaces)", r"/([^/]+/[^/]+)", r"/([^/]+)"
ROUTES: list[tuple[str, Callable[..., None]]] = [
    ("POST /api/repos/create", _Handler.create),
    ("POST /api/validate-yaml", _Handler.validate),
    (f"GET {KIND}{NAME}/auth-check/write", _Handler.may_write),
    (f"GET {KIND}{NAME}", _Handler.info),
    (f"GET {KIND}{NAME}/revision{REST}", _Handler.info),
    (f"POST {KIND}{NAME}/branch{REST}", _Handler.branch),
    (f"POST {KIND}{NAME}/preupload{REST}", _Handler.preupload),
    (f"POST {KIND}{NAME}/commit{REST}", _Handler.commit),
    (f"GET {KIND}{NAME}/tree{REST}", _Handler.tree),
    (r"POST /(?:(spaces)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT /lfs/(.+)", _Handler.put),
    (r"GET,HEAD /(?:(spaces)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", _Handler.resolve),
    ("GET,HEAD /store/(.+)", _Handler.store),
]


def serve(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Run a stand-in, and have the Hub's client in this process ask it alone.

    Args:
        folder: for the client's cache and token.
        monkeypatch: of the test.
    """
    from huggingface_hub.utils import close_session

    hub = FakeHub()
    thread = Thread(target=hub.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    point_client_at(hub.url, folder, monkeypatch)
    yield hub
    close_session()
    hub.server.shutdown()
    hub.server.server_close()
    thread.join()


def point_client_at(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the Hub's client in this process ask another address, with WRITER's token."""
    constants = "huggingface_hub.constants"
    monkeypatch.setattr(f"{constants}.ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(f"{constants}.HF_HUB_DISABLE_XET", True)  # another protocol for uploads
    monkeypatch.setattr(f"{constants}.HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr(f"{constants}.HF_TOKEN_PATH", str(folder / "token"))
    monkeypatch.setattr(f"{constants}.AGENT_HARNESSES_PATH", str(folder / "harnesses.json"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("HF_TOKEN", WRITER)
