"""Randomness as a function of (seed, step, stream name).

No generator is carried from step to step, so a run that is resumed at step n draws exactly what the
uninterrupted run drew there, and adding draws to one stream changes no other.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def stable_seed(seed: int, step: int, stream: str) -> int:
    """A 63-bit seed in 0 .. 2**63 - 1, the same on every machine and in every Python process.

    Example:
        >>> stable_seed(0, 0, "camera") == stable_seed(0, 0, "camera")
        True
        >>> stable_seed(0, 0, "camera") == stable_seed(0, 1, "camera")
        False
    """
    digest = hashlib.blake2b(f"{seed}/{step}/{stream}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def random_seed() -> int:
    """A seed nobody chose, in 0 .. 2**32 - 1. Whoever draws one tells it, so that the result can be had again."""
    return secrets.randbelow(2**32)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """For libraries that draw new weights from torch's global state: seeded in the block, and left as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**64)  # a seed may have any number of digits, torch's 64 bits
        yield


def generator(seed: int, step: int, stream: str) -> torch.Generator:
    """A fresh CPU generator for one stream at one step (draw on the CPU, then move: equal on every device)."""
    import torch  # here, so that the command line starts without it

    return torch.Generator().manual_seed(stable_seed(seed, step, stream))
