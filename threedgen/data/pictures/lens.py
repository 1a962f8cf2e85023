"""Pictures of real lenses as a pinhole in the middle of square pixels would have taken them.

A lens sees the direction (x, y, 1), x to the right and y down, at (OpenCV's model)

    r^2 = x^2 + y^2,  radial = 1 + k1 r^2 + k2 r^4 + k3 r^6
    u = center_x + focal_x (x radial + 2 p1 x y + p2 (r^2 + 2 x^2))
    v = center_y + focal_y (y radial + p1 (r^2 + 2 y^2) + 2 p2 x y)

in pixels, of which the centre has half numbers, as COLMAP counts them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import map_coordinates

from threedgen.core.errors import ConfigError
from threedgen.mesh.types import Array

_ASPECT_TOLERANCE = 0.01  # relative
_PIXEL_TOLERANCE = 0.5  # pixels: so far from a pinhole's a lens may see a point, and is taken for one
_MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
_UNKNOWN_TERMS = ("k4", "k5", "k6")


class Lens(NamedTuple):
    width: float  # pixels, of the picture
    height: float
    focal_x: float  # pixels
    focal_y: float
    center_x: float  # pixels
    center_y: float
    k1: float = 0.0
    k2: float = 0.0
    k3: float = 0.0
    p1: float = 0.0
    p2: float = 0.0

    def scaled(self, width: float, height: float) -> Lens:
        """The same lens on a picture of another size."""
        across, down = width / self.width, height / self.height
        return self._replace(
            width=width,
            height=height,
            focal_x=self.focal_x * across,
            focal_y=self.focal_y * down,
            center_x=self.center_x * across,
            center_y=self.center_y * down,
        )

    def project(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Where directions (x, y, 1) are seen: (u, v), pixels."""
        squared = x * x + y * y
        radial = 1.0 + squared * (self.k1 + squared * (self.k2 + squared * self.k3))
        u = x * radial + 2.0 * self.p1 * x * y + self.p2 * (squared + 2.0 * x * x)
        v = y * radial + self.p1 * (squared + 2.0 * y * y) + 2.0 * self.p2 * x * y
        return self.center_x + self.focal_x * u, self.center_y + self.focal_y * v

    @property
    def half_extent(self) -> tuple[float, float]:
        """Tangents of the half angles of the pinhole around the principal point that sees all of the picture, as far as
        it does not bend."""
        across = max(self.center_x, self.width - self.center_x) / self.focal_x
        return across, max(self.center_y, self.height - self.center_y) / self.focal_y

    def reach(self, farthest: float) -> float:
        """The r, at most `farthest`, up to which the polynomial grows: beyond it the picture is seen twice."""
        r = np.linspace(0.0, farthest, 1024)
        squared = r * r
        grows = 1.0 + squared * (3.0 * self.k1 + squared * (5.0 * self.k2 + squared * 7.0 * self.k3)) > 0.0
        return farthest if grows.all() else float(r[grows.argmin()])


class Pinhole(NamedTuple):
    """What a picture becomes."""

    width: int  # pixels
    height: int
    tangent: float  # of half the vertical field of view

    @property
    def focal(self) -> float:
        """Pixels."""
        return 0.5 * self.height / self.tangent


def lens_of(words: Mapping[str, Any], width: int, height: int, where: str) -> Lens:
    """The lens of a picture of this size from the words of a transforms.json (fl_x, camera_angle_x, cx, k1, ...).

    Raises:
        ConfigError: it cannot be known, or is of a kind that is not read; one line that begins with `where`.
    """

    def number(name: str, default: float = 0.0) -> float:
        return float(words.get(name, default))

    model = str(words.get("camera_model", "OPENCV"))
    if model not in _MODELS or words.get("is_fisheye"):
        what = model if model not in _MODELS else "is_fisheye"
        raise ConfigError(f"{where}: camera_model {what} is not supported; undistort the pictures to a pinhole camera")
    bent = [name for name in _UNKNOWN_TERMS if abs(number(name)) > 1e-6]
    if bent:
        raise ConfigError(f"{where}: the lens distorts in a way that is not read ({', '.join(bent)}); undistort first")
    own_width, own_height = number("w", width), number("h", height)
    if not (own_width > 0 and own_height > 0):
        raise ConfigError(f"{where}: its camera has {own_width:g} x {own_height:g} pixels")
    aspect, own_aspect = width / height, own_width / own_height
    if abs(aspect / own_aspect - 1.0) > _ASPECT_TOLERANCE:
        raise ConfigError(f"{where}: width / height is {aspect:.3f}, its camera's {own_aspect:.3f}")
    focal_x, focal_y = (
        number(focal) if focal in words and size in words else _focal(extent, words.get(angle))
        for focal, size, extent, angle in (
            ("fl_x", "w", own_width, "camera_angle_x"),
            ("fl_y", "h", own_height, "camera_angle_y"),
        )
    )
    focal_x, focal_y = focal_x or focal_y, focal_y or focal_x
    if not focal_x or not focal_y:
        raise ConfigError(f"{where}: has neither camera_angle_x nor fl_x and w")
    if not (focal_x > 0 and focal_y > 0 and math.isfinite(focal_x * focal_y)):
        raise ConfigError(f"{where}: its camera has focal lengths of {focal_x:g} and {focal_y:g} pixels")
    lens = Lens(own_width, own_height, focal_x, focal_y, number("cx", own_width / 2), number("cy", own_height / 2))
    if not (0 < lens.center_x < own_width and 0 < lens.center_y < own_height):
        raise ConfigError(f"{where}: the principal point {lens.center_x:g}, {lens.center_y:g} lies outside the picture")
    bends = {name: number(name) for name in ("k1", "k2", "k3", "p1", "p2")}
    return lens._replace(**bends).scaled(width, height)


def _focal(extent: float, angle: Any) -> float | None:
    if angle is None:
        return None
    tangent = math.tan(float(angle) / 2.0)
    return 0.5 * extent / tangent if tangent else math.inf


def pinholes(lenses: Sequence[Lens], max_size: int) -> list[Pinhole]:
    """What each picture becomes: all of one size, the commonest, no edge longer than `max_size` (0: any).

    Each sees at least what `Lens.half_extent` says.
    """
    (width, height), _ = Counter(_own_size(lens) for lens in lenses).most_common(1)[0]
    factor = max_size / max(width, height)
    if 0 < factor < 1:
        width, height = max(round(width * factor), 1), max(round(height * factor), 1)
    tangents = ((across * height / width, down) for across, down in (lens.half_extent for lens in lenses))
    return [Pinhole(width, height, max(pair)) for pair in tangents]


def _own_size(lens: Lens) -> tuple[int, int]:
    """Of the picture if a pinhole took it, otherwise of what it becomes without any loss."""
    size = round(lens.width), round(lens.height)
    across, down = lens.half_extent
    if _is_pinhole(lens, Pinhole(*size, down)):
        return size
    focal = max(lens.focal_x, lens.focal_y)
    return round(2.0 * across * focal), round(2.0 * down * focal)


def _is_pinhole(lens: Lens, pinhole: Pinhole) -> bool:
    """Whether the lens's whole picture, scaled, is the pinhole's."""
    u, v = np.meshgrid(np.linspace(0, pinhole.width, 17), np.linspace(0, pinhole.height, 17))
    focal = pinhole.focal
    seen_u, seen_v = lens.project((u - 0.5 * pinhole.width) / focal, (v - 0.5 * pinhole.height) / focal)
    off = np.hypot(seen_u * pinhole.width / lens.width - u, seen_v * pinhole.height / lens.height - v)
    return bool(off.max() <= _PIXEL_TOLERANCE)


def straightened(picture: Image.Image, lens: Lens, pinhole: Pinhole) -> tuple[Array, Array | None]:
    """A picture (RGB, RGBA or L) as the pinhole would have taken it: uint8 [H, W(, C)], and where it shows something,
    [H, W] bool (None: everywhere). Elsewhere it is 0.

    Smaller ones average areas. Colours are weighted by alpha: what transparent pixels hide stays so.
    """
    if _is_pinhole(lens, pinhole):
        return np.asarray(resized(picture, pinhole.width, pinhole.height)), None
    factor = pinhole.focal / max(lens.focal_x, lens.focal_y)
    if factor < 1:
        picture = resized(picture, max(round(picture.width * factor), 1), max(round(picture.height * factor), 1))
        lens = lens.scaled(*picture.size)
    x = ((np.arange(pinhole.width) + 0.5 - 0.5 * pinhole.width) / pinhole.focal)[None, :]
    y = ((np.arange(pinhole.height) + 0.5 - 0.5 * pinhole.height) / pinhole.focal)[:, None]
    u, v = lens.project(x, y)
    r = np.hypot(x, y)
    shown = (u >= 0) & (u <= lens.width) & (v >= 0) & (v <= lens.height) & (r <= lens.reach(float(r.max())))
    mode = picture.mode
    pixels = np.atleast_3d(np.asarray(picture.convert("RGBa") if mode == "RGBA" else picture))
    places = np.stack([v, u]) - 0.5
    planes = [map_coordinates(plane, places, np.float32, 1, "nearest") for plane in np.moveaxis(pixels, 2, 0)]
    made = np.where(shown[..., None], np.rint(np.stack(planes, -1)), 0.0).astype(np.uint8)
    if mode == "RGBA":
        made = np.asarray(Image.frombytes("RGBa", (pinhole.width, pinhole.height), made.tobytes()).convert("RGBA"))
    return made[..., 0] if mode == "L" else made, None if shown.all() else shown


def resized(picture: Image.Image, width: int, height: int) -> Image.Image:
    """By areas where it becomes smaller, smoothly where it becomes larger; colours are weighted by alpha."""
    if picture.size == (width, height):
        return picture
    smaller = width <= picture.width and height <= picture.height
    return picture.resize((width, height), Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC)
