"""The occupancy grid: which cells of the scene's cube are worth sampling.

A cell's `opacity` is 1 - exp(-density * cell width), what the cell would hide of the things behind it. Unlike the
opacity of one sample it means the same whatever the number of samples per ray. A cell is occupied where

    opacity > mean opacity / 2, held between MIN_THRESHOLD and MAX_THRESHOLD

so at most 2 % of the light is lost in an empty cell, and of an even fog nothing is cut away until it is thinner
than 0.1 %.
Cells are not dilated: what grows into an empty cell raises the density there first, through the interpolation
of the hash grid's coarse levels, and the next refresh finds it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from threedgen.core.transfer import to_device

MIN_THRESHOLD, MAX_THRESHOLD = 0.001, 0.02


class OccupancyGrid(nn.Module):
    """G^3 cells over [-radius, radius]^3, indexed [x, y, z]; cell 0 touches -radius."""

    opacity: Tensor  # [G, G, G] float32, decaying maximum of what was met in the cell
    occupied: Tensor  # [G, G, G] bool

    def __init__(self, resolution: int, radius: float):
        super().__init__()
        self.resolution = resolution
        self.radius = radius
        self.cell_width = 2.0 * radius / resolution
        self.register_buffer("opacity", torch.zeros(resolution, resolution, resolution))
        self.register_buffer("occupied", torch.zeros(resolution, resolution, resolution, dtype=torch.bool))

    @torch.no_grad()
    def start_from(self, density: Callable[[Tensor], Tensor]) -> None:
        """Fills the grid from a density that falls with the distance from the origin: positions [N, 3] -> [N].

        Each cell takes the density at its point nearest to the origin, its largest. So the occupied cells are
        exactly those that touch the ball in which the density passes the threshold.
        """
        edges = torch.linspace(-self.radius, self.radius, self.resolution + 1, device=self.opacity.device)
        nearest = torch.zeros_like(edges[:-1]).clamp(edges[:-1], edges[1:])
        points = torch.cartesian_prod(nearest, nearest, nearest)
        self.update(-torch.expm1(-density(points) * self.cell_width).view_as(self.opacity))

    def draw_points(self, number: int, margin: float, generator: torch.Generator) -> Tensor:
        """[number, 3] world positions at least `margin` from the cube's faces, half of them in occupied cells.

        A function of the generator, which is the CPU's; a GPU is asked nothing. Where no cell is occupied that half is
        in the first one.
        """
        drawn = torch.rand(number, 3, generator=generator), torch.rand(number // 2, generator=generator)
        at, chosen = (to_device(x, self.opacity.device) for x in drawn)
        counted = self.occupied.view(-1).cumsum(0)  # of an occupied cell its rank among them, from 1 on
        rank = (chosen * counted[-1]).long().minimum(counted[-1] - 1)
        cells = torch.searchsorted(counted, rank, right=True).clamp(max=self.occupied.numel() - 1)
        g = self.resolution
        corners = torch.stack([cells // g**2, cells // g % g, cells % g], -1)
        at = torch.cat([(corners + at[: len(chosen)]) / g, at[len(chosen) :]])
        return (2.0 * at - 1.0) * (self.radius - margin)

    def update(self, opacity: Tensor) -> None:
        """Take over refreshed opacities [G, G, G], see `ops.plain.refresh_occupancy`."""
        self.opacity.copy_(opacity)
        self._decide()

    def _decide(self) -> None:
        threshold = (0.5 * self.opacity.mean()).clamp(MIN_THRESHOLD, MAX_THRESHOLD)
        self.occupied.copy_(self.opacity > threshold)
