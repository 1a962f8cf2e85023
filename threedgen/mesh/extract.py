"""A scene's textured mesh, from start to end."""

from __future__ import annotations

import numpy as np

from threedgen.config.schema import ExportConfig
from threedgen.mesh.bake import bake_texture
from threedgen.mesh.isosurface import extract_isosurface
from threedgen.mesh.types import Array, RadianceField, TexturedMesh
from threedgen.mesh.unwrap import simplify, unwrap


def extract_mesh(scene: RadianceField, config: ExportConfig) -> TexturedMesh:
    """The scene's surface with its colours on a texture; takes seconds, no gradients.

    Raises:
        EmptyMeshError: there is no surface; the message says how dense the scene is and what to do.
    """
    vertices, faces = simplify(*extract_isosurface(scene, config.resolution, config.threshold))
    normals = vertex_normals(vertices, faces)
    source, faces, uvs = unwrap(vertices, faces, config.texture_size)
    vertices = vertices[source]
    texture = bake_texture(scene, vertices, faces, uvs, config.texture_size)
    return TexturedMesh(vertices.astype(np.float32), faces, normals[source].astype(np.float32), uvs, texture)


def vertex_normals(vertices: Array, faces: Array) -> Array:
    """[V, 3] unit normals, the mean of the adjoining faces weighted by their area."""
    corners = vertices[faces]
    weighted = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], weighted)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(length > 0, normals / np.maximum(length, 1e-30), [0.0, 0.0, 1.0])
