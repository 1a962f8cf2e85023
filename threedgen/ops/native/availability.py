"""Whether there are kernels for a device, and why not."""

from __future__ import annotations

import torch

from threedgen.ops.native import cuda, library


def available(device: torch.device | str = "cpu") -> bool:
    """Whether there are kernels for tensors on this device; the first call may compile them."""
    return why_not(device) == ""


def why_not(device: torch.device | str = "cpu") -> str:
    """Why `available` is False; empty if it is True."""
    match torch.device(device).type:
        case "cpu":
            return library.why_not()
        case "cuda":
            return cuda.why_not()
        case other:
            return f"there are no kernels for {other}"
