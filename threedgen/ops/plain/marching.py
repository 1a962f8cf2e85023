"""Ray marching through an occupancy grid in plain torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from threedgen.ops.types import RaySamples


def ray_box(origins: Tensor, directions: Tensor, low: Tensor | float, high: Tensor | float) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave an axis-parallel box, counted from the origin on (never behind it).

    Args:
        origins, directions: [R, 3].
        low, high: the box's corners, [3] or a number for all axes.

    Returns:
        t_near, t_far [R], with t_near >= t_far for rays that miss.

    Example:
        >>> ray_box(torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([[-1.0, 0.0, 0.0]]), -1.0, 1.0)
        (tensor([2.]), tensor([4.]))
    """
    # A direction of exactly 0 would give 0 * inf = nan for an origin in the plane of a face; a tiny number makes
    # it a huge one instead. As with cells, the low faces then belong to the box and the high ones do not.
    tiny = torch.finfo(directions.dtype).tiny * 4
    inverse = 1.0 / torch.where(directions.abs() < tiny, torch.full_like(directions, tiny), directions)
    to_low, to_high = (low - origins) * inverse, (high - origins) * inverse
    t_near = torch.minimum(to_low, to_high).amax(-1).clamp(min=0.0)
    t_far = torch.maximum(to_low, to_high).amin(-1)
    return t_near, t_far


@torch.no_grad()
def march(
    origins: Tensor,
    directions: Tensor,
    occupancy: Tensor,
    radius: float,
    step_size: float,
    jitter: Tensor | None = None,
) -> RaySamples:
    """Samples at equal steps wherever they fall into an occupied cell of the cube [-radius, radius]^3.

    Sample k of a ray stands for the interval of length `step_size` around t_near + (k + jitter) * step_size,
    k = 0, 1, ... while this midpoint lies before t_far, with t_near, t_far from `ray_box`.

    Args:
        origins, directions: [R, 3], directions of unit length.
        occupancy: [G, G, G] bool, indexed [x, y, z]; cell 0 touches -radius.
        step_size: world units.
        jitter: [R] in [0, 1), where in its step a ray's samples lie; None: 0.5, the middle.

    Returns:
        The packed samples; S may be 0. Deterministic, without atomics.

    Example:
        >>> full = torch.ones(8, 8, 8, dtype=torch.bool)
        >>> march(torch.tensor([[3.0, 0, 0]]), torch.tensor([[-1.0, 0, 0]]), full, 1.0, 0.5).t_mids
        tensor([2.2500, 2.7500, 3.2500, 3.7500])
    """
    num_rays = len(origins)
    if jitter is None:
        jitter = origins.new_full((num_rays,), 0.5)
    t_near, t_far = ray_box(origins, directions, -radius, radius)

    # Only the steps inside the ball and the box around the occupied cells are looked at.
    t_first, t_last = _bounds_of_occupied(origins, directions, occupancy, radius)
    enter, leave = torch.maximum(t_first, t_near), torch.minimum(t_last, t_far)
    hit = enter < leave  # rays that miss may hold numbers too large for an integer
    first = torch.where(hit, (enter - t_near) / step_size - jitter, 0.0).ceil().clamp(min=0).long()
    # A thousandth of a step more, so that rounding here drops nothing: `t < t_far` below decides.
    last = torch.where(hit, (leave - t_near) / step_size - jitter + 1e-3, 0.0).ceil().long()
    num_candidates = (last - first).clamp(min=0)

    rays = torch.repeat_interleave(num_candidates)  # [C] the ray of each candidate
    start = num_candidates.cumsum(0) - num_candidates - first  # candidate number minus step number, per ray
    step = torch.arange(len(rays), device=rays.device) - start[rays]
    t = (t_near + jitter * step_size)[rays] + step.to(t_near.dtype) * step_size
    inside = _occupied_at(origins[rays] + directions[rays] * t[:, None], occupancy, radius)
    kept = (inside & (t < t_far[rays])).nonzero()[:, 0]

    t, rays = t[kept], rays[kept]
    offsets = torch.zeros(num_rays + 1, dtype=torch.long, device=rays.device)
    torch.cumsum(torch.bincount(rays, minlength=num_rays), 0, out=offsets[1:])
    return RaySamples(t - 0.5 * step_size, t + 0.5 * step_size, rays, offsets)


def _occupied_at(points: Tensor, occupancy: Tensor, radius: float) -> Tensor:
    """[C, 3] -> [C] bool."""
    cells = occupancy.shape[0]
    index = ((points + radius) * (0.5 * cells / radius)).long().clamp_(0, cells - 1)
    x, y, z = index.unbind(-1)
    return occupancy.flatten()[(x * cells + y) * cells + z]


def _bounds_of_occupied(origins: Tensor, directions: Tensor, occupancy: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """A range [R], [R] of each ray outside of which every cell is empty (empty where no cell can be met)."""
    occupied = occupancy.nonzero().to(origins.dtype)
    if len(occupied) == 0:
        nowhere = origins.new_zeros(len(origins))
        return nowhere, nowhere
    cell = 2.0 * radius / occupancy.shape[0]
    margin = 1e-4 * cell  # more than float32's rounding of a sample's position
    low = occupied.amin(0) * cell - radius - margin
    high = (occupied.amax(0) + 1) * cell - radius + margin
    t_near, t_far = ray_box(origins, directions, low, high)

    centre = 0.5 * (low + high)
    centres_of_cells = (occupied + 0.5) * cell - radius
    ball = (centres_of_cells - centre).norm(dim=-1).amax() + 0.5 * math.sqrt(3.0) * cell + margin
    to_centre = centre - origins
    along = (to_centre * directions).sum(-1)
    half_chord_squared = ball**2 - (to_centre - along[:, None] * directions).square().sum(-1)
    half_chord = half_chord_squared.clamp(min=0.0).sqrt()
    hit = half_chord_squared > 0
    t_near = torch.maximum(t_near, along - half_chord)
    t_far = torch.where(hit, torch.minimum(t_far, along + half_chord), t_near)
    return t_near, t_far
