"""What LGM's network (Tang et al. 2024) is given, and its answer as Gaussians; the network itself is not known here.

LGM has a frame of its own for each object: its first camera stands at (0, 0, distance) and looks along -z with y up, so
the origin is where ours is, but the axes are that camera's. The released weights were trained at distance 1.5 with a
field of view of 49.1 degrees; VideoMV's with 39.6 degrees and the cameras' own distances.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize, softplus

from threedgen.cameras import Cameras, rays_of
from threedgen.config.sampling import QuaternionNorm
from threedgen.ops.backends import Backend
from threedgen.ops.plain.splats import matrices_as_of_unit
from threedgen.scene.gaussians.cloud import Gaussians

_DARKEST = 0.02  # of a picture, and 1 less it the brightest, whose logit an answer is added to
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours


def lgm_frame(cameras: Cameras, distance: float | None = None) -> Tensor:
    """[N, 4, 4] from our world to LGM's frame of each object: a rotation, a uniform scaling and a move.

    cameras: N objects with `num_views` views each. distance: what the first camera's distance from the origin becomes;
    None: it stays as it is.
    """
    pose = cameras.camera_to_world[:: cameras.num_views].clone()
    own = cameras.distance[:: cameras.num_views].to(pose)
    scale = torch.ones_like(own) if distance is None else distance / own
    pose[:, :3, 3] *= scale[:, None]
    forward = torch.eye(4).to(pose).repeat(len(pose), 1, 1)
    forward[:, 2, 3] = scale * own
    return forward @ torch.linalg.inv(pose) @ torch.diag_embed(torch.stack([scale] * 3 + [torch.ones_like(scale)], -1))


def lgm_inputs(images: Tensor, cameras: Cameras, distance: float | None = None) -> Tensor:
    """[N, V, 9, H, W]: colours as ImageNet's networks have them, then each pixel's ray in LGM's frame.

    A ray is (o x d, d) in Pluecker's coordinates, d of unit length, through the pixel's centre.

    images: [N * V, 3, H, W] in 0..1, what `cameras` see, the views of an object side by side; distance: see
    `lgm_frame`. Raises ValueError where pictures and cameras do not belong together.
    """
    shape = (len(cameras), 3, cameras.height, cameras.width)
    if images.shape != shape or len(cameras) % cameras.num_views:
        raise ValueError(
            f"{len(cameras)} cameras, {cameras.num_views} an object, need pictures {list(shape)}, "
            f"not {list(images.shape)}"
        )
    rays = rays_of(_in_frame(cameras, lgm_frame(cameras, distance)))
    pluecker = torch.cat([torch.linalg.cross(rays.origins, rays.directions), rays.directions], -1)
    pluecker = pluecker.view(len(cameras), cameras.height, cameras.width, 6).movedim(-1, 1).to(images)
    mean, deviation = (images.new_tensor(x)[:, None, None] for x in (_MEAN, _DEVIATION))
    return torch.cat([(images - mean) / deviation, pluecker], 1).unflatten(0, (-1, cameras.num_views))


def _in_frame(cameras: Cameras, frame: Tensor) -> Cameras:
    """The cameras where `frame`, [N, 4, 4] of each object, takes them."""
    moved = frame.repeat_interleave(cameras.num_views, 0) @ cameras.camera_to_world
    return replace(cameras, camera_to_world=moved, distance=moved[:, :3, 3].norm(dim=-1))


def activated(channels: Tensor, norm: QuaternionNorm = QuaternionNorm.each) -> Tensor:
    """The network's channels [N, V, 14, h, w] -> [N, V * h * w, 14] numbers of Gaussians in LGM's frame.

    Of each: position in -1..1, opacity, scale, quaternion (w, x, y, z), rgb; views one after the other, row by row.
    norm: `each` as LGM means it. VideoMV's code was made of an LGM in which the dimension to normalise over was left
    out, so that w, x, y and z of all Gaussians each got unit length (`all`), and its weights have learned to live
    with it.
    """
    position, opacity, scale, quaternion, rgb = channels.movedim(2, -1).flatten(1, 3).split([3, 1, 3, 4, 3], -1)
    return torch.cat(
        [
            position.clamp(-1, 1),
            opacity.sigmoid(),
            0.1 * softplus(scale),
            normalize(quaternion, dim=-1 if norm is QuaternionNorm.each else 1),
            0.5 * rgb.tanh() + 0.5,
        ],
        -1,
    )


def pixel_aligned(channels: Tensor, images: Tensor, cameras: Cameras) -> Tensor:
    """As `activated`, of a network that answers relative to its pixels (Splatter Image, Szymanowicz et al. 2024).

    A Gaussian lies on the ray of its own pixel, of h x w that a view has: first channel 0 is where the ray passes the
    origin, tanh of it times half the camera's distance further along; the next two, tanh of them in pixels' widths,
    move it to the right and up. Scales are softplus in pixels' widths. Colours are the pixel's, moved in their logit.
    So what has to be learned is how far away a pixel is, and a network that answers nothing but 0 shows billboards.

    images: [N * V, 3, H, W] in 0..1 that the network was shown; cameras: theirs, in the frame of the answer.
    """
    views, (height, width) = cameras.num_views, channels.shape[-2:]
    rays = rays_of(replace(cameras, height=height, width=width))
    origins, directions = (
        x.to(channels).unflatten(0, (-1, views * height * width)) for x in (rays.origins, rays.directions)
    )
    edge = (2 * cameras.distance * (0.5 * cameras.fov_y).tan() / height).to(channels)
    right_up = cameras.camera_to_world[:, :3, :2].to(channels) * edge[:, None, None]

    def of_pixels(of_views: Tensor) -> Tensor:
        return of_views.unflatten(0, (-1, views)).repeat_interleave(height * width, 1)

    answers = channels.movedim(2, -1).flatten(1, 3)
    along, aside, opacity, scale, quaternion, rgb = answers.split([1, 2, 1, 3, 4, 3], -1)
    nearest = -(origins * directions).sum(-1, keepdim=True)
    half = of_pixels(0.5 * cameras.distance.to(channels))[..., None]
    seen = adaptive_avg_pool2d(images.to(channels), (height, width)).movedim(1, -1).reshape(rgb.shape)
    return torch.cat(
        [
            origins
            + (nearest + half * along.tanh()) * directions
            + (of_pixels(right_up) @ aside.tanh()[..., None])[..., 0],
            opacity.sigmoid(),
            of_pixels(edge)[..., None] * softplus(scale),
            normalize(quaternion, dim=-1),
            (seen.clamp(_DARKEST, 1 - _DARKEST).logit() + rgb).sigmoid(),
        ],
        -1,
    )


def gaussians_of_channels(
    channels: Tensor,
    cameras: Cameras,
    distance: float | None = None,
    norm: QuaternionNorm = QuaternionNorm.each,
    ops: Backend | None = None,
    images: Tensor | None = None,
) -> list[Gaussians]:
    """The Gaussians of N objects, in our world, from the network's answer to `lgm_inputs(images, cameras, distance)`.

    channels: [N, V, 14, h, w]. norm: see `activated`; through those of `all` no gradients go, and ValueError is raised
    where they would be expected. ops: see `Gaussians`. images: what the network was shown, if its answer is relative to
    that, see `pixel_aligned`, where norm has no meaning; None: it is not.
    """
    frame = lgm_frame(cameras, distance)
    if images is None:
        of_objects = activated(channels, norm)
    else:
        of_objects = pixel_aligned(channels, images, _in_frame(cameras, frame))
    scenes = []
    for numbers, matrix in zip(of_objects, torch.linalg.inv(frame), strict=True):
        position, opacity, scale, quaternion, rgb = numbers.split([3, 1, 3, 4, 3], -1)
        if norm is QuaternionNorm.all:
            quaternion, scale = _as_rasterised(quaternion, scale)
        scenes.append(Gaussians(position, quaternion, scale, opacity[:, 0], rgb, ops).transformed(matrix))
    return scenes


def _as_rasterised(quaternions: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Quaternions and scales whose covariance is M M^T with M = matrices_as_of_unit(quaternions) diag(scales).

    VideoMV's rasteriser does not normalise the quaternions that it is given, ours does.
    """
    if torch.is_grad_enabled() and (quaternions.requires_grad or scales.requires_grad):
        raise ValueError("weights with quaternion_norm=all can be used, but not trained: their rotations are none")
    axes, lengths, _ = torch.linalg.svd(matrices_as_of_unit(quaternions) * scales[:, None, :])
    axes = axes * torch.linalg.det(axes)[:, None, None]  # a rotation; which way an axis points does not matter
    found = torch.from_numpy(Rotation.from_matrix(axes.double().cpu().numpy()).as_quat()).to(quaternions)
    return found[:, [3, 0, 1, 2]], lengths
