"""What stands between the page and the network: limits of requests, and the end of what was given.

Gradio deletes the uploads that it knows of. An upload that was broken off, a session's last result
and what a killed process left it does not; :func:`keep_clean` does. :class:`Guard` refuses what no
browser sends: requests without end, and addresses in place of files, which the server would fetch.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, MutableMapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PREFIX = "boneage-"
MARKER = ".visitors"
"""An empty file in each folder of visitors' files: nothing else of that prefix is ever swept."""
# Gradio deletes what it knows of before this age (page.DELETE_CACHE); this is for the rest.
AGE = 3300  # s
# So often that the results of many visitors do not pile up in memory.
EVERY = 10  # s
UPLOAD = "/gradio_api/upload"
CALL = "/gradio_api/call/"
DEEP_LINK = "/gradio_api/deep_link"
MAX_CALL_BYTES = 4 * 2**20
"""The largest request that is no upload."""
ENVELOPE_BYTES = 2**20
"""What an upload's request may have beside the file: names and separators."""
BUSY = "The page is busy: {waiting} requests are waiting. Please try again in a minute."
GONE = "The file was never uploaded, or has been deleted. Please upload it again."
FULL = "The page has no room for more files at the moment. Please try again in an hour."
ROOM = 2
"""Times an upload's size that the disk must have room for before it is taken."""
ADDRESS = "Send the file itself, not an address: this page fetches nothing."
FORM = (
    "The data are not of the form that this page accepts; “Use via API” at its foot describes it."
)
DATA = {
    "hand": "[FILE, SEX]; SEX is a text and may be left out",
    "adult": "[FILE, REGION]; REGION is a text and may be left out",
    "batch": "[[FILE, ...], TABLE, SEX]; TABLE is a FILE or null, SEX is a text, and both may be "
    "left out",
}
"""What the data of an endpoint's call are, in words."""
WRONG_DATA = (
    "The data of /{name} must be {data}. A FILE is "
    '{{"path": what /upload returned, "meta": {{"_type": "gradio.FileData"}}}}.'
)

_ADDRESSES = re.compile(r"/file[=/]https?:|/proxy=")


@cache
def own_folder() -> Path:
    """Where this process keeps what visitors give; deleted when the process ends.

    It lies in ``$GRADIO_TEMP_DIR`` where that is set, and is its value hereafter: Gradio reads it.
    """
    parent = os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir()
    Path(parent).mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    (path / MARKER).touch()
    os.environ["GRADIO_TEMP_DIR"] = str(path)
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@asynccontextmanager
async def keep_clean(app: Any) -> AsyncIterator[None]:
    """While the app runs, delete what was given before :data:`AGE`.

    Args:
        app: Gradio's; its sessions are emptied too.
    """

    answers = Answers()

    async def sweep_on() -> None:
        while True:
            with suppress(Exception):  # whatever goes wrong once must not end the sweeping
                await asyncio.to_thread(sweep_all, AGE)
                forget(app.state_holder)
                forget_files(app.get_blocks())
                answers.forget(app.get_blocks()._queue.pending_messages_per_session)
            await asyncio.sleep(EVERY)

    task = asyncio.create_task(sweep_on())
    try:
        yield
    finally:
        task.cancel()


def sweep_all(age: float) -> None:
    """:func:`sweep` this process's folder and those that killed processes left behind."""
    own = own_folder()
    (own / MARKER).touch()  # fresh as long as its process lives
    sweep(own, age)
    for marker in own.parent.glob(f"{PREFIX}*/{MARKER}"):
        folder = marker.parent
        with suppress(OSError):
            status = folder.lstat()  # of a link itself, which is not followed
            mine = not hasattr(os, "getuid") or status.st_uid == os.getuid()
            if folder != own and mine and not folder.is_symlink():
                sweep(folder, age)
                stale = datetime.now().timestamp() - marker.lstat().st_mtime > age
                if stale and [*folder.iterdir()] == [marker]:
                    marker.unlink()
                    folder.rmdir()


def sweep(folder: Path, age: float) -> None:
    """Delete files last changed more than ``age`` seconds ago, and folders that are empty then."""
    limit = datetime.now().timestamp() - age
    for root, folders, files in os.walk(folder, topdown=False):
        for path in (Path(root) / name for name in files):
            with suppress(OSError):
                if path != folder / MARKER and path.lstat().st_ctime <= limit:
                    path.unlink()
        for path in (Path(root) / name for name in folders):
            with suppress(OSError):  # not empty
                if path.lstat().st_ctime <= limit:
                    path.rmdir()


def forget(sessions: Any) -> None:
    """Drop what Gradio keeps of the sessions for links to them, which this page does not have.

    It is the last value of every component, pictures included, until a thousand sessions later.

    Args:
        sessions: Gradio's ``StateHolder``.
    """
    for session in list(sessions.session_data.values()):
        session.config_values.clear()


def forget_files(blocks: Any) -> None:
    """Drop the paths of files that are gone, names that visitors gave them included.

    Args:
        blocks: Gradio's, which keeps paths to delete the files, some of them for good.
    """
    for paths in blocks.temp_file_sets:
        paths.difference_update([path for path in list(paths) if not os.path.lexists(path)])


class Answers:
    """Forgets answers to calls of the API that nobody has fetched, which Gradio would keep."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}  # by session, since when something waits there

    def forget(self, waiting: MutableMapping[str, Any]) -> None:
        """Drop what waits for longer than :data:`AGE`; to be called again and again.

        Args:
            waiting: Gradio's queues of messages by session.
        """
        now = time.monotonic()
        filled = {session for session, queue in list(waiting.items()) if not queue.empty()}
        self._since = {session: self._since.get(session, now) for session in filled}
        for session, since in self._since.items():
            if now - since > AGE:
                with suppress(KeyError):  # fetched this moment
                    del waiting[session]


class Guard:
    """ASGI middleware that limits requests and says why one is refused.

    Args:
        app: what it stands before.
        max_upload: bytes of the largest file; a request may have that much in all its files.
    """

    def __init__(self, app: ASGIApp, max_upload: int) -> None:
        from starlette.middleware.body_limit import RequestBodyLimitMiddleware

        self._max_upload = max_upload
        self._upload = RequestBodyLimitMiddleware(app, max_upload + ENVELOPE_BYTES)
        self._call = RequestBodyLimitMiddleware(_Calls(app), MAX_CALL_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].rstrip("/") == UPLOAD:
            size = dict(scope["headers"]).get(b"content-length", b"").decode("latin-1")
            needed = ROOM * (int(size) if size.isdecimal() else self._max_upload)
            if shutil.disk_usage(own_folder()).free < needed:
                await _answer(507, FULL, send)
                return
            with suppress(_disconnected()):  # a browser that left gets no answer
                await self._upload(scope, receive, send)
        else:
            await self._call(scope, receive, send)


class _Calls:
    """Refuses addresses and foreign paths in place of uploads; says how many wait when busy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            if scope["type"] == "http" and re.search(_ADDRESSES, scope["path"]):
                await _answer(400, ADDRESS, send)
                return
            if scope["type"] == "http" and scope["path"].startswith(DEEP_LINK):
                await _answer(404, "Not found.", send)  # it would write a session to the disk
                return
            await self._app(scope, receive, send)
            return
        body = await _body(receive)
        if body is None:
            return
        if refused := _refused(body, own_folder()) or _misshapen(scope["path"], body):
            await _answer(400, refused, send)
            return
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self._app(scope, replay, _Polite(send))


class _Polite:
    """Sends on; in place of Gradio's answer when its queue is full, a sentence and when to return.

    The page shows the sentence of any status but 503, for which it has its own.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._held: Message | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 503:
            self._held = message
            return
        if self._held:
            if full := re.search(rb"Queue is full.* size is (\d+)", message.get("body", b"")):
                sentence = BUSY.format(waiting=full[1].decode())
                await _answer(429, sentence, self._send, [(b"retry-after", b"60")])
                return
            await self._send(self._held)
            self._held = None
        await self._send(message)


def _disconnected() -> type[Exception]:
    from starlette.requests import ClientDisconnect

    return ClientDisconnect


async def _body(receive: Receive) -> bytes | None:
    """The whole body, whose size is limited outside; None if the visitor left before its end."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _refused(body: bytes, folder: Path) -> str | None:
    """Why a JSON body is refused: it names a file that does not lie in the uploads' folder."""
    try:
        waiting: list[Any] = [json.loads(body)]
    except (ValueError, RecursionError):  # not ours to say: Gradio refuses it
        return None
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            path = value.get("path")
            if isinstance(path, str) and path:
                if re.match(r"\s*https?:", path, re.IGNORECASE):
                    return ADDRESS
                if not _lies_in(folder, path):
                    return GONE
            waiting += value.values()
        elif isinstance(value, Sequence) and not isinstance(value, str):
            waiting += value
    return None


def _lies_in(folder: Path, path: str) -> bool:
    try:
        return Path(os.path.realpath(path)).is_relative_to(folder.resolve())
    except ValueError:  # no name of a file: a null character, half of a surrogate pair
        return False


def _misshapen(path: str, body: bytes) -> str | None:
    """Why the body of a call is refused: its data are not :data:`DATA`.

    Gradio would log what it was given, names of files included, and tell the caller nothing.
    """
    name = path.removeprefix(CALL).rstrip("/")
    if not path.startswith(CALL) or name not in DATA:
        return None
    try:
        given = json.loads(body)["data"]
        files, *texts = given
    except (ValueError, KeyError, TypeError, RecursionError):
        given = files = None
        texts = []
    fits = isinstance(given, list)
    if name == "batch":
        table, *texts = texts or [None]
        many = files is None or (isinstance(files, list) and all(map(_is_file, files)))
        fits &= many and (table is None or _is_file(table))
    else:
        fits &= files is None or _is_file(files)
    fits &= len(texts) <= 1 and all(text is None or isinstance(text, str) for text in texts)
    return None if fits else WRONG_DATA.format(name=name, data=DATA[name])


def _is_file(value: Any) -> bool:
    """Whether it is an upload as Gradio writes one."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("path"), str)
        and bool(value["path"])
        and value.get("meta") == {"_type": "gradio.FileData"}
    )


async def _answer(
    status: int, sentence: str, send: Send, headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    body = json.dumps({"detail": sentence}).encode()
    length = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*length, *headers]})
    await send({"type": "http.response.body", "body": body})
