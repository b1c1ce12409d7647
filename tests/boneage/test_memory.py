from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc's allocator")
def test_freed_memory_is_kept() -> None:
    """A large block that was freed is there for the next one, without a fault for each page."""
    faults = {}
    for kept in (False, True):
        code = f"""
import resource
import numpy
from boneage.memory import keep_freed_memory
{"keep_freed_memory()" if kept else ""}
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
numpy.ones(2 ** 23)
before = faults()
for _ in range(10):
    numpy.ones(2 ** 23)
print(faults() - before)
"""
        faults[kept] = int(subprocess.check_output([sys.executable, "-c", code]))
    assert faults[True] < faults[False] / 10
