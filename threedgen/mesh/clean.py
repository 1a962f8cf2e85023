"""Triangle meshes made fit for use: floaters dropped, sheets pulled apart, smoothed, fewer faces, always closed."""

from __future__ import annotations

import math

import fast_simplification
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from threedgen.mesh.types import Array

_SMALLEST_COMPONENT = 0.01  # of the largest one's faces; what is smaller is a floater
_APART = 0.01  # how far a copied vertex moves towards its own faces, of the way to their centre


def edges_of(faces: Array) -> Array:
    """The three edges [3 F, 2] of each face [F, 3], in the direction in which it runs through them."""
    return np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


def is_closed(faces: Array) -> bool:
    """Whether every edge is shared by exactly two faces that run through it in opposite directions."""
    edges = edges_of(faces).astype(np.int64)
    key = edges.max(initial=0) + 1
    forward, backward = np.sort(edges[:, 0] * key + edges[:, 1]), np.sort(edges[:, 1] * key + edges[:, 0])
    return bool((np.diff(forward) > 0).all() and np.array_equal(forward, backward))


def merge_by_position(vertices: Array, faces: Array) -> tuple[Array, Array]:
    """One vertex for each position (as float32, which files hold); faces that lose a corner by it are dropped."""
    unique, index = np.unique(vertices.astype(np.float32), axis=0, return_inverse=True)
    faces = index.reshape(-1)[faces]
    collapsed = (faces == np.roll(faces, 1, axis=1)).any(1)
    return unique.astype(np.float64), faces[~collapsed]


def keep_large_components(vertices: Array, faces: Array) -> tuple[Array, Array]:
    """Drop connected components with fewer than 1 % of the largest one's faces, and vertices no face uses."""
    edges = np.concatenate([faces[:, :2], faces[:, 1:]])
    graph = coo_array((np.ones(len(edges), bool), edges.T), shape=(len(vertices), len(vertices)))
    component = connected_components(graph, directed=False)[1][faces[:, 0]]
    sizes = np.bincount(component)
    faces = faces[sizes[component] >= _SMALLEST_COMPONENT * sizes.max(initial=0)]
    used, faces = np.unique(faces, return_inverse=True)
    return vertices[used], faces.reshape(-1, 3)


def smooth(vertices: Array, faces: Array, iterations: int) -> Array:
    """Vertices [V, 3] after Taubin's filter (1995): a step of 0.5 to the neighbours' mean, one of mu = -0.53 back.

    Grain of the size of a few faces goes; volume and thin parts stay, which they do not when only averaging. What the
    two steps make of a wave is at most 1 + (|mu| - 0.5)^2 / (2 |mu|) of it: from twelve iterations on mu is nearer to
    -0.5, so that all of them add 1 % at most. Each connected part then gets back the volume that it had (Desbrun et al.
    1999), which few faces would lose.
    """
    if iterations == 0:
        return vertices
    edges = edges_of(faces)
    edges = np.concatenate([edges, edges[:, ::-1]])
    neighbours = coo_array((np.ones(len(edges)), edges.T), shape=(len(vertices), len(vertices))).tocsr()
    count = np.maximum(neighbours.sum(axis=1), 1)[:, None]
    before, back = vertices, 0.5 + min(0.03, 0.1 / math.sqrt(iterations))
    for _ in range(iterations):
        for step in (0.5, -back):
            vertices = vertices + step * (neighbours @ vertices / count - vertices)
    num_parts, part = connected_components(neighbours, directed=False)
    volumes, volumes_before = (_volumes(each, faces, part, num_parts) for each in (vertices, before))
    is_solid = volumes * volumes_before > 0
    scale = np.cbrt(np.divide(volumes_before, volumes, where=is_solid, out=np.ones(num_parts)))[part, None]
    size = np.bincount(part)
    centers = np.stack([np.bincount(part, axis) / size for axis in vertices.T], 1)[part]
    return centers + scale * (vertices - centers)


def _volumes(vertices: Array, faces: Array, part: Array, num_parts: int) -> Array:
    """[num_parts] of closed surfaces; part: the one that each vertex belongs to."""
    a, b, c = vertices[faces].transpose(1, 0, 2)
    return np.bincount(part[faces[:, 0]], (a * np.cross(b, c)).sum(1), minlength=num_parts) / 6.0


def simplify(vertices: Array, faces: Array, max_faces: int) -> tuple[Array, Array]:
    """Collapse edges by quadric error (Garland & Heckbert 1997) to about `max_faces`; fewer faces stay as they are.

    A closed surface stays closed: where sheets have collapsed onto each other they are pulled apart, and should
    that not be enough, more faces are kept, up to all of them.
    """
    while len(faces) > max_faces:
        fewer = fast_simplification.simplify(
            vertices.astype(np.float32), faces.astype(np.int32), target_count=max_faces
        )
        new_vertices, new_faces = separate_sheets(*merge_by_position(fewer[0], fewer[1].astype(np.int64)))
        if len(new_faces) and is_closed(new_faces):  # of very few asked for nothing may be left
            return new_vertices, new_faces
        max_faces = max(round(max_faces * 1.3), max_faces + 1)
    return vertices, faces


def separate_sheets(vertices: Array, faces: Array) -> tuple[Array, Array]:
    """Pull apart sheets that touch in a vertex or along an edge, as where a thin neck has collapsed.

    An edge of four faces or more is split in the middle, once for each pair of faces that bound the same solid.
    Then each vertex becomes one vertex for each fan of faces around it that are joined by edges. What was one point
    moves a hundredth of the way to its own faces, so that merging by position does not undo it.
    Vertices [V, 3] float64, faces [F, 3]; small components are dropped as by `keep_large_components`.
    """
    vertices, faces = _split_crowded_edges(vertices, faces)
    one, other = _twins(faces, len(vertices))
    starts = faces.ravel()
    next_corner = np.roll(np.arange(faces.size).reshape(-1, 3), -1, axis=1).ravel()
    # two faces run through their common edge in opposite directions: where one starts, the other ends
    links = np.concatenate([np.stack([one, next_corner[other]]), np.stack([next_corner[one], other])], 1)
    graph = coo_array((np.ones(links.shape[1], bool), tuple(links)), shape=(faces.size, faces.size))
    num_fans, fan = connected_components(graph, directed=False)
    origin = np.zeros(num_fans, np.int64)
    origin[fan] = starts
    is_copy = np.bincount(origin, minlength=len(vertices))[origin] > 1
    centers = np.zeros((num_fans, 3))
    np.add.at(centers, fan, np.repeat(vertices[faces].mean(1), 3, axis=0))
    centers /= np.bincount(fan, minlength=num_fans)[:, None]
    result = vertices[origin]
    result[is_copy] += _APART * (centers - result)[is_copy]
    return keep_large_components(result, fan.reshape(-1, 3))


def _without_folds(faces: Array) -> Array:
    """Drop pairs of faces on the same three vertices that lie back to back: nothing is between them."""
    first = faces.argmin(1)[:, None]
    turned = np.take_along_axis(faces, (first + np.arange(3)) % 3, axis=1)  # from the lowest vertex on
    _, index = np.unique(np.sort(turned, axis=1), axis=0, return_inverse=True)
    index = index.reshape(-1)
    sense = np.where(turned[:, 1] < turned[:, 2], 1, -1)
    balance = np.bincount(index, sense)[index]
    return faces[(balance != 0) | (np.bincount(index)[index] == 1)]


def _edges(faces: Array, num_vertices: int) -> tuple[Array, Array, Array]:
    """Half-edges (3 f + i runs from corner i of face f to the next) sorted by the edge they lie on.

    Returns order [3F], and for each edge the first of its half-edges in that order and their number.
    """
    starts, ends = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    key = np.minimum(starts, ends) * num_vertices + np.maximum(starts, ends)
    order = np.argsort(key, kind="stable")
    _, first, count = np.unique(key[order], return_index=True, return_counts=True)
    return order, first, count


def _twins(faces: Array, num_vertices: int) -> tuple[Array, Array]:
    """The two half-edges of every edge of exactly two faces."""
    order, first, count = _edges(faces, num_vertices)
    pairs = first[count == 2]
    return order[pairs], order[pairs + 1]


def _split_crowded_edges(vertices: Array, faces: Array) -> tuple[Array, Array]:
    """Give every pair of faces on an edge of four or more a midpoint of its own."""
    while True:
        faces = _without_folds(faces)
        order, first, count = _edges(faces, len(vertices))
        points: list[Array] = []
        triangles: list[tuple[int, int, int]] = []
        touched: set[int] = set()
        for begin, number in zip(first[count > 2], count[count > 2], strict=True):
            half_edges = order[begin : begin + number]
            if touched.isdisjoint(half_edges // 3):  # another edge of these faces may have to wait for its turn
                for pair in _pairs(half_edges, vertices, faces):
                    touched.update(half_edge // 3 for half_edge in pair)
                    corners = [np.roll(faces[h // 3], -(h % 3)) for h in pair]  # start, end, opposite
                    start, end, _ = corners[0]
                    opposite = (vertices[corners[0][2]] + vertices[corners[1][2]]) / 2
                    middle = (vertices[start] + vertices[end]) / 2
                    new = len(vertices) + len(points)
                    points.append(middle + _APART * (opposite - middle))
                    triangles += [half for a, b, c in corners for half in ((a, new, c), (new, b, c))]
        if not points:
            return vertices, faces
        kept = np.delete(faces, sorted(touched), axis=0)
        vertices, faces = np.concatenate([vertices, points]), np.concatenate([kept, triangles])


def _pairs(half_edges: Array, vertices: Array, faces: Array) -> list[tuple[int, int]]:
    """Pair the faces around one edge so that each pair bounds one solid; [] if they run through it unevenly.

    Looking along the edge from its lower to its higher vertex, faces that run upwards have the solid clockwise of
    them and faces that run downwards counter-clockwise: going round, each downward one is closed by the next upward.
    """
    start, end = faces.ravel()[half_edges], np.roll(faces, -1, axis=1).ravel()[half_edges]
    upward = start < end
    if 2 * np.count_nonzero(upward) != len(half_edges):
        return []
    axis = vertices[max(start[0], end[0])] - vertices[min(start[0], end[0])]
    opposite = np.roll(faces, -2, axis=1).ravel()[half_edges]
    away = vertices[opposite] - vertices[start[0]]
    side = np.cross(axis, away[0])
    angle = np.arctan2(away @ side * np.linalg.norm(axis), away @ np.cross(side, axis))
    ranked = half_edges[np.argsort(angle, kind="stable")]
    is_upward = dict(zip(half_edges.tolist(), upward.tolist(), strict=True))
    pairs: list[tuple[int, int]] = []
    waiting: list[int] = []
    for half_edge in [*ranked.tolist(), *ranked.tolist()]:  # twice round: the first solid may begin before the cut
        if not is_upward[half_edge]:
            if half_edge not in waiting and not any(half_edge == pair[0] for pair in pairs):
                waiting.append(half_edge)
        elif waiting and not any(half_edge == pair[1] for pair in pairs):
            pairs.append((waiting.pop(), half_edge))
    return pairs
