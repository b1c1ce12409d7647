"""What becomes of uploads, what is logged, and what hostile requests are answered."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from boneage.predictor import Predictor, released
from boneage.webui import guard, page
from boneage.webui.regions import Regions

SECRET = "Doe^Jane 1999"
FILE = {"_type": "gradio.FileData"}
MB = 2**20


class Site:
    """A page of its own, with room for two waiting requests."""

    def __init__(self, weights: Path) -> None:
        self.predictor = Predictor.load(weights)
        self.blocks = page.build(self.predictor, Regions({}), queue=2)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = page.launch(self.blocks, "127.0.0.1", self.port, block=False)

    def upload(self, name: str, content: bytes) -> str:
        answer = httpx.post(f"{self.url}gradio_api/upload", files={"files": (name, content)})
        return answer.raise_for_status().json()[0]

    def call(self, path: str, session: str | None = None) -> httpx.Response:
        body = {"data": [{"path": path, "meta": FILE}, "F"], "session_hash": session}
        url, kind = f"{self.url}gradio_api/call/hand", {"Content-Type": "application/json"}
        # Escaped, so that halves of surrogate pairs can be sent.
        return httpx.post(url, content=json.dumps(body), headers=kind, timeout=60)

    def answer(self, path: str, session: str | None = None) -> str:
        event = self.call(path, session).raise_for_status().json()["event_id"]
        return httpx.get(f"{self.url}gradio_api/call/hand/{event}", timeout=60).text


@pytest.fixture(scope="module")
def site(untrained: Path) -> Iterator[Site]:
    site = Site(untrained)
    yield site
    site.blocks.close(verbose=False)


@pytest.fixture(scope="module")
def film(rsna_test_dir: Path) -> bytes:
    return (rsna_test_dir / "images" / "4360.webp").read_bytes()


def uploads() -> list[Path]:
    files = (path for path in guard.own_folder().rglob("*") if path.is_file())
    return [path for path in files if path.name != guard.MARKER]


def wait_for(happened: Callable[[], Any]) -> None:
    """Up to a minute; whether it happened is for the caller to assert."""
    end = time.monotonic() + 60
    while not happened() and time.monotonic() < end:
        time.sleep(0.05)


class TestUploads:
    def test_they_lie_in_a_folder_of_this_process_alone(self, site: Site, film: bytes) -> None:
        path = Path(site.upload("hand.webp", film))
        assert path.is_relative_to(guard.own_folder())
        assert guard.own_folder().stat().st_mode & 0o077 == 0

    def test_old_ones_and_empty_folders_are_deleted(self, tmp_path: Path) -> None:
        (tmp_path / "hash").mkdir()
        (tmp_path / "hash" / "hand.png").touch()
        guard.sweep(tmp_path, 3600)
        assert (tmp_path / "hash" / "hand.png").exists()
        guard.sweep(tmp_path, 0)
        assert not (tmp_path / "hash" / "hand.png").exists()
        guard.sweep(tmp_path, 0)  # the folder was just changed
        assert list(tmp_path.iterdir()) == []

    def test_broken_off_and_stray_ones_are_deleted_too(self, site: Site) -> None:
        guard.sweep(guard.own_folder(), 0)
        head = (
            "POST /gradio_api/upload HTTP/1.1\r\nHost: page\r\nContent-Length: 9999999\r\n"
            "Content-Type: multipart/form-data; boundary=B\r\n\r\n--B\r\n"
            'Content-Disposition: form-data; name="files"; filename="hand.png"\r\n\r\n'
        )
        with socket.create_connection(("127.0.0.1", site.port)) as connection:
            connection.sendall(head.encode() + bytes(300_000))
            wait_for(uploads)
        httpx.post(f"{site.url}gradio_api/upload", files={"other": ("hand.png", b"rest")})
        assert len(uploads()) >= 2
        wait_for(lambda: guard.sweep(guard.own_folder(), 0) or not uploads())
        assert uploads() == []

    def test_while_the_page_runs(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(guard, "AGE", 0)
        monkeypatch.setattr(guard, "EVERY", 0.01)
        monkeypatch.setattr(guard, "own_folder", lambda: tmp_path)
        sessions = SimpleNamespace(time_last_used={}, session_data={})

        async def run() -> None:
            async with guard.keep_clean(SimpleNamespace(state_holder=sessions)):
                for _ in range(2):
                    (tmp_path / "hand.png").touch()
                    async with asyncio.timeout(60):
                        while (tmp_path / "hand.png").exists():
                            await asyncio.sleep(0.01)

        # In a thread of its own: the browser of other tests keeps a loop in this one.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, run()).result()

    def test_within_the_hour(self) -> None:
        every, age = page.DELETE_CACHE
        assert every + age <= 3600
        assert guard.EVERY + guard.AGE < 3600

    def test_what_a_killed_process_left_is_deleted(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        names = ("boneage-own", "boneage-left", "boneage-main", "other", "target")
        own, left, checkout, other, target = folders = [tmp_path / name for name in names]
        for folder in folders:
            folder.mkdir()
            (folder / "hand.png").touch()
        for folder in (own, left, other, target):
            (folder / guard.MARKER).touch()
        (left / "hash").mkdir()
        (left / "hash" / guard.MARKER).touch()  # as a visitor may call a file
        (tmp_path / "boneage-link").symlink_to(target)
        monkeypatch.setattr(guard, "own_folder", lambda: own)
        guard.sweep_all(3600)
        assert all((folder / "hand.png").exists() for folder in folders)
        os.utime(left / guard.MARKER, (0, 0))  # as if its process had ended long ago
        for _ in range(2):  # the folder in it was just changed
            guard.sweep_all(0)
        assert [path.name for path in own.iterdir()] == [guard.MARKER]
        assert not left.exists()
        for folder in (checkout, other, target):
            assert (folder / "hand.png").exists()

    def test_a_folder_of_the_users_own_is_only_the_place_for_it(self, tmp_path: Path) -> None:
        """As of ``$GRADIO_TEMP_DIR``: what else lies there stays."""
        place = tmp_path / "tmp"
        place.mkdir()
        (place / "thesis.tex").touch()
        program = (
            "from boneage.webui import guard; own = guard.own_folder(); guard.sweep_all(-1);"
            "print(own.parent, oct(own.stat().st_mode))"
        )
        said = subprocess.check_output(
            [sys.executable, "-c", program],
            env={**os.environ, "GRADIO_TEMP_DIR": str(place)},
            text=True,
        )
        assert said.split() == [str(place), "0o40700"]
        assert [path.name for path in place.iterdir()] == ["thesis.tex"]

    def test_results_of_a_session_are_forgotten(self, site: Site, film: bytes) -> None:
        path = site.upload("forgotten.webp", film)
        site.answer(path, "visitor")
        sessions = site.blocks.app.state_holder
        kept = sessions.session_data["visitor"].config_values
        assert "forgotten" in str(kept)
        guard.forget(sessions)
        assert "forgotten" not in str(kept)
        assert '"age"' in site.answer(path, "visitor")

    def test_names_of_files_that_are_gone_are_forgotten(self, site: Site, film: bytes) -> None:
        site.answer(site.upload("forgotten.webp", film), "visitor")
        kept = site.blocks.temp_file_sets
        guard.forget_files(site.blocks)
        assert "forgotten" in str(kept)
        guard.sweep(guard.own_folder(), 0)
        guard.forget_files(site.blocks)
        assert "forgotten" not in str(kept)

    def test_answers_that_nobody_fetches_are_forgotten(
        self, site: Site, film: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site.call(site.upload("forgotten.webp", film), "nobody")
        waiting, answers = site.blocks._queue.pending_messages_per_session, guard.Answers()
        wait_for(lambda: "process_completed" in str(waiting["nobody"]))
        answers.forget(waiting)
        assert "forgotten" in str(waiting["nobody"])
        monkeypatch.setattr(guard, "AGE", -1)
        answers.forget(waiting)
        assert "nobody" not in waiting

    def test_no_session_is_written_to_the_disk(self, site: Site, film: bytes) -> None:
        site.answer(site.upload("hand.webp", film), "visitor")
        link = f"{site.url}gradio_api/deep_link?session_hash=visitor"
        assert httpx.get(link).status_code == 404


class TestLog:
    def test_neither_names_nor_addresses(
        self, site: Site, film: bytes, capfd: pytest.CaptureFixture[str]
    ) -> None:
        good = site.upload(f"{SECRET}.webp", film)
        bad = site.upload(f"{SECRET}.png", b"\x89PNG\r\n\x1a\n" + bytes(99))
        assert '"age"' in site.answer(good)
        assert "damaged" in site.answer(bad)
        Path(good).unlink()
        assert "no such file" in site.answer(good)
        assert site.call(f"/nowhere/{SECRET}.png").status_code == 400
        said = "".join(capfd.readouterr())
        assert "Doe" not in said
        assert "127.0.0.1" not in said
        assert "Traceback" not in said

    @pytest.mark.parametrize("name", ["hand", "batch"])
    @pytest.mark.parametrize(
        "shape",
        [
            lambda file: [],
            lambda file: None,
            lambda file: {"file": file},
            lambda file: [file["path"]],
            lambda file: [file["path"], "F"],
            lambda file: [3, "F"],
            lambda file: [True],
            lambda file: [[[[file]]], "F"],
            lambda file: [[{"meta": FILE, "orig_name": file["path"]}], None],
            lambda file: [{"meta": FILE, "orig_name": file["path"]}, "F"],
            lambda file: [{"path": file["path"]}, "F"],
            lambda file: [[{"path": file["path"]}], None, "F"],
            lambda file: [{**file, "path": [file["path"]]}, "F"],
            lambda file: [file, {"sex": file["path"]}],
            lambda file: [[file], None, [file["path"]]],
            lambda file: [[file], file["path"]],
            lambda file: [[file], None, "F", "F"],
            lambda file: [file] * 9999,
        ],
    )
    def test_data_of_a_wrong_shape_are_told_the_right_one(
        self,
        site: Site,
        film: bytes,
        capfd: pytest.CaptureFixture[str],
        name: str,
        shape: Callable[[dict], Any],
    ) -> None:
        file = {"path": site.upload(f"{SECRET}.webp", film), "meta": FILE}
        body = {"data": shape(file)}
        answer = httpx.post(f"{site.url}gradio_api/call/{name}", json=body, timeout=60)
        sentence = guard.WRONG_DATA.format(name=name, data=guard.DATA[name])
        assert (answer.status_code, answer.json()) == (400, {"detail": sentence})
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize(
        "change",
        [
            lambda file: [file["path"]],
            lambda file: [3],
            lambda file: [[file, [file]]],
            lambda file: [{"path": file["path"]}],
            lambda file: [{**file, "size": file["path"]}],
            lambda file: [{**file, "path": str(Path(file["path"]).parent)}],
            lambda file: [[]],
        ],
    )
    def test_nor_do_those_of_the_queue_or_with_a_wrong_field(
        self,
        site: Site,
        film: bytes,
        capfd: pytest.CaptureFixture[str],
        change: Callable[[dict], list],
    ) -> None:
        file = {"path": site.upload(f"{SECRET}.webp", film), "meta": FILE}
        for fn in site.blocks.fns.values():
            if fn.api_name not in ("hand", "batch") and fn.name != "taken":
                continue
            before = [None] * (fn.name == "taken")
            session = f"queue-{fn._id}"
            body = {"data": [*before, *change(file)], "fn_index": fn._id, "session_hash": session}
            joined = httpx.post(f"{site.url}gradio_api/queue/join", json=body, timeout=60)
            assert joined.status_code == 200
            stream = f"{site.url}gradio_api/queue/data?session_hash={session}"
            assert "process_completed" in httpx.get(stream, timeout=60).text
        assert capfd.readouterr() == ("", "")

    def test_what_may_be_left_out(self, site: Site, film: bytes) -> None:
        file = {"path": site.upload("hand.webp", film), "meta": FILE}
        for name, data, expected in (
            ("hand", [file, "F"], '"age"'),
            ("hand", [file], "sex"),
            ("hand", [None, "F"], "No file was given."),
            ("batch", [[file], None, "F"], '"age"'),
            ("batch", [[file]], "sex"),
            ("batch", [None], "No file was given."),
        ):
            url = f"{site.url}gradio_api/call/{name}"
            event = httpx.post(url, json={"data": data}, timeout=60).json()["event_id"]
            assert expected in httpx.get(f"{url}/{event}", timeout=60).text

    def test_visitors_who_leave_make_no_noise(
        self, site: Site, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with socket.create_connection(("127.0.0.1", site.port)) as connection:
            connection.sendall(
                b"POST /gradio_api/upload HTTP/1.1\r\nHost: page\r\nContent-Length: 999\r\n"
                b"Content-Type: multipart/form-data; boundary=B\r\n\r\n--B\r\n"
            )
        assert httpx.get(f"{site.url}config").status_code == 200
        assert capfd.readouterr() == ("", "")


class TestFiles:
    def test_own_upload_is_served(self, site: Site, film: bytes) -> None:
        path = site.upload("hand.webp", film)
        assert httpx.get(f"{site.url}gradio_api/file={path}").content == film

    @pytest.mark.parametrize("route", ["gradio_api/file=", "gradio_api/file/", "file="])
    @pytest.mark.parametrize(
        "path",
        [
            "/etc/passwd",
            "%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
            "/proc/self/environ",
            "/proc/self/cwd/pyproject.toml",
            "{folder}/../secret",
            "{folder}/..%2fsecret",
            "{folder}/%2e%2e/secret",
            "{folder}",
            "{repo}/app.py",
            "{weights}/config.json",
            "file:///etc/passwd",
            "http://127.0.0.1:{port}/config",
            "https://example.org/",
        ],
    )
    def test_nothing_else_is(self, site: Site, repo_root: Path, route: str, path: str) -> None:
        path = path.format(
            folder=guard.own_folder(), repo=repo_root, weights=released("hand"), port=site.port
        )
        answer = httpx.get(f"{site.url}{route}{path}", timeout=60)
        assert answer.status_code in (400, 403, 404)
        assert len(answer.content) < 500

    def test_foreign_paths_and_addresses_are_not_read(
        self, site: Site, rsna_test_dir: Path
    ) -> None:
        for path in (
            str(rsna_test_dir / "images" / "4360.webp"),
            f"{guard.own_folder()}/../{rsna_test_dir}/images/4360.webp",
            "\0",
            "\ud800",
            "/etc/passwd",
        ):
            answer = site.call(path)
            assert (answer.status_code, answer.json()) == (400, {"detail": guard.GONE})
        for path in ("http://127.0.0.1/x.png", " HTTPS://example.org/x.png"):
            answer = site.call(path)
            assert (answer.status_code, answer.json()) == (400, {"detail": guard.ADDRESS})

    def test_names_of_uploads_stay_in_the_folder(self, site: Site) -> None:
        for name in ("../../escaped.png", "/etc/escaped.png", "..\\escaped.png", "a/../../b.png"):
            path = Path(site.upload(name, b"x" * 99))
            assert path.is_relative_to(guard.own_folder())
            assert path.parent.parent == guard.own_folder()


def test_full_queue_is_a_sentence(site: Site, film: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assess, go = site.predictor.assess, threading.Event()
    monkeypatch.setattr(site.predictor, "assess", lambda *a, **k: go.wait(60) and assess(*a, **k))
    path = site.upload("hand.webp", film)
    try:
        answers = [site.call(path) for _ in range(12)]
    finally:
        go.set()
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) >= 8
    for answer in refused:
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "60"
        assert answer.json() == {"detail": guard.BUSY.format(waiting=2)}
    for answer in (a for a in answers if a.status_code == 200):
        event = answer.json()["event_id"]
        done = httpx.get(f"{site.url}gradio_api/call/hand/{event}", timeout=60).text
        assert '"age"' in done


class TestRequests:
    """The guard before an app that says what reached it."""

    @pytest.fixture
    def client(self) -> TestClient:
        async def echo(request: Request) -> JSONResponse:
            return JSONResponse({"size": len(await request.body())})

        async def unavailable(_: Request) -> PlainTextResponse:
            return PlainTextResponse("Queue is stopped.", 503)

        routes = [
            Route(guard.UPLOAD, echo, methods=["POST"]),
            Route("/stopped", unavailable),
            Route("/{path:path}", echo, methods=["GET", "POST"]),
        ]
        return TestClient(guard.Guard(Starlette(routes=routes), max_upload=2 * MB))

    @staticmethod
    def stream(megabytes: int) -> Iterator[bytes]:
        return (bytes(MB) for _ in range(megabytes))

    def test_uploads_are_limited_with_and_without_a_length(self, client: TestClient) -> None:
        assert client.post(guard.UPLOAD, content=bytes(3 * MB)).json() == {"size": 3 * MB}
        assert client.post(guard.UPLOAD, content=bytes(3 * MB + 1)).status_code == 413
        assert client.post(guard.UPLOAD, content=self.stream(3)).json() == {"size": 3 * MB}
        assert client.post(guard.UPLOAD, content=self.stream(4)).status_code == 413

    def test_uploads_need_room_on_the_disk(
        self, client: TestClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(guard.shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * MB))
        assert client.post(guard.UPLOAD, content=bytes(MB)).json() == {"size": MB}
        for content in (bytes(MB + 1), self.stream(1)):  # of the other no size is told
            answer = client.post(guard.UPLOAD, content=content)
            assert answer.status_code == 507
            assert answer.json() == {"detail": guard.FULL}

    def test_other_requests_are_small(self, client: TestClient) -> None:
        assert client.post("/call", content=self.stream(4)).json() == {"size": 4 * MB}
        assert client.post("/call", content=self.stream(5)).status_code == 413

    @pytest.mark.parametrize("path", ["/x/file=http://a/b", "/file=https://a", "/x/proxy=http://a"])
    def test_addresses_are_not_fetched(self, client: TestClient, path: str) -> None:
        assert client.get(path).json() == {"detail": guard.ADDRESS}

    @pytest.mark.parametrize(
        "body",
        [
            {"data": [{"path": "http://a/b.png"}]},
            {"data": [[[{"x": {"path": "HTTPS://a"}}]]]},
        ],
    )
    def test_addresses_at_any_depth(self, client: TestClient, body: Any) -> None:
        assert client.post("/call", json=body).json() == {"detail": guard.ADDRESS}
        escaped = b'{"data": [{"path": "\\u0068ttp://a"}]}'
        assert client.post("/call", content=escaped).json() == {"detail": guard.ADDRESS}

    @pytest.mark.parametrize("body", [b"", b"{", b"[" * 200_000, b'{"path": 3}', b'{"path": ""}'])
    def test_what_is_no_call_passes(self, client: TestClient, body: bytes) -> None:
        assert client.post("/call", content=body).json() == {"size": len(body)}

    def test_own_uploads_pass(self, client: TestClient) -> None:
        body = {"data": [{"path": os.path.join(guard.own_folder(), "hash", "hand.png")}]}
        assert "size" in client.post("/call", json=body).json()

    def test_a_folder_behind_a_link_is_its_own(self, tmp_path: Path) -> None:
        """As the temporary folder of macOS is."""
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        (tmp_path / "real" / "out").symlink_to(tmp_path)
        for path, refused in (("link/film.png", None), ("link/out/film.png", guard.GONE)):
            body = json.dumps({"data": [{"path": str(tmp_path / path)}]}).encode()
            assert guard._refused(body, tmp_path / "link") == refused

    def test_other_unavailability_is_kept(self, client: TestClient) -> None:
        answer = client.get("/stopped")
        assert (answer.status_code, answer.text) == (503, "Queue is stopped.")
