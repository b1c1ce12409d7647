from __future__ import annotations

import json
from collections import Counter
from typing import Any

import httpx
import pytest

from benchmarks import visitors
from benchmarks.visitors import BusyError, Events, Log

CONFIG = {
    "components": [
        {"id": 4, "props": {}},
        {"id": 7, "props": {"elem_id": "hand-file"}},
        {"id": 9, "props": {"elem_id": "hand-sex"}},
        {"id": 11, "props": {"elem_id": "hand-other", "value": "kept"}},
    ],
    "dependencies": [
        {"id": 0, "targets": [[11, "click"]], "inputs": [4]},
        {"id": 1, "targets": [[7, "upload"]], "inputs": [4, 7, 9]},
        {"id": 2, "targets": [], "inputs": [4, 9, 11], "trigger_after": 1},
    ],
}


def test_events_of_the_page() -> None:
    events = Events.of(CONFIG)
    number, inputs = events.upload
    assert number == 1
    assert events.data(inputs, "/a.webp") == [None, {"path": "/a.webp", "meta": visitors.FILE}, "F"]
    number, inputs = events.assess
    assert number == 2
    assert events.data(inputs, "/a.webp") == [None, "F", "kept"]


def client(result: str = '<data value="1.00">', success: bool = True, join: int = 200) -> Any:
    """A page that answers everything alike."""

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/")
        if path == "upload":
            return httpx.Response(200, json=["/a.webp"])
        if path == "queue/join":
            return httpx.Response(join, json={"event_id": "e"})
        if path == "queue/data":
            output = {"data": [result], "error": "broken"}
            done = {"msg": "process_completed", "event_id": "e", "success": success}
            other = {"msg": "estimation", "event_id": "e"}
            lines = [json.dumps(other), json.dumps({**done, "output": output})]
            return httpx.Response(200, text="".join(f"data: {line}\n\n" for line in lines))
        return httpx.Response(200, text="data: ALIVE\n\n")

    return httpx.Client(transport=httpx.MockTransport(answer), base_url="http://page/")


def test_a_visit(rsna_test_dir: Any) -> None:
    events, film = Events.of(CONFIG), rsna_test_dir / "images" / "4360.webp"
    visitors.visit(client(), events, film)
    for status in visitors.BUSY:
        with pytest.raises(BusyError):
            visitors.visit(client(join=status), events, film)
    with pytest.raises(RuntimeError, match="status 500 of /queue/join"):
        visitors.visit(client(join=500), events, film)
    with pytest.raises(RuntimeError, match="failed: broken"):
        visitors.visit(client(success=False), events, film)
    with pytest.raises(RuntimeError, match="neither an age"):
        visitors.visit(client("<p>No result</p>"), events, film)


def test_the_outcome_in_lines() -> None:
    memory = [(0.0, 800.0), (30.0, 900.0), (61.0, 950.0), (90.0, 990.0), (121.0, 940.0)]
    log = Log([1.0, 2.0, 3.0], 4, Counter({"ReadTimeout: late": 2}), memory)
    text = log.text(60)
    assert "3 assessments, 0.05 a second" in text
    assert "median 2.00 s, 95th percentile 2.90 s" in text
    assert "busy: 4" in text
    assert "errors: {'ReadTimeout: late': 2}" in text
    assert "memory after  61 s: 950 MB" in text
    assert "growth after the first 60 s: -10 MB" in text


def test_a_short_run_measures_no_growth() -> None:
    text = Log(memory=[(0.0, 800.0), (30.0, 900.0)]).text(30)
    assert "0 assessments" in text
    assert "errors: 0" in text
    assert "too short" in text
