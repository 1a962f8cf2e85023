"""Exact pictures of miniworld objects: analytic ray casting, Lambert + ambient light fixed in the world."""

import math
from dataclasses import dataclass
from functools import reduce

import numpy as np

from threedgen.data.miniworld.objects import MiniObject
from threedgen.data.miniworld.primitives import Array

# The light is fixed to the world, not to the camera, so that a surface has one colour whatever the view.
_LIGHT = np.array([0.55, 0.35, 0.75], np.float32) / np.linalg.norm([0.55, 0.35, 0.75])
_AMBIENT, _SKY, _DIFFUSE = 0.62, 0.14, 0.24


@dataclass(frozen=True)
class Rendering:
    """rgb [B, H, W, 3] in 0..1 over the background; opacity [B, H, W, 1] pixel coverage; depth [B, H, W, 1] mean
    distance along the unit ray over the covered part of the pixel, 0 where empty; feature [B, H, W, 1] coverage by
    what the caption gave a colour of its own, patterns aside (face, nose, base, hat, ...)."""

    rgb: Array
    opacity: Array
    depth: Array
    feature: Array


def shade(normals: Array) -> Array:
    """Brightness of a surface: ambient, more from above (sky), and Lambert's diffuse term. [N, 3] -> [N]."""
    return _AMBIENT + _SKY * (0.5 + 0.5 * normals[:, 2]) + _DIFFUSE * np.maximum(normals @ _LIGHT, 0)


def render(
    obj: MiniObject,
    camera_to_world: Array,
    fov_y: Array,
    size: int,
    background: tuple[float, float, float] = (0.5, 0.5, 0.5),
    supersample: int = 2,
) -> Rendering:
    """Render square images. camera_to_world: [B, 4, 4], OpenGL camera axes, z-up world; fov_y: [B] radians."""
    views = [_cast(obj, c2w, float(fov), size * supersample) for c2w, fov in zip(camera_to_world, fov_y, strict=True)]
    color, depth, feature = (np.stack(buffers) for buffers in zip(*views, strict=True))
    hit = np.isfinite(depth)[..., None].astype(np.float32)
    opacity = _box_filter(hit, supersample)
    coverage = np.maximum(opacity, 1e-6)
    rgb = _box_filter(color * hit, supersample) + (1 - opacity) * np.array(background, np.float32)
    distance = np.where(hit > 0, depth[..., None], 0).astype(np.float32)
    return Rendering(rgb, opacity, _box_filter(distance, supersample) / coverage, _box_filter(feature, supersample))


def _box_filter(images: Array, factor: int) -> Array:
    """[B, H, W, C] -> [B, H / factor, W / factor, C], means of blocks. (numpy's mean over two axes takes four times as
    long.)"""
    parts = [images[:, i::factor, j::factor] for i in range(factor) for j in range(factor)]
    return reduce(np.add, parts) / np.float32(factor * factor)


def _cast(obj: MiniObject, camera_to_world: Array, fov_y: float, size: int) -> tuple[Array, Array, Array]:
    """One view at one ray a pixel: colour [n, n, 3], depth [n, n] (inf: nothing hit), feature [n, n, 1]."""
    camera_to_world = np.asarray(camera_to_world, np.float32)
    rotation, origin = camera_to_world[:3, :3], camera_to_world[:3, 3]
    half = math.tan(fov_y / 2)
    u = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1) * np.float32(half)
    local = np.stack(np.broadcast_arrays(u[None, :], -u[:, None], np.float32(-1)), -1)
    directions = local @ rotation.T
    x, y, z = np.moveaxis(directions, -1, 0)
    directions /= np.sqrt(x * x + y * y + z * z)[..., None]

    depth = np.full((size, size), np.inf, np.float32)
    index = np.full((size, size), -1, np.int16)
    windows = [_bounds(p.center, p.bounding_radius, rotation, origin, half, size) for p in obj.primitives]
    for i, (primitive, window) in enumerate(zip(obj.primitives, windows, strict=True)):
        t = primitive.intersect(origin, directions[window])
        nearer = t < depth[window]
        np.copyto(depth[window], t, where=nearer)
        np.copyto(index[window], i, where=nearer)

    color = np.zeros((size, size, 3), np.float32)
    feature = np.zeros((size, size, 1), np.float32)
    for i, (primitive, (rows, columns)) in enumerate(zip(obj.primitives, windows, strict=True)):
        y, x = np.nonzero(index[rows, columns] == i)
        if not len(y):
            continue
        pixels = (y + rows.start) * size + (x + columns.start)
        points = origin + depth.ravel()[pixels, None] * directions.reshape(-1, 3)[pixels]
        color.reshape(-1, 3)[pixels] = primitive.colors_at(points) * shade(primitive.normals(points))[:, None]
        feature.ravel()[pixels] = primitive.part == "feature"
    return color, depth, feature


def _bounds(
    center: Array, radius: float, rotation: Array, origin: Array, half: float, size: int
) -> tuple[slice, slice]:
    """The pixel rows and columns outside which no ray can hit a ball: the ball's exact screen-space extent."""
    x, y, z = (float(value) for value in rotation.T @ (center - origin))
    distance = -z
    if distance <= radius:
        return slice(0, size), slice(0, size)

    def extent(offset: float) -> tuple[int, int]:
        # Tangents from the eye to the circle (offset, distance, radius): slopes tan(angle -+ aperture)
        angle = math.atan2(offset, distance)
        aperture = math.asin(min(radius / math.hypot(offset, distance), 1.0))
        low, high = (math.tan(min(max(angle + s * aperture, -1.55), 1.55)) / half for s in (-1, 1))
        first, last = (math.floor((low + 1) / 2 * size), math.ceil((high + 1) / 2 * size))
        return min(max(first, 0), size), min(max(last, 0), size)

    left, right = extent(x)
    top, bottom = extent(-y)
    return slice(top, bottom), slice(left, right)
