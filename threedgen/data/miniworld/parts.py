"""The words in which the kinds of kinds.py are written: solids before they are placed, in groups that belong together.

A part's paint is "body" (the caption's first colour), a detail with a fixed colour (`DETAILS`), or the name of a
feature that captions can give a colour of its own: "a red house with a green door". Without one a feature has the
kind's default, or the body's colour. A group of parts grows and shrinks together about its origin when sizes vary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from threedgen.data.miniworld.primitives import Shape
from threedgen.data.miniworld.textures import Color

Vector = tuple[float, float, float]

DETAILS: dict[str, Color] = {
    "dark": (0.14, 0.14, 0.16),
    "glass": (0.62, 0.80, 0.90),
    "brown": (0.42, 0.25, 0.11),
    "tan": (0.86, 0.66, 0.38),
    "leaf": (0.16, 0.50, 0.14),
    "grey": (0.55, 0.55, 0.57),
    "orange": (0.97, 0.50, 0.05),
    "white": (0.96, 0.96, 0.96),
    "flame": (0.98, 0.72, 0.15),
}
EYE = "eye"  # dark, or light where the object has a black part that it would drown in


@dataclass(frozen=True)
class Part:
    """A solid before it is placed: centre and half size in design units, tilt as (axis, degrees)."""

    shape: Shape
    center: Vector
    half_size: Vector
    paint: str = "body"
    tilt: tuple[str, float] | None = None


@dataclass(frozen=True)
class Group:
    """Parts with centres relative to `origin`."""

    origin: Vector
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Wearer:
    """Where the head is, for hats and scarves: its centre, and its radius."""

    x: float
    z: float
    radius: float


@dataclass(frozen=True)
class Kind:
    """family: what `launch.py vocabulary` lists it under; head: None if it can wear nothing; small: it can stand on
    something; base: something can stand on it; defaults: colours (of DETAILS) of features that a caption leaves open;
    optional: features that are there only when a caption names them."""

    family: str
    groups: tuple[Group, ...]
    head: Wearer | None = None
    small: bool = False
    base: bool = False
    defaults: dict[str, str] = field(default_factory=dict)
    optional: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(part for group in self.groups for part in group.parts)

    @cached_property
    def features(self) -> tuple[str, ...]:
        """The parts that a caption can give a colour of their own, in the order of the table."""
        paints = dict.fromkeys(part.paint for part in self.parts)
        return tuple(paint for paint in paints if paint not in DETAILS and paint not in ("body", EYE))


def oval(center: Vector, half_size: Vector, paint: str = "body", tilt: tuple[str, float] | None = None) -> Part:
    return Part(Shape.ellipsoid, center, half_size, paint, tilt)


def ball(center: Vector, radius: float, paint: str = "body") -> Part:
    return oval(center, (radius, radius, radius), paint)


def box(center: Vector, half_size: Vector, paint: str = "body", tilt: tuple[str, float] | None = None) -> Part:
    return Part(Shape.box, center, half_size, paint, tilt)


def post(
    center: Vector, radius: float, half_height: float, paint: str = "body", tilt: tuple[str, float] | None = None
) -> Part:
    """An upright cylinder."""
    return Part(Shape.cylinder, center, (radius, radius, half_height), paint, tilt)


def cone(
    center: Vector, radius: float, half_height: float, paint: str = "body", tilt: tuple[str, float] | None = None
) -> Part:
    return Part(Shape.cone, center, (radius, radius, half_height), paint, tilt)


def wheel(x: float, y: float, z: float, radius: float, paint: str = "wheels") -> Part:
    """A disc that rolls along x."""
    return post((x, y, z), radius, 0.08, paint, ("x", 90))


def pair(part: Part) -> tuple[Part, Part]:
    """The part and its mirror image on the other side of the plane y = 0."""
    (x, y, z), tilt = part.center, part.tilt
    if tilt and tilt[0] in "xz":
        tilt = (tilt[0], -tilt[1])
    return part, replace(part, center=(x, -y, z), tilt=tilt)


def corners(part: Part) -> tuple[Part, ...]:
    """The part at (+-x, +-y)."""
    x, y, z = part.center
    return tuple(replace(part, center=(sx * x, sy * y, z)) for sx in (1, -1) for sy in (1, -1))


def group(origin: Vector, *parts: Part | Sequence[Part]) -> Group:
    flat = [p for part in parts for p in ([part] if isinstance(part, Part) else part)]
    return Group(origin, tuple(flat))


def whole(*parts: Part | Sequence[Part]) -> tuple[Group, ...]:
    """One group about the origin."""
    return (group((0, 0, 0), *parts),)


WORN: tuple[str, ...] = ("hat", "scarf")


def worn(name: str, head: Wearer) -> Group:
    """A hat or a scarf on a head, painted as the feature of its name."""
    r = head.radius
    if name == "hat":
        parts = (post((0, 0, 0.86 * r), 0.82 * r, 0.07 * r, name), post((0, 0, 1.22 * r), 0.5 * r, 0.34 * r, name))
    else:
        parts = (
            post((-0.08 * r, 0, -0.7 * r), 1.02 * r, 0.17 * r, name),
            box((0.86 * r, 0.3 * r, -1.15 * r), (0.1 * r, 0.2 * r, 0.45 * r), name),
        )
    return Group((head.x, 0, head.z), parts)
