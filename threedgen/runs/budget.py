"""How long a training goes on: for so many steps, or by the clock."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from threedgen.runs.distributed import rank, sum_over_processes, world_size


class Budget(nn.Module):
    """What is left of a training, by its steps or by the clock, whichever ends first.

    A module, so that a checkpoint keeps the seconds that were used up. Of several processes the first one's clock
    counts.
    """

    seconds: Tensor  # [] float64, used up when it was last asked

    def __init__(
        self, steps: int, minutes: float = 0.0, clock: Callable[[], float] = time.monotonic, shared: bool = True
    ) -> None:
        """minutes: 0: only steps count; shared: all processes ask it together, or this one alone."""
        super().__init__()
        self.steps, self.minutes, self._clock, self._shared = steps, minutes, clock, shared
        self.register_buffer("seconds", torch.zeros((), dtype=torch.float64))
        self._since: float | None = None

    def modules_to_save(self) -> dict[str, nn.Module]:
        """This as a part of a checkpoint; nothing where the clock does not count."""
        return {"budget": self} if self.minutes else {}

    def remaining(self, step: int) -> float:
        """The part of the training that is left before step 0, 1, ...: 1 at the beginning, 0 or less at its end."""
        by_steps = (self.steps - step) / self.steps
        if not self.minutes:
            return by_steps
        now = self._clock()
        self.seconds += 0.0 if self._since is None else now - self._since
        self._since = now
        by_clock = 1.0 - float(self.seconds) / (60.0 * self.minutes)
        left = min(by_steps, by_clock)
        if world_size() == 1 or not self._shared:
            return left
        return float(sum_over_processes(torch.tensor(left if rank() == 0 else 0.0, dtype=torch.float64)))
