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
    """Balls on a cubic lattice."""
    cell = np.mod(points / 0.45, 1.0) - 0.5
    return np.linalg.norm(cell, axis=-1) < 0.40


def _checks(points: Array) -> NDArray[np.bool_]:
    # shifted, so that no face of an upright box about the origin lies on a border
    return np.mod(np.floor((points + 0.165) / 0.33).sum(-1), 2) == 0


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


PATTERNS: dict[str, Callable[[Array], NDArray[np.bool_]]] = {"stripes": _stripes, "dots": _dots, "checks": _checks}
MATERIALS: dict[str, Material] = {
    "wooden": Material((0.66, 0.43, 0.22), (0.46, 0.27, 0.11), _grain),
    "stone": Material((0.62, 0.61, 0.59), (0.42, 0.41, 0.40), _blotches),
    "brick": Material((0.66, 0.25, 0.16), (0.82, 0.78, 0.72), _mortar),
}
