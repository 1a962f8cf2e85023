"""Pictures of a mesh: unlit, so they can be compared with the scene's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import reduce
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from threedgen.cameras import Cameras
from threedgen.core.threads import in_order
from threedgen.mesh.rasterize import Fragments, NativeRasterizer, Rasterizer
from threedgen.mesh.types import Array

GREY = (0.5, 0.5, 0.5)


class Drawable(Protocol):
    """Triangles that have a colour everywhere."""

    @property
    def vertices(self) -> Array:  # [V, 3] world units
        ...

    @property
    def faces(self) -> Array:  # [F, 3]
        ...

    def color_at(self, faces: Array, barycentric: Array) -> Array:
        """Colours [K, 3] float32 in 0..1 at points of faces [K] with corner weights [K, 3]."""
        ...


@runtime_checkable
class SeeThrough(Drawable, Protocol):
    """Triangles behind which others may show."""

    @property
    def is_see_through(self) -> bool: ...

    def opacity_at(self, faces: Array, barycentric: Array) -> Array:
        """[K] in 0..1, the part of the light behind that is kept back."""
        ...


def render_mesh(
    mesh: Drawable,
    cameras: Cameras,
    background: tuple[float, float, float] = GREY,
    supersample: int = 2,
    rasterizer: Rasterizer | None = None,
) -> tuple[Array, Array]:
    """rgb [B, H, W, 3] float32 in 0..1 over the background, and opacity [B, H, W, 1], the covered part of each pixel.

    Takes supersample^2 samples a pixel. Faces are seen from both sides. Without a rasterizer: the native one.
    """
    views = list(render_views(mesh, cameras, background, supersample, rasterizer))
    return np.stack([rgb for rgb, _ in views]), np.stack([opacity for _, opacity in views])


def render_views(
    mesh: Drawable,
    cameras: Cameras,
    background: tuple[float, float, float] = GREY,
    supersample: int = 2,
    rasterizer: Rasterizer | None = None,
) -> Iterator[tuple[Array, Array]]:
    """As `render_mesh`, one view after the other: rgb [H, W, 3] and opacity [H, W, 1] of each.

    What can be seen through (`SeeThrough`) is drawn by the native rasterizer, whichever is given.
    """
    finer = replace(cameras, height=cameras.height * supersample, width=cameras.width * supersample)
    behind = np.array(background, np.float32)

    def picture(layers: Iterable[tuple[Fragments, Array]]) -> tuple[Array, Array]:
        flat = np.zeros((finer.height * finer.width, 4), np.float32)
        for seen, weights in layers:
            rgb = mesh.color_at(seen.faces, seen.barycentric)
            weighted = np.concatenate([rgb * weights[:, None], weights[:, None]], 1)
            flat[seen.rows * finer.width + seen.columns] += weighted
        samples = flat.reshape(finer.height, finer.width, 4)
        offsets = [(i, j) for i in range(supersample) for j in range(supersample)]
        summed = reduce(np.add, [samples[i::supersample, j::supersample] for i, j in offsets])
        pixels = summed / np.float32(len(offsets))
        rgb, opacity = pixels[..., :3], pixels[..., 3:]
        return rgb + (1.0 - opacity) * behind, opacity

    layered = _layered_views(mesh, finer, rasterizer or NativeRasterizer())
    yield from in_order(picture, layered, torch.get_num_threads())


def _layered_views(
    mesh: Drawable, cameras: Cameras, rasterizer: Rasterizer
) -> Iterator[Iterable[tuple[Fragments, Array]]]:
    """Of each camera the layers that it sees, with what each fragment adds to the picture."""
    if isinstance(mesh, SeeThrough) and mesh.is_see_through:
        yield from NativeRasterizer().layered_views(mesh.vertices, mesh.faces, cameras, mesh.opacity_at)
        return
    for seen in rasterizer.views(mesh.vertices, mesh.faces, cameras):
        yield [(seen, np.ones(len(seen.faces), np.float32))]
