"""A signed distance field on a hash grid, rendered as NeuS does (Wang et al. 2021): surfaces instead of fog."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from threedgen.config.scene import OptimizerConfig, SceneConfig
from threedgen.core.randomness import generator as seeded_generator
from threedgen.ops import Composite, FieldLayout, HashGrid, RaySamples
from threedgen.ops.plain.composed import composite_reached, logit_of, refresh_cells
from threedgen.scene.nerf import NeRF


class NeuS(NeRF):
    """A `NeRF` whose field is a signed distance f, negative inside, and a colour.

    The opacity of a section of a ray is max((Phi(f_0) - Phi(f_1)) / Phi(f_0), 0) for f at its ends and Phi(f) =
    sigmoid(s f), equations 10 and 13: so the weights along a ray that meets the surface peak there, whatever its angle,
    and what it sees does not depend on the number of samples. s, the `sharpness`, is learned.

    f starts as that of a sphere and is minus the back ends' logit, in parts of the radius, which `logit_of` finds from
    their density: every kernel and every back end of a NeRF serves it, normals included.
    """

    def __init__(self, config: SceneConfig, seed: int, device: torch.device | str = "cpu", low_memory: bool = False):
        super().__init__(config, seed, device, low_memory)
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(config.sdf.sharpness), device=device))
        sphere = config.sdf.sphere_radius * config.radius
        self.occupancy.start_from(lambda at: self._density_of_cells(at.norm(dim=-1) - sphere))

    def _layout(self, grid: HashGrid) -> FieldLayout:
        """logit = raw[0] - (|p| - radius of the sphere) / radius of the scene."""
        sphere = self.config.sdf.sphere_radius
        return FieldLayout(grid, self.config.radius, sphere, sphere * self.config.radius, 1.0)

    @property
    def sharpness(self) -> Tensor:
        """[] s, per world unit."""
        return self.log_sharpness.exp() / self.radius

    @property
    def gradient_step(self) -> float:
        """Between a point and those that its gradient is measured with, world units: a cell of the finest level."""
        return 2.0 * self.radius / (self.layout.grid.levels[-1].resolution - 1)

    def signed_distance(self, positions: Tensor) -> Tensor:
        """World positions [N, 3] in the cube -> [N] world units, negative inside."""
        return self._distance(super().field(positions)[0])

    def field(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """World positions [N, 3] in the cube -> density [N] >= 0 per world unit, rgb [N, 3] in 0..1.

        The density is what a ray along the normal meets, s sigmoid(-s f): the paper's equation 10 for cos = -1.
        """
        evaluated, rgb = super().field(positions)
        s = self.sharpness
        return s * torch.sigmoid(-s * self._distance(evaluated)), rgb

    def gradients(self, step: int) -> Tensor:
        """[N, 3] the gradient of f at this step's `eikonal_points`, half of them in occupied cells, the rest anywhere.

        By central differences over `gradient_step`, which unlike the exact gradient reach beyond a point's own cell
        (Neuralangelo, Li et al. 2023, equation 3). Differentiable with respect to the table and the weights.
        """
        h, number = self.gradient_step, self.config.sdf.eikonal_points
        points = self.draw_points(number, h, seeded_generator(self.seed, step, "eikonal"))
        offsets = h * torch.eye(3, dtype=self.table.dtype, device=self.device)
        around = torch.stack([points[:, None] + offsets, points[:, None] - offsets])
        ahead, behind = self.signed_distance(around.view(-1, 3)).view(2, number, 3)
        return (ahead - behind) / (2.0 * h)

    def _distance(self, density: Tensor) -> Tensor:
        return -self.radius * logit_of(density, self.layout)

    def _march(self, origins: Tensor, directions: Tensor, jitter: Tensor | None) -> RaySamples:
        """Their exact number: finding which of them join waits for a GPU anyway."""
        return self.ops.march(origins, directions, self.occupancy.occupied, self.radius, self.step_size, jitter)

    def _composite(self, origins: Tensor, directions: Tensor, samples: RaySamples) -> Composite:
        def look(samples: RaySamples) -> tuple[Tensor, Tensor]:
            density, (rgb,) = self._sections(origins, directions, samples, super(NeuS, self).field)
            return density, rgb

        return composite_reached(self.ops.composite, look, samples, self.config.min_transmittance)

    def _look_with_normals(
        self, origins: Tensor, directions: Tensor, samples: RaySamples
    ) -> tuple[Tensor, Tensor, Tensor]:
        def evaluate(positions: Tensor) -> tuple[Tensor, ...]:
            return self.ops.field_with_normals(self.table, self.weights, self.layout, positions)

        density, (rgb, normals) = self._sections(origins, directions, samples, evaluate)
        return density, rgb, normalize(normals, dim=-1)

    def _sections(
        self,
        origins: Tensor,
        directions: Tensor,
        samples: RaySamples,
        evaluate: Callable[[Tensor], Sequence[Tensor]],
    ) -> tuple[Tensor, list[Tensor]]:
        """The density [S] that gives each sample NeuS's opacity, and the means of what else is at its two ends.

        evaluate: positions [N, 3] -> the back end's density [N] and values [N, C], asked once for each end that
        samples share. The optical depth of a section is -log(1 - opacity) = max(log Phi(f_0) - log Phi(f_1), 0).
        """
        rays, t_starts, t_ends = samples.ray_indices, samples.t_starts, samples.t_ends
        is_last = torch.ones_like(rays, dtype=torch.bool)  # of samples that follow each other without a gap
        is_last[:-1] = (rays[1:] != rays[:-1]) | (t_starts[1:] - t_ends[:-1] > 0.5 * self.step_size)
        last = is_last.nonzero()[:, 0]
        end = torch.arange(1, len(rays) + 1, device=rays.device)  # where the next one starts
        end[last] = len(rays) + torch.arange(len(last), device=rays.device)
        of_points = torch.cat([rays, rays[last]])
        points = origins[of_points] + torch.cat([t_starts, t_ends[last]])[:, None] * directions[of_points]
        density, *values = evaluate(points)
        log_outside = -softplus(-self.sharpness * self._distance(density))  # log Phi
        optical_depth = (log_outside[: len(rays)] - log_outside[end]).clamp(min=0)
        return optical_depth / (t_ends - t_starts), [0.5 * (x[: len(rays)] + x[end]) for x in values]

    def _density_of_cells(self, distance: Tensor) -> Tensor:
        """What makes a cell as opaque as its part of what rays from outside see, from f [N] at any point of it.

        The part is Phi(f) a cell's diagonal farther less Phi(f) a diagonal nearer: so the inside, where no light is
        left, is as empty as the outside.
        """
        reach = math.sqrt(3.0) * self.occupancy.cell_width
        farther, nearer = (torch.sigmoid(self.sharpness * (distance + x)) for x in (reach, -reach))
        return -torch.log1p(nearer - farther) / self.occupancy.cell_width

    def _refreshed_opacity(self, seed: int, all_cells: bool) -> Tensor:
        return refresh_cells(
            lambda positions: self._density_of_cells(self.signed_distance(positions)),
            self.radius,
            self.occupancy.opacity,
            self.occupancy.occupied,
            seed,
            self.config.occupancy_decay,
            all_cells,
        )

    def param_groups(self, config: OptimizerConfig) -> list[dict[str, Any]]:
        """A NeRF's groups, and the sharpness, which is not drawn to 1 by weight decay."""
        sharpness = {"name": "sharpness", "params": [self.log_sharpness], "lr": config.sharpness_lr}
        return [*super().param_groups(config), sharpness | {"weight_decay": 0.0}]
