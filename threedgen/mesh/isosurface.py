"""The surface of a density or of a signed distance: where to put it, marching cubes, and what to keep of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product

import mcubes
import numpy as np
from scipy.ndimage import binary_fill_holes, gaussian_filter

from threedgen.core.errors import EmptyMeshError
from threedgen.mesh.clean import keep_large_components, merge_by_position, separate_sheets
from threedgen.mesh.types import Array, DistanceField, RadianceField, evaluate_distance, evaluate_field

_COARSE_CELLS = 64  # along the scene's edge, to find the box that holds the object
_NUM_THRESHOLDS = 24
_DARK = math.log(4.0)  # optical depth behind which nothing is seen
_DIM = math.log(8.0 / 7.0)  # that of something, and be it a lid of fog: an eighth of the light is lost
_LOG_RANGE = 1.5  # at most so much of log density is kept on either side of the surface
_LEVELS = np.linspace(-0.7, 0.3, 41)  # of the kept range of log density
# Steps along which silhouettes are compared: a cube's axes and diagonals, and those of its sides. Not the axes alone: a
# look along one runs along flat sides, sums up what little density is beside them, and takes that for the object.
_DIRECTIONS = [steps for steps in product((0, 1, -1), repeat=3) if next((step for step in steps if step), 0) > 0]


def extract_isosurface(scene: RadianceField, resolution: int, threshold: float = 0.0) -> tuple[Array, Array]:
    """Vertices [V, 3] (world units, float64) and faces [F, 3] (outward) of the surface of a scene.

    That is where its signed distance is 0, if it has one, otherwise where its density is the threshold. A coarse grid
    finds the box that holds the object, whose longest edge then gets `resolution` cells. Surfaces are closed where they
    leave the scene's cube, what nobody can see of the inside is filled, and floaters are removed. Every edge has two
    faces, also after vertices at one position are merged.

    Args:
        resolution: cells along the longest edge of the object's box.
        threshold: density of the surface, per world unit; 0: see `choose_threshold` and `_march`. Of no meaning to a
            signed distance.

    Raises:
        EmptyMeshError: the density nowhere exceeds the threshold, is not a number, or is too thin to look solid; the
            distance is nowhere negative, or not a number; or the surface is so small that it is but a point.
    """
    if isinstance(scene, DistanceField):
        vertices, faces = _where_distance_is_0(scene, resolution)
    else:
        vertices, faces = _where_density_is(scene, resolution, threshold)
    vertices, faces = separate_sheets(*merge_by_position(*keep_large_components(vertices, faces)))
    if len(faces) == 0:
        raise EmptyMeshError("the scene has no surface: all that there is of it is a point. Optimise for more steps")
    return vertices, faces


def _where_distance_is_0(scene: DistanceField, resolution: int) -> tuple[Array, Array]:
    """Marching cubes on the distance itself, which is smooth across the surface: nothing is blurred or moved."""

    def distance_at(positions: Array) -> Array:
        return evaluate_distance(scene, positions)

    corner = np.full(3, -scene.radius)
    coarse, cell = _sample_grid(distance_at, scene.radius, corner, -corner, _COARSE_CELLS)
    near = np.argwhere(coarse < cell)  # what is thinner than a cell may be missed, but not that it is near
    if len(near) == 0:
        raise _nothing_inside(coarse.min())
    lower, upper = _box(near, cell, scene.radius)
    distance, cell = _sample_grid(distance_at, scene.radius, lower, upper, resolution)
    if distance.min() >= 0:
        raise _nothing_inside(distance.min())
    solid = distance < 0
    distance[binary_fill_holes(solid) & ~solid] = -cell
    depth, around = np.pad(-distance, 1, mode="edge"), np.pad(np.zeros(distance.shape, bool), 1, constant_values=True)
    depth[around] = -np.abs(depth[around])  # closed half a cell beyond the grid
    vertices, faces = mcubes.marching_cubes(depth, 0.0)
    return lower + (vertices - 1.0) * cell, faces.astype(np.int64)


def _where_density_is(scene: RadianceField, resolution: int, threshold: float) -> tuple[Array, Array]:
    def density_at(positions: Array) -> Array:
        return evaluate_field(scene, positions)[0]

    is_chosen, haze = threshold == 0, math.log(2.0) / (2.0 * scene.radius)
    corner = np.full(3, -scene.radius)
    coarse, cell = _sample_grid(density_at, scene.radius, corner, -corner, _COARSE_CELLS)
    # half: the fine grid, which knows better, may choose less than the coarse one
    box_threshold = 0.5 * choose_threshold(coarse, cell, haze, haze) if is_chosen else threshold
    occupied = np.argwhere(coarse > box_threshold)
    if len(occupied) == 0:
        raise _nothing_above(threshold, coarse.max())
    lower, upper = _box(occupied, cell, scene.radius)
    density, cell = _sample_grid(density_at, scene.radius, lower, upper, resolution)
    threshold = threshold or choose_threshold(density, cell, box_threshold, haze)
    if density.max() <= threshold:
        raise _nothing_above(threshold, density.max())
    vertices, faces = _march(density, cell, threshold, haze if is_chosen else None)
    if len(faces) == 0:
        raise EmptyMeshError(
            f"what is denser than {threshold:.3g} is smaller than a grid cell of {cell:.3g} (largest density "
            f"{density.max():.3g}). Set export.resolution higher or export.threshold lower"
        )
    return lower + vertices * cell, faces


def choose_threshold(density: Array, cell: float, lowest: float, haze: float) -> float:
    """The density whose surface has the silhouettes of the scene's own images.

    Orthographic images along the grid's axes and diagonals are composited exactly, opacity = 1 - exp(-sum density *
    length), and so are the silhouettes of the region above each of 24 candidates, spaced evenly in log density between
    `lowest` and the highest density. The best candidate has the largest intersection over union (over all images
    together) with opacity > 1/2; of those within 0.005 of the best, the middle one in log density.

    Args:
        density: [X, Y, Z] per world unit. cell: edge of a cell, world units.
        lowest: no threshold below.
        haze: what is thinner hides nothing. In a cube of edge 2 r, log(2) / (2 r) is the density that makes the whole
            cube half opaque: less is never a surface.

    Raises:
        EmptyMeshError: no ray along these is more than half opaque.
    """
    opaque = _silhouettes(density, cell, haze)
    highest = float(density.max())
    if not any(image.any() for image in opaque) or highest <= lowest:
        raise EmptyMeshError(
            f"the scene has no surface: it is nowhere more than half opaque (largest density {highest:.3g}). "
            "Optimise for more steps, or set export.threshold below that density to force a surface"
        )
    candidates = np.geomspace(lowest, highest, _NUM_THRESHOLDS + 1)[:-1]
    first, last = _best(density, candidates, opaque, tolerance=0.005)
    return math.sqrt(first * last)


def _silhouettes(density: Array, cell: float, haze: float) -> list[Array]:
    """What is more than half opaque, seen along each of the directions; haze: see `choose_threshold`."""
    depths = _gathered(np.where(density < haze, np.float32(0.0), density), np.add)
    lengths = (cell * math.sqrt(np.count_nonzero(direction)) for direction in _DIRECTIONS)
    return [length * depth > math.log(2.0) for length, depth in zip(lengths, depths, strict=True)]


def _gathered(values: Array, gather: np.ufunc) -> list[Array]:
    """Images of what `gather` makes of all values [X, Y, Z] >= 0 on each line, for the lines along each direction."""
    images = []
    for direction in _DIRECTIONS:
        along = next(axis for axis in range(3) if direction[axis])
        planes, steps = np.moveaxis(values, along, 0), [step for axis, step in enumerate(direction) if axis != along]
        last = len(planes) - 1
        image = np.zeros([n + last * abs(step) for n, step in zip(planes.shape[1:], steps, strict=True)], values.dtype)
        for i, plane in enumerate(planes):
            top, left = ((last - i) * step if step >= 0 else i for step in steps)
            part = image[top : top + plane.shape[0], left : left + plane.shape[1]]
            gather(part, plane, out=part)
        images.append(image)
    return images


def _best(values: Array, candidates: Array, opaque: list[Array], tolerance: float) -> tuple[float, float]:
    """First and last of the candidates whose region (values above it) has the silhouettes `opaque`, or nearly.

    Nearly: within `tolerance` of the best intersection over union.
    """
    lowest = values.min()
    peaks = [peak + lowest for peak in _gathered(values - lowest, np.maximum)]
    scores = []
    for candidate in candidates:
        solid = [peak > candidate for peak in peaks]
        shared = sum(np.count_nonzero(s & o) for s, o in zip(solid, opaque, strict=True))
        either = sum(np.count_nonzero(s | o) for s, o in zip(solid, opaque, strict=True))
        scores.append(shared / either)
    good = candidates[np.array(scores) >= max(scores) - tolerance]
    return float(good[0]), float(good[-1])


def _box(found: Array, cell: float, radius: float) -> tuple[Array, Array]:
    """The corners of a box around samples [N, 3] of the coarse grid, two cells larger as far as the cube allows."""
    lower, upper = (found.min(0) - 2) * cell - radius, (found.max(0) + 2) * cell - radius
    return np.maximum(lower, -radius), np.minimum(upper, radius)


def _sample_grid(
    values_at: Callable[[Array], Array], radius: float, lower: Array, upper: Array, cells: int
) -> tuple[Array, float]:
    """Values [X, Y, Z] at the corners of cubic cells, `cells` along the box's longest edge, and a cell's edge."""
    cell = float((upper - lower).max() / cells)
    counts = np.maximum(np.ceil((upper - lower) / cell - 1e-6).astype(int), 1) + 1
    x, y, z = (
        np.minimum(low + cell * np.arange(n), radius).astype(np.float32) for low, n in zip(lower, counts, strict=True)
    )
    plane = np.stack(np.meshgrid(y, z, indexing="ij"), -1).reshape(-1, 2)
    slabs = max(1, (1 << 20) // len(plane))  # positions are made slab by slab: a large grid fits, its positions do not
    pieces = []
    for start in range(0, len(x), slabs):
        part = x[start : start + slabs]
        positions = np.concatenate([np.repeat(part, len(plane))[:, None], np.tile(plane, (len(part), 1))], 1)
        pieces.append(values_at(positions))
    values = np.concatenate(pieces).reshape(tuple(counts))
    if not np.isfinite(values).all():
        raise EmptyMeshError(
            "the scene has no surface: its field is not a number in places, so its optimisation has diverged. "
            "Start again with smaller learning rates (optimizer.grid_lr, optimizer.network_lr)"
        )
    return values, cell


def _march(density: Array, cell: float, threshold: float, haze: float | None) -> tuple[Array, Array]:
    """Marching cubes; vertices in units of cells from the grid's first corner.

    Density changes by orders of magnitude across a surface, so its logarithm is interpolated. Cut off on both sides
    alike it becomes a step that knows only where the surface is: a blur of one cell then takes away pits and tunnels
    of the grid's own size. It also shortens what is thin or pointed (a ball by cell^2 / radius, an ear more): unless
    `haze`, see `choose_threshold`, is None, the surface is put where its silhouettes are the scene's again.
    """
    solid = density > threshold
    height = np.log(np.maximum(density, 1e-30)) - np.float32(math.log(threshold))
    limit = min(_LOG_RANGE, float(np.median(height[solid])))
    height[binary_fill_holes(solid | _unseen(density, cell)) & ~solid] = limit
    height = gaussian_filter(np.pad(np.clip(height, -limit, limit), 2, constant_values=-limit), 1.0)
    level = 0.0
    if haze is not None:
        opaque = _silhouettes(np.pad(density, 2), cell, haze)
        level = sum(_best(height, _LEVELS * limit, opaque, tolerance=0.002)) / 2
    vertices, faces = mcubes.marching_cubes(height, level)
    return vertices - 2.0, faces.astype(np.int64)


def _unseen(density: Array, cell: float) -> Array:
    """[X, Y, Z] bool: samples that less than a quarter of the light reaches along each of the six axis directions, or
    each but one, along which some of it is lost, and no more along the level diagonals.

    No image tells the optimisation what is inside an object: it leaves caves and tunnels there, often with an
    opening too small to see, which would cost most of the mesh's faces. And a side that was only looked at aslant, as
    a cube's upper one is, need not be dense to look solid: straight on it lets light through. An opening lets all of
    it through, and what lies between things that stand apart is seen from around.
    """
    depth = np.float32(cell) * density
    lit, is_open = np.zeros(density.shape, np.int8), np.zeros(density.shape, bool)
    for axis in range(3):
        up_to = depth.cumsum(axis)
        total = up_to.take([-1], axis)
        for before in (up_to - depth, total - up_to):
            lit += before <= _DARK
            is_open |= before <= _DIM
    seen_from_around = np.any([before <= _DARK for before in _depths_along_diagonals(depth)], axis=0)
    return (lit == 0) | ((lit == 1) & ~is_open & ~seen_from_around)


def _depths_along_diagonals(depth: Array) -> Iterator[Array]:
    """Optical depth before each sample, along the four level diagonals. depth: [X, Y, Z], of each sample."""
    for turned in product((slice(None), slice(None, None, -1)), repeat=2):
        before = np.zeros_like(depth)
        here, along = before[turned], depth[turned] * np.float32(math.sqrt(2.0))
        for x in range(1, len(along)):
            here[x, 1:] = here[x - 1, :-1] + along[x - 1, :-1]
        yield before


def _nothing_above(threshold: float, highest: float) -> EmptyMeshError:
    return EmptyMeshError(
        f"no density exceeds the surface's threshold {threshold:.3g} (largest density {highest:.3g}). "
        "Set export.threshold lower, or 0 to have it chosen"
    )


def _nothing_inside(least: float) -> EmptyMeshError:
    return EmptyMeshError(
        f"the scene has no surface: its signed distance is nowhere negative (smallest {least:.3g}). "
        "Optimise for more steps, or start again with a larger scene.sdf.sphere_radius"
    )
