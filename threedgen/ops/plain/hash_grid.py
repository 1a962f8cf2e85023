"""Multi-resolution hash grid encoding in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

from threedgen.ops.grid import GridLevel, HashGrid

HASH_Y, HASH_Z = 2654435761, 805459861  # the primes of Mueller et al. 2022, equation 4


def hash_grid_encode(positions: Tensor, table: Tensor, grid: HashGrid) -> Tensor:
    """Trilinear interpolation of every level's vertices.

    Args:
        positions: [N, 3] in 0..1; positions outside are clamped.
        table: [grid.num_rows, grid.num_features].
        grid: the table's layout.

    Returns:
        [N, num_levels * num_features], level after level. Differentiable once with respect to the table and to
        the positions.

    Example:
        >>> grid = HashGrid.from_config(GridConfig(num_levels=2, num_features=4, log2_table_size=14, max_resolution=64))
        >>> hash_grid_encode(torch.rand(5, 3), torch.rand(grid.num_rows, 4), grid).shape
        torch.Size([5, 8])
    """
    rows_of_levels = table.split([level.num_rows for level in grid.levels])
    features = [
        _encode_level(positions, rows, level, 2**grid.log2_table_size - 1)
        for rows, level in zip(rows_of_levels, grid.levels, strict=True)
    ]
    return torch.cat(features, -1)


def interpolate(positions: Tensor, table: Tensor, grid: HashGrid) -> Tensor:
    """The same numbers as `hash_grid_encode`, by indexing alone: slow, and differentiable any number of times."""
    features = []
    for level in grid.levels:
        corner, inside = _locate(positions, level)
        x, y, z = inside.split(1, -1)
        rows = level.first_row + _row_indices(corner.long(), level, 2**grid.log2_table_size - 1)
        pair_weights = [(1 - y) * (1 - z), y * (1 - z), (1 - y) * z, y * z]
        low, high = (
            sum(weight * table[rows[:, k] + offset] for k, weight in enumerate(pair_weights)) for offset in (0, 1)
        )
        features.append(low + x * (high - low))
    return torch.cat(features, -1)


def _locate(positions: Tensor, level: GridLevel) -> tuple[Tensor, Tensor]:
    """[N, 3] in the unit cube -> the lower corner of the cell [N, 3], whole numbers, and 0..1 inside it [N, 3]."""
    lattice = positions.clamp(0.0, 1.0) * (level.resolution - 1)
    corner = lattice.detach().floor().clamp_(max=level.resolution - 2)
    return corner, lattice - corner


def _encode_level(positions: Tensor, rows: Tensor, level: GridLevel, slot_mask: int) -> Tensor:
    """[N, 3], [level.num_rows, F] -> [N, F]. Bilinear in (y, z) over pairs of x neighbours, then linear in x."""
    corner, inside = _locate(positions, level)
    x, y, z = inside.unbind(-1)
    index = _row_indices(corner.long(), level, slot_mask)
    weights = torch.stack([(1 - y) * (1 - z), y * (1 - z), (1 - y) * z, y * z], -1)
    pairs = torch.cat([rows[:-1], rows[1:]], -1)  # row i beside row i + 1: both x corners in one read
    low, high = _WeightedSumOfRows.apply(pairs, index, weights).chunk(2, -1)
    return torch.lerp(low, high, x[:, None])


def _row_indices(corner: Tensor, level: GridLevel, slot_mask: int) -> Tensor:
    """Lower corners [N, 3] int64 -> [N, 4]: the rows of (x; y, z), (x; y+1, z), (x; y, z+1), (x; y+1, z+1)."""
    x, y, z = corner.unbind(-1)
    if not level.hashed:
        first = x + level.resolution * (y + level.resolution * z)
        steps = [0, level.resolution, level.resolution**2, level.resolution + level.resolution**2]
        return first[:, None] + torch.tensor(steps, device=corner.device)
    y_low, z_low = y * HASH_Y, z * HASH_Z
    y_high, z_high = y_low + HASH_Y, z_low + HASH_Z
    hashed = torch.stack([y_low ^ z_low, y_high ^ z_low, y_low ^ z_high, y_high ^ z_high], -1)
    return (hashed + x[:, None]) & slot_mask


class _WeightedSumOfRows(torch.autograd.Function):
    """out[n] = sum_k weights[n, k] * matrix[index[n, k]], with `embedding_bag` in both directions.

    Its own backward to the matrix takes three times as long as the transposed product below, which sorts the
    reads by row, so that a row's gradient is a weighted sum of rows as well: always in the same order, whatever the
    number of threads, and without an [N, 4, C] intermediate.
    """

    @staticmethod
    def forward(ctx, matrix: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(matrix, index, weights)
        return embedding_bag(index, matrix, per_sample_weights=weights, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        matrix, index, weights = ctx.saved_tensors
        grad_matrix = grad_weights = None
        if ctx.needs_input_grad[0]:
            rows = index.flatten().int()
            order = rows.sort(stable=True).indices
            count = torch.bincount(rows, minlength=len(matrix))
            readers = order // index.shape[1]  # the outputs n that read each row, row after row
            weights_of_readers = weights.flatten()[order]
            first = count.cumsum(0) - count
            grad_matrix = embedding_bag(readers, grad, first, per_sample_weights=weights_of_readers, mode="sum")
        if ctx.needs_input_grad[2]:
            grad_weights = (matrix[index] * grad[:, None, :]).sum(-1)
        return grad_matrix, None, grad_weights
