"""3D Gaussian splatting in plain torch: every splat is evaluated at every pixel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from threedgen.ops.splats import (
    DILATION,
    FRUSTUM_MARGIN,
    MAX_ALPHA,
    MIN_ALPHA,
    MIN_TRANSMITTANCE,
    NEAR_PLANE,
    SplatImages,
    check_arguments,
    degree_of,
    focal_length,
)


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
    """Draw N 3D Gaussians into the images of B pinhole cameras; `ops.splats` states the rules.

    Kerbl et al. 2023, "3D Gaussian Splatting". Differentiable once with respect to the first five arguments, for
    losses on colour, opacity and depth; not with respect to the cameras. Memory grows with B * H * W * N here.

    Args:
        means: [N, 3] world units.
        quaternions: [N, 4] w, x, y, z of the rotation from a Gaussian's axes to the world's; of any length but 0.
        scales: [N, 3] > 0, standard deviations along the Gaussian's axes.
        opacities: [N] in 0..1.
        colors: [N, 3], or [N, K, 3] coefficients of spherical harmonics of degree 0 to 3, K = 1, 4, 9 or 16.
        camera_to_world: [B, 4, 4] rotation and position in OpenGL's axes, as in `Cameras`.
        fov_y: [B] radians, full vertical angle; pixels are square, the axis goes through the image's middle.
        height, width: pixels.

    Raises ValueError where the arguments do not fit together.

    Example:
        >>> one, pose = torch.ones(1, 3), torch.eye(4)[None]
        >>> mean, identity = torch.tensor([[0.0, 0.0, -2.0]]), torch.tensor([[1.0, 0.0, 0.0, 0.0]])
        >>> splat(mean, identity, 0.2 * one, torch.tensor([0.5]), one, pose, torch.tensor([1.0]), 1, 1).opacity
        tensor([[[0.5000]]])
    """
    check_arguments(means, quaternions, scales, opacities, colors, camera_to_world, fov_y, height, width)
    poses = camera_to_world.detach().to(means.dtype)
    focals = focal_length(fov_y.detach().to(means.dtype), height)
    half_axes = rotation_matrices(quaternions) * scales[:, None, :]
    images = []
    for pose, focal in zip(poses, focals, strict=True):
        depth, alpha = _alphas(means, half_axes, opacities, pose, focal, height, width)
        rgb = colors if colors.ndim == 2 else _evaluate_sh(colors, means, pose[:3, 3])
        order = torch.argsort(depth, stable=True)
        weights = _weights(alpha[:, order])
        values = torch.cat([rgb, torch.ones_like(depth)[:, None], depth[:, None]], -1)[order]
        images.append((weights @ values).reshape(height, width, 5))
    stacked = torch.stack(images)
    return SplatImages(stacked[..., :3], stacked[..., 3], stacked[..., 4])


def rotation_matrices(quaternions: Tensor) -> Tensor:
    """[N, 4] w, x, y, z of any length -> [N, 3, 3]."""
    return matrices_as_of_unit(normalize(quaternions, dim=-1))


def matrices_as_of_unit(quaternions: Tensor) -> Tensor:
    """[N, 4] w, x, y, z -> [N, 3, 3] by the formula for quaternions of unit length; of others it is no rotation."""
    w, x, y, z = quaternions.unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def spherical_harmonics(directions: Tensor, degree: int) -> Tensor:
    """[N, (degree + 1)^2] real spherical harmonics of unit directions [N, 3], with Condon and Shortley's signs.

    In the order l = 0, 1, ..., m = -l .. l; Sloan 2013, "Efficient spherical harmonic evaluation".
    """
    x, y, z = directions.unbind(-1)
    basis = [torch.full_like(x, 0.28209479177387814)]
    if degree >= 1:
        basis += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree >= 2:
        basis += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (3 * z * z - 1),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (x * x - y * y),
        ]
    if degree >= 3:
        basis += [
            -0.5900435899266435 * y * (3 * x * x - y * y),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (5 * z * z - 1),
            0.3731763325901154 * z * (5 * z * z - 3),
            -0.4570457994644658 * x * (5 * z * z - 1),
            1.445305721320277 * z * (x * x - y * y),
            -0.5900435899266435 * x * (x * x - 3 * y * y),
        ]
    return torch.stack(basis, -1)


def _evaluate_sh(coefficients: Tensor, means: Tensor, position: Tensor) -> Tensor:
    """[N, K, 3] -> [N, 3] as seen from `position`."""
    degree = degree_of(coefficients)
    assert degree is not None
    basis = spherical_harmonics(normalize(means - position, dim=-1), degree)
    return (0.5 + (basis[..., None] * coefficients).sum(-2)).clamp(min=0)


def _alphas(
    means: Tensor, half_axes: Tensor, opacities: Tensor, pose: Tensor, focal: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """The splats' depths [N] and their alphas [H * W, N] in the image of one camera."""
    right, down, forward = pose[:3, 0], -pose[:3, 1], -pose[:3, 2]
    at = (means - pose[:3, 3]) @ torch.stack([right, down, forward], -1)
    in_front = at[:, 2] >= NEAR_PLANE
    depth = torch.where(in_front, at[:, 2], 1.0)
    x, y = at[:, 0] / depth, at[:, 1] / depth

    limit_x, limit_y = (FRUSTUM_MARGIN * 0.5 * pixels / focal.item() for pixels in (width, height))
    u, v = x.clamp(-limit_x, limit_x)[:, None], y.clamp(-limit_y, limit_y)[:, None]
    to_pixels = torch.stack([right - u * forward, down - v * forward], -2) * (focal / depth)[:, None, None]
    a, b = (to_pixels @ half_axes).unbind(-2)  # the covariance is [[aa, ab], [ab, bb]], then dilated
    aa, ab, bb = (a * a).sum(-1), (a * b).sum(-1), (b * b).sum(-1)
    # of the dilated covariance; aa * bb - ab^2 written such that it cannot cancel
    determinant = torch.linalg.cross(a, b).square().sum(-1) + DILATION * (aa + bb) + DILATION**2

    columns = torch.arange(width, dtype=means.dtype, device=means.device) + 0.5
    rows = torch.arange(height, dtype=means.dtype, device=means.device) + 0.5
    dx = (columns[:, None] - (focal * x + 0.5 * width)).repeat(height, 1)
    dy = (rows[:, None] - (focal * y + 0.5 * height)).repeat_interleave(width, 0)
    # d^T covariance^-1 d: of y alone, and of x where y is given; neither can be negative
    var_y = bb + DILATION
    square = dy * dy / var_y + (var_y * dx - ab * dy) ** 2 / (var_y * determinant)
    alpha = (opacities * torch.exp(-0.5 * square)).clamp(max=MAX_ALPHA)
    return depth, torch.where(in_front & (alpha >= MIN_ALPHA), alpha, 0.0)


def _weights(alpha: Tensor) -> Tensor:
    """[P, N] alphas in the order of depth -> each splat's share of each pixel."""
    after = torch.cumprod(1.0 - alpha, -1)
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], -1)[:, : alpha.shape[1]]
    return torch.where(after > MIN_TRANSMITTANCE, alpha * before, 0.0)
