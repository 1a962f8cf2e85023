"""Large buffers that a step leaves for its backward pass, used again by the next step.

The system hands out large memory page by page and clears each page first, which for the features of a training step
takes as long as computing them. So a buffer that nothing refers to any more is kept for the next one.
"""

from __future__ import annotations

import weakref

import numpy as np
import torch
from torch import Tensor

MAX_KEPT = 4  # buffers
LARGE = 1 << 20  # bytes; smaller ones come back from the system's own heap
_kept: list[np.ndarray] = []


def recycled(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """As `torch.empty`, if it is large in the memory of an earlier one that is no longer used."""
    count = int(np.prod(shape)) * dtype.itemsize
    if count < LARGE:
        return torch.empty(shape, dtype=dtype)
    buffer = _take(count)
    if buffer is None:
        buffer = torch.empty(count + count // 8, dtype=torch.uint8).numpy()  # room for a step with a few more samples
    part = buffer[:count]
    weakref.finalize(part, _give_back, buffer)  # torch holds `part` as long as any tensor has this memory
    return torch.from_numpy(part).view(dtype).view(shape)


def _take(count: int) -> np.ndarray | None:
    """A kept buffer of at least `count` bytes, and not of many times as much."""
    others = []
    try:
        while _kept:
            buffer = _kept.pop()  # at once: another thread may take or give back meanwhile
            if count <= buffer.size <= 4 * count:
                return buffer
            others.append(buffer)
    finally:
        _kept.extend(others)
    return None


def _give_back(buffer: np.ndarray) -> None:
    _kept.append(buffer)
    if len(_kept) > MAX_KEPT:
        del _kept[0]
