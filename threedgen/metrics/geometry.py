"""Surfaces against surfaces, in world units."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

Array = np.ndarray


def sample_surface(vertices: Array, faces: Array, n: int, seed: int) -> Array:
    """`n` points [n, 3] spread evenly over a triangle mesh: vertices [V, 3], faces [F, 3]. Same seed, same points.

    A face is drawn in proportion to its area; within it (Osada et al. 2002, equation 1) a uniform point.
    """
    return sample_surface_with_normals(vertices, faces, n, seed)[0]


def sample_surface_with_normals(vertices: Array, faces: Array, n: int, seed: int) -> tuple[Array, Array]:
    """The points of `sample_surface` and the unit normals [n, 3] of the faces that they lie on (right-hand rule)."""
    random = np.random.default_rng(seed)
    corners = np.asarray(vertices, np.float64)[faces]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    twice_area = np.linalg.norm(across, axis=1)
    drawn = random.choice(len(faces), n, p=twice_area / twice_area.sum())
    a, b, c = corners[drawn].transpose(1, 0, 2)
    root, second = np.sqrt(random.random((n, 1))), random.random((n, 1))
    points = (1 - root) * a + root * (1 - second) * b + root * second * c
    return points, across[drawn] / twice_area[drawn, None]


def chamfer_distance(points_a: Array, points_b: Array) -> float:
    """Mean of the two directed distances, each the mean distance (not squared) of points to the nearest other point.

    points_a: [N, 3]; points_b: [M, 3]. With points drawn from two surfaces it does not fall below the spacing
    of the points: compare like with like.
    """
    a_to_b = cKDTree(points_b).query(points_a)[0].mean()
    b_to_a = cKDTree(points_a).query(points_b)[0].mean()
    return float(0.5 * (a_to_b + b_to_a))


def normal_angle(points_a: Array, normals_a: Array, points_b: Array, normals_b: Array) -> float:
    """Mean angle in degrees, 0..90, between the unit normals of two surfaces, the mean of both directions.

    points, normals: [N, 3] and [M, 3], as `sample_surface_with_normals` draws them. Each point is compared with the
    nearest one of the other surface, without regard to the sign: normal consistency (Mescheder et al. 2019,
    "Occupancy Networks", section 4) with the angle in place of the absolute dot product. 57.3 degrees (1 radian) is
    what normals without any relation have.
    """
    a_to_b = cKDTree(points_b).query(points_a)[1]
    b_to_a = cKDTree(points_a).query(points_b)[1]
    pairs = ((normals_a, normals_b[a_to_b]), (normals_b, normals_a[b_to_a]))
    return float(0.5 * sum(np.degrees(_angles(x, y)).mean() for x, y in pairs))


def _angles(a: Array, b: Array) -> Array:
    """[N] radians between lines. Exact also near 0, where the arc cosine of a rounded product is not."""
    return np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), np.abs((a * b).sum(1)))
