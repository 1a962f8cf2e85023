"""A mesh that a texture can be laid on: fewer faces, and a place in the texture for each."""

from __future__ import annotations

import fast_simplification
import numpy as np
import xatlas
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from threedgen.mesh.isosurface import keep_large_components
from threedgen.mesh.types import Array

MAX_FACES = 20_000  # xatlas takes seconds for these, and minutes for what marching cubes makes
_PADDING = 3  # texels between charts


def simplify(vertices: Array, faces: Array, max_faces: int = MAX_FACES) -> tuple[Array, Array]:
    """Collapse edges by quadric error (Garland & Heckbert 1997) to about `max_faces`; fewer faces stay as they are.

    A closed surface stays closed: should a collapse leave holes, more faces are kept, up to all of them.
    """
    while len(faces) > max_faces:
        fewer = fast_simplification.simplify(
            vertices.astype(np.float32), faces.astype(np.int32), target_count=max_faces
        )
        new_vertices, new_faces = separate_sheets(fewer[0].astype(np.float64), fewer[1].astype(np.int64))
        if is_closed(new_faces):
            return new_vertices, new_faces
        max_faces = round(max_faces * 1.3)
    return vertices, faces


def separate_sheets(vertices: Array, faces: Array) -> tuple[Array, Array]:
    """Pull apart sheets that touch in a vertex or along an edge, as where a thin neck has collapsed.

    Each vertex becomes one vertex for each fan of faces around it that are joined by edges of exactly two faces;
    copies move a thousandth of the way to their own faces, so that merging by position does not undo it.
    """
    starts, ends = faces.ravel(), np.roll(faces, -1, axis=1).ravel()  # half-edge i runs from corner i
    next_corner = np.roll(np.arange(faces.size).reshape(-1, 3), -1, axis=1).ravel()
    key = np.minimum(starts, ends) * len(vertices) + np.maximum(starts, ends)
    order = np.argsort(key, kind="stable")
    _, first, count = np.unique(key[order], return_index=True, return_counts=True)
    one, other = order[first[count == 2]], order[first[count == 2] + 1]
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
    result[is_copy] += 1e-3 * (centers - result)[is_copy]
    return keep_large_components(result, fan.reshape(-1, 3))


def is_closed(faces: Array) -> bool:
    """Whether every edge is shared by exactly two faces that run through it in opposite directions."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    key = edges.max(initial=0) + 1
    forward, backward = np.sort(edges[:, 0] * key + edges[:, 1]), np.sort(edges[:, 1] * key + edges[:, 0])
    return bool((np.diff(forward) > 0).all() and np.array_equal(forward, backward))


def unwrap(vertices: Array, faces: Array, texture_size: int) -> tuple[Array, Array, Array]:
    """Charts without overlap, a few texels apart (xatlas).

    Returns:
        source: [V'] the vertex of the given mesh that each new vertex is a copy of: seams need several.
        faces: [F, 3] in new vertices, in the order given.
        uvs: [V', 2] float32 in 0..1.
    """
    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices.astype(np.float32), faces.astype(np.uint32))
    options = xatlas.PackOptions()
    options.resolution, options.padding, options.bilinear = texture_size, _PADDING, True
    atlas.generate(pack_options=options)
    source, new_faces, uvs = atlas[0]
    return source.astype(np.int64), new_faces.astype(np.int64), uvs.astype(np.float32)
