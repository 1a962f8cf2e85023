"""Losses on a scene and its own renders, without a prior (MVDream's reference configuration names them alike)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, normalize

from threedgen.core.transfer import to_device
from threedgen.scene.output import RenderOutput
from threedgen.scene.protocol import DistanceScene, RayScene, Scene

_NEIGHBOURS = 4096  # pairs of points at which a field's smoothness is measured


def sparsity(output: RenderOutput) -> Tensor:
    """[] mean sqrt(opacity^2 + 0.01): less of everything; 0.1 for an empty image, 1.005 for a full one."""
    return (output.opacity.square() + 0.01).sqrt().mean()


def opaque(output: RenderOutput) -> Tensor:
    """[] mean binary entropy of the opacity in nats: pixels are object or background, not fog; at most ln 2."""
    opacity = output.opacity.clamp(1e-3, 1.0 - 1e-3)  # finite gradients at 0 and 1
    return binary_cross_entropy(opacity, opacity)


def orientation(output: RenderOutput) -> Tensor:
    """[] surfaces that face away from the camera that sees them (Ref-NeRF, Verbin et al. 2022, equation 11).

    The sum over pixels, divided by the number of pixels that see anything. Needs a render with normals.
    """
    if output.facing_away is None:
        raise ValueError("the orientation loss needs normals: render(..., normals=True)")
    return output.facing_away.sum() / (output.opacity > 0).sum().clamp(min=1)


def smoothness(scene: RayScene, generator: torch.Generator) -> Tensor:
    """[] how much a field changes over the distance of two samples, at random points and in random directions.

    Mean squared difference of the samples' opacities, and of their colours as far as both are seen: what Plenoxels
    (Fridovich-Keil et al. 2022, equation 3) has between neighbouring cells, for a field without cells. 0 for a field
    that is even everywhere; at most 4. Half of the points are where the scene is not empty.
    """
    length = scene.step_size
    points = scene.draw_points(_NEIGHBOURS, length, generator)
    directions = normalize(torch.randn(_NEIGHBOURS, 3, generator=generator), dim=-1)
    moved = points + length * to_device(directions, scene.device)
    density, rgb = scene.field(torch.cat([points, moved]))
    opacity, other = -torch.expm1(-length * density.view(2, -1))
    color, other_color = rgb.view(2, -1, 3)
    seen = torch.minimum(opacity, other).detach()
    return ((opacity - other).square() + seen * (color - other_color).square().sum(-1)).mean()


def eikonal(scene: Scene, step: int) -> Tensor:
    """[] mean (|gradient| - 1)^2 of a scene's signed distance at this step's points (Gropp et al. 2020, equation 2).

    0 for a scene that knows no distances.
    """
    if not isinstance(scene, DistanceScene):
        return torch.zeros((), device=scene.device)
    return (scene.gradients(step).norm(dim=-1) - 1.0).square().mean()
