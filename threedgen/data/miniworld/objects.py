"""The objects themselves: a spec becomes placed primitives. Front is +x (azimuth 0), up is +z.

The kinds are written in design units, about one unit from the origin to the farthest point (see kinds.py), and scaled
by `SCALE` into the ball of radius 0.75 that the cameras are made for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from threedgen.data.miniworld.grammar import COLORS, Spec
from threedgen.data.miniworld.kinds import KINDS
from threedgen.data.miniworld.parts import DETAILS, EYE, WORN, Group, Part, worn
from threedgen.data.miniworld.primitives import Array, Primitive
from threedgen.data.miniworld.textures import MATERIALS, PATTERNS, Color, Texture, scaled

SCALE = 0.7
JITTER = 0.08  # sizes vary by this fraction
_BLOCK = 8  # points along the edge of a block of the distance grid
_EYE_DARK, _EYE_LIGHT = (0.05, 0.05, 0.05), (0.95, 0.95, 0.95)
_GREY = (0.6, 0.6, 0.6)  # of a detail that would have the body's own colour
_ON_BASE = 0.38 / 0.62  # how much smaller a thing is that stands on something
_BASE_HALF_SIZE = (0.54, 0.54, 0.38)  # of what it stands on
_BASE_CENTER = -0.4
_SINK = 0.0114  # the upper thing stands a little inside the lower one: one object, not two that touch


@dataclass(frozen=True)
class MiniObject:
    """A captioned object with exact geometry."""

    spec: Spec
    primitives: tuple[Primitive, ...]

    def signed_distance(self, points: Array) -> Array:
        """Distance to the union's surface: exact outside, inside a lower bound on the depth. [N, 3] -> [N]."""
        nearest = np.full(len(points), np.inf)
        for primitive in self.primitives:
            # no solid is nearer than the ball around it
            least = np.linalg.norm(points - primitive.center, axis=-1) - primitive.bounding_radius
            maybe = np.flatnonzero(least < nearest)
            nearest[maybe] = np.minimum(nearest[maybe], primitive.signed_distance(points[maybe]))
        return nearest

    def colors_at(self, points: Array) -> Array:
        """Unshaded surface colour at points on the surface. [N, 3] -> [N, 3]."""
        nearest = np.argmin([np.abs(p.signed_distance(points)) for p in self.primitives], axis=0)
        colors = np.empty_like(points)
        for i, primitive in enumerate(self.primitives):
            of_this = nearest == i
            colors[of_this] = primitive.colors_at(points[of_this])
        return colors

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


@dataclass(frozen=True)
class _Paints:
    """What each paint of a spec's parts looks like: its colour, and a second one where it is patterned."""

    spec: Spec
    pattern_scale: float = 1.0

    def __call__(self, paint: str) -> tuple[Color, Texture | None]:
        spec = self.spec
        if paint == "body":
            texture = self._pattern()
            color, material = _color(spec.color)
            return color, texture or material
        if paint == spec.feature and spec.feature_color is not None:
            return _color(spec.feature_color)
        if paint == EYE:
            return (_EYE_LIGHT if "black" in (spec.color, spec.feature_color) else _EYE_DARK), None
        detail = paint if paint in DETAILS else KINDS[spec.kind].defaults.get(paint)
        if detail is None:
            return self("body")
        color = DETAILS[detail]
        return (_GREY if color == COLORS.get(spec.color) else color), None

    def _pattern(self) -> Texture | None:
        if self.spec.feature not in PATTERNS or self.spec.feature_color is None:
            return None
        pattern = scaled(PATTERNS[self.spec.feature], self.pattern_scale)
        return Texture(pattern, np.array(COLORS[self.spec.feature_color], np.float32))


def _color(name: str) -> tuple[Color, Texture | None]:
    """A colour's or material's name as a first colour and, of a material, its texture."""
    if name in COLORS:
        return COLORS[name], None
    material = MATERIALS[name]
    return material.first, Texture(material.covers, np.array(material.second, np.float32))


def _jittered(group: Group, rng: Random | None) -> list[Part]:
    """The group's parts in the object's frame, grown or shrunk together about the group's origin."""
    factor = 1.0 if rng is None else 1.0 + rng.uniform(-JITTER, JITTER)
    return [_moved(part, np.full(3, factor), np.array(group.origin)) for part in group.parts]


def _moved(part: Part, factor: Array, offset: Array) -> Part:
    """offset + factor * part, axis by axis ([3] each); a tilted part needs one factor for all axes."""
    x, y, z = (offset + factor * part.center).tolist()
    half_x, half_y, half_z = (factor * part.half_size).tolist()
    return replace(part, center=(x, y, z), half_size=(half_x, half_y, half_z))


def _placed(part: Part, paints: _Paints) -> Primitive:
    color, texture = paints(part.paint)
    return Primitive(
        part.shape,
        np.array(part.center, np.float32) * SCALE,
        np.array(part.half_size, np.float32) * SCALE,
        _rotation(*part.tilt) if part.tilt else np.eye(3, dtype=np.float32),
        np.array(color, np.float32),
        "feature" if part.paint == paints.spec.feature else part.paint,
        texture,
    )


def _bounds(parts: Sequence[Part]) -> tuple[Array, Array]:
    """The corners of the box around some parts, each [3]."""
    primitives = [_placed(replace(part, paint="body"), _Paints(Spec("ball", "red"))) for part in parts]
    extents = np.stack([p.half_extent() for p in primitives]) / SCALE
    centers = np.array([part.center for part in parts])
    return (centers - extents).min(0), (centers + extents).max(0)


def _standing_on(upper: list[Part], name: str, rng: Random | None) -> list[Part]:
    """A thing, made smaller, on a base that is stretched into the room below it and painted as the feature `name`."""
    base = KINDS[name]
    lower = [part for group in base.groups for part in _jittered(group, rng) if part.paint not in base.optional]
    low, high = _bounds(lower)
    stretch = np.array(_BASE_HALF_SIZE) * 2 / (high - low)
    stretch[:2] = stretch[:2].min()  # cylinders stay circular
    offset = np.array([0, 0, _BASE_CENTER]) - stretch * (low + high) / 2
    lower = [replace(_moved(part, stretch, offset), paint=name) for part in lower]
    bottom, top = _bounds(upper)[0][2] * _ON_BASE, _BASE_CENTER + _BASE_HALF_SIZE[2]
    upper = [_moved(part, np.full(3, _ON_BASE), np.array([0, 0, top - _SINK - bottom])) for part in upper]
    return lower + upper


def build(spec: Spec, rng: Random | None = None, pattern_scale: float = 1.0) -> MiniObject:
    """The object of a spec: its standard sizes, or sizes jittered by `rng`; its pattern so many times as coarse."""
    kind = KINDS[spec.kind]
    groups = list(kind.groups)
    if spec.feature in WORN:
        assert kind.head is not None
        groups.append(worn(spec.feature, kind.head))
    missing = set(kind.optional) - {spec.feature}
    parts = [part for group in groups for part in _jittered(group, rng) if part.paint not in missing]
    if spec.form == "on" and spec.feature is not None:
        parts = _standing_on(parts, spec.feature, rng)
    paints = _Paints(spec, pattern_scale)
    return MiniObject(spec, tuple(_placed(part, paints) for part in parts))
