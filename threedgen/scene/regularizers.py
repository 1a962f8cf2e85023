"""Losses on a scene and its own renders, without a prior (MVDream's reference configuration names them alike)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from threedgen.scene.output import RenderOutput
from threedgen.scene.protocol import DistanceScene, Scene


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


def eikonal(scene: Scene, step: int) -> Tensor:
    """[] mean (|gradient| - 1)^2 of a scene's signed distance at this step's points (Gropp et al. 2020, equation 2).

    0 for a scene that knows no distances.
    """
    if not isinstance(scene, DistanceScene):
        return torch.zeros((), device=scene.device)
    return (scene.gradients(step).norm(dim=-1) - 1.0).square().mean()
