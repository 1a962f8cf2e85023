"""What mesh extraction reads and what it makes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Array = np.ndarray
_POINTS_AT_ONCE = 1 << 17  # bounds the memory of a field's hidden layers


class RadianceField(Protocol):
    """A scene as mesh extraction sees it: anything with a field inside the cube [-radius, radius]^3."""

    @property
    def radius(self) -> float: ...

    def field(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """World positions [N, 3] -> density [N] per world unit, rgb [N, 3] in 0..1."""
        ...


@runtime_checkable
class DistanceField(RadianceField, Protocol):
    """A field that knows its surface: where its signed distance is 0."""

    def signed_distance(self, positions: Tensor) -> Tensor:
        """World positions [N, 3] in the cube -> [N] world units, negative inside the object."""
        ...


@dataclass(frozen=True)
class Surface:
    """A triangle mesh in world axes (z up, front along +x), faces counter-clockwise seen from outside."""

    vertices: Array  # [V, 3] float32, world units
    faces: Array  # [F, 3] int64
    normals: Array  # [V, 3] float32, unit length


@dataclass(frozen=True)
class TexturedMesh(Surface):
    """A surface with a texture. Vertices on a texture seam occur once for each side of it.

    UV (0, 0) is the lower left corner of the texture and (1, 1) the upper right one, as in OBJ files; `texture`'s
    row 0 is the top.
    """

    uvs: Array  # [V, 2] float32 in 0..1
    texture: Array  # [T, T, 3] uint8, sRGB

    @cached_property
    def png(self) -> bytes:
        """The texture as a PNG file, which several formats hold."""
        file = io.BytesIO()
        Image.fromarray(self.texture).save(file, "PNG")
        return file.getvalue()

    def color_at(self, faces: Array, barycentric: Array) -> Array:
        """Colours [K, 3] float32 in 0..1 at points of faces [K] with corner weights [K, 3]."""
        return sample_texture(self.texture, np.einsum("kc,kcd->kd", barycentric, self.uvs[self.faces[faces]]))


@dataclass(frozen=True)
class ColoredMesh(Surface):
    """A surface with a colour at every vertex."""

    colors: Array  # [V, 3] uint8, sRGB

    def color_at(self, faces: Array, barycentric: Array) -> Array:
        """Colours [K, 3] float32 in 0..1 at points of faces [K] with corner weights [K, 3]."""
        corners = self.colors[self.faces[faces]] / np.float32(255.0)
        return np.einsum("kc,kcd->kd", barycentric, corners).astype(np.float32)


Mesh = TexturedMesh | ColoredMesh
AnySurface = TypeVar("AnySurface", bound=Surface)


def lifted(surface: AnySurface, height: float) -> AnySurface:
    """The surface moved upwards by so many world units."""
    return replace(surface, vertices=surface.vertices + np.array([0.0, 0.0, height], np.float32))


def sample_texture(texture: Array, uvs: Array) -> Array:
    """Bilinear lookup: texture [H, W, C] uint8, uvs [N, 2] (origin at the lower left) -> [N, C] float32 in 0..1."""
    height, width = texture.shape[:2]
    x = (uvs[:, 0] * width - 0.5).clip(0, width - 1)
    y = ((1.0 - uvs[:, 1]) * height - 0.5).clip(0, height - 1)
    left, top = x.astype(np.int32), y.astype(np.int32)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    along, down = ((a - b).astype(np.float32)[:, None] for a, b in ((x, left), (y, top)))
    texels = texture.reshape(height * width, -1)

    def mixed(row: Array) -> Array:
        first, second = (texels.take(row * width + column, 0).astype(np.float32) for column in (left, right))
        return first + (second - first) * along

    upper, lower = mixed(top), mixed(bottom)
    return (upper + (lower - upper) * down) / np.float32(255.0)


@torch.no_grad()
def evaluate_field(scene: RadianceField, positions: Array) -> tuple[Array, Array]:
    """Density [N] and rgb [N, 3], float32, at positions [N, 3]; in pieces, on the scene's device if it has one."""
    densities, colors = [np.zeros(0, np.float32)], [np.zeros((0, 3), np.float32)]
    for piece in _pieces(scene, positions):
        density, rgb = scene.field(piece)
        densities.append(density.float().cpu().numpy())
        colors.append(rgb.float().cpu().numpy())
    return np.concatenate(densities), np.concatenate(colors)


@torch.no_grad()
def evaluate_distance(scene: DistanceField, positions: Array) -> Array:
    """Signed distance [N], float32, at positions [N, 3]; as `evaluate_field`."""
    distances = [scene.signed_distance(piece).float().cpu().numpy() for piece in _pieces(scene, positions)]
    return np.concatenate([np.zeros(0, np.float32), *distances])


def _pieces(scene: RadianceField, positions: Array) -> Iterator[Tensor]:
    device = getattr(scene, "device", "cpu")
    for start in range(0, len(positions), _POINTS_AT_ONCE):
        piece = np.ascontiguousarray(positions[start : start + _POINTS_AT_ONCE], np.float32)
        yield torch.from_numpy(piece).to(device)
