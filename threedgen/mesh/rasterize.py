"""Which face is seen in which pixel: of a camera's picture, and of a texture that is laid out flat."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple, Protocol

import numpy as np
import torch
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from threedgen.cameras import Cameras, rays_of
from threedgen.core.threads import in_order
from threedgen.mesh.types import Array

_MOST_LAYERS = 256  # of faces behind one another that are looked through
_SPENT = 1 / 512  # light that is left where a ray is given up
_BEHIND = 1e-5  # of the distance from the camera: so far behind a face a ray goes on, or it would find the same again
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
        scene = _embree_scene(vertices, faces)
        # what a camera has to look at: all vertices; where these are more than its pixels, the box around them
        hull = vertices if len(vertices) < cameras.height * cameras.width else _box_corners(vertices)

        def seen(lens: _Lens) -> Fragments:
            rows, columns = lens.window(hull)
            directions = lens.directions(rows, columns)
            hit = _first_hits(scene, np.broadcast_to(lens.pose[:3, 3], directions.shape), directions)
            row, column = np.divmod(hit.rays, columns.stop - columns.start)
            return Fragments(row + rows.start, column + columns.start, hit.faces, hit.barycentric)

        lenses = [_Lens.of(cameras[i : i + 1]) for i in range(len(cameras))]
        yield from in_order(seen, lenses, torch.get_num_threads())

    def layered_views(
        self, vertices: Array, faces: Array, cameras: Cameras, opacity_at: Callable[[Array, Array], Array]
    ) -> Iterator[Iterator[tuple[Fragments, Array]]]:
        """As `views`, for faces that may be seen through: of each camera layer after layer, nearest first.

        opacity_at: faces [K], weights of their corners [K, 3] -> [K], the part of the light behind that is kept back.
        With a layer come weights [K], what its fragments add to the picture. Faces that lie in one another are one.
        """
        scene = _embree_scene(vertices, faces)
        for i in range(len(cameras)):
            yield _layers(scene, cameras[i : i + 1].to("cpu"), opacity_at)

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


class _Hits(NamedTuple):
    rays: Array  # [K] which of the rays hit something
    faces: Array  # [K] what they hit first
    barycentric: Array  # [K, 3]
    distances: Array  # [K]


def _embree_scene(vertices: Array, faces: Array) -> EmbreeScene:
    """Ready to be asked by several threads."""
    scene = EmbreeScene()
    TriangleMesh(scene, vertices.astype(np.float32), faces.astype(np.int32))
    nowhere = np.zeros((1, 3), np.float32)
    scene.run(nowhere, nowhere + 1, query="OCCLUDED")  # the first question builds its tree
    return scene


def _box_corners(vertices: Array) -> Array:
    """[8, 3] of the box around points [V, 3]; none around none."""
    if not len(vertices):
        return np.zeros((0, 3))
    return np.array(list(product(*zip(vertices.min(0), vertices.max(0), strict=True))))


class _Lens(NamedTuple):
    """One camera's picture in numbers of numpy: torch's threads would be in the way of those that draw."""

    pose: Array  # [4, 4] camera to world
    focal: float  # pixels
    height: int
    width: int

    @classmethod
    def of(cls, camera: Cameras) -> _Lens:
        focal = 0.5 * camera.height / math.tan(0.5 * float(camera.fov_y[0]))
        return cls(camera.camera_to_world[0].cpu().numpy(), focal, camera.height, camera.width)

    def window(self, points: Array) -> tuple[slice, slice]:
        """Rows and columns in which points [N, 3] and all between them lie; all where one is not before the camera."""
        x, y, back = ((points - self.pose[:3, 3]) @ self.pose[:3, :3]).T
        if not len(points) or back.max() >= 0:
            return slice(0, self.height), slice(0, self.width)
        columns = 0.5 * self.width + self.focal * x / -back
        rows = 0.5 * self.height - self.focal * y / -back
        # a pixel more on each side, as numbers are rounded
        (top, bottom), (left, right) = (
            (int(np.clip(np.floor(at.min()) - 1, 0, size)), int(np.clip(np.ceil(at.max()) + 1, 0, size)))
            for at, size in ((rows, self.height), (columns, self.width))
        )
        return slice(top, bottom), slice(left, right)

    def directions(self, rows: slice, columns: slice) -> Array:
        """[K, 3] float32 through the centres of a window's pixels, row by row; as `rays_of`, not of unit length."""
        x = (np.arange(columns.start, columns.stop) + 0.5 - 0.5 * self.width) / self.focal
        y = (0.5 * self.height - 0.5 - np.arange(rows.start, rows.stop)) / self.focal
        right, up, back = self.pose[:3, :3].T
        return (x[None, :, None] * right + y[:, None, None] * up - back).reshape(-1, 3).astype(np.float32)


def _first_hits(scene: EmbreeScene, origins: Array, directions: Array) -> _Hits:
    found = scene.run(origins, directions, query="INTERSECT", output=True)
    hit = np.flatnonzero(found["primID"] >= 0)
    u, v = found["u"][hit], found["v"][hit]
    return _Hits(hit, found["primID"][hit], np.stack([1.0 - u - v, u, v], -1), found["tfar"][hit])


def _layers(
    scene: EmbreeScene, camera: Cameras, opacity_at: Callable[[Array, Array], Array]
) -> Iterator[tuple[Fragments, Array]]:
    rays = rays_of(camera)
    origins, directions = rays.origins.numpy(), rays.directions.numpy()
    going, light, distance = np.arange(len(origins)), np.ones(len(origins)), np.zeros((len(origins), 1))
    for _ in range(_MOST_LAYERS):
        starts = origins[going] + distance[going] * directions[going]
        hit = _first_hits(scene, starts.astype(np.float32), directions[going])
        if not len(hit.rays):
            return
        going = going[hit.rays]
        opacity = opacity_at(hit.faces, hit.barycentric)
        seen = Fragments(going // camera.width, going % camera.width, hit.faces, hit.barycentric)
        yield seen, light[going] * opacity
        light[going] *= 1.0 - opacity
        distance[going] = (distance[going] + hit.distances[:, None]) * (1.0 + _BEHIND)
        going = going[light[going] > _SPENT]


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
