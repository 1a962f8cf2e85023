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

MIN_THRESHOLD, MAX_THRESHOLD = 0.001, 0.02


class OccupancyGrid(nn.Module):
    """G^3 cells over [-radius, radius]^3, indexed [x, y, z]; cell 0 touches -radius."""

    opacity: Tensor  # [G, G, G] float32, decaying maximum of what was met in the cell
    occupied: Tensor  # [G, G, G] bool

    def __init__(self, resolution: int, radius: float, decay: float):
        super().__init__()
        self.resolution = resolution
        self.radius = radius
        self.decay = decay
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
        self.opacity.copy_(self._opacity_of(density(points)).view_as(self.opacity))
        self._decide()

    @torch.no_grad()
    def refresh(self, density: Callable[[Tensor], Tensor], generator: torch.Generator, all_cells: bool) -> None:
        """Looks at one random point in each cell, or in the occupied ones and a random half of the others.

        Each of these cells keeps the larger of its decayed opacity and the one just met.
        """
        cells = self.resolution
        jitter = torch.rand(cells**3, 3, generator=generator).to(self.opacity.device)
        chosen = torch.rand(cells**3, generator=generator).to(self.opacity.device) < 0.5
        if all_cells:
            chosen.fill_(True)
        index = (chosen | self.occupied.flatten()).nonzero()[:, 0]
        corners = torch.stack([index // cells**2, index // cells % cells, index % cells], -1)
        points = (corners + jitter[index]) * self.cell_width - self.radius
        opacity = self.opacity.view(-1)
        opacity[index] = torch.maximum(opacity[index] * self.decay, self._opacity_of(density(points)))
        self._decide()

    def _opacity_of(self, density: Tensor) -> Tensor:
        return -torch.expm1(-density * self.cell_width)

    def _decide(self) -> None:
        threshold = (0.5 * self.opacity.mean()).clamp(MIN_THRESHOLD, MAX_THRESHOLD)
        self.occupied.copy_(self.opacity > threshold)
