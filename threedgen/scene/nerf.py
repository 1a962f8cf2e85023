"""A neural radiance field on a hash grid: the scene that text-to-3D optimises."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from threedgen.cameras import Cameras, rays_of
from threedgen.config.schema import OptimizerConfig, SceneConfig
from threedgen.core.randomness import generator as seeded_generator
from threedgen.ops import HashGrid, composite, hash_grid_encode, march
from threedgen.scene.background import BackgroundNetwork, bias_free_mlp
from threedgen.scene.occupancy import OccupancyGrid
from threedgen.scene.output import RenderOutput

RAYS_AT_ONCE = 16384  # without gradients; bounds the memory of large images


class NeRF(nn.Module):
    """Density and view-independent colour in the cube [-radius, radius]^3, over a background of its own.

    One MLP without biases reads the hash grid's features and gives four numbers: density and colour share their
    hidden layers (MVDream's reference has a network for each; one costs half, and on a CPU that counts).
    A bias of the shape of a ball, `blob_density` in its centre and 0 at `blob_radius`, starts the optimisation
    in the middle of the cube (Magic3D, Lin et al. 2023, supplement).
    """

    def __init__(self, config: SceneConfig, seed: int):
        super().__init__()
        self.config = config
        self.seed = seed
        self.grid = HashGrid.from_config(config.grid)
        generator = seeded_generator(seed, 0, "scene")
        table = torch.empty(self.grid.num_rows, self.grid.num_features)
        self.table = nn.Parameter(nn.init.uniform_(table, -1e-4, 1e-4, generator=generator))
        widths = [self.grid.num_outputs, *[config.hidden_width] * config.num_hidden_layers, 4]
        self.network = bias_free_mlp(widths, generator)
        self.background = BackgroundNetwork(generator)
        self.occupancy = OccupancyGrid(config.occupancy_resolution, config.radius, config.occupancy_decay)
        self.occupancy.start_from(lambda positions: self._density(torch.zeros(len(positions)), positions))

    @property
    def radius(self) -> float:
        """Half the edge of the cube that holds the scene, world units."""
        return self.config.radius

    @property
    def device(self) -> torch.device:
        return self.table.device

    @property
    def step_size(self) -> float:
        """Distance between samples, world units: `samples_per_ray` of them across the cube's diagonal."""
        return 2.0 * math.sqrt(3.0) * self.radius / self.config.samples_per_ray

    def field(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """World positions [N, 3] in the cube -> density [N] >= 0 per world unit, rgb [N, 3] in 0..1."""
        features = hash_grid_encode((positions + self.radius) / (2.0 * self.radius), self.table, self.grid)
        raw = self.network(features)
        return self._density(raw[:, 0], positions), torch.sigmoid(raw[:, 1:])

    def _density(self, raw: Tensor, positions: Tensor) -> Tensor:
        blob = self.config.blob_density * (1.0 - positions.norm(dim=-1) / self.config.blob_radius)
        return self.config.density_scale * softplus(raw + blob)

    def render(
        self, cameras: Cameras, *, generator: torch.Generator | None = None, background: Tensor | None = None
    ) -> RenderOutput:
        """Images of the scene.

        Args:
            cameras: B of them.
            generator: for training. Each ray's samples are shifted by a random part of a step, and with
                probability `background_random_probability` one random colour stands behind the whole batch.
                None: deterministic, samples in the middle of their steps.
            background: a colour [3] in 0..1 instead of the background network (then nothing is drawn for it).
        """
        rays = rays_of(cameras.to(self.device))
        num_rays = len(rays.origins)
        jitter = None
        if generator is not None:
            jitter = torch.rand(num_rays, generator=generator).to(self.device)
            if background is None:
                draw = torch.rand(4, generator=generator)
                if draw[3] < self.config.background_random_probability:
                    background = draw[:3].to(self.device)
        size = max(num_rays, 1) if torch.is_grad_enabled() else RAYS_AT_ONCE
        parts = [
            self._render_rays(
                rays.origins[start : start + size],
                rays.directions[start : start + size],
                None if jitter is None else jitter[start : start + size],
                background,
            )
            for start in range(0, num_rays, size)
        ]
        shape = (len(cameras), cameras.height, cameras.width, -1)
        return RenderOutput(*(torch.cat(part).view(shape) for part in zip(*parts, strict=True)))

    def _render_rays(
        self, origins: Tensor, directions: Tensor, jitter: Tensor | None, background: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[R, 3] -> rgb [R, 3], opacity [R, 1], depth [R, 1]."""
        samples = march(origins, directions, self.occupancy.occupied, self.radius, self.step_size, jitter)
        ray = samples.ray_indices
        positions = origins[ray] + samples.t_mids[:, None] * directions[ray]
        density, rgb = self.field(positions)
        seen = composite(density, rgb, samples.t_starts, samples.t_ends, ray, samples.offsets)
        opacity = seen.opacity[:, None]
        behind = self.background(directions) if background is None else background
        return seen.rgb + (1.0 - opacity) * behind, opacity, seen.depth[:, None]

    def after_step(self, step: int) -> None:
        """Call after each optimiser step 0, 1, ...: refreshes the occupancy grid when it is due."""
        if (step + 1) % self.config.occupancy_every == 0:
            self.occupancy.refresh(
                lambda positions: self.field(positions)[0],
                seeded_generator(self.seed, step, "occupancy"),
                all_cells=step < self.config.occupancy_warmup,
            )

    def param_groups(self, config: OptimizerConfig) -> list[dict[str, Any]]:
        """Parameter groups for AdamW: the hash grid, the network and the background, each with its learning rate."""
        return [
            {"name": "grid", "params": [self.table], "lr": config.grid_lr},
            {"name": "network", "params": list(self.network.parameters()), "lr": config.network_lr},
            {"name": "background", "params": list(self.background.parameters()), "lr": config.background_lr},
        ]
