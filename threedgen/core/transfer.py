"""Numbers on their way to a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor.to(device)`, and from the CPU to a GPU without waiting for what the GPU still has to do.

    The copy is made from pinned memory, which torch keeps until it is done; the tensor may be changed at once.
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
