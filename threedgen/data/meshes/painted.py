"""A mesh as it is drawn: triangles with colours and textures, some of which may be seen through."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from PIL import Image
from trimesh.visual.color import linear_to_srgb, srgb_to_linear

from threedgen.mesh.types import Array, sample_texture

_ROUNDING = 1e-5  # of an alpha that is interpolated from equal ones


class Texture:
    """An image [H, W, C] uint8, sRGB and perhaps alpha, and smaller copies, each half the size of the one before."""

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
        """Channels [N, C] in 0..1 at uvs [N, 2] (origin at the lower left, repeated outside 0..1), levels [N]."""
        wrapped = np.where((uvs < 0) | (uvs > 1), uvs % 1.0, uvs)
        values = np.empty((len(uvs), self.levels[0].shape[2]), np.float32)
        for i in np.unique(level):
            mine = level == i
            values[mine] = sample_texture(self.levels[i], wrapped[mine])
        return values


@dataclass(frozen=True)
class PaintedMesh:
    """Triangles whose corners have colours, and a texture for some faces, which the corners' colours multiply.

    Anything that `mesh.render_views` needs. `spacing` is how far apart the rays are that will look at it, world
    units: textures finer than that are read from their smaller copies, so that they do not glitter.
    """

    vertices: Array  # [V, 3] float64 as a file has them, float32 once moved to where they are drawn
    faces: Array  # [F, 3] int64
    corner_colors: Array  # [F, 3, 3] float32, sRGB in 0..1
    corner_uvs: Array  # [F, 3, 2] float32; 0 without a texture
    texture_of_face: Array  # [F] index into `textures`, -1: none
    textures: tuple[Texture, ...]
    colorless: Array | None = None  # [F] bool: faces that got PLAIN because the file has no colour for them; None: none
    corner_alphas: Array | None = None  # [F, 3] in 0..1, which a texture's alpha multiplies; None: all is opaque
    cutoffs: Array | None = None  # [F] alpha from which on a face is opaque, and below not there; NaN: alpha covers
    brightness: Array | None = None  # [F] light that falls on each face; None: the plain colours
    spacing: float = 0.0

    @property
    def is_see_through(self) -> bool:
        """Whether something may show behind a face."""
        return self.corner_alphas is not None

    @property
    def is_plain(self) -> bool:
        """Whether everything has one colour, so that a picture without light is only an outline."""
        return not self.textures and bool((np.ptp(self.corner_colors, axis=(0, 1)) < 1 / 255).all())

    def color_at(self, faces: Array, barycentric: Array) -> Array:
        """Colours [K, 3] float32 in 0..1 at points of faces [K] with corner weights [K, 3]."""
        rgb = np.einsum("kc,kcd->kd", barycentric, self.corner_colors[faces]).astype(np.float32)
        for i, texture in enumerate(self.textures):
            mine = np.flatnonzero(self.texture_of_face[faces] == i)
            texels = texture.sample(self._uvs(faces[mine], barycentric[mine]), self._texture_levels[faces[mine]])
            rgb[mine] = times(texels[:, :3], rgb[mine])
        return rgb if self.brightness is None else rgb * self.brightness[faces, None]

    def opacity_at(self, faces: Array, barycentric: Array) -> Array:
        """[K] float32, the part of the light behind that is kept back at points of faces [K], weights [K, 3]."""
        if self.corner_alphas is None or self.cutoffs is None:
            return np.ones(len(faces), np.float32)
        alpha = np.einsum("kc,kc->k", barycentric, self.corner_alphas[faces]).astype(np.float32)
        is_cut = ~np.isnan(self.cutoffs[faces])
        for i, texture in enumerate(self.textures):
            mine = np.flatnonzero(self.texture_of_face[faces] == i)
            if texture.levels[0].shape[2] == 4:
                # a mean of texels is no place for a threshold: holes would close with the distance
                level = np.where(is_cut[mine], 0, self._texture_levels[faces[mine]])
                alpha[mine] *= texture.sample(self._uvs(faces[mine], barycentric[mine]), level)[:, 3]
        return np.where(is_cut, alpha >= self.cutoffs[faces] - _ROUNDING, alpha).astype(np.float32)

    def _uvs(self, faces: Array, barycentric: Array) -> Array:
        return np.einsum("kc,kcd->kd", barycentric, self.corner_uvs[faces])

    @cached_property
    def _texture_levels(self) -> Array:
        """[F] which copy of its texture has texels about as far apart as the rays."""
        texels = np.array([texture.num_texels for texture in self.textures])[self.texture_of_face]
        uv_area = areas(np.pad(self.corner_uvs, ((0, 0), (0, 0), (0, 1))))
        area = np.maximum(areas(self.vertices[self.faces]), 1e-20)
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


def times(a: Array, b: Array) -> Array:
    """The product of sRGB colours as of light: [..., 3], exact where one of them is white."""
    if (b == 1.0).all():
        return a
    return linear_to_srgb(srgb_to_linear(a) * srgb_to_linear(b)).astype(np.float32)


def _crossed(corners: Array) -> Array:
    return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def areas(corners: Array) -> Array:
    """Of triangles [F, 3, 3] -> [F]."""
    return 0.5 * np.linalg.norm(_crossed(corners), axis=1)
