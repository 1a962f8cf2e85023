"""Surfaces against surfaces, in world units."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

Array = np.ndarray


def sample_surface(vertices: Array, faces: Array, n: int, seed: int) -> Array:
    """`n` points [n, 3] spread evenly over a triangle mesh: vertices [V, 3], faces [F, 3]. Same seed, same points.

    A face is drawn in proportion to its area; within it (Osada et al. 2002, equation 1) a uniform point.
    """
    random = np.random.default_rng(seed)
    corners = np.asarray(vertices, np.float64)[faces]
    area = 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    a, b, c = corners[random.choice(len(area), n, p=area / area.sum())].transpose(1, 0, 2)
    root, second = np.sqrt(random.random((n, 1))), random.random((n, 1))
    return (1 - root) * a + root * (1 - second) * b + root * second * c


def chamfer_distance(points_a: Array, points_b: Array) -> float:
    """Mean of the two directed distances, each the mean distance (not squared) of points to the nearest other point.

    points_a: [N, 3]; points_b: [M, 3]. With points drawn from two surfaces it does not fall below the spacing
    of the points: compare like with like.
    """
    a_to_b = cKDTree(points_b).query(points_a)[0].mean()
    b_to_a = cKDTree(points_a).query(points_b)[0].mean()
    return float(0.5 * (a_to_b + b_to_a))
