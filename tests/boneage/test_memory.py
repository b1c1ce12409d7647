from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

from boneage import memory
from boneage.memory import ARENA_MAX, TOP_PAD, set_allocator


def test_options_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    library = SimpleNamespace(mallopt=lambda *option: called.append(option))
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    set_allocator({ARENA_MAX: 2, TOP_PAD: 4})
    assert called == [(-8, 2), (-2, 4)]


@pytest.mark.parametrize("platform", ["win32", "darwin", "linux"])
def test_nothing_happens_without_glibc(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    def library(name: str | None) -> SimpleNamespace:
        if platform == "win32":
            raise TypeError("argument of type 'NoneType' is not iterable")
        return SimpleNamespace()

    monkeypatch.setattr(memory.sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", library)
    set_allocator({ARENA_MAX: 2})
