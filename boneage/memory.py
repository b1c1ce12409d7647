"""How glibc's allocator keeps memory, where it is the allocator."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping

# Options of mallopt, by their numbers in malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8


def set_allocator(options: Mapping[int, int]) -> None:
    """Set options of ``mallopt``; nothing happens where the C library has none."""
    if not sys.platform.startswith("linux"):
        return
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for option, value in options.items():
            mallopt(option, value)


def keep_freed_memory() -> None:
    """Keep freed memory in the process.

    By default every large tensor's memory goes back to the system and comes again page by page,
    once a batch or step; that costs a training on the CPU a fifth of its time and more, and an
    assessment of many files up to a third.
    """
    set_allocator({MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 2**28})
