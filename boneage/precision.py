"""Which arithmetic to compute in: bf16 where the processor is fast at it, else fp32.

bf16 is mixed precision: convolutions, in assessment without those of the finest maps, and fully
connected layers before the head; pooling, heads, scores and suppression stay in fp32.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from boneage.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PRECISIONS = ("auto", "bf16", "fp32")
# Processors with these can multiply bf16; whether that is faster depends on processor and network.
UNDECIDED = ("avx512_bf16", "avx10_2", "bf16", "sve_bf16")
TRIALS = 3  # of each precision, of which the fastest counts
GAIN = 0.9  # of the time in fp32 that bf16 may take, lest chance decide between equals


def choose_precision(wanted: str, device: torch.device, trial: Callable[[], Any]) -> str:
    """The precision to compute in, ``bf16`` or ``fp32``.

    Args:
        wanted: one of :data:`PRECISIONS`; what is not ``auto`` is taken as it is.
        device: to compute on.
        trial: computes one image, with its gradient if that is to be computed; measured in both
            precisions, by autocast, where the processor's flags do not decide.

    Raises:
        InputError: for another precision.
    """
    if wanted not in PRECISIONS:
        raise InputError(f"There is no precision {wanted!r}; known: {', '.join(PRECISIONS)}.")
    if wanted != "auto":
        return wanted
    fast = fast_bf16(device)
    if fast is None:
        # By turns, so that a busy moment meets both; the first turn also sets things up.
        turns = [
            [_seconds(trial, device, precision) for precision in PRECISIONS[1:]]
            for _ in range(1 + TRIALS)
        ]
        bf16, fp32 = map(min, zip(*turns[1:], strict=True))
        fast = bf16 < GAIN * fp32
    return "bf16" if fast else "fp32"


def fast_bf16(device: torch.device) -> bool | None:
    """Whether the processor multiplies bf16 faster than fp32; None where its flags do not tell."""
    import torch

    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return None
    flags = torch.cpu.get_capabilities()
    if flags.get("amx_bf16"):
        return True
    return None if any(flags.get(flag) for flag in UNDECIDED) else False


def forbid_tf32() -> None:
    """Have GPUs compute convolutions of fp32 in fp32, for the rest of the process.

    By default they are computed in TF32, with ten bits of mantissa.
    """
    import torch

    torch.backends.cudnn.allow_tf32 = False


def computing_in(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """The context to run a network in.

    Args:
        device: of the network.
        precision: ``bf16`` or ``fp32``.
    """
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def in_fp32(function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """What a function makes of values, in fp32 even where autocast is on."""
    import torch

    if values.is_meta or not torch.is_autocast_enabled(values.device.type):
        return function(values)
    with torch.autocast(values.device.type, enabled=False):
        return function(values.float())


def _seconds(trial: Callable[[], Any], device: torch.device, precision: str) -> float:
    import torch

    start = time.perf_counter()
    with computing_in(device, precision):
        trial()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start
