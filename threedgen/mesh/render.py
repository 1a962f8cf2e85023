"""Pictures of a mesh: unlit, so they can be compared with the scene's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from threedgen.cameras import Cameras
from threedgen.mesh.rasterize import NativeRasterizer, Rasterizer
from threedgen.mesh.types import Array, Mesh

GREY = (0.5, 0.5, 0.5)


def render_mesh(
    mesh: Mesh,
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
    mesh: Mesh,
    cameras: Cameras,
    background: tuple[float, float, float] = GREY,
    supersample: int = 2,
    rasterizer: Rasterizer | None = None,
) -> Iterator[tuple[Array, Array]]:
    """As `render_mesh`, one view after the other: rgb [H, W, 3] and opacity [H, W, 1] of each."""
    finer = replace(cameras, height=cameras.height * supersample, width=cameras.width * supersample)
    for seen in (rasterizer or NativeRasterizer()).views(mesh.vertices, mesh.faces, finer):
        samples = np.zeros((finer.height, finer.width, 4), np.float32)
        samples[seen.rows, seen.columns, :3] = mesh.color_at(seen.faces, seen.barycentric)
        samples[seen.rows, seen.columns, 3] = 1.0
        pixels = samples.reshape(cameras.height, supersample, cameras.width, supersample, 4).mean((1, 3))
        rgb, opacity = pixels[..., :3], pixels[..., 3:]
        yield rgb + (1.0 - opacity) * np.array(background, np.float32), opacity
