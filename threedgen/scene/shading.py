"""Soft shading by one point light (DreamFusion, Poole et al. 2023, section 3.2; the "soft" of MVDream's supplement).

Seen under a light, and now and then without its texture, an object must have the shape that its colours pretend.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from threedgen.cameras import Cameras
from threedgen.config.scene import ShadingConfig


@dataclass(frozen=True)
class Shading:
    """A light for each of B cameras, and how much of what they see is due to it."""

    lights: Tensor  # [B, 3] positions, world units
    diffuse: float  # strength of the light, 0..1; the ambient light has the rest
    textureless: bool  # white surfaces instead of their own colours

    def apply(self, rgb: Tensor, normals: Tensor, positions: Tensor, lights: Tensor) -> Tensor:
        """Colours, normals, positions of N samples and the light of each, all [N, 3] -> what is seen of them [N, 3]."""
        facing = (normals * normalize(lights - positions, dim=-1)).sum(-1, keepdim=True).clamp(min=0)
        albedo = torch.ones_like(rgb) if self.textureless else rgb
        return albedo * (self.diffuse * facing + (1 - self.diffuse))


def draw_shading(config: ShadingConfig, cameras: Cameras, generator: torch.Generator) -> Shading | None:
    """How one training step is lit; None: by ambient light alone, so that its own colours are seen.

    A light stands in the direction of its camera plus a normally distributed offset that the views of an object
    share, as far from the origin as `light_distance_range` says.
    """
    shaded, textureless, diffuse = torch.rand(3, generator=generator).tolist()
    if shaded >= config.diffuse_probability:
        return None
    num_objects = len(cameras) // cameras.num_views
    offset = config.light_position_noise * torch.randn(num_objects, 3, generator=generator)
    nearest, farthest = config.light_distance_range
    distance = nearest + (farthest - nearest) * torch.rand(num_objects, 1, generator=generator)
    offset, distance = (
        x.repeat_interleave(cameras.num_views, 0).to(cameras.camera_to_world) for x in (offset, distance)
    )
    lights = distance * normalize(cameras.camera_to_world[:, :3, 3] + offset, dim=-1)
    return Shading(lights, diffuse, textureless < config.textureless_probability)
