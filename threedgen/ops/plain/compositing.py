"""Emission-absorption compositing of packed samples in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from threedgen.ops.types import Composite


def composite(
    density: Tensor, rgb: Tensor, t_starts: Tensor, t_ends: Tensor, ray_indices: Tensor, offsets: Tensor
) -> Composite:
    """Sums samples front to back: w_i = T_i * (1 - exp(-density_i * dt_i)), T_i = exp(-sum_{j<i} density_j * dt_j).

    Max 1995, "Optical models for direct volume rendering"; NeRF (Mildenhall et al. 2020), equation 3. Exact for
    densities that are constant over each sample's interval. Differentiable with respect to density and rgb,
    for losses on the weights too.

    Args:
        density: [S] >= 0, per world unit.
        rgb: [S, 3].
        t_starts, t_ends, ray_indices, offsets: as `march` returns them.

    Example:
        >>> t = torch.tensor([0.0, 1.0, 2.0])
        >>> ray = dict(ray_indices=torch.tensor([0, 0]), offsets=torch.tensor([0, 2]))
        >>> composite(torch.tensor([0.6931, 50.0]), torch.eye(3)[:2], t[:-1], t[1:], **ray).rgb
        tensor([[0.5000, 0.5000, 0.0000]])
    """
    optical_depth = density * (t_ends - t_starts)
    weights = transmittance(optical_depth, ray_indices, offsets) * -torch.expm1(-optical_depth)
    t_mids = 0.5 * (t_starts + t_ends)
    values = torch.cat([rgb, torch.ones_like(t_mids)[:, None], t_mids[:, None]], -1)
    sums = values.new_zeros(len(offsets) - 1, 5).index_add(0, ray_indices, weights[:, None] * values)
    return Composite(sums[:, :3], sums[:, 3], sums[:, 4], weights)


def transmittance(optical_depth: Tensor, ray_indices: Tensor, offsets: Tensor) -> Tensor:
    """[S]: the part of the light that passes all earlier samples of the same ray.

    One running sum over all rays, minus its value where the ray begins. In float32 that difference would lose
    every digit behind a long row of dense rays; in float64 it keeps 1e-9 for a total optical depth of 1e6.
    """
    running = optical_depth.double().cumsum(0)
    before = torch.nn.functional.pad(running, (1, 0))
    at_start = before.index_select(0, offsets[:-1]).index_select(0, ray_indices)
    return torch.exp(at_start - before[:-1]).to(optical_depth.dtype)
