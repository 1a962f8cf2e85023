"""Random numbers as a function of (seed, counter), the same integers on every device and back end."""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def uniform(seed: int, counters: Tensor) -> Tensor:
    """One of 2^24 even steps in [0, 1) per counter (int64, taken modulo 2^32) -> float32 of the same shape.

    PCG's output function on 32-bit integers (Jarzynski and Olano 2020, "Hash Functions for GPU Rendering"), of the
    counter and the hashed seed.
    """
    mixed_seed = int(_pcg_hash(torch.tensor(seed & _MASK)))
    return (_pcg_hash((counters & _MASK) ^ mixed_seed) >> 8).float() * 2.0**-24


def ray_jitter(seed: int, num_rays: int, device: torch.device | str = "cpu") -> Tensor:
    """[R] in [0, 1): where in its step each ray's samples lie, for `march`."""
    return uniform(seed, torch.arange(num_rays, device=device))


def _pcg_hash(value: Tensor) -> Tensor:
    """32-bit unsigned arithmetic in int64, where no product below 2^63 overflows."""
    state = (value * 747796405 + 2891336453) & _MASK
    word = (((state >> ((state >> 28) + 4)) ^ state) * 277803737) & _MASK
    return (word >> 22) ^ word
