"""Marching without waiting for the GPU: how many samples a step may have follows from the steps before it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from threedgen.ops.types import RaySamples

_SPARE = 1.125  # of the most samples a ray had lately
_FORGET = 0.98  # of that, with each step
_AT_LEAST = 1024
MAX_RAYS = 1 << 16  # beyond it the spare samples take a GPU longer than waiting does, see docs/performance.md

March = Callable[..., RaySamples]  # see `ops.plain.march`
MarchWithin = Callable[..., tuple[RaySamples, Tensor]]  # see `ops.native.cuda.march_within`


class SampleRoom:
    """A march whose tensors are as large as the samples of recent steps suggest, so that their number is not asked for.

    The first march asks. From then on the number that there were is copied to the CPU while the GPU works, and read a
    step later, when it has long been there. A step whose samples do not fit loses those of its last rays, and the next
    one has more room. A run's first step after a restart asks again, so it may have another room than in the
    uninterrupted run; it has the same samples as long as they fit.
    """

    def __init__(self) -> None:
        self.per_ray: float | None = None  # the room, samples per ray
        self._wanted: tuple[Tensor, torch.cuda.Event | None, int] | None = None

    def march(self, march: March, march_within: MarchWithin, origins: Tensor, *arguments: object) -> RaySamples:
        """The samples of R rays; arguments as those of `ops.plain.march`."""
        num_rays = len(origins)
        self._read()
        if self.per_ray is None or not 0 < num_rays <= MAX_RAYS:
            samples = march(origins, *arguments)
            self._remember(len(samples.t_starts), num_rays)
            return samples
        capacity = max(_AT_LEAST, math.ceil(_SPARE * self.per_ray * num_rays))
        samples, wanted = march_within(capacity, origins, *arguments)
        event = None
        if wanted.is_cuda:
            host = torch.empty((), dtype=wanted.dtype, pin_memory=True)
            wanted = host.copy_(wanted, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._wanted = wanted, event, num_rays
        return samples

    def _read(self) -> None:
        """Take in how many samples the march before this one would have had."""
        if self._wanted is None:
            return
        wanted, event, num_rays = self._wanted
        if event is not None:
            event.synchronize()
        self._wanted = None
        self._remember(int(wanted), num_rays)

    def _remember(self, num_samples: int, num_rays: int) -> None:
        if num_rays:
            self.per_ray = max(num_samples / num_rays, _FORGET * (self.per_ray or 0.0))
