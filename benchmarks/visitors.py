"""Visitors of the page at once: ``python -m benchmarks.visitors``."""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.__main__ import describe_machine
from benchmarks.measure import memory_mb

ROOT = Path(__file__).parents[1]
PAUSE = 1.0  # s between a visitor's assessments
EVERY = 10.0  # s between two looks at the memory
WARM = 60.0  # s until the memory should grow no more
START = 300.0  # s within which the page must answer
BUSY = (429, 503)
REFUSAL = "No age is given for this image"  # some bundled radiographs are refused
FILE = {"_type": "gradio.FileData"}


@dataclass
class Log:
    """What the visitors met.

    Attributes:
        latencies: seconds from the upload's begin to the result, of each assessment.
        busy: how often the page said that it is busy.
        errors: how often anything else went wrong, by what it was.
        memory: (second, MB of 10^6 bytes) of the server's resident memory.
    """

    latencies: list[float] = field(default_factory=list)
    busy: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, float]] = field(default_factory=list)

    def growth(self) -> float | None:
        """MB from the end of the first minute to the end; None for a shorter run."""
        warm = [mb for second, mb in self.memory if second >= WARM]
        return warm[-1] - warm[0] if len(warm) > 1 else None

    def text(self, seconds: float) -> str:
        """The outcome in lines, for a run of so many seconds."""
        count = len(self.latencies)
        lines = [f"{count} assessments, {count / seconds:.2f} a second"]
        if count:
            median, high = np.percentile(self.latencies, (50, 95))
            lines.append(f"latency: median {median:.2f} s, 95th percentile {high:.2f} s")
        lines += [f"busy: {self.busy}", f"errors: {dict(self.errors) or 0}"]
        lines += [f"memory after {second:3.0f} s: {mb:.0f} MB" for second, mb in self.memory]
        growth = self.growth()
        told = "not measured, the run is too short" if growth is None else f"{growth:+.0f} MB"
        lines.append(f"growth after the first {WARM:.0f} s: {told}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Events:
    """The page's own events on the Hand tab, as its configuration names them.

    Attributes:
        upload: number and inputs of what runs when a file comes.
        assess: the same of what runs after it.
    """

    upload: tuple[int, list[int]]
    assess: tuple[int, list[int]]
    file: int
    sex: int
    values: dict[int, Any]

    @classmethod
    def of(cls, config: dict[str, Any]) -> Events:
        """From what ``/config`` answers."""
        components = {c["id"]: c["props"] for c in config["components"]}
        by_name = {props.get("elem_id"): id for id, props in components.items()}
        file, sex = by_name["hand-file"], by_name["hand-sex"]
        calls = config["dependencies"]
        upload = next(c for c in calls if [file, "upload"] in c["targets"])
        assess = next(c for c in calls if c.get("trigger_after") == upload["id"])
        values = {id: props.get("value") for id, props in components.items()}
        return cls(
            (upload["id"], upload["inputs"]), (assess["id"], assess["inputs"]), file, sex, values
        )

    def data(self, inputs: list[int], path: str) -> list[Any]:
        """The inputs' values when the file ``path`` was given and the sex is female."""
        given = {self.file: {"path": path, "meta": FILE}, self.sex: "F"}
        return [given.get(id, self.values.get(id)) for id in inputs]


class BusyError(Exception):
    """The page said that it is busy."""


def visit(client: httpx.Client, events: Events, film: Path) -> None:
    """Open a session, give a radiograph, wait for its result, leave.

    Raises:
        BusyError: the page was busy.
        RuntimeError: anything else than a result came; says what.
    """
    session = uuid.uuid4().hex
    with client.stream("GET", f"heartbeat/{session}"):
        answer = client.post("upload", files={"files": (film.name, film.read_bytes())})
        path = _good(answer)[0]
        for number, inputs in (events.upload, events.assess):
            body = {"fn_index": number, "data": events.data(inputs, path), "session_hash": session}
            event = _good(client.post("queue/join", json=body))["event_id"]
            output = _outcome(client, session, event)
        shown = json.dumps(output["data"]).replace("\\", "")
        if "<data value" not in shown and REFUSAL not in shown:
            raise RuntimeError("the page shows neither an age nor why there is none")


def _good(answer: httpx.Response) -> Any:
    if answer.status_code in BUSY:
        raise BusyError
    if answer.status_code != 200:
        raise RuntimeError(f"status {answer.status_code} of {answer.request.url.path}")
    return answer.json()


def _outcome(client: httpx.Client, session: str, event: str) -> dict[str, Any]:
    """Follow the session's messages until the event is done."""
    with client.stream("GET", "queue/data", params={"session_hash": session}) as messages:
        for line in messages.iter_lines():
            message = json.loads(line.removeprefix("data:")) if line else {}
            if message.get("msg") == "process_completed" and message["event_id"] == event:
                if not message["success"]:
                    raise RuntimeError(f"failed: {message['output'].get('error')}")
                return message["output"]
    raise RuntimeError("the messages ended before the result")


def run(visitors: int, seconds: float, films: list[Path], log: Log) -> None:
    """Let the visitors come; what they meet goes into ``log`` as it happens."""
    with serve() as (process, url):
        with httpx.Client(base_url=url, timeout=START) as client:
            events = Events.of(client.get("config").json())
        start = time.perf_counter()
        end = start + seconds

        def stay(number: int) -> None:
            with httpx.Client(base_url=f"{url}/gradio_api/", timeout=START) as client:
                turn = number
                while time.perf_counter() < end:
                    begin = time.perf_counter()
                    try:
                        visit(client, events, films[turn % len(films)])
                        log.latencies.append(time.perf_counter() - begin)
                    except BusyError:
                        log.busy += 1
                    except (RuntimeError, httpx.HTTPError) as error:
                        log.errors[f"{type(error).__name__}: {error}"] += 1
                    turn += visitors
                    time.sleep(PAUSE)

        threads = [threading.Thread(target=stay, args=(n,)) for n in range(visitors)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            memory = memory_mb(process=process.pid)
            if memory is not None:
                log.memory.append((time.perf_counter() - start, memory))
            for thread in threads:
                thread.join(EVERY / len(threads))


@contextmanager
def serve() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The page in a process of its own, in an empty folder for uploads, until the context ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "app.py", "--host", "127.0.0.1", "--port", str(port)]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "GRADIO_TEMP_DIR": folder}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        try:
            _wait_for(url, process)
            yield process, url
        finally:
            process.terminate()
            process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{url}/config", timeout=START).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.02)
    raise RuntimeError("the page did not start")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 1 if anything but an age or "busy" was answered."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.visitors",
        description="Visitors who come to the page at once: each gives a bundled radiograph as a "
        "new session, waits for its result, pauses for a second and comes again. Prints "
        "throughput, latency, busy answers, errors, and the server's memory.",
    )
    p.add_argument("--visitors", type=int, default=20, metavar="N", help="at once (default: 20)")
    p.add_argument(
        "--seconds", type=float, default=120, metavar="S", help="that they come for (default: 120)"
    )
    args = p.parse_args(arguments)
    films = sorted((ROOT / "data" / "rsna-test" / "images").iterdir())
    print("; ".join(f"{key} {value}" for key, value in describe_machine().items()))
    print(f"{args.visitors} visitors for {args.seconds:.0f} s", flush=True)
    log = Log()
    run(args.visitors, args.seconds, films, log)
    print(log.text(args.seconds))
    return 1 if log.errors else 0


if __name__ == "__main__":
    sys.exit(main())
