"""The four solids that every miniworld object is made of, with exact ray hits and exact signed distances.

Local coordinates are those of the unit solid: the ball |p| <= 1, the cube [-1, 1]^3, the upright cylinder
x^2 + y^2 <= 1, |z| <= 1, and the upright cone with its base circle at z = -1 and its apex at z = +1.
A primitive places its unit solid by `world = rotation @ (half_size * local) + center`.
"""

from dataclasses import dataclass
from enum import Enum

import numpy as np

from threedgen.data.miniworld.textures import Array, Texture

_TINY = 1e-9


class Shape(Enum):
    ellipsoid = "ellipsoid"
    box = "box"
    cylinder = "cylinder"
    cone = "cone"


@dataclass(frozen=True)
class Primitive:
    """One placed solid.

    center, half_size: [3] world units; rotation: [3, 3] local to world; color: [3] in 0..1; texture: where a second
    colour is; part: the name that ground truth is asked for by: "feature" for what the caption gave a colour of its
    own, otherwise the paint's name ("body", "eye", ...).
    Cylinders and cones are circular: half_size[0] == half_size[1].
    """

    shape: Shape
    center: Array
    half_size: Array
    rotation: Array
    color: Array
    part: str
    texture: Texture | None = None

    def __post_init__(self) -> None:
        if self.shape in (Shape.cylinder, Shape.cone) and self.half_size[0] != self.half_size[1]:
            raise ValueError(f"a {self.shape.value} is circular, got half sizes {self.half_size}")

    @property
    def bounding_radius(self) -> float:
        """Radius of a ball around `center` that holds the solid."""
        x, _, z = self.half_size
        if self.shape is Shape.ellipsoid:
            return float(self.half_size.max())
        if self.shape is Shape.box:
            return float(np.linalg.norm(self.half_size))
        return float(np.hypot(x, z))

    def half_extent(self) -> Array:
        """[3]: half the size of the upright box around the solid and `center`."""
        axes = np.abs(self.rotation * self.half_size)  # columns: the half axes in world directions
        if self.shape is Shape.ellipsoid:
            return np.linalg.norm(axes, axis=1)
        if self.shape is Shape.box:
            return axes.sum(1)
        return np.linalg.norm(axes[:, :2], axis=1) + axes[:, 2]

    def colors_at(self, points: Array) -> Array:
        """Unshaded colours of surface points. [N, 3] -> [N, 3]."""
        colors = np.broadcast_to(self.color, points.shape)
        if self.texture is None:
            return colors
        return np.where(self.texture.covers(points)[:, None], self.texture.color, colors)

    def world_to_local(self) -> Array:
        """[3, 3], to be applied to world offsets from `center`; gives unit-solid coordinates."""
        return self.rotation.T / self.half_size[:, None]

    def intersect(self, origin: Array, directions: Array) -> Array:
        """Distance along each ray to its first hit from outside, inf where it misses.

        origin: [3]; directions: [..., 3]. Distances are in units of the directions' length.
        """
        to_local = self.world_to_local()
        o = to_local @ (origin - self.center)
        d = np.moveaxis(directions @ to_local.T, -1, 0)
        return _INTERSECT[self.shape](o, d)

    def normals(self, points: Array) -> Array:
        """Unit outward normals at surface points. points: [N, 3] -> [N, 3]."""
        to_local = self.world_to_local()
        local = (points - self.center) @ to_local.T
        gradient = _LOCAL_GRADIENT[self.shape](local) @ to_local
        return gradient / np.linalg.norm(gradient, axis=-1, keepdims=True)

    def signed_distance(self, points: Array) -> Array:
        """Euclidean distance to the surface, negative inside. points: [N, 3] -> [N]."""
        local = (points - self.center) @ self.rotation
        return _DISTANCE[self.shape](local, self.half_size)


def _away_from_zero(x: Array) -> Array:
    return np.where(np.abs(x) < _TINY, _TINY, x)


def _hit_ellipsoid(o: Array, d: Array) -> Array:
    a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
    discriminant = b * b - a * (o @ o - 1)
    t = (-b - np.sqrt(np.maximum(discriminant, 0))) / a
    return np.where((discriminant > 0) & (t > 0), t, np.inf)


def _hit_box(o: Array, d: Array) -> Array:
    inverse = 1 / _away_from_zero(d)
    o = o.reshape(3, *[1] * (d.ndim - 1))
    t0, t1 = (-1 - o) * inverse, (1 - o) * inverse
    near, far = np.minimum(t0, t1).max(0), np.maximum(t0, t1).min(0)
    return np.where((near < far) & (near > 0), near, np.inf)


def _hit_cap(o: Array, d: Array, z: float) -> Array:
    t = (z - o[2]) / _away_from_zero(d[2])
    x, y = o[0] + t * d[0], o[1] + t * d[1]
    return np.where((x * x + y * y <= 1) & (t > 0), t, np.inf)


def _hit_cylinder(o: Array, d: Array) -> Array:
    a = np.maximum(d[0] * d[0] + d[1] * d[1], _TINY)
    b = o[0] * d[0] + o[1] * d[1]
    discriminant = b * b - a * (o[0] ** 2 + o[1] ** 2 - 1)
    t = (-b - np.sqrt(np.maximum(discriminant, 0))) / a
    side = np.where((discriminant > 0) & (t > 0) & (np.abs(o[2] + t * d[2]) <= 1), t, np.inf)
    return np.minimum(np.minimum(side, _hit_cap(o, d, 1.0)), _hit_cap(o, d, -1.0))


def _hit_cone(o: Array, d: Array) -> Array:
    # x^2 + y^2 = k^2 with k = (1 - z) / 2, which falls from 1 at the base to 0 at the apex
    k, dk = (1 - o[2]) / 2, -d[2] / 2
    a = _away_from_zero(d[0] * d[0] + d[1] * d[1] - dk * dk)
    b = o[0] * d[0] + o[1] * d[1] - k * dk
    discriminant = b * b - a * (o[0] ** 2 + o[1] ** 2 - k * k)
    root = np.sqrt(np.maximum(discriminant, 0))
    best = _hit_cap(o, d, -1.0)
    for t in ((-b - root) / a, (-b + root) / a):
        on_cone = (discriminant > 0) & (t > 0) & (np.abs(o[2] + t * d[2]) <= 1)
        best = np.where(on_cone & (t < best), t, best)
    return best


def _gradient_ellipsoid(p: Array) -> Array:
    return p


def _gradient_box(p: Array) -> Array:
    axis = np.abs(p).argmax(-1)
    rows = np.arange(len(p))
    gradient = np.zeros_like(p)
    gradient[rows, axis] = np.sign(p[rows, axis])
    return gradient


def _gradient_cylinder(p: Array) -> Array:
    on_cap = np.abs(p[:, 2]) > np.hypot(p[:, 0], p[:, 1])
    return np.where(on_cap[:, None], p * [0, 0, 1], p * [1, 1, 0])


def _gradient_cone(p: Array) -> Array:
    side = np.stack([p[:, 0], p[:, 1], (1 - p[:, 2]) / 4], -1)
    on_base = np.abs(p[:, 2] + 1) < np.abs(np.hypot(p[:, 0], p[:, 1]) - (1 - p[:, 2]) / 2)
    return np.where(on_base[:, None], [0.0, 0.0, -1.0], side)


def _distance_ellipsoid(p: Array, e: Array) -> Array:
    """Newton's iteration for the foot of the perpendicular (Eberly, "Distance from a point to an ellipsoid").

    The foot is x_i = e_i^2 y_i / (t + e_i^2), where t is the largest root of g(t) = sum (e_i y_i / (t + e_i^2))^2 - 1.
    g is convex and falls, so Newton from a point with g >= 0 climbs to the root without overshooting. Points whose t
    stays are left out of further steps.
    """
    y = np.maximum(np.abs(p), 1e-7).astype(np.float64).T  # [3, N]: sums over three rows are quick
    e = e.astype(np.float64)[:, None]
    squared, scaled = e * e, e * y
    t = (scaled - squared).max(0)
    moving = np.arange(len(p))
    for _ in range(24):
        away = t[moving] + squared
        ratio = (scaled[:, moving] / away) ** 2
        step = (ratio.sum(0) - 1) / (2 * ratio / away).sum(0)
        t[moving] += step
        moving = moving[step > 1e-14 * away.max(0)]
        if not len(moving):
            break
    foot = squared * y / (t + squared)
    inside = ((y / e) ** 2).sum(0) < 1
    return np.sqrt(((foot - y) ** 2).sum(0)) * np.where(inside, -1, 1)


def _distance_box(p: Array, half: Array) -> Array:
    q = np.abs(p) - half
    return np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(-1), 0)


def _distance_cylinder(p: Array, half: Array) -> Array:
    q = np.stack([np.hypot(p[:, 0], p[:, 1]) - half[0], np.abs(p[:, 2]) - half[2]], -1)
    return np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(-1), 0)


def _distance_cone(p: Array, half: Array) -> Array:
    # In the half plane (rho, z) the cone is a triangle: distance to its slanted edge and to its base
    rho, z, r, h = np.hypot(p[:, 0], p[:, 1]), p[:, 2], half[0], half[2]
    along = np.clip(((rho - r) * -r + (z + h) * 2 * h) / (r * r + 4 * h * h), 0, 1)
    to_side = np.hypot(rho - r * (1 - along), z + h - 2 * h * along)
    to_base = np.hypot(np.maximum(rho - r, 0), z + h)
    inside = (z > -h) & (rho * 2 * h < r * (h - z))
    return np.minimum(to_side, to_base) * np.where(inside, -1, 1)


_INTERSECT = {
    Shape.ellipsoid: _hit_ellipsoid,
    Shape.box: _hit_box,
    Shape.cylinder: _hit_cylinder,
    Shape.cone: _hit_cone,
}
_LOCAL_GRADIENT = {
    Shape.ellipsoid: _gradient_ellipsoid,
    Shape.box: _gradient_box,
    Shape.cylinder: _gradient_cylinder,
    Shape.cone: _gradient_cone,
}
_DISTANCE = {
    Shape.ellipsoid: _distance_ellipsoid,
    Shape.box: _distance_box,
    Shape.cylinder: _distance_cylinder,
    Shape.cone: _distance_cone,
}
