"""A scene's mesh, from start to end."""

from __future__ import annotations

import numpy as np

from threedgen.config.export import ExportConfig, MeshColors
from threedgen.mesh.bake import bake_texture, color_vertices
from threedgen.mesh.clean import simplify, smooth
from threedgen.mesh.isosurface import extract_isosurface
from threedgen.mesh.rasterize import Rasterizer
from threedgen.mesh.types import Array, Mesh, RadianceField, Surface


def extract_surface(scene: RadianceField, config: ExportConfig) -> Surface:
    """The scene's closed surface, smoothed by `config.smooth` and with at most about `config.faces` faces.

    Raises:
        EmptyMeshError: there is no surface; the message says how dense the scene is and what to do.
    """
    vertices, faces = extract_isosurface(scene, config.resolution, config.threshold)
    vertices = smooth(vertices, faces, config.smooth)
    if config.faces > 0:
        vertices, faces = simplify(vertices, faces, config.faces)
    normals = vertex_normals(vertices, faces)
    return Surface(vertices.astype(np.float32), faces, normals.astype(np.float32))


def paint(scene: RadianceField, surface: Surface, config: ExportConfig, rasterizer: Rasterizer) -> Mesh:
    """The field's colours on the surface, the way `config.colors` says."""
    match config.colors:
        case MeshColors.texture:
            return bake_texture(scene, surface, config.texture_size, rasterizer)
        case MeshColors.vertex:
            return color_vertices(scene, surface)


def vertex_normals(vertices: Array, faces: Array) -> Array:
    """[V, 3] unit normals, the mean of the adjoining faces weighted by their area."""
    corners = vertices[faces]
    weighted = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], weighted)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(length > 0, normals / np.maximum(length, 1e-30), [0.0, 0.0, 1.0])
