"""The field's colours on a surface, as a texture or at the vertices."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt

from threedgen.mesh.rasterize import Rasterizer
from threedgen.mesh.types import Array, ColoredMesh, RadianceField, Surface, TexturedMesh, evaluate_field
from threedgen.mesh.unwrap import unwrap

# A ray through the surface, in parts of the scene's radius: it starts outside and ends inside.
_OUTSIDE, _INSIDE, _SAMPLES = 0.02, 0.06, 16
_SPENT = 0.01  # light that is left where a ray is given up


def bake_texture(scene: RadianceField, surface: Surface, size: int, rasterizer: Rasterizer) -> TexturedMesh:
    """The surface unwrapped, with a texture [size, size, 3] that holds what a render shows of it.

    Texels between the charts repeat the nearest covered one: neither bilinear lookups nor smaller versions
    of the texture show a seam.
    """
    source, faces, uvs = unwrap(surface.vertices, surface.faces, size)
    vertices, normals = surface.vertices[source], surface.normals[source]
    texels = rasterizer.charts(uvs, faces, size)
    corners = faces[texels.faces]
    points = np.einsum("kc,kcd->kd", texels.barycentric, vertices[corners])
    outward = np.einsum("kc,kcd->kd", texels.barycentric, normals[corners])
    texture = np.zeros((size, size, 3), np.uint8)
    texture[texels.rows, texels.columns] = _to_bytes(surface_colors(scene, points, outward))
    empty = np.ones((size, size), bool)
    empty[texels.rows, texels.columns] = False
    row, column = distance_transform_edt(empty, return_distances=False, return_indices=True)
    return TexturedMesh(vertices, faces, normals, uvs, texture[row, column])


def color_vertices(scene: RadianceField, surface: Surface) -> ColoredMesh:
    """The surface with the colours that a render shows at its vertices; takes no unwrapping, so it is fast."""
    colors = _to_bytes(surface_colors(scene, surface.vertices, surface.normals))
    return ColoredMesh(surface.vertices, surface.faces, surface.normals, colors)


def surface_colors(scene: RadianceField, points: Array, normals: Array) -> Array:
    """What one sees of the field looking straight at the surface: points and normals [N, 3] -> rgb [N, 3] in 0..1.

    The colour at the very point would be that of a thin layer whose density is still low, which in renders hardly
    counts and which no image has taught the field. So a short ray along the normal is composited as a render does it,
    with alpha = 1 - exp(-density * step); what light is left at its end takes the last colour.
    """
    step = (_OUTSIDE + _INSIDE) * scene.radius / _SAMPLES
    inward = -normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    light = np.ones(len(points), np.float32)
    rgb = np.zeros((len(points), 3), np.float32)
    going = np.arange(len(points))  # rays that still have light
    for i in range(_SAMPLES):
        distance = (i + 0.5) * step - _OUTSIDE * scene.radius
        positions = points[going] + distance * inward[going]
        density, color = evaluate_field(scene, positions.clip(-scene.radius, scene.radius))
        passing = light[going] * (np.exp(-density * step) if i + 1 < _SAMPLES else np.float32(0.0))
        passing[passing < _SPENT] = 0.0
        rgb[going] += (light[going] - passing)[:, None] * color
        light[going] = passing
        going = going[passing > 0.0]
    return rgb


def _to_bytes(rgb: Array) -> Array:
    return np.rint(rgb.clip(0.0, 1.0) * 255.0).astype(np.uint8)
