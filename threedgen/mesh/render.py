"""Pictures of a textured mesh on the CPU: unlit, so they can be compared with the scene's own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from threedgen.cameras import Cameras, rays_of
from threedgen.mesh.types import Array, TexturedMesh


def render_mesh(
    mesh: TexturedMesh,
    cameras: Cameras,
    background: tuple[float, float, float] = (0.5, 0.5, 0.5),
    supersample: int = 2,
) -> tuple[Array, Array]:
    """rgb [B, H, W, 3] float32 in 0..1 over the background, and opacity [B, H, W, 1], the covered part of each pixel.

    Casts supersample^2 rays a pixel (Embree) and reads the texture bilinearly. Faces are seen from both sides.
    """
    scene = EmbreeScene()
    TriangleMesh(scene, mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32))
    finer = replace(cameras, height=cameras.height * supersample, width=cameras.width * supersample)
    views = [_cast(scene, mesh, finer[i : i + 1]) for i in range(len(cameras))]  # one by one: bounds the memory
    shape = (len(cameras), cameras.height, supersample, cameras.width, supersample, 4)
    premultiplied = np.stack(views).reshape(shape).mean((2, 4), dtype=np.float32)
    rgb, opacity = premultiplied[..., :3], premultiplied[..., 3:]
    return rgb + (1.0 - opacity) * np.array(background, np.float32), opacity


def _cast(scene: EmbreeScene, mesh: TexturedMesh, camera: Cameras) -> Array:
    """[R, 4] for one camera: colour times hit, hit."""
    rays = rays_of(camera.to("cpu"))
    found = scene.run(rays.origins.numpy(), rays.directions.numpy(), query="INTERSECT", output=True)
    hit = found["primID"] >= 0
    u, v = found["u"][hit], found["v"][hit]
    corners = mesh.uvs[mesh.faces[found["primID"][hit]]]
    uvs = np.einsum("nc,ncd->nd", np.stack([1.0 - u - v, u, v], -1), corners)
    result = np.zeros((len(hit), 4), np.float32)
    result[hit, :3] = sample_texture(mesh.texture, uvs)
    result[hit, 3] = 1.0
    return result


def sample_texture(texture: Array, uvs: Array) -> Array:
    """Bilinear lookup: texture [T, T, 3] uint8, uvs [N, 2] (origin at the lower left) -> [N, 3] float32 in 0..1."""
    height, width = texture.shape[:2]
    x = (uvs[:, 0] * width - 0.5).clip(0, width - 1)
    y = ((1.0 - uvs[:, 1]) * height - 0.5).clip(0, height - 1)
    left, top = x.astype(np.int64), y.astype(np.int64)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    along, down = (x - left)[:, None], (y - top)[:, None]
    upper = texture[top, left] * (1 - along) + texture[top, right] * along
    lower = texture[bottom, left] * (1 - along) + texture[bottom, right] * along
    return ((upper * (1 - down) + lower * down) / 255.0).astype(np.float32)
