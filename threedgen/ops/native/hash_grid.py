"""The hash grid's features by the compiled kernels."""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from threedgen.ops.grid import HashGrid
from threedgen.ops.native.library import call, define

MAX_LEVELS = 64  # kMaxLevels in cuda_ext/include/threedgen/hash_grid.h


def hash_grid_encode(positions: Tensor, table: Tensor, grid: HashGrid) -> Tensor:
    """As `ops.plain.hash_grid_encode`."""
    check_grid(positions, table, grid)
    return torch.ops.threedgen.hash_grid_encode(positions, table, grid.layout)


def check_grid(positions: Tensor, table: Tensor, grid: HashGrid) -> None:
    """Raises ValueError for sizes that the kernels would read beyond, TypeError for mixed real numbers."""
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise ValueError(f"positions must be [N, 3], not {list(positions.shape)}")
    if table.shape != (grid.num_rows, grid.num_features):
        raise ValueError(f"table must be {[grid.num_rows, grid.num_features]}, not {list(table.shape)}")
    if len(grid.levels) > MAX_LEVELS:
        raise ValueError(f"a hash grid has at most {MAX_LEVELS} levels, not {len(grid.levels)}")
    if positions.dtype != table.dtype:
        raise TypeError(f"positions are {positions.dtype}, the table is {table.dtype}; both must be the same")


@functools.lru_cache(maxsize=64)
def grid_arguments(layout: tuple[int, ...]) -> tuple[int, int, ctypes.Array]:
    """Number of levels, features per level, and the levels as the kernels read them: [L, 3] int64."""
    num_levels, num_features, *levels = layout
    return num_levels, num_features, (ctypes.c_int64 * len(levels))(*levels)


def _encode_cpu(positions: Tensor, table: Tensor, layout: list[int]) -> Tensor:
    positions, table = positions.contiguous(), table.contiguous()
    features = _encode_fake(positions, table, layout)
    grid = grid_arguments(tuple(layout))
    call("tg_hash_grid_encode", table.dtype, len(positions), positions, *grid, table, features)
    return features


def _encode_fake(positions, table, layout):
    return table.new_empty(positions.shape[0], layout[0] * layout[1])


def _backward_cpu(
    grad: Tensor, positions: Tensor, table: Tensor, layout: list[int], to_positions: bool
) -> tuple[Tensor, Tensor]:
    grad, positions, table = grad.contiguous(), positions.contiguous(), table.contiguous()
    grid = grid_arguments(tuple(layout))
    grad_table = torch.zeros_like(table)
    call("tg_hash_grid_encode_to_table", table.dtype, len(positions), positions, *grid, grad, grad_table)
    if not to_positions:
        return grad_table, positions.new_empty(0)
    grad_positions = torch.empty_like(positions)
    call("tg_hash_grid_encode_to_positions", table.dtype, len(positions), positions, *grid, table, grad, grad_positions)
    return grad_table, grad_positions


def _backward_fake(grad, positions, table, layout, to_positions):
    return torch.empty_like(table), torch.empty_like(positions) if to_positions else positions.new_empty(0)


def _setup(ctx, inputs, output):
    positions, table, ctx.layout = inputs
    ctx.save_for_backward(positions, table)


def _backward(ctx, grad: Tensor):
    to_positions = ctx.needs_input_grad[0]
    grad_table, grad_positions = torch.ops.threedgen.hash_grid_encode_backward(
        grad, *ctx.saved_tensors, ctx.layout, to_positions
    )
    return grad_positions if to_positions else None, grad_table, None


define(
    "hash_grid_encode_backward(Tensor grad, Tensor positions, Tensor table, int[] layout, bool to_positions)"
    " -> (Tensor, Tensor)",
    _backward_cpu,
    _backward_fake,
)
define(
    "hash_grid_encode(Tensor positions, Tensor table, int[] layout) -> Tensor",
    _encode_cpu,
    _encode_fake,
    _backward,
    _setup,
)
