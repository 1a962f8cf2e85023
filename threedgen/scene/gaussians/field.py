"""Gaussians as a radiance field: density and colour at a position."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from threedgen.ops.plain.splats import rotation_matrices
from threedgen.ops.splats import MAX_ALPHA, MIN_ALPHA

_REACH = 3.0  # standard deviations; further out a Gaussian is nothing
_THINNEST = 1 / 128  # of the cube's half edge: grids that look for a surface step over what is thinner
_FINEST = 128  # cells along an edge
_ENTRIES = 32  # for each Gaussian, of all cells' lists together, before cells are made larger
_PAIRS_AT_ONCE = 1 << 20  # of a position and a Gaussian near it


class GaussianField:
    """sum_i a_i exp(-d_i^2 / 2), d_i the distance from Gaussian i in its standard deviations.

    a_i is such that light which crosses a Gaussian along its thinnest axis, through its middle, is dimmed as its splat
    dims it, by its opacity o: a_i = -log(1 - o) / (sqrt(2 pi) s), s its smallest standard deviation. So this is a
    density per world unit like a NeRF's, with the silhouettes of the splats; where Gaussians are equal in size it is
    the sum o exp(-d^2 / 2) of other exporters, times a constant. The colour is the mean of the Gaussians' colours with
    the same weights; of harmonics it is the part that is the same from all sides.

    Only Gaussians that reach a position count there: each cell of a grid has a list of those that reach into it.
    """

    def __init__(self, positions: Tensor, quaternions: Tensor, scales: Tensor, opacities: Tensor, rgb: Tensor) -> None:
        """[N, 3], [N, 4], [N, 3], [N] and [N, 3], as in `Gaussians`; rgb: of no direction, in 0..1."""
        seen = opacities >= MIN_ALPHA
        turn = rotation_matrices(quaternions[seen])
        self.positions = positions[seen]
        reach = _REACH * _deviations(turn, scales[seen])
        self.radius = float((self.positions.abs() + reach).max()) if len(reach) else 1.0
        scales = scales[seen].clamp(min=_THINNEST * self.radius)
        to_deviations = turn.mT / scales[:, :, None]
        self.precision = to_deviations.mT @ to_deviations  # [N, 3, 3] inverse covariances
        thickness = math.sqrt(2 * math.pi) * scales.amin(-1)
        densest = -torch.log1p(-opacities[seen].clamp(max=MAX_ALPHA)) / thickness
        self.emission = densest[:, None] * torch.cat([torch.ones_like(rgb[seen, :1]), rgb[seen]], -1)  # [N, 4]
        reach = _REACH * _deviations(turn, scales)
        self._list_cells(self.positions - reach, self.positions + reach)

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
        positions = positions.to(self.positions)
        cell = ((positions - self.corner) / self.cell).floor().long()
        inside = ((cell >= 0) & (cell < self.cells)).all(-1)
        number, order = torch.where(inside, self._number(cell), -1).sort(stable=True)
        number, count = torch.unique_consecutive(number, return_counts=True)
        first, last = self.starts[number], self.starts[number + 1]  # of -1 nothing, as there are no such members
        sums = positions.new_zeros(len(positions), 4)
        for at, start, stop in zip(order.split(count.tolist()), first.tolist(), last.tolist(), strict=True):
            if start < stop:
                for part in at.split(max(1, _PAIRS_AT_ONCE // (stop - start))):
                    sums[part] = self._sums(positions[part], self.members[start:stop])
        density, light = sums.split([1, 3], -1)
        return density[:, 0], torch.where(density > 0, light / density, 0.5)

    def _sums(self, positions: Tensor, near: Tensor) -> Tensor:
        """[P, 4] density and light of the Gaussians with numbers `near` [L] at positions [P, 3].

        d^2 is a polynomial in x, y, z, so that all P * L of them are one product of matrices. Coordinates are taken
        from a point near by: the polynomial's terms are large far from their origin, and their sum is not.
        """
        x, y, z = (positions - positions[0]).unbind(-1)
        powers = torch.stack([x * x, y * y, z * z, x * y, x * z, y * z, x, y, z, torch.ones_like(x)], -1)
        form, mean = self.precision[near], self.positions[near] - positions[0]
        linear = (form @ mean[:, :, None])[..., 0]
        squares = torch.diagonal(form, dim1=1, dim2=2)
        mixed = torch.stack([form[:, 0, 1], form[:, 0, 2], form[:, 1, 2]], -1)
        coefficients = torch.cat([squares, 2 * mixed, -2 * linear, (linear * mean).sum(-1, keepdim=True)], -1)
        square = powers @ coefficients.T
        weight = torch.where(square < _REACH**2, torch.exp(-0.5 * square.clamp(min=0)), 0.0)
        return weight @ self.emission[near]


def _deviations(turn: Tensor, scales: Tensor) -> Tensor:
    """[N, 3] the standard deviations along the world's axes of Gaussians with rotations [N, 3, 3] and scales [N, 3]."""
    return (turn * scales[:, None, :]).square().sum(-1).sqrt()
