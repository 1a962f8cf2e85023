"""Epipolar geometry of the views of an object: which pixels of two views can show the same point.

Rays belong to pixels' centres of a level of a network, row after row, L = height * width of them in a view; P objects
have V views each. All of it is made from the cameras at the level's own size: neither masks nor unit vectors may be
resized. Computed in float32, also within autocast.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from threedgen.cameras import Cameras, Rays, project, rays_of

OBJECT_RADIUS = 1.0  # world units; what is sampled of a ray is as far from the origin at most
SAMPLES = 8  # points on a ray that a network asks about
LINE_WIDTH = 1.5  # tau of a network's mask, in pixels where the object is
_NEAREST = 0.05  # world units from the camera
_PARALLEL = 1e-6  # sine of the angle between two rays

Args = ParamSpec("Args")
Result = TypeVar("Result")


def _in_float32(function: Callable[Concatenate[Cameras, Args], Result]) -> Callable[Concatenate[Cameras, Args], Result]:
    """Autocast would round a camera's axes to three digits."""

    @wraps(function)
    def call(cameras: Cameras, *args: Args.args, **kwargs: Args.kwargs) -> Result:
        with torch.autocast(cameras.camera_to_world.device.type, enabled=False):
            return function(cameras, *args, **kwargs)

    return call


def pluecker(rays: Rays) -> Tensor:
    """Direction and moment (d, o x d) of each ray, [R, 6]; the same wherever on its line a ray begins."""
    return torch.cat([rays.directions, torch.linalg.cross(rays.origins, rays.directions)], -1)


def ray_distance(origin_a: Tensor, direction_a: Tensor, origin_b: Tensor, direction_b: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest distance of the lines of two rays, and whether it is found in front of both origins.

    All are [..., 3], of as many dimensions, and broadcast; directions have unit length. Returns distances [...], world
    units, and bool [...].
    The lines' distance is that of their planes of common normal; the closest points lie at
    s_a = ((o_b - o_a) x d_b) . n / |n|^2 and s_b = ((o_b - o_a) x d_a) . n / |n|^2 with n = d_a x d_b. Parallel lines
    have one distance everywhere: rays that face each other lie side by side between their origins only.
    """
    between = origin_b - origin_a
    normal = torch.linalg.cross(direction_a, direction_b)
    sine = normal.norm(dim=-1)
    parallel = sine < _PARALLEL
    beside_a = torch.linalg.cross(between, direction_a)
    beside_b = torch.linalg.cross(between, direction_b)
    distance = torch.where(
        parallel, beside_a.norm(dim=-1), _dot(between, normal).abs() / sine.masked_fill(parallel, 1.0)
    )
    same_way = (_dot(direction_a, direction_b) > 0) | (_dot(between, direction_a) > 0)
    meet_ahead = (_dot(beside_b, normal) > 0) & (_dot(beside_a, normal) > 0)
    return distance, torch.where(parallel, same_way, meet_ahead)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1)


def pixel_at_origin(cameras: Cameras) -> Tensor:
    """Height of a pixel of each view at the origin, [B] world units."""
    return 2 * (0.5 * cameras.fov_y).tan() * cameras.distance / cameras.height


def epipolar_mask(cameras: Cameras, tau: float | Tensor) -> Tensor:
    """Which pixels of the views see what a ray can see: bool [B, B, L, L], L = height * width of the cameras.

    [i, j, a, b] tells whether pixel b of view j may be asked about by pixel a of view i: their rays come as near to
    each other as `tau`, in world units, in front of both cameras. A view's own pixels are always allowed. tau is a
    number, or broadcasts against [B, B]; `1.5 * pixel_at_origin(cameras)` is one and a half pixels of the view that
    is asked. All B cameras are views of one object.

    Example:
        >>> epipolar_mask(orbit([0, 90], 15, 3.0, 40, height=8), 0.1).shape
        torch.Size([2, 2, 64, 64])
    """
    return _masks(replace(cameras, num_views=len(cameras)), tau)[0]


@_in_float32
def _masks(cameras: Cameras, tau: float | Tensor) -> Tensor:
    """`epipolar_mask` of each object, [P, V, V, L, L]; tau broadcasts against [P, V, V]."""
    views = cameras.num_views
    positions = cameras.camera_to_world[:, :3, 3].reshape(-1, views, 1, 1, 3)
    directions = rays_of(cameras).directions.reshape(len(positions), views, -1, 3)
    widths = torch.as_tensor(tau, dtype=positions.dtype, device=positions.device)
    widths = widths.expand(len(positions), views, views)
    masks = []
    for view in range(views):  # one after another: three numbers for every pair of rays take much room
        distance, in_front = ray_distance(
            positions[:, view, None], directions[:, view, None, :, None], positions, directions[:, :, None]
        )
        allowed = in_front & (distance <= widths[:, view, :, None, None])
        allowed[:, view] = True
        masks.append(allowed)
    return torch.stack(masks, 1)


@dataclass(frozen=True)
class RayPoints:
    """M points on the ray of every pixel, and where the views of the same object see them."""

    points: Tensor  # [P, V, L, M, 3] world
    pixels: Tensor  # [P, V, V, L, M, 2]: by a view, of a view: (column, row), centres at half numbers; 0 if behind
    visible: Tensor  # bool [P, V, V, L, M]: in front of the camera and inside its picture; always in the own view


def sample_depths(cameras: Cameras, count: int) -> Tensor:
    """The middles of `count` equal parts of each view's rays where the object is, [B, count] world units."""
    near = (cameras.distance - OBJECT_RADIUS).clamp(min=_NEAREST)[:, None]
    far = cameras.distance[:, None] + OBJECT_RADIUS
    return near + (far - near) * (torch.arange(count, device=near.device) + 0.5) / count


@_in_float32
def ray_points(cameras: Cameras, depths: Tensor) -> RayPoints:
    """The points at `depths` along the rays, [B, M] of a view or [B, L, M] of each ray, world units."""
    views, count = cameras.num_views, depths.shape[-1]
    rays = rays_of(cameras)
    origins, directions = (ray.reshape(len(cameras), -1, 1, 3) for ray in (rays.origins, rays.directions))
    points = origins + depths.reshape(len(cameras), -1, count, 1) * directions
    points = points.unflatten(0, (-1, views))
    seen_by = points.flatten(1, 3)[:, None].expand(-1, views, -1, -1)
    pixels, _ = project(cameras, seen_by.flatten(0, 1))
    pixels = pixels.reshape(len(points), views, *points.shape[1:4], 2)
    x, y = pixels.unbind(-1)
    visible = (x >= 0) & (x <= cameras.width) & (y >= 0) & (y <= cameras.height)
    own = torch.eye(views, dtype=torch.bool, device=visible.device)[:, :, None, None]
    # what is behind a camera has no place, and not a number would spread through any sum
    return RayPoints(points, pixels.nan_to_num(0.0), visible | own)


def fetch(features: Tensor, pixels: Tensor) -> Tensor:
    """Features at pixels between centres: [B, C, H, W] at [B, S, 2], (column, row), bilinear -> [B, C, S].

    A pixel's centre has half numbers; beyond the outermost centres the border's features go on.
    """
    height, width = features.shape[-2:]
    x, y = pixels.unbind(-1)
    grid = torch.stack([2 * x / width - 1, 2 * y / height - 1], -1)[:, None]
    fetched = grid_sample(features.float(), grid, padding_mode="border", align_corners=False)
    return fetched[:, :, 0].to(features.dtype)


class LevelGeometry:
    """What the layers of one level of a network know of their rays, each part made when it is first asked for."""

    def __init__(self, cameras: Cameras, times: int) -> None:
        """cameras: of the level's size; times: how often they are told again, for as many objects."""
        self._cameras, self._times = cameras, times

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self._cameras.height, self._cameras.width

    @cached_property
    def rays(self) -> Tensor:
        """Pluecker coordinates [B, L, 6]."""
        return self._again(_pluecker_of(self._cameras))

    @cached_property
    def mask(self) -> Tensor | None:
        """Bool [P, V * L, V * L]: whether a token may attend to another; None for one view, which sees itself."""
        if self._cameras.num_views == 1:
            return None
        tau = LINE_WIDTH * pixel_at_origin(self._cameras).reshape(-1, 1, self._cameras.num_views)
        masks = _masks(self._cameras, tau).transpose(2, 3)
        return self._again(masks.flatten(3, 4).flatten(1, 2))

    @cached_property
    def samples(self) -> RayPoints:
        """Points on each ray."""
        found = ray_points(self._cameras, sample_depths(self._cameras, SAMPLES))
        return RayPoints(*(self._again(part) for part in (found.points, found.pixels, found.visible)))

    def _again(self, of_objects: Tensor) -> Tensor:
        return of_objects.repeat(self._times, *[1] * (of_objects.ndim - 1)) if self._times > 1 else of_objects


@_in_float32
def _pluecker_of(cameras: Cameras) -> Tensor:
    return pluecker(rays_of(cameras)).reshape(len(cameras), -1, 6)


class ViewGeometry:
    """The geometry of a network's levels for one forward pass, shared by all layers of a level."""

    def __init__(self, cameras: Cameras, num_views: int, count: int, size: tuple[int, int]) -> None:
        """cameras: of whole objects with `num_views` views, told again to `count` views in all; size: height and
        width of the network's input.

        Raises ValueError if they are not whole objects, or do not divide `count`.
        """
        if len(cameras) % num_views or count % len(cameras):
            raise ValueError(f"{len(cameras)} cameras cannot be told to {count} views, {num_views} of each object")
        self._cameras, self._times, self._size = replace(cameras, num_views=num_views), count // len(cameras), size
        self._levels: dict[int, LevelGeometry] = {}

    def level(self, tokens: int) -> LevelGeometry:
        """Of the level with `tokens` pixels in a view; each has half the height and width of the one before."""
        if tokens not in self._levels:
            height, width = self._size
            while height * width > tokens:
                height, width = -(-height // 2), -(-width // 2)
            assert height * width == tokens
            self._levels[tokens] = LevelGeometry(replace(self._cameras, height=height, width=width), self._times)
        return self._levels[tokens]
