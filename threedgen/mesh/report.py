"""What a mesh is, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from threedgen.mesh.clean import edges_of, is_closed
from threedgen.mesh.rasterize import Rasterizer
from threedgen.mesh.types import Mesh, TexturedMesh

_FLAT = 1e-12  # a face is degenerate below this part of its longest edge squared


def describe_mesh(mesh: Mesh, rasterizer: Rasterizer) -> dict[str, Any]:
    """Facts that JSON can hold. Topology is that of the positions: seams of the texture do not count.

    vertices, faces: as in the files. positions: distinct ones. watertight: every edge has two faces, which run through
    it in opposite directions. components, euler_number: V - E + F, 2 for each ball, 2 less for each handle.
    degenerate_faces: without area. volume: cubic world units. bounds: lowest and highest x, y, z in world axes
    (z up). texture_size, texture_coverage: pixels; part of the texels that a face covers; None without a texture.
    """
    positions, index = np.unique(mesh.vertices, axis=0, return_inverse=True)
    faces = index.reshape(-1)[mesh.faces]
    a, b, c = mesh.vertices.astype(np.float64)[mesh.faces].transpose(1, 0, 2)
    normals = np.cross(b - a, c - a)
    longest = np.maximum.reduce([((u - v) ** 2).sum(1) for u, v in ((a, b), (b, c), (c, a))])
    edges = np.unique(np.sort(edges_of(faces), 1), axis=0)
    graph = coo_array((np.ones(len(edges), bool), edges.T), shape=(len(positions), len(positions)))
    size = coverage = None
    if isinstance(mesh, TexturedMesh):
        size = mesh.texture.shape[0]
        coverage = round(len(rasterizer.charts(mesh.uvs, mesh.faces, size).faces) / size**2, 4)
    return {
        "vertices": len(mesh.vertices),
        "faces": len(mesh.faces),
        "positions": len(positions),
        "watertight": is_closed(faces),
        "components": int(connected_components(graph, directed=False)[0]),
        "euler_number": len(positions) - len(edges) + len(faces),
        "degenerate_faces": int(np.count_nonzero(np.linalg.norm(normals, axis=1) <= _FLAT * longest)),
        "volume": float((a * normals).sum() / 6.0),
        "bounds": [mesh.vertices.min(0).tolist(), mesh.vertices.max(0).tolist()],
        "texture_size": size,
        "texture_coverage": coverage,
    }
