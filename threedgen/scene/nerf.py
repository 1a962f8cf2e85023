"""A neural radiance field on a hash grid: the scene that text-to-3D optimises."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from threedgen.cameras import Cameras, Rays, rays_of
from threedgen.config.scene import OptimizerConfig, SceneConfig
from threedgen.core.randomness import generator as seeded_generator
from threedgen.core.randomness import stable_seed
from threedgen.core.transfer import to_device
from threedgen.ops import Composite, FieldLayout, HashGrid, RaySamples
from threedgen.ops.backends import select_backend
from threedgen.ops.optimizer import Optimizer
from threedgen.ops.plain.composed import activate
from threedgen.ops.sample_room import SampleRoom
from threedgen.scene.background import BackgroundNetwork, bias_free_mlp
from threedgen.scene.occupancy import OccupancyGrid
from threedgen.scene.output import RenderOutput
from threedgen.scene.shading import Shading

RAYS_AT_ONCE = 16384  # without gradients or with little memory; bounds what large images need


class NeRF(nn.Module):
    """Density and view-independent colour in the cube [-radius, radius]^3, over a background of its own.

    One MLP without biases reads the hash grid's features and gives four numbers: density and colour share their
    hidden layers (MVDream's reference has a network for each; one costs half, and on a CPU that counts).
    A bias of the shape of a ball, `blob_density` in its centre and 0 at `blob_radius`, starts the optimisation
    in the middle of the cube (Magic3D, Lin et al. 2023, supplement).
    """

    def __init__(self, config: SceneConfig, seed: int, device: torch.device | str = "cpu", low_memory: bool = False):
        """`low_memory`: large images are rendered part by part, and a part once more for its gradients."""
        super().__init__()
        self.low_memory = low_memory
        self.config = config
        self.seed = seed
        self.ops = select_backend(config.backend, device)
        self.room = SampleRoom()
        grid = HashGrid.from_config(config.grid)
        self.layout = self._layout(grid)
        generator = seeded_generator(seed, 0, "scene")
        table = torch.empty(grid.num_rows, grid.num_features)
        self.table = nn.Parameter(nn.init.uniform_(table, -1e-4, 1e-4, generator=generator))
        widths = [grid.num_outputs, *[config.hidden_width] * config.num_hidden_layers, 4]
        self.network = bias_free_mlp(widths, generator)
        self.background = BackgroundNetwork(generator)
        self.occupancy = OccupancyGrid(config.occupancy_resolution, config.radius)
        self.occupancy.start_from(lambda at: activate(at.new_zeros(len(at), 4), at, self.layout)[0])
        self.to(device)

    def _layout(self, grid: HashGrid) -> FieldLayout:
        """What the network's first output means; the config is all that there is yet."""
        config = self.config
        return FieldLayout(grid, config.radius, config.blob_density, config.blob_radius, config.density_scale)

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

    @property
    def weights(self) -> list[Tensor]:
        """The network's matrices [outputs, inputs]."""
        return list(self.network.parameters())

    def field(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """World positions [N, 3] in the cube -> density [N] >= 0 per world unit, rgb [N, 3] in 0..1."""
        return self.ops.evaluate_field(self.table, self.weights, self.layout, positions)

    def draw_points(self, number: int, margin: float, generator: torch.Generator) -> Tensor:
        """[number, 3] positions in the cube, `margin` from its faces, half of them where the scene is not empty."""
        return self.occupancy.draw_points(number, margin, generator)

    def render(
        self,
        cameras: Cameras,
        *,
        generator: torch.Generator | None = None,
        background: Tensor | None = None,
        shading: Shading | None = None,
        normals: bool = False,
    ) -> RenderOutput:
        """Images of the scene.

        Args:
            cameras: B of them.
            generator: for training. Each ray's samples are shifted by a random part of a step. None: deterministic,
                samples in the middle of their steps.
            background: a colour [3] in 0..1 instead of the background network.
            shading: lights for the B cameras; None: the plain colours.
            normals: fill `normal` and `facing_away` (shading does too).
        """
        cameras = cameras.to(self.device)
        rays = rays_of(cameras)
        num_rays = len(rays.origins)
        jitter = lights = None
        if generator is not None:
            jitter_seed = int(torch.randint(2**32, (), generator=generator))
            jitter = self.ops.ray_jitter(jitter_seed, num_rays, self.device)
        if background is not None:
            background = to_device(background, self.device)
        if shading is not None:
            lights = to_device(shading.lights, self.device).repeat_interleave(cameras.height * cameras.width, 0)

        def part(start: int, stop: int) -> tuple[Tensor, ...]:
            origins, directions = rays.origins[start:stop], rays.directions[start:stop]
            shifts = None if jitter is None else jitter[start:stop]
            samples = self._march(origins, directions, shifts)
            if normals or shading is not None:
                light = None if lights is None else lights[start:stop]
                seen, *of_normals = self._composite_with_normals(origins, directions, samples, shading, light)
            else:
                seen, of_normals = self._composite(origins, directions, samples), []
            opacity = seen.opacity[:, None]
            behind = self.background(directions) if background is None else background
            return seen.rgb + (1.0 - opacity) * behind, opacity, seen.depth[:, None], *of_normals

        # What backward needs of a part is kept for as long as the whole image, or computed again from its rays
        learning = torch.is_grad_enabled()
        size = RAYS_AT_ONCE if self.low_memory or not learning else max(num_rays, 1)
        ranges = [(start, min(start + size, num_rays)) for start in range(0, num_rays, size)]
        again = self.low_memory and learning
        parts = [checkpoint(part, *r, use_reentrant=False) if again else part(*r) for r in ranges]
        shape = (len(cameras), cameras.height, cameras.width, -1)
        return RenderOutput(*(torch.cat(tensors).view(shape) for tensors in zip(*parts, strict=True)))

    def trace(self, rays: Rays, jitter: Tensor | None = None) -> tuple[Composite, RaySamples]:
        """What R rays see, without any background, and their samples. jitter: [R], see `ops.ray_jitter`; None: none."""
        samples = self._march(rays.origins, rays.directions, jitter)
        return self._composite(rays.origins, rays.directions, samples), samples

    def _march(self, origins: Tensor, directions: Tensor, jitter: Tensor | None) -> RaySamples:
        """Their number is exact but in training, on a GPU, where asking for it would make every step wait."""
        arguments = origins, directions, self.occupancy.occupied, self.radius, self.step_size, jitter
        exact = self.low_memory or not torch.is_grad_enabled() or torch.are_deterministic_algorithms_enabled()
        if exact or self.ops.march_within is None:
            return self.ops.march(*arguments)
        return self.room.march(self.ops.march, self.ops.march_within, *arguments)

    def _composite(self, origins: Tensor, directions: Tensor, samples: RaySamples) -> Composite:
        return self.ops.render_field(
            self.table, self.weights, self.layout, origins, directions, samples, self.config.min_transmittance
        )

    def _composite_with_normals(
        self,
        origins: Tensor,
        directions: Tensor,
        samples: RaySamples,
        shading: Shading | None,
        lights: Tensor | None,
    ) -> tuple[Composite, Tensor, Tensor]:
        """What rays [R, 3] see, the mean normal [R, 3], and how much of it faces away [R, 1]."""
        with torch.no_grad():  # normals only where light comes from
            samples = samples.select(self._composite(origins, directions, samples).weights > 0)
        ray = samples.ray_indices
        density, rgb, normals = self._look_with_normals(origins, directions, samples)
        if shading is not None and lights is not None:
            positions = origins[ray] + samples.t_mids[:, None] * directions[ray]
            rgb = shading.apply(rgb, normals, positions, lights[ray])
        seen = self.ops.composite(density, rgb, *samples)
        weights = seen.weights.detach()[:, None]
        away = (normals * directions[ray]).sum(-1, keepdim=True).clamp(min=0).square()
        facing_away = weights.new_zeros(len(origins), 1).index_add(0, ray, weights * away)
        normal = normalize(weights.new_zeros(len(origins), 3).index_add(0, ray, weights * normals.detach()), dim=-1)
        return seen, normal, facing_away

    def _look_with_normals(
        self, origins: Tensor, directions: Tensor, samples: RaySamples
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Density [S], rgb [S, 3] and normals [S, 3] of samples of rays [R, 3]."""
        positions = origins[samples.ray_indices] + samples.t_mids[:, None] * directions[samples.ray_indices]
        density, rgb, normals = self.ops.field_with_normals(self.table, self.weights, self.layout, positions)
        return density, rgb, normals

    def after_step(self, step: int, optimizer: Optimizer | None = None) -> None:
        """Call after each optimiser step 0, 1, ...: refreshes the occupancy grid when it is due."""
        if (step + 1) % self.config.occupancy_every == 0:
            seed, all_cells = stable_seed(self.seed, step, "occupancy"), step < self.config.occupancy_warmup
            self.occupancy.update(self._refreshed_opacity(seed, all_cells))

    def _refreshed_opacity(self, seed: int, all_cells: bool) -> Tensor:
        """For `OccupancyGrid.update`; see `ops.plain.refresh_occupancy`."""
        before = self.occupancy.opacity, self.occupancy.occupied
        decay = self.config.occupancy_decay
        return self.ops.refresh_occupancy(self.table, self.weights, self.layout, *before, seed, decay, all_cells)

    def param_groups(self, config: OptimizerConfig) -> list[dict[str, Any]]:
        """Parameter groups for AdamW: the hash grid, the network and the background, each with its learning rate."""
        return [
            {"name": "grid", "params": [self.table], "lr": config.grid_lr},
            {"name": "network", "params": list(self.network.parameters()), "lr": config.network_lr},
            {"name": "background", "params": list(self.background.parameters()), "lr": config.background_lr},
        ]
