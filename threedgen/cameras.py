"""Cameras around an object: where they stand, how they are drawn at random, and the rays they see.

World axes: z up, right-handed; the front of an object looks along +x, so azimuth 0 sees its face.
Camera axes (OpenGL): x right, y up, z back, so a camera looks along its own -z.
Angles are degrees in configs and in names that end in `_deg`, radians elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from threedgen.config.scene import CameraConfig
from threedgen.core.randomness import generator
from threedgen.core.transfer import to_device

SHEET_AZIMUTHS, SHEET_ELEVATION = (20.0, 110.0, 200.0, 290.0), 15.0  # degrees: of a contact sheet's columns
Angles = float | Sequence[float] | NDArray[Any] | Tensor


@dataclass(frozen=True)
class Cameras:
    """A batch of B pinhole cameras: P objects x `num_views` views, the views of one object side by side."""

    camera_to_world: Tensor  # [B, 4, 4], columns right, up, back, position
    fov_y: Tensor  # [B] radians, full vertical angle
    height: int  # pixels
    width: int  # pixels
    azimuth: Tensor  # [B] radians, from +x towards +y
    elevation: Tensor  # [B] radians, above the xy plane
    distance: Tensor  # [B] from the origin, world units
    num_views: int = 1  # views per object

    def __len__(self) -> int:
        return self.camera_to_world.shape[0]

    def __getitem__(self, index: slice) -> Cameras:
        """The cameras of a slice. `num_views` stays if the slice holds whole objects and becomes 1 otherwise."""
        start, stop, step = index.indices(len(self))
        whole = step == 1 and start % self.num_views == 0 and (stop - start) % self.num_views == 0
        return self._each(lambda tensor: tensor[index], self.num_views if whole else 1)

    def take(self, index: Tensor, num_views: int) -> Cameras:
        """Those of some numbers [N], in their order, as objects with `num_views` views."""
        return self._each(lambda tensor: tensor[index], num_views)

    @staticmethod
    def joined(sets: Sequence[Cameras]) -> Cameras:
        """One batch of the cameras of several objects, each with as many views and pixels as the first."""
        return replace(
            sets[0],
            camera_to_world=torch.cat([cameras.camera_to_world for cameras in sets]),
            fov_y=torch.cat([cameras.fov_y for cameras in sets]),
            azimuth=torch.cat([cameras.azimuth for cameras in sets]),
            elevation=torch.cat([cameras.elevation for cameras in sets]),
            distance=torch.cat([cameras.distance for cameras in sets]),
        )

    def to(self, device: torch.device | str) -> Cameras:
        target = torch.device(device)
        return self._each(lambda tensor: to_device(tensor, target), self.num_views)

    def _each(self, change: Callable[[Tensor], Tensor], num_views: int) -> Cameras:
        return replace(
            self,
            camera_to_world=change(self.camera_to_world),
            fov_y=change(self.fov_y),
            azimuth=change(self.azimuth),
            elevation=change(self.elevation),
            distance=change(self.distance),
            num_views=num_views,
        )


@dataclass(frozen=True)
class Rays:
    """R = B * height * width rays: camera after camera, row after row, left to right."""

    origins: Tensor  # [R, 3] world units
    directions: Tensor  # [R, 3] unit length


def orbit(
    azimuth_deg: Angles,
    elevation_deg: Angles,
    distance: Angles,
    fov_y_deg: Angles,
    height: int,
    width: int | None = None,
    num_views: int = 1,
) -> Cameras:
    """Cameras on spheres around the origin that look at the origin, world z up in the image.

    The first four arguments are numbers, sequences or 1-D tensors and broadcast to B cameras.
    Elevation lies strictly between -90 and 90 degrees (at the poles "up" has no meaning).
    Raises ValueError where it does not, and where B is no multiple of `num_views`.

    Example:
        >>> orbit([0, 90, 180, 270], 15, 3.0, 40, height=64, num_views=4).camera_to_world.shape
        torch.Size([4, 4, 4])
    """
    numbers = [torch.as_tensor(value, dtype=torch.float64).reshape(-1) for value in (azimuth_deg, elevation_deg)]
    numbers += [torch.as_tensor(value, dtype=torch.float64).reshape(-1) for value in (distance, fov_y_deg)]
    azimuth, elevation, radius, fov_y = torch.broadcast_tensors(*numbers)
    if len(azimuth) % num_views:
        raise ValueError(f"{len(azimuth)} cameras are not a whole number of objects with {num_views} views each")
    if (elevation.abs() >= 90).any():
        raise ValueError("elevation_deg must lie strictly between -90 and 90")
    azimuth, elevation, fov_y = azimuth.deg2rad(), elevation.deg2rad(), fov_y.deg2rad()
    return Cameras(
        camera_to_world=_look_at_origin(azimuth, elevation, radius).float(),
        fov_y=fov_y.float(),
        height=height,
        width=width or height,
        azimuth=azimuth.float(),
        elevation=elevation.float(),
        distance=radius.float(),
        num_views=num_views,
    )


def viewing_cameras(config: CameraConfig, azimuth_deg: Angles, elevation_deg: Angles, size: int) -> Cameras:
    """Square views for looking at a result: field of view and distance in the middle of the training ranges."""
    fov_y_deg = sum(config.fov_y_deg_range) / 2
    distance = sum(config.distance_range) / 2 / math.tan(math.radians(fov_y_deg) / 2)
    num_views = torch.as_tensor(azimuth_deg).numel()
    return orbit(azimuth_deg, elevation_deg, distance, fov_y_deg, size, num_views=num_views)


def _look_at_origin(azimuth: Tensor, elevation: Tensor, distance: Tensor) -> Tensor:
    """[B, 4, 4] from angles in radians [B]: back points from the origin to the camera, right stays horizontal."""
    cos_a, sin_a, cos_e, sin_e = azimuth.cos(), azimuth.sin(), elevation.cos(), elevation.sin()
    zero, one = torch.zeros_like(azimuth), torch.ones_like(azimuth)
    right = torch.stack([-sin_a, cos_a, zero, zero], -1)
    up = torch.stack([-sin_e * cos_a, -sin_e * sin_a, cos_e, zero], -1)
    back = torch.stack([cos_e * cos_a, cos_e * sin_a, sin_e, zero], -1)
    position = torch.cat([back[:, :3] * distance[:, None], one[:, None]], -1)
    return torch.stack([right, up, back, position], -1)


def rays_of(cameras: Cameras) -> Rays:
    """One ray through every pixel's centre.

    Example:
        >>> rays_of(orbit(0, 0, 2.0, 40, height=1)).directions
        tensor([[-1.,  0.,  0.]])
    """
    pose, height, width = cameras.camera_to_world, cameras.height, cameras.width
    focal = _focal_length(cameras)
    x = torch.arange(width, device=pose.device) + 0.5 - 0.5 * width
    y = 0.5 * height - 0.5 - torch.arange(height, device=pose.device)
    shape = (len(cameras), height, width)
    in_camera = torch.stack(
        [
            (x / focal[:, None])[:, None, :].expand(shape),
            (y / focal[:, None])[:, :, None].expand(shape),
            pose.new_full((), -1.0).expand(shape),
        ],
        -1,
    )
    directions = torch.einsum("bij,bhwj->bhwi", pose[:, :3, :3], in_camera)
    directions = torch.nn.functional.normalize(directions, dim=-1).reshape(-1, 3)
    origins = pose[:, None, :3, 3].expand(-1, height * width, -1).reshape(-1, 3)
    return Rays(origins, directions)


def project(cameras: Cameras, points: Tensor) -> tuple[Tensor, Tensor]:
    """Where each camera sees its own points: the inverse of `rays_of`.

    points: [B, N, 3] world -> pixels [B, N, 2], (column, row) of which a pixel's centre has half numbers, and the
    distances from the camera [B, N], world units. What lies behind the camera is at (nan, nan).

    Example:
        >>> project(orbit(0, 0, 2.0, 40, height=8), torch.zeros(1, 1, 3))
        (tensor([[[4., 4.]]]), tensor([[2.]]))
    """
    pose = cameras.camera_to_world
    x, y, back = torch.einsum("bij,bni->bnj", pose[:, :3, :3], points - pose[:, None, :3, 3]).unbind(-1)
    per_depth = _focal_length(cameras)[:, None] / torch.where(back < 0, -back, torch.nan)
    pixels = torch.stack([0.5 * cameras.width + x * per_depth, 0.5 * cameras.height - y * per_depth], -1)
    return pixels, (points - pose[:, None, :3, 3]).norm(dim=-1)


def _focal_length(cameras: Cameras) -> Tensor:
    """[B] pixels, the same in x and y."""
    return 0.5 * cameras.height / (0.5 * cameras.fov_y).tan()


def mvdream_camera_vectors(cameras: Cameras) -> Tensor:
    """[B, 16]: what MVDream's network is told about each camera.

    The row-major camera-to-world matrix with the position scaled to unit length, so that neither distance nor
    field of view is given (Shi et al. 2023, section 3.2). MVDream's own `azimuth` is ours + 90 degrees.
    """
    pose = cameras.camera_to_world.clone()
    pose[:, :3, 3] = torch.nn.functional.normalize(pose[:, :3, 3], dim=-1)
    return pose.reshape(-1, 16)


def videomv_camera_vectors(cameras: Cameras) -> Tensor:
    """[B, 16]: what VideoMV's network is told about each camera.

    The row-major camera-to-world matrix as it is, the distance in it (Zuo et al. 2024, released code). VideoMV's
    azimuth is ours.
    """
    return cameras.camera_to_world.reshape(-1, 16)


class CameraSampler:
    """Training cameras as a function of (seed, step).

    Each object draws one starting azimuth, one elevation, one field of view and one distance; its views stand exactly
    360 / num_views, or `spacing_deg`, degrees apart. The distance is relative: times 1 / tan(fov_y / 2), so that half
    the view's height at the origin is `distance_range` whatever the field of view.
    """

    def __init__(self, config: CameraConfig, seed: int):
        self.config = config
        self.seed = seed

    def coarse(self, step: int, num_steps: int) -> bool:
        """Whether step 0 .. num_steps - 1 is rendered at the coarse resolution."""
        return step < self.config.coarse_fraction * num_steps

    def sample(self, step: int, num_steps: int) -> Cameras:
        """The step's sets of `num_views` cameras, as many as the config has for its resolution."""
        config, coarse = self.config, self.coarse(step, num_steps)
        num_objects = (coarse and config.coarse_sets_per_step) or config.sets_per_step
        uniform = torch.rand(4, num_objects, 1, dtype=torch.float64, generator=generator(self.seed, step, "camera"))
        spacing = config.spacing_deg or 360.0 / config.num_views
        azimuth = uniform[0] * 360.0 + spacing * torch.arange(config.num_views)
        elevation = _within(config.elevation_deg_range, uniform[1])
        fov_y = _within(config.fov_y_deg_range, uniform[2])
        half_height = _within(config.distance_range, uniform[3])
        distance = half_height / (0.5 * fov_y.deg2rad()).tan()
        resolution = config.coarse_resolution if coarse else config.resolution
        return orbit(
            azimuth.flatten() % 360.0,
            elevation.expand_as(azimuth).flatten(),
            distance.expand_as(azimuth).flatten(),
            fov_y.expand_as(azimuth).flatten(),
            height=resolution,
            num_views=config.num_views,
        )


def _within(bounds: tuple[float, float], uniform: Tensor) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * uniform
