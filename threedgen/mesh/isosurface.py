"""The surface of a density field: where to put it, marching cubes, and what to keep of it."""

from __future__ import annotations

import math

import mcubes
import numpy as np
from scipy.ndimage import binary_fill_holes, gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from threedgen.core.errors import EmptyMeshError
from threedgen.mesh.types import Array, RadianceField, evaluate_field

_COARSE_CELLS = 64  # along the scene's edge, to find the box that holds the object
_NUM_THRESHOLDS = 24
_SMALLEST_COMPONENT = 0.01  # of the largest one's faces; what is smaller is a floater
_DARK = math.log(20.0)  # optical depth behind which nothing is seen
_LOG_RANGE = 1.5  # at most so much of log density is kept on either side of the surface


def extract_isosurface(scene: RadianceField, resolution: int, threshold: float = 0.0) -> tuple[Array, Array]:
    """Vertices [V, 3] (world units, float64) and faces [F, 3] (outward) of the surface of a density.

    A coarse grid finds the box that holds the object, whose longest edge then gets `resolution` cells. Surfaces are
    closed where they leave the scene's cube, what nobody can see of the inside is filled, and floaters are removed.

    Args:
        resolution: cells along the longest edge of the object's box.
        threshold: density of the surface, per world unit; 0: see `choose_threshold`.

    Raises:
        EmptyMeshError: the density nowhere exceeds the threshold, is not a number, or is too thin to look solid.
    """
    corner = np.full(3, -scene.radius)
    coarse, cell = _sample_grid(scene, corner, -corner, _COARSE_CELLS)
    if threshold > 0:
        box_threshold = threshold
    else:  # half: the fine grid, which knows better, may choose less than the coarse one
        box_threshold = 0.5 * choose_threshold(coarse, cell, lowest=math.log(2.0) / (2.0 * scene.radius))
    occupied = np.argwhere(coarse > box_threshold)
    if len(occupied) == 0:
        raise _nothing_above(threshold, coarse.max())
    lower = np.maximum(corner + (occupied.min(0) - 2) * cell, corner)
    upper = np.minimum(corner + (occupied.max(0) + 2) * cell, -corner)

    density, cell = _sample_grid(scene, lower, upper, resolution)
    threshold = threshold or choose_threshold(density, cell, lowest=box_threshold)
    if density.max() <= threshold:
        raise _nothing_above(threshold, density.max())
    vertices, faces = _march(density, cell, threshold)
    if len(faces) == 0:
        raise EmptyMeshError(
            f"what is denser than {threshold:.3g} is smaller than a grid cell of {cell:.3g} (largest density "
            f"{density.max():.3g}). Set export.resolution higher or export.threshold lower"
        )
    return keep_large_components(lower + vertices * cell, faces)


def choose_threshold(density: Array, cell: float, lowest: float) -> float:
    """The density whose surface has the silhouettes of the scene's own images.

    Orthographic images along the three axes of the grid are composited exactly, opacity = 1 - exp(-sum density * cell),
    and so are the silhouettes of the region above each of 24 candidates, spaced evenly in log density between
    `lowest` and the highest density. The best candidate has the largest intersection over union (over the three
    images together) with opacity > 1/2; of those within 0.005 of the best, the middle one in log density.

    Args:
        density: [X, Y, Z] per world unit. cell: edge of a cell, world units.
        lowest: no threshold below. In a cube of edge 2 r, log(2) / (2 r) is the density that makes the whole cube
            half opaque: less is never a surface.

    Raises:
        EmptyMeshError: no axis-parallel ray is more than half opaque.
    """
    opaque = [density.sum(axis) * cell > math.log(2.0) for axis in range(3)]
    highest = float(density.max())
    if not any(image.any() for image in opaque) or highest <= lowest:
        raise EmptyMeshError(
            f"the scene has no surface: it is nowhere more than half opaque (largest density {highest:.3g}). "
            "Optimise for more steps, or set export.threshold below that density to force a surface"
        )
    peaks = [density.max(axis) for axis in range(3)]
    candidates = np.geomspace(lowest, highest, _NUM_THRESHOLDS + 1)[:-1]
    scores = []
    for candidate in candidates:
        solid = [peak > candidate for peak in peaks]
        shared = sum(np.count_nonzero(s & o) for s, o in zip(solid, opaque, strict=True))
        either = sum(np.count_nonzero(s | o) for s, o in zip(solid, opaque, strict=True))
        scores.append(shared / either)
    good = candidates[np.array(scores) >= max(scores) - 0.005]
    return float(np.sqrt(good[0] * good[-1]))


def keep_large_components(vertices: Array, faces: Array) -> tuple[Array, Array]:
    """Drop connected components with fewer than 1 % of the largest one's faces, and vertices no face uses."""
    edges = np.concatenate([faces[:, :2], faces[:, 1:]])
    graph = coo_array((np.ones(len(edges), bool), edges.T), shape=(len(vertices), len(vertices)))
    component = connected_components(graph, directed=False)[1][faces[:, 0]]
    sizes = np.bincount(component)
    faces = faces[sizes[component] >= _SMALLEST_COMPONENT * sizes.max()]
    used, faces = np.unique(faces, return_inverse=True)
    return vertices[used], faces.reshape(-1, 3)


def _sample_grid(scene: RadianceField, lower: Array, upper: Array, cells: int) -> tuple[Array, float]:
    """Density [X, Y, Z] at the corners of cubic cells, `cells` along the box's longest edge, and a cell's edge."""
    cell = float((upper - lower).max() / cells)
    counts = np.maximum(np.ceil((upper - lower) / cell - 1e-6).astype(int), 1) + 1
    x, y, z = (
        np.minimum(low + cell * np.arange(n), scene.radius).astype(np.float32)
        for low, n in zip(lower, counts, strict=True)
    )
    plane = np.stack(np.meshgrid(y, z, indexing="ij"), -1).reshape(-1, 2)
    slabs = max(1, (1 << 20) // len(plane))  # positions are made slab by slab: a large grid fits, its positions do not
    pieces = []
    for start in range(0, len(x), slabs):
        part = x[start : start + slabs]
        positions = np.concatenate([np.repeat(part, len(plane))[:, None], np.tile(plane, (len(part), 1))], 1)
        pieces.append(evaluate_field(scene, positions)[0])
    density = np.concatenate(pieces).reshape(tuple(counts))
    if not np.isfinite(density).all():
        raise EmptyMeshError(
            "the scene has no surface: its density is not a number in places, so its optimisation has diverged. "
            "Start again with smaller learning rates (optimizer.grid_lr, optimizer.network_lr)"
        )
    return density, cell


def _march(density: Array, cell: float, threshold: float) -> tuple[Array, Array]:
    """Marching cubes; vertices in units of cells from the grid's first corner.

    Density changes by orders of magnitude across a surface, so its logarithm is interpolated. Cut off on both sides
    alike it becomes a step that knows only where the surface is: a blur of one cell then takes away pits and tunnels
    of the grid's own size and hardly moves the surface (that of a ball by cell^2 / radius).
    """
    solid = density > threshold
    height = np.log(np.maximum(density, 1e-30)) - np.float32(math.log(threshold))
    limit = min(_LOG_RANGE, float(np.median(height[solid])))
    height[binary_fill_holes(solid | _unseen(density, cell)) & ~solid] = limit
    height = np.pad(np.clip(height, -limit, limit), 2, constant_values=-limit)
    vertices, faces = mcubes.marching_cubes(gaussian_filter(height, 1.0), 0.0)
    return vertices - 2.0, faces.astype(np.int64)


def _unseen(density: Array, cell: float) -> Array:
    """[X, Y, Z] bool: samples that less than 5 % of the light reaches along each of the six axis directions.

    No image tells the optimisation what is inside an object: it leaves caves and tunnels there, often with an
    opening too small to see, which would cost most of the mesh's faces.
    """
    depth = np.float32(cell) * density
    unseen = np.ones(density.shape, bool)
    for axis in range(3):
        up_to = depth.cumsum(axis)
        total = up_to.take([-1], axis)
        unseen &= (up_to - depth > _DARK) & (total - up_to > _DARK)
    return unseen


def _nothing_above(threshold: float, highest: float) -> EmptyMeshError:
    return EmptyMeshError(
        f"no density exceeds the surface's threshold {threshold:.3g} (largest density {highest:.3g}). "
        "Set export.threshold lower, or 0 to have it chosen"
    )
