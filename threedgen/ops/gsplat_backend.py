"""The back end `gsplat`: Gaussian splatting by gsplat's CUDA kernels (Ye et al. 2025), where that package is installed.

Written against gsplat 1.5.3. Its rules are those of `ops.splats` but for one: it cuts alpha off at 0.999 instead of
0.99, so colours differ by up to 0.009 behind a splat that is more opaque than that.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from threedgen.core.errors import ConfigError
from threedgen.ops.splats import DILATION, NEAR_PLANE, SplatImages, check_arguments, degree_of, focal_length


def require() -> ModuleType:
    """gsplat. Raises ConfigError where it cannot be imported."""
    try:
        import gsplat
    except ImportError as error:
        raise ConfigError(f"gsplat cannot be imported ({error}): pip install gsplat, or use the native ops") from error
    return gsplat


def splat(
    means: Tensor,
    quaternions: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    camera_to_world: Tensor,
    fov_y: Tensor,
    height: int,
    width: int,
) -> SplatImages:
    """As `ops.plain.splat`, for float32 on a CUDA device."""
    check_arguments(means, quaternions, scales, opacities, colors, camera_to_world, fov_y, height, width)
    if means.dtype != torch.float32:
        raise ValueError(f"splat: gsplat computes in float32, the means are {means.dtype}")
    rgb_and_depth, opacity, _ = require().rasterization(
        means=means,
        quats=quaternions,
        scales=scales,
        opacities=opacities,
        colors=colors,
        viewmats=_world_to_camera(camera_to_world.detach().float()),
        Ks=_intrinsics(fov_y.detach().float(), height, width),
        width=width,
        height=height,
        near_plane=NEAR_PLANE,
        eps2d=DILATION,
        sh_degree=degree_of(colors),
        packed=False,
        render_mode="RGB+D",
    )
    return SplatImages(rgb_and_depth[..., :3], opacity[..., 0], rgb_and_depth[..., 3])


def _world_to_camera(camera_to_world: Tensor) -> Tensor:
    """[B, 4, 4] with OpenCV's axes: x right, y down, z forward."""
    to_opencv = camera_to_world * camera_to_world.new_tensor([1.0, -1.0, -1.0, 1.0])
    rotation, position = to_opencv[:, :3, :3].mT, to_opencv[:, :3, 3:]
    return torch.cat([torch.cat([rotation, -rotation @ position], -1), camera_to_world[:, 3:]], 1)


def _intrinsics(fov_y: Tensor, height: int, width: int) -> Tensor:
    """[B, 3, 3] pixels."""
    matrix = torch.eye(3, device=fov_y.device).repeat(len(fov_y), 1, 1)
    matrix[:, 0, 0] = matrix[:, 1, 1] = focal_length(fov_y, height)
    matrix[:, 0, 2], matrix[:, 1, 2] = 0.5 * width, 0.5 * height
    return matrix
