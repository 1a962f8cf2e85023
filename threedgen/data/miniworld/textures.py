"""Patterns and materials: where on a surface the second colour is. World units, solid textures."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Color = tuple[float, float, float]


@dataclass(frozen=True)
class Texture:
    """A second colour [3] on those points [N, 3] for which `covers` says so."""

    covers: Callable[[Array], NDArray[np.bool_]]
    color: Array


@dataclass(frozen=True)
class Material:
    """Stands where a colour would ("a wooden chair"): a first and a second colour."""

    first: Color
    second: Color
    covers: Callable[[Array], NDArray[np.bool_]]


def scaled(covers: Callable[[Array], NDArray[np.bool_]], scale: float) -> Callable[[Array], NDArray[np.bool_]]:
    """The same pattern, `scale` times as large."""
    return covers if scale == 1 else lambda points: covers(points / np.float32(scale))


def _stripes(points: Array) -> NDArray[np.bool_]:
    return np.mod(points[:, 2] / 0.39, 1.0) < 0.5


def _dots(points: Array) -> NDArray[np.bool_]:
    """Balls on a cubic lattice, which lies so that every kind shows some from every side."""
    cell = np.mod(points / 0.45 + np.array([0.5, 0.0, 0.5], points.dtype), 1.0) - 0.5
    return np.linalg.norm(cell, axis=-1) < 0.40


def _checks(points: Array) -> NDArray[np.bool_]:
    # shifted, so that no face of an upright box about the origin lies on a border
    return np.mod(np.floor((points + 0.165) / 0.33).sum(-1), 2) == 0


def _zigzags(points: Array) -> NDArray[np.bool_]:
    x, y, z = points.T
    wave = 2 * np.abs(np.mod((x + y) / 0.62, 1.0) - 0.5)
    return np.mod(z / 0.5 + 0.8 * wave, 1.0) < 0.5


def _tiles(points: Array) -> NDArray[np.bool_]:
    """What is between the joints, in rows moved by half a tile."""
    x, y, z = points.T
    along = x + y + 0.33 * np.mod(np.floor(z / 0.36), 2)
    return (np.mod(z, 0.36) > 0.12) & (np.mod(along, 0.66) > 0.14)


def _patches(points: Array) -> NDArray[np.bool_]:
    x, y, z = points.T * (2 * np.pi / 0.9)
    warped = np.sin(x + 1.6 * np.sin(z)) + np.sin(y + 1.6 * np.sin(x)) + np.sin(z + 1.6 * np.sin(y + 1))
    return warped > 0.25


def _grain(points: Array) -> NDArray[np.bool_]:
    x, y, z = points.T
    return np.mod((z + 0.05 * np.sin(7 * x) + 0.04 * np.sin(9 * y + 1)) / 0.15, 1.0) < 0.4


def _blotches(points: Array) -> NDArray[np.bool_]:
    x, y, z = points.T
    return np.sin(13 * x + 2 * z) + np.sin(14 * y + 1) + np.sin(12 * z + 3 * x + 2) > 0.7


def _mortar(points: Array) -> NDArray[np.bool_]:
    row = np.floor(points[:, 2] / 0.16)
    along = points[:, 0] + points[:, 1] + 0.15 * np.mod(row, 2)
    return (np.mod(points[:, 2], 0.16) < 0.035) | (np.mod(along, 0.3) < 0.035)


PATTERNS: dict[str, Callable[[Array], NDArray[np.bool_]]] = {
    "stripes": _stripes,
    "dots": _dots,
    "checks": _checks,
    "zigzags": _zigzags,
    "tiles": _tiles,
    "patches": _patches,
}
MATERIALS: dict[str, Material] = {
    "wooden": Material((0.66, 0.43, 0.22), (0.46, 0.27, 0.11), _grain),
    "stone": Material((0.62, 0.61, 0.59), (0.42, 0.41, 0.40), _blotches),
    "brick": Material((0.66, 0.25, 0.16), (0.82, 0.78, 0.72), _mortar),
}
