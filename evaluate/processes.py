"""One evaluation in several processes, as ``accelerate launch`` or ``torchrun`` starts them."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")


class Processes:
    """This process among those that share the evaluation; alone unless a launcher says otherwise.

    Attributes:
        rank: 0 for the process that writes.
        count: number of processes.
    """

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.count = int(os.environ.get("WORLD_SIZE", 1))
        if self.count > 1:
            import torch.distributed

            # The others wait while the first assesses what it alone does.
            torch.distributed.init_process_group("gloo", timeout=timedelta(hours=6))

    @property
    def device(self) -> str | None:
        """The GPU of this process; ``None`` leaves the choice to the predictor."""
        if self.count > 1:
            import torch

            if torch.cuda.is_available():
                return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        return None

    def gather(self, item: T) -> list[T]:
        """The items of all processes, by rank, in every process."""
        if self.count == 1:
            return [item]
        import torch.distributed

        items: list[T | None] = [None] * self.count
        torch.distributed.all_gather_object(items, item)
        return items  # type: ignore[return-value]

    def close(self) -> None:
        """Leave the group."""
        if self.count > 1:
            import torch.distributed

            torch.distributed.destroy_process_group()
