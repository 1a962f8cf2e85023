"""Gaussians as a radiance field in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

_PAIRS_AT_ONCE = 1 << 20  # of a position and a Gaussian of its list
_ROWS = [[0, 1, 2], [1, 3, 4], [2, 4, 5]]  # of a symmetric matrix, where xx, xy, xz, yy, yz and zz are


@torch.no_grad()
def sum_gaussians(
    positions: Tensor, gaussians: Tensor, members: Tensor, first: Tensor, last: Tensor, reach: float
) -> Tensor:
    """[M, 4]: at each position the sum of emission * exp(-d^2 / 2) over the Gaussians of its list that are less than
    `reach` away, d being the distance in a Gaussian's standard deviations. Without gradients.

    Args:
        positions: [M, 3]; quickest where those that share a list follow each other.
        gaussians: [N, 13], of each its mean (x, y, z), its inverse covariance (xx, xy, xz, yy, yz, zz) and what it
            emits in its middle, four numbers.
        members: [L] int64, the lists one after another, of numbers of Gaussians.
        first, last: [M] int64: the list of a position is members[first:last].
    """
    runs, count = torch.unique_consecutive(torch.stack([first, last]), return_counts=True, dim=1)
    sums = positions.new_zeros(len(positions), 4)
    places = torch.arange(len(positions), device=positions.device).split(count.tolist())
    for at, start, stop in zip(places, *runs.tolist(), strict=True):
        if start < stop:
            for part in at.split(max(1, _PAIRS_AT_ONCE // (stop - start))):
                sums[part] = _sums(positions[part], gaussians[members[start:stop]], reach)
    return sums


def _sums(positions: Tensor, near: Tensor, reach: float) -> Tensor:
    """[P, 4] the sums over all of the Gaussians `near` [L, 13] at positions [P, 3].

    d^2 is a polynomial in x, y, z, so that all P * L of them are one product of matrices. Coordinates are taken
    from a point near by: the polynomial's terms are large far from their origin, and their sum is not.
    """
    x, y, z = (positions - positions[0]).unbind(-1)
    powers = torch.stack([x * x, x * y, x * z, y * y, y * z, z * z, x, y, z, torch.ones_like(x)], -1)
    mean, form, emission = near.split([3, 6, 4], -1)
    mean = mean - positions[0]
    linear = (form[:, _ROWS] * mean[:, None]).sum(-1)
    twice = form.new_tensor([1.0, 2.0, 2.0, 1.0, 2.0, 1.0])
    coefficients = torch.cat([twice * form, -2 * linear, (linear * mean).sum(-1, keepdim=True)], -1)
    square = powers @ coefficients.T
    return torch.where(square < reach**2, torch.exp(-0.5 * square.clamp(min=0)), 0.0) @ emission
