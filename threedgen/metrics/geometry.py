"""Surfaces against surfaces, in world units."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial import cKDTree

from threedgen.metrics.image import overlap

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


def volume_iou(
    vertices: Array, faces: Array, signed_distance: Callable[[Array], Array], radius: float, resolution: int = 64
) -> float:
    """Intersection over union of two solids, counted at the centres of resolution^3 cells of [-radius, radius]^3
    (64^3, as SyncDreamer's evaluation and VideoMV's table 3 have it); 1 if both are empty.

    vertices [V, 3], faces [F, 3]: a closed mesh, of one part or several, which may overlap. signed_distance: [N, 3] ->
    [N], negative inside the other solid.
    """
    axis = (np.arange(resolution) + 0.5) * (2 * radius / resolution) - radius
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    return overlap(solid_cells(vertices, faces, radius, resolution).reshape(-1), signed_distance(points) < 0)


def solid_cells(vertices: Array, faces: Array, radius: float, resolution: int) -> Array:
    """[R, R, R] bool, by x, y and z: whether a cell's centre is inside a closed mesh, cells as in `volume_iou`.

    Inside is where the faces above, which look out, are more up than down: the winding number, so that parts that
    overlap are one solid.
    """
    cell = 2 * radius / resolution
    # in cells, from the first centre; moved by far less than a cell, so that no edge passes through a centre
    corners = (np.asarray(vertices, np.float64)[faces] + radius) / cell - 0.5 + [3.1e-7, 1.7e-7, 0.0]
    x, y = corners[..., 0], corners[..., 1]
    first = np.clip(np.ceil(corners[..., :2].min(1)), 0, resolution).astype(int)
    past = np.clip(np.floor(corners[..., :2].max(1)) + 1, 0, resolution).astype(int)
    wide, deep = np.maximum(past - first, 0).T
    of = np.repeat(np.arange(len(corners)), wide * deep)  # a face for each column of cells in its rectangle
    within = np.arange(len(of)) - np.repeat(np.cumsum(wide * deep) - wide * deep, wide * deep)
    column = first[of] + np.stack([within // deep[of], within % deep[of]], 1)
    # twice the areas of the triangles that a column's point makes with each edge, positive on the left
    areas = np.stack(
        [
            (x[of, b] - x[of, a]) * (column[:, 1] - y[of, a]) - (y[of, b] - y[of, a]) * (column[:, 0] - x[of, a])
            for a, b in ((1, 2), (2, 0), (0, 1))
        ],
        1,
    )
    hit = np.all(areas > 0, 1) | np.all(areas < 0, 1)
    of, column, areas = of[hit], column[hit], areas[hit]
    height = (areas * corners[of, :, 2]).sum(1) / areas.sum(1)
    below = np.clip(np.ceil(height), 0, resolution).astype(int)  # so many centres
    winding = np.zeros((resolution, resolution, resolution + 1), int)
    np.add.at(winding, (*column.T, below), np.sign(areas[:, 0]).astype(int))
    return winding[..., ::-1].cumsum(-1)[..., -2::-1] > 0


def _angles(a: Array, b: Array) -> Array:
    """[N] radians between lines. Exact also near 0, where the arc cosine of a rounded product is not."""
    return np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), np.abs((a * b).sum(1)))
