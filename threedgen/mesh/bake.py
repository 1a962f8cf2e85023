"""The field's colours as a texture: the field is asked at the surface point of every texel that a face covers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import distance_transform_edt

from threedgen.mesh.types import Array, RadianceField, evaluate_field

_CANDIDATES_AT_ONCE = 1 << 21  # texels tested against their triangle; bounds the memory


class CoveredTexels(NamedTuple):
    """The K texels whose centres lie in a triangle."""

    rows: Array  # [K], 0 is the top
    columns: Array  # [K]
    faces: Array  # [K]
    barycentric: Array  # [K, 3] weights of the face's corners


def bake_texture(scene: RadianceField, vertices: Array, faces: Array, uvs: Array, size: int) -> Array:
    """[size, size, 3] uint8: the field's colour on the surface, as a render shows it.

    Texels between the charts repeat the nearest covered one: neither bilinear lookups nor smaller versions
    of the texture show a seam.
    """
    texels = rasterize_uvs(faces, uvs, size)
    corners = vertices[faces[texels.faces]]
    points = np.einsum("kc,kcd->kd", texels.barycentric, corners)
    rgb = evaluate_field(scene, points.clip(-scene.radius, scene.radius))[1]
    texture = np.zeros((size, size, 3), np.uint8)
    texture[texels.rows, texels.columns] = np.rint(rgb.clip(0, 1) * 255)
    empty = np.ones((size, size), bool)
    empty[texels.rows, texels.columns] = False
    row, column = distance_transform_edt(empty, return_distances=False, return_indices=True)
    return texture[row, column]


def rasterize_uvs(faces: Array, uvs: Array, size: int) -> CoveredTexels:
    """Which triangle [F, 3] lies over the centre of which texel; UV [V, 2] have their origin at the lower left.

    All texels in the triangles' bounding boxes are tested at once, in pieces. A texel on the edge of
    two triangles goes to the later one.
    """
    corners = uvs[faces].astype(np.float64) * size - 0.5  # [F, 3, 2]: texel centres are whole numbers, y upwards
    first = np.ceil(corners.min(1)).astype(np.int64).clip(0, size - 1)
    last = np.floor(corners.max(1)).astype(np.int64).clip(-1, size - 1)
    extent = (last - first + 1).clip(0)
    counts = extent.prod(1)
    face_image = np.full((size, size), -1, np.int64)
    weight_image = np.zeros((size, size, 3), np.float32)
    ends = counts.cumsum()
    start = 0
    while start < len(faces):
        limit = ends[start] - counts[start] + _CANDIDATES_AT_ONCE
        stop = max(start + 1, int(np.searchsorted(ends, limit, side="right")))
        face = np.repeat(np.arange(start, stop), counts[start:stop])
        begins = ends[start:stop] - counts[start:stop]
        index = np.arange(len(face)) - np.repeat(begins - begins[0], counts[start:stop])
        x = first[face, 0] + index % extent[face, 0]
        y = first[face, 1] + index // extent[face, 0]
        weights = _barycentric(corners[face], np.stack([x, y], -1))
        inside = (weights >= -1e-9).all(1)
        row, column = size - 1 - y[inside], x[inside]
        face_image[row, column] = face[inside]
        weight_image[row, column] = weights[inside]
        start = stop
    rows, columns = np.nonzero(face_image >= 0)
    return CoveredTexels(rows, columns, face_image[rows, columns], weight_image[rows, columns])


def _barycentric(corners: Array, points: Array) -> Array:
    """corners [N, 3, 2], points [N, 2] -> weights [N, 3]; -1 for triangles without area."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]

    def cross(u: Array, v: Array) -> Array:
        return u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]

    area = cross(b - a, c - a)
    flat = area == 0
    area = np.where(flat, 1.0, area)
    weight_b, weight_c = cross(points - a, c - a) / area, cross(b - a, points - a) / area
    weights = np.stack([1.0 - weight_b - weight_c, weight_b, weight_c], -1)
    return np.where(flat[:, None], -1.0, weights)
