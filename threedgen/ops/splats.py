"""What every back end of `splat` shares: its rules, its result and the check of its arguments.

The rules are those of Kerbl et al. 2023, "3D Gaussian Splatting for Real-Time Radiance Field Rendering":

- A Gaussian's covariance is R diag(scales)^2 R^T, R from its quaternion. It is projected with the camera's derivative
  at its mean (Zwicker et al. 2001, EWA splatting), taken no further out than FRUSTUM_MARGIN half images, and DILATION
  square pixels are added to the variance in x and in y.
- alpha = min(MAX_ALPHA, opacity * exp(-1/2 d^T covariance^-1 d)) at a pixel's centre, which lies at (column + 1/2,
  row + 1/2); below MIN_ALPHA it is 0. A Gaussian whose mean is nearer than NEAR_PLANE is not drawn.
- Splats are blended in the order of their means' depths, of equal ones that with the lower index first. A pixel is
  finished before the first splat that would leave it no more light than MIN_TRANSMITTANCE; that splat is left out.
- Spherical harmonics are evaluated in the direction from the camera to the mean; colour = max(0, 1/2 + sum).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NEAR_PLANE = 0.01  # world units
DILATION = 0.3  # square pixels
FRUSTUM_MARGIN = 1.3
MIN_ALPHA = 1 / 255
MAX_ALPHA = 0.99
MIN_TRANSMITTANCE = 1e-4
NUM_COEFFICIENTS = (1, 4, 9, 16)  # of spherical harmonics, by their degree


class SplatImages(NamedTuple):
    """What B cameras see of a set of Gaussians, before any background."""

    rgb: Tensor  # [B, H, W, 3], already weighted: add (1 - opacity) * background
    opacity: Tensor  # [B, H, W] in 0..1
    depth: Tensor  # [B, H, W] sum of weight * depth along the camera's axis; divide by the opacity for the mean depth


def check_arguments(
    means: Tensor,
    quaternions: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    camera_to_world: Tensor,
    fov_y: Tensor,
    height: int,
    width: int,
) -> None:
    """Raises ValueError for shapes, types or devices that do not fit together."""
    n, b = len(means), len(camera_to_world)
    expected = {"means": (n, 3), "quaternions": (n, 4), "scales": (n, 3), "opacities": (n,)}
    given = {"means": means, "quaternions": quaternions, "scales": scales, "opacities": opacities}
    for name, shape in expected.items():
        if given[name].shape != shape:
            raise ValueError(f"splat: {name} must be {list(shape)}, not {list(given[name].shape)}")
    if colors.shape != (n, 3) and colors.shape not in [(n, k, 3) for k in NUM_COEFFICIENTS]:
        raise ValueError(f"splat: colors must be [{n}, 3] or [{n}, 1, 4, 9 or 16, 3], not {list(colors.shape)}")
    if camera_to_world.shape != (b, 4, 4) or fov_y.shape != (b,) or b == 0:
        shapes = f"{list(camera_to_world.shape)} and {list(fov_y.shape)}"
        raise ValueError(f"splat: camera_to_world and fov_y must be [B, 4, 4] and [B] with B >= 1, not {shapes}")
    if height < 1 or width < 1:
        raise ValueError(f"splat: an image of {height} x {width} pixels has none")
    for name, tensor in {**given, "colors": colors}.items():
        if tensor.dtype != means.dtype or not tensor.is_floating_point():
            raise ValueError(f"splat: {name} are {tensor.dtype}, the means {means.dtype}; all must be one real type")
    for name, tensor in {**given, "colors": colors, "camera_to_world": camera_to_world, "fov_y": fov_y}.items():
        if tensor.device != means.device:
            raise ValueError(f"splat: {name} is on {tensor.device}, the means are on {means.device}")


def focal_length(fov_y: Tensor, height: int) -> Tensor:
    """[B] pixels, the same in x and y."""
    return 0.5 * height / torch.tan(0.5 * fov_y)


def degree_of(colors: Tensor) -> int | None:
    """Of the spherical harmonics [N, K, 3]; None for colours [N, 3]."""
    return None if colors.ndim == 2 else NUM_COEFFICIENTS.index(colors.shape[1])
