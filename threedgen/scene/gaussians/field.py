"""Gaussians as a radiance field: density and colour at a position."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from threedgen.ops.backends import Ops
from threedgen.ops.plain.splats import rotation_matrices
from threedgen.ops.splats import MAX_ALPHA, MIN_ALPHA

_REACH = 3.0  # standard deviations; further out a Gaussian is nothing
_THINNEST = 1 / 128  # of the cube's half edge: grids that look for a surface step over what is thinner
_FINEST = 128  # cells along an edge
_ENTRIES = 32  # for each Gaussian, of all cells' lists together, before cells are made larger


class GaussianField:
    """sum_i a_i exp(-d_i^2 / 2), d_i the distance from Gaussian i in its standard deviations.

    a_i is such that light which crosses a Gaussian along its thinnest axis, through its middle, is dimmed as its splat
    dims it, by its opacity o: a_i = -log(1 - o) / (sqrt(2 pi) s), s its smallest standard deviation. So this is a
    density per world unit like a NeRF's, with the silhouettes of the splats; where Gaussians are equal in size it is
    the sum o exp(-d^2 / 2) of other exporters, times a constant. The colour is the mean of the Gaussians' colours with
    the same weights; of harmonics it is the part that is the same from all sides.

    Only Gaussians that reach a position count there: each cell of a grid has a list of those that reach into it.
    """

    def __init__(
        self, ops: Ops, positions: Tensor, quaternions: Tensor, scales: Tensor, opacities: Tensor, rgb: Tensor
    ) -> None:
        """[N, 3], [N, 4], [N, 3], [N] and [N, 3], as in `Gaussians`; rgb: of no direction, in 0..1."""
        self.ops = ops
        seen = opacities >= MIN_ALPHA
        turn = rotation_matrices(quaternions[seen])
        mean = positions[seen]
        reach = _REACH * _deviations(turn, scales[seen])
        self.radius = float((mean.abs() + reach).max()) if len(reach) else 1.0
        scales = scales[seen].clamp(min=_THINNEST * self.radius)
        to_deviations = turn.mT / scales[:, :, None]
        row, column = torch.triu_indices(3, 3)
        precision = (to_deviations.mT @ to_deviations)[:, row, column]
        thickness = math.sqrt(2 * math.pi) * scales.amin(-1)
        densest = -torch.log1p(-opacities[seen].clamp(max=MAX_ALPHA)) / thickness
        light = densest[:, None] * rgb[seen]
        self.gaussians = torch.cat([mean, precision, densest[:, None], light], -1)  # [N, 13], see `ops.sum_gaussians`
        reach = _REACH * _deviations(turn, scales)
        self._list_cells(mean - reach, mean + reach)

    def _list_cells(self, lower: Tensor, upper: Tensor) -> None:
        """Enter each Gaussian with all cells that its box [N, 3] .. [N, 3] touches."""
        count = len(lower)
        self.corner = lower.amin(0) if count else lower.new_zeros(3)
        edge = float((upper - self.corner).max()) if count else 1.0
        self.cells = _FINEST
        while True:
            self.cell = edge / self.cells
            first, last = (((x - self.corner) / self.cell).long().clamp(0, self.cells - 1) for x in (lower, upper))
            size = last - first + 1
            entries = size.prod(-1)
            if self.cells == 1 or entries.sum() <= _ENTRIES * count:
                break
            self.cells //= 2
        owner = torch.arange(count, device=lower.device).repeat_interleave(entries)
        nth = torch.arange(len(owner), device=lower.device) - (entries.cumsum(0) - entries)[owner]
        _, height, depth = size[owner].unbind(-1)
        steps = torch.stack([nth // (height * depth), nth // depth % height, nth % depth], -1)
        cell, order = self._number(first[owner] + steps).sort(stable=True)
        self.members = owner[order]
        numbers = torch.arange(self.cells**3 + 1, device=lower.device)
        starts = torch.searchsorted(cell, numbers)
        self.starts = torch.cat([starts, starts[:1]])  # of cell c's list, up to that of c + 1; the last is for -1

    def _number(self, cell: Tensor) -> Tensor:
        x, y, z = cell.unbind(-1)
        return (x * self.cells + y) * self.cells + z

    @torch.no_grad()
    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """World positions [M, 3] -> density [M] per world unit, rgb [M, 3]; grey where nothing is near."""
        positions = positions.to(self.gaussians)
        cell = ((positions - self.corner) / self.cell).floor().long()
        inside = ((cell >= 0) & (cell < self.cells)).all(-1)
        number, order = torch.where(inside, self._number(cell), -1).sort(stable=True)
        lists = self.members, self.starts[number], self.starts[number + 1]  # of -1 nothing: there are no such members
        sums = positions.new_empty(len(positions), 4)
        sums[order] = self.ops.sum_gaussians(positions[order], self.gaussians, *lists, _REACH)
        density, light = sums.split([1, 3], -1)
        return density[:, 0], torch.where(density > 0, light / density, 0.5)


def _deviations(turn: Tensor, scales: Tensor) -> Tensor:
    """[N, 3] the standard deviations along the world's axes of Gaussians with rotations [N, 3, 3] and scales [N, 3]."""
    return (turn * scales[:, None, :]).square().sum(-1).sqrt()
