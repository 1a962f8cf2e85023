"""Which face is seen in which pixel: of a camera's picture, and of a texture that is laid out flat."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from threedgen.cameras import Cameras, rays_of
from threedgen.mesh.types import Array

_CANDIDATES_AT_ONCE = 1 << 21  # texels tested against their triangle; bounds the memory


class Fragments(NamedTuple):
    """The K pixels whose centres a face covers (the nearest one, where there are several)."""

    rows: Array  # [K], 0 is the top
    columns: Array  # [K]
    faces: Array  # [K]
    barycentric: Array  # [K, 3] weights of the face's corners, in space


class Rasterizer(Protocol):
    def views(self, vertices: Array, faces: Array, cameras: Cameras) -> Iterator[Fragments]:
        """What each camera sees of a mesh, vertices [V, 3] in world units and faces [F, 3], from both sides."""
        ...

    def charts(self, uvs: Array, faces: Array, size: int) -> Fragments:
        """Which triangle lies over which of size x size texels; uvs [V, 2], origin at the lower left.

        On the common edge of two triangles the choice is the rasterizer's.
        """
        ...


class NativeRasterizer:
    """On the CPU: rays through the pixels' centres (Embree) for views, a scan of the triangles' boxes for charts."""

    def views(self, vertices: Array, faces: Array, cameras: Cameras) -> Iterator[Fragments]:
        scene = EmbreeScene()
        TriangleMesh(scene, vertices.astype(np.float32), faces.astype(np.int32))
        for i in range(len(cameras)):
            rays = rays_of(cameras[i : i + 1].to("cpu"))
            found = scene.run(rays.origins.numpy(), rays.directions.numpy(), query="INTERSECT", output=True)
            hit = np.flatnonzero(found["primID"] >= 0)
            u, v = found["u"][hit], found["v"][hit]
            barycentric = np.stack([1.0 - u - v, u, v], -1)
            yield Fragments(hit // cameras.width, hit % cameras.width, found["primID"][hit], barycentric)

    def charts(self, uvs: Array, faces: Array, size: int) -> Fragments:
        """All texels in the triangles' bounding boxes are tested at once, in pieces; later triangles win."""
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
        return Fragments(rows, columns, face_image[rows, columns], weight_image[rows, columns])


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
