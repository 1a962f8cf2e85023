"""Mesh files of any origin as triangles with the colours that a viewer without light would show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import trimesh
from PIL import Image
from trimesh.resolvers import FilePathResolver
from trimesh.visual.color import linear_to_srgb, srgb_to_linear

from threedgen.core.errors import ThreedgenError
from threedgen.mesh.types import Array, sample_texture

SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
PLAIN = 180 / 255  # grey of a file without any colour, sRGB
_LINEAR = (".glb", ".gltf")  # their factors and vertex colours are linear light; all else is sRGB


class Texture:
    """An image [H, W, 3] uint8, sRGB, and smaller copies of it, each half the size of the one before."""

    def __init__(self, image: Array):
        self.levels = [image]
        while min(self.levels[-1].shape[:2]) > 1:
            height, width = self.levels[-1].shape[:2]
            half = Image.fromarray(self.levels[-1]).resize((width // 2, height // 2), Image.Resampling.BOX)
            self.levels.append(np.asarray(half))

    @property
    def num_texels(self) -> int:
        return self.levels[0].shape[0] * self.levels[0].shape[1]

    def sample(self, uvs: Array, level: Array) -> Array:
        """Colours [N, 3] in 0..1 at uvs [N, 2] (origin at the lower left, repeated outside 0..1), levels [N]."""
        wrapped = np.where((uvs < 0) | (uvs > 1), uvs % 1.0, uvs)
        rgb = np.empty((len(uvs), 3), np.float32)
        for i in np.unique(level):
            mine = level == i
            rgb[mine] = sample_texture(self.levels[i], wrapped[mine])
        return rgb


@dataclass(frozen=True)
class PaintedMesh:
    """Triangles whose corners have colours, and a texture for some faces, which the corners' colours multiply.

    Anything that `mesh.render_views` needs. `spacing` is how far apart the rays are that will look at it, world
    units: textures finer than that are read from their smaller copies, so that they do not glitter.
    """

    vertices: Array  # [V, 3] float32
    faces: Array  # [F, 3] int64
    corner_colors: Array  # [F, 3, 3] float32, sRGB in 0..1
    corner_uvs: Array  # [F, 3, 2] float32; 0 without a texture
    texture_of_face: Array  # [F] index into `textures`, -1: none
    textures: tuple[Texture, ...]
    brightness: Array | None = None  # [F] light that falls on each face; None: the plain colours
    spacing: float = 0.0

    @property
    def is_plain(self) -> bool:
        """Whether everything has one colour, so that a picture without light is only an outline."""
        return not self.textures and bool((np.ptp(self.corner_colors, axis=(0, 1)) < 1 / 255).all())

    def color_at(self, faces: Array, barycentric: Array) -> Array:
        """Colours [K, 3] float32 in 0..1 at points of faces [K] with corner weights [K, 3]."""
        rgb = np.einsum("kc,kcd->kd", barycentric, self.corner_colors[faces]).astype(np.float32)
        for i, texture in enumerate(self.textures):
            mine = np.flatnonzero(self.texture_of_face[faces] == i)
            uvs = np.einsum("kc,kcd->kd", barycentric[mine], self.corner_uvs[faces[mine]])
            rgb[mine] = _times(texture.sample(uvs, self._texture_levels[faces[mine]]), rgb[mine])
        return rgb if self.brightness is None else rgb * self.brightness[faces, None]

    @cached_property
    def _texture_levels(self) -> Array:
        """[F] which copy of its texture has texels about as far apart as the rays."""
        texels = np.array([texture.num_texels for texture in self.textures])[self.texture_of_face]
        uv_area = _areas(np.pad(self.corner_uvs, ((0, 0), (0, 0), (0, 1))))
        area = np.maximum(_areas(self.vertices[self.faces]), 1e-20)
        texels_a_ray = np.sqrt(uv_area * texels / area) * self.spacing
        last = np.array([len(texture.levels) - 1 for texture in self.textures])[self.texture_of_face]
        return np.minimum(np.rint(np.log2(np.maximum(texels_a_ray, 1.0))).astype(np.int64), last)

    def normals(self) -> Array:
        """[F, 3] unit, outward if the faces are counter-clockwise seen from outside."""
        crossed = _crossed(self.vertices[self.faces])
        return crossed / np.maximum(np.linalg.norm(crossed, axis=1, keepdims=True), 1e-20)

    def moved(self, matrix: Array) -> PaintedMesh:
        """The mesh after a similarity transform [4, 4]."""
        vertices = self.vertices @ matrix[:3, :3].T + matrix[:3, 3]
        return replace(self, vertices=vertices.astype(np.float32))


class _Part(NamedTuple):
    """One geometry of a file, as `PaintedMesh` has it."""

    vertices: Array
    faces: Array
    corner_colors: Array
    corner_uvs: Array
    image: Array | None


def read_mesh(path: Path) -> tuple[PaintedMesh, list[str]]:
    """The triangles of a file in the file's own coordinates, every part where the file's scene puts it.

    Colours: base colour texture and factor (glTF), map_Kd or Kd (.mtl), colours of vertices or faces; grey where the
    file has none. Light, gloss, transparency and animations are left out. glTF's linear numbers become sRGB.

    Also returns the names of files that it refers to and that are not there; what they would colour is grey.

    Raises:
        ThreedgenError: the file cannot be read, or has no triangles, or coordinates that are not finite.
    """
    resolver = _Resolver(path)
    try:
        scene = trimesh.load_scene(path, resolver=resolver, process=False)
        parts = [
            _part(scene.geometry[name], transform, path.suffix.lower() in _LINEAR)
            for transform, name in (scene.graph[node] for node in scene.graph.nodes_geometry)
            if isinstance(scene.geometry[name], trimesh.Trimesh) and len(scene.geometry[name].faces)
        ]
    except Exception as error:  # a damaged file makes its reader raise anything
        text = " ".join(str(error).split()) or "no message"
        raise ThreedgenError(f"cannot be read as {path.suffix[1:]} ({type(error).__name__}: {text[:120]})") from error
    if not parts:
        raise ThreedgenError("holds no triangles")
    mesh = _joined(parts)
    used = mesh.vertices[mesh.faces]
    if not np.isfinite(used).all():
        raise ThreedgenError("has coordinates that are not finite numbers")
    if not _areas(used).any():
        raise ThreedgenError("has only triangles without area")
    return mesh, resolver.missing


class _Resolver(FilePathResolver):
    """Finds the files that a mesh refers to, in its folder or below, and remembers those that it does not find."""

    def __init__(self, path: Path):
        super().__init__(str(path))
        self.missing: list[str] = []

    def get(self, name: str) -> Any:
        try:
            return super().get(name)
        except (OSError, ValueError):
            self.missing.append(name)
            raise


def _joined(parts: Sequence[_Part]) -> PaintedMesh:
    first_vertex = np.cumsum([0, *(len(part.vertices) for part in parts)])
    images = list({id(part.image): part.image for part in parts if part.image is not None}.values())
    index = {id(image): i for i, image in enumerate(images)}
    return PaintedMesh(
        vertices=np.concatenate([part.vertices for part in parts]).astype(np.float32),
        faces=np.concatenate([part.faces + first for part, first in zip(parts, first_vertex, strict=False)]),
        corner_colors=np.concatenate([part.corner_colors for part in parts]).astype(np.float32),
        corner_uvs=np.concatenate([part.corner_uvs for part in parts]).astype(np.float32),
        texture_of_face=np.concatenate([np.full(len(p.faces), index.get(id(p.image), -1)) for p in parts]),
        textures=tuple(Texture(image) for image in images),
    )


def _part(geometry: trimesh.Trimesh, transform: Array, is_linear: bool) -> _Part:
    faces = np.asarray(geometry.faces, np.int64)
    colors, uvs, image = _colors(geometry, faces, is_linear)
    if np.linalg.det(transform[:3, :3]) < 0:  # mirrored: turned round, so that the outside stays outside
        faces, colors, uvs = faces[:, ::-1], colors[:, ::-1], uvs[:, ::-1]
    return _Part(trimesh.transform_points(geometry.vertices, transform), faces, colors, uvs, image)


def _colors(geometry: trimesh.Trimesh, faces: Array, is_linear: bool) -> tuple[Array, Array, Array | None]:
    """corner_colors [F, 3, 3], corner_uvs [F, 3, 2] and texture of one geometry."""
    visual: Any = geometry.visual  # of colours or of a texture; `kind` says which
    colors = np.full((len(faces), 3, 3), PLAIN, np.float32)
    uvs, image = np.zeros((len(faces), 3, 2), np.float32), None
    match visual.kind:
        case "vertex":
            colors = _display(visual.vertex_colors, is_linear)[faces]
        case "face":
            colors = np.repeat(_display(visual.face_colors, is_linear)[:, None], 3, axis=1)
        case "texture":
            picture, factor = _material(visual.material, is_linear)
            if picture is not None and visual.uv is not None:
                uvs, image = np.asarray(visual.uv, np.float32)[faces], np.asarray(picture.convert("RGB"))
            if factor is not None:
                colors[:] = factor
            elif image is not None or "color" in visual.vertex_attributes:
                colors[:] = 1.0
            if "color" in visual.vertex_attributes:  # glTF: the material and the vertices' colours are multiplied
                colors = _times(colors, _display(visual.vertex_attributes["color"], is_linear)[faces])
    return colors, uvs, image


def _material(material: Any, is_linear: bool) -> tuple[Image.Image | None, Array | None]:
    """A material's picture and colour [3]; None for what it does not have."""
    if isinstance(material, trimesh.visual.material.PBRMaterial):
        factor = material.baseColorFactor
        return material.baseColorTexture, None if factor is None else _display(factor, is_linear)
    if material.image is not None:  # .mtl: the picture alone, as most programs have it, whatever stands in Kd
        return material.image, None
    return None, _display(material.diffuse, is_linear)


def _display(colors: Any, is_linear: bool) -> Array:
    """Colours [..., 3 or 4] of whole numbers (all of their range) or floats -> sRGB [..., 3] in 0..1."""
    colors = np.asarray(colors)[..., :3]
    scale = np.iinfo(colors.dtype).max if colors.dtype.kind in "iu" else 1.0
    colors = (colors / scale).clip(0.0, 1.0)
    return (linear_to_srgb(colors) if is_linear else colors).astype(np.float32)


def _times(a: Array, b: Array) -> Array:
    """The product of sRGB colours as of light: [..., 3], exact where one of them is white."""
    if (b == 1.0).all():
        return a
    return linear_to_srgb(srgb_to_linear(a) * srgb_to_linear(b)).astype(np.float32)


def _crossed(corners: Array) -> Array:
    return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def _areas(corners: Array) -> Array:
    """[F, 3, 3] -> [F]."""
    return 0.5 * np.linalg.norm(_crossed(corners), axis=1)
