"""Gaussians as a radiance field by the compiled kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from threedgen.ops.native import cuda
from threedgen.ops.native.library import TORCH_LIBRARY, call, define


@torch.no_grad()
def sum_gaussians(
    positions: Tensor, gaussians: Tensor, members: Tensor, first: Tensor, last: Tensor, reach: float
) -> Tensor:
    """As `ops.plain.sum_gaussians`."""
    return torch.ops.threedgen.sum_gaussians(positions, gaussians, members, first, last, reach)


def _sum_by(call: Callable, positions, gaussians, members, first, last, reach):
    arguments = [x.contiguous() for x in (positions, gaussians, members, first, last)]
    sums = positions.new_empty(len(positions), 4)
    call("tg_sum_gaussians", positions.dtype, len(positions), *arguments, reach, sums)
    return sums


define(
    "sum_gaussians(Tensor positions, Tensor gaussians, Tensor members, Tensor first, Tensor last, float reach)"
    " -> Tensor",
    partial(_sum_by, call),
    lambda positions, *_: positions.new_empty(positions.shape[0], 4),
)
CUDA_KERNELS = {"sum_gaussians": partial(_sum_by, cuda.call)}
TORCH_LIBRARY.impl("sum_gaussians", CUDA_KERNELS["sum_gaussians"], "CUDA")
