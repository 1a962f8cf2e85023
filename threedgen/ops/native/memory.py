"""What a step leaves for its backward pass, and what that fills.

Large buffers are used again by the next step: the system hands out large memory page by page and clears each page
first, which for the features of a training step takes as long as computing them. So a buffer that nothing refers to any
more is kept for the next one.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

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


def learns(table: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether a field's backward pass may come."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in (table, *weights))


def features_row(layout: Sequence[int]) -> int:
    """Numbers in a row of a grid's saved features: padded to whole vectors of eight."""
    return (layout[0] * layout[1] + 7) // 8 * 8


def new_gradients(table: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Zeros to add to: of the table, and of all weights one after the other."""
    grad_table = torch.zeros_like(table, memory_format=torch.contiguous_format)
    return grad_table, table.new_zeros(sum(weight.numel() for weight in weights))
