"""The objects themselves: a spec becomes placed primitives. Front is +x (azimuth 0), up is +z.

Shapes are written in design units, about one unit from the origin to the farthest point, and scaled by `SCALE`
into the ball of radius 0.75 that the cameras are made for.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np

from threedgen.data.miniworld.grammar import ANIMALS, BASES, COLORS, PATTERNS, Spec
from threedgen.data.miniworld.primitives import Array, Primitive, Shape

SCALE = 0.7
JITTER = 0.08  # sizes vary by this fraction
_BLOCK = 8  # points along the edge of a block of the distance grid
_EYE_DARK, _EYE_LIGHT = (0.05, 0.05, 0.05), (0.95, 0.95, 0.95)
_SHAPE_OF_SOLID = {"ball": Shape.ellipsoid, "cube": Shape.box, "cylinder": Shape.cylinder, "cone": Shape.cone}


@dataclass(frozen=True)
class Pattern:
    """Stripes (bands of height `period` / 2 along z) or dots (balls on a cubic lattice) in a second colour."""

    name: str
    color: Array

    def covers(self, points: Array) -> Array:
        """points: [N, 3] world -> [N] bool, where the second colour is."""
        if self.name == "stripes":
            return np.mod(points[:, 2] / 0.26, 1.0) < 0.5
        cell = np.mod(points / 0.3, 1.0) - 0.5
        return np.linalg.norm(cell, axis=-1) < 0.40


@dataclass(frozen=True)
class MiniObject:
    """A captioned object with exact geometry."""

    spec: Spec
    primitives: tuple[Primitive, ...]
    pattern: Pattern | None = None

    def signed_distance(self, points: Array) -> Array:
        """Distance to the union's surface: exact outside, inside a lower bound on the depth. [N, 3] -> [N]."""
        return np.min([p.signed_distance(points) for p in self.primitives], axis=0)

    def colors_at(self, points: Array) -> Array:
        """Unshaded surface colour at points on the surface. [N, 3] -> [N, 3]."""
        nearest = np.argmin([np.abs(p.signed_distance(points)) for p in self.primitives], axis=0)
        colors = np.stack([p.color for p in self.primitives])[nearest]
        return self.with_pattern(points, colors, nearest)

    def with_pattern(self, points: Array, colors: Array, primitive: Array) -> Array:
        """Paint the pattern over the body's colours. points, colors: [N, 3]; primitive: [N] index."""
        if self.pattern is None:
            return colors
        is_body = np.array([p.part == "body" for p in self.primitives])[primitive]
        return np.where((is_body & self.pattern.covers(points))[:, None], self.pattern.color, colors)

    def mesh(self, resolution: int = 96) -> tuple[Array, Array]:
        """Marching cubes of the signed distance on `resolution`^3 points: vertices [V, 3] world, faces [F, 3]."""
        import mcubes

        distance, cell = self._distance_grid(-(-resolution // _BLOCK) * _BLOCK)
        # mcubes takes the inside as the high side
        vertices, faces = mcubes.marching_cubes(-distance, 0.0)
        return (vertices * cell - 1).astype(np.float32), faces.astype(np.int64)

    def _distance_grid(self, resolution: int) -> tuple[Array, float]:
        """The signed distance on a grid over [-1, 1]^3, exact near the surface, and the distance between points.

        A distance changes no faster than one moves: where a block's centre is farther from the surface than its
        corners are from it, the whole block lies on one side and takes the centre's value.
        """
        cell = 2.0 / (resolution - 1)
        corners = np.arange(0, resolution, _BLOCK)
        blocks = np.stack(np.meshgrid(corners, corners, corners, indexing="ij"), -1).reshape(-1, 3)
        centre_distance = self.signed_distance((blocks + (_BLOCK - 1) / 2) * cell - 1)
        near = np.abs(centre_distance) <= (_BLOCK + 1) * cell * math.sqrt(3) / 2
        inside_block = np.stack(np.meshgrid(*[np.arange(_BLOCK)] * 3, indexing="ij"), -1).reshape(-1, 3)
        values = np.repeat(centre_distance[:, None], _BLOCK**3, axis=1)
        points = (blocks[near][:, None] + inside_block) * cell - 1
        values[near] = self.signed_distance(points.reshape(-1, 3)).reshape(-1, _BLOCK**3)
        count = len(corners)
        grid = values.reshape(count, count, count, _BLOCK, _BLOCK, _BLOCK).transpose(0, 3, 1, 4, 2, 5)
        return grid.reshape(resolution, resolution, resolution), cell


def _rotation(axis: str, degrees: float) -> Array:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    rows = {
        "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
    }
    return np.array(rows[axis], np.float32)


class _Builder:
    """Collects primitives; `size()` draws the jitter factors, 1 without a random source."""

    def __init__(self, spec: Spec, rng: Random | None) -> None:
        self.spec = spec
        self.rng = rng
        self.color = COLORS[spec.color]
        self.feature_color = COLORS[spec.feature_color] if spec.feature_color else self.color
        self.primitives: list[Primitive] = []

    def size(self) -> float:
        return 1.0 if self.rng is None else 1.0 + self.rng.uniform(-JITTER, JITTER)

    def add(
        self,
        shape: Shape,
        center: tuple[float, float, float],
        half_size: tuple[float, float, float],
        color: tuple[float, float, float] | None = None,
        part: str = "body",
        tilt: tuple[str, float] | None = None,
    ) -> None:
        rotation = _rotation(*tilt) if tilt else np.eye(3, dtype=np.float32)
        self.primitives.append(
            Primitive(
                shape,
                np.array(center, np.float32) * SCALE,
                np.array(half_size, np.float32) * SCALE,
                rotation,
                np.array(color or self.color, np.float32),
                part,
            )
        )

    def ball(self, center: tuple[float, float, float], radius: float, **kwargs) -> None:
        self.add(Shape.ellipsoid, center, (radius, radius, radius), **kwargs)


def _quadruped(b: _Builder, head: tuple[float, float], head_radius: float) -> None:
    """Body, four legs, head, the face on the head's front, and eyes above it."""
    x, z = head
    body = b.size()
    b.add(Shape.ellipsoid, (-0.14, 0, -0.24), (0.54 * body, 0.36 * body, 0.34 * body))
    for leg_x in (-0.44, 0.16):
        for y in (-0.21, 0.21):
            b.add(Shape.cylinder, (leg_x, y, -0.64), (0.12, 0.12, 0.24))
    b.ball((x, 0, z), head_radius)
    b.add(
        Shape.ellipsoid,
        (x + 0.68 * head_radius, 0, z - 0.2 * head_radius),
        (0.48 * head_radius, 0.72 * head_radius, 0.6 * head_radius),
        color=b.feature_color,
        part="face",
    )
    _eyes(b, (x, z), head_radius)


def _eyes(b: _Builder, head: tuple[float, float], head_radius: float) -> None:
    x, z = head
    # Black eyes would drown in a black head: light ones there
    color = _EYE_LIGHT if "black" in (b.spec.color, b.spec.feature_color) else _EYE_DARK
    for y in (-1, 1):
        b.ball((x + 0.76 * head_radius, y * 0.42 * head_radius, z + 0.48 * head_radius), 0.088, color=color, part="eye")


def _cat(b: _Builder) -> None:
    head = 0.4 * b.size()
    _quadruped(b, (0.32, 0.22), head)
    for y in (-1, 1):
        b.add(Shape.cone, (0.3, y * 0.6 * head, 0.22 + 1.02 * head), (0.16, 0.16, 0.2 * b.size()), tilt=("x", -14 * y))
    b.add(Shape.cylinder, (-0.72, 0, 0.06), (0.085, 0.085, 0.36 * b.size()), tilt=("y", -18))


def _bear(b: _Builder) -> None:
    head = 0.42 * b.size()
    _quadruped(b, (0.3, 0.24), head)
    for y in (-1, 1):
        b.add(Shape.ellipsoid, (0.26, y * 0.74 * head, 0.24 + 0.74 * head), (0.11, 0.17, 0.17 * b.size()))
    b.ball((-0.7, 0, -0.12), 0.14)


def _rabbit(b: _Builder) -> None:
    head = 0.38 * b.size()
    _quadruped(b, (0.3, 0.1), head)
    for y in (-1, 1):
        b.add(
            Shape.ellipsoid,
            (0.24, y * 0.46 * head, 0.1 + 1.4 * head),
            (0.1, 0.13, 0.36 * b.size()),
            tilt=("x", -12 * y),
        )
    tail = COLORS["white"] if b.spec.color != "white" else (0.6, 0.6, 0.6)
    b.ball((-0.7, 0, -0.1), 0.18 * b.size(), color=tail, part="tail")


def _duck(b: _Builder) -> None:
    head, body = 0.36 * b.size(), b.size()
    b.add(Shape.ellipsoid, (-0.1, 0, -0.28), (0.6 * body, 0.44 * body, 0.38 * body))
    b.add(Shape.cone, (-0.68, 0, -0.04), (0.2, 0.2, 0.26), tilt=("y", -60))
    b.ball((0.28, 0, 0.3), head)
    b.add(
        Shape.ellipsoid,
        (0.28 + 0.6 * head, 0, 0.26),
        (0.52 * head, 0.7 * head, 0.62 * head),
        color=b.feature_color,
        part="face",
    )
    b.add(
        Shape.cone,
        (0.28 + head + 0.2, 0, 0.22),
        (0.16, 0.16, 0.2 * b.size()),
        color=b.feature_color,
        part="face",
        tilt=("y", 90),
    )
    _eyes(b, (0.28, 0.3), head)
    for y in (-0.18, 0.18):
        b.add(Shape.cylinder, (-0.04, y, -0.74), (0.08, 0.08, 0.16))


def _solid(b: _Builder) -> None:
    radius, height = 0.62 * b.size(), 0.62 * b.size()
    shape = _SHAPE_OF_SOLID[b.spec.kind]
    b.add(shape, (0, 0, 0), (radius, radius, radius if shape is Shape.ellipsoid else height))
    if b.spec.feature == "nose":
        on_cone = shape is Shape.cone
        center = (0.58 * radius, 0, -0.12) if on_cone else (radius, 0, 0)
        b.ball((center[0] + 0.06, 0, center[2]), 0.26 * b.size(), color=b.feature_color, part="nose")


def _stack(b: _Builder) -> None:
    assert b.spec.feature is not None
    top, bottom, height = 0.38 * b.size(), 0.54 * b.size(), 0.38 * b.size()
    b.add(_SHAPE_OF_SOLID[b.spec.feature], (0, 0, -0.4), (bottom, bottom, height), color=b.feature_color, part="base")
    b.add(_SHAPE_OF_SOLID[b.spec.kind], (0, 0, -0.4 + height + 0.97 * top), (top, top, top))


_ANIMAL_BUILDERS: dict[str, Callable[[_Builder], None]] = {"cat": _cat, "bear": _bear, "rabbit": _rabbit, "duck": _duck}


def build(spec: Spec, rng: Random | None = None) -> MiniObject:
    """The object of a spec: its standard sizes, or sizes jittered by `rng`."""
    builder = _Builder(spec, rng)
    if spec.kind in ANIMALS:
        _ANIMAL_BUILDERS[spec.kind](builder)
    elif spec.feature in BASES:
        _stack(builder)
    else:
        _solid(builder)
    primitives = builder.primitives
    if spec.feature not in PATTERNS:
        return MiniObject(spec, tuple(primitives))
    pattern = Pattern(spec.feature, np.array(builder.feature_color, np.float32))
    return MiniObject(spec, tuple(primitives), pattern)
