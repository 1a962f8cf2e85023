"""Mesh files of any origin as triangles with the colours that a viewer without light would show."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual.color import linear_to_srgb
from trimesh.visual.material import PBRMaterial

from threedgen.core.errors import ThreedgenError
from threedgen.data.meshes.claims import check_gltf, check_triangles
from threedgen.data.meshes.gltf import fractions, positions, retold, texture_coordinates
from threedgen.data.meshes.painted import PaintedMesh, Texture, areas, times
from threedgen.data.meshes.references import References, heard_from
from threedgen.mesh.types import Array

SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
PLAIN = 180 / 255  # grey of what has no colour, sRGB
_LINEAR = (".glb", ".gltf")  # their factors and vertex colours are linear light; all else is sRGB
_CUTOFF = 0.5  # of glTF's alpha mode MASK, where the file says none
_FARTHEST = 1e6  # pictures from the first one: single precision would not tell the place in one farther off


class _Part(NamedTuple):
    """One geometry of a file, as `PaintedMesh` has it."""

    vertices: Array
    faces: Array
    corner_colors: Array
    corner_uvs: Array
    image: Array | None
    is_colorless: bool
    corner_alphas: Array | None
    cutoff: float
    has_odd_uvs: bool


def read_mesh(path: Path, texture: Path | None = None) -> tuple[PaintedMesh, list[str]]:
    """The triangles of a file in the file's own coordinates, every part where the file's scene puts it.

    Colours: base colour texture and factor (glTF), map_Kd or Kd (.mtl), colours of vertices or faces; grey where the
    file has none. glTF's linear numbers become sRGB, and its alpha modes MASK and BLEND are kept. Light, gloss,
    the transparency of other formats and animations are left out. texture: a picture for parts that have texture
    coordinates but no picture.

    Also returns what is to be said of the file, phrases to follow a comma: references that are not there, what was left
    out, texture coordinates that have no picture.

    Raises:
        ThreedgenError: the file cannot be read, or has no triangles, or coordinates that are not finite, or is
            far larger once read than it is as a file; or nothing in it wants the texture, or that is no picture.
    """
    picture = None if texture is None else _open_picture(texture)
    references = References(path)
    is_gltf = path.suffix.lower() in _LINEAR
    with heard_from("trimesh") as heard:
        try:
            source: Any = path
            moves: dict[str, Array] = {}
            if is_gltf:
                check_gltf(path)
                content, moves = retold(path)
                source = io.BytesIO(content)
            scene = trimesh.load_scene(source, path.suffix[1:].lower(), references, process=False)
            placed = [
                (scene.geometry[name], transform)
                for transform, name in (scene.graph[node] for node in scene.graph.nodes_geometry)
                if isinstance(scene.geometry[name], trimesh.Trimesh) and len(scene.geometry[name].faces)
            ]
            check_triangles(sum(len(geometry.faces) for geometry, _ in placed))
            parts = [_part(geometry, transform, is_gltf, picture, moves) for geometry, transform in placed]
        except ThreedgenError:
            raise
        except Exception as error:  # a damaged file makes its reader raise anything
            text = " ".join(str(error).split()) or "no message"
            shown = f"cannot be read as {path.suffix[1:]} ({type(error).__name__}: {text[:120]})"
            raise ThreedgenError(shown) from error
    if not parts:
        raise ThreedgenError("holds no triangles")
    if picture is not None and not any(part.image is picture for part in parts):
        raise ThreedgenError(f"--texture {texture}: no part has texture coordinates and no picture for them")
    mesh = _joined(parts)
    used = mesh.vertices[mesh.faces]
    if not np.isfinite(used).all():
        raise ThreedgenError("has coordinates that are not finite numbers")
    if not areas(used).any():
        raise ThreedgenError("has only triangles without area")
    remarks = references.remarks()
    if not remarks:  # or what the reader says is of the same files
        remarks = [f"its reader says: {line}" for line in dict.fromkeys(heard)]
    if any(part.is_colorless and part.corner_uvs.any() for part in parts):
        remarks.append("whose texture coordinates have no picture (--texture FILE gives one)")
    if any(part.has_odd_uvs for part in parts):
        remarks.append("some of whose texture coordinates are no numbers, or too large: taken for 0")
    return mesh, remarks


def _open_picture(path: Path) -> Array:
    try:
        return np.asarray(Image.open(path).convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ThreedgenError(f"--texture {path}: is no picture that can be read ({type(error).__name__})") from error


def _joined(parts: Sequence[_Part]) -> PaintedMesh:
    first_vertex = np.cumsum([0, *(len(part.vertices) for part in parts)])
    images = list({id(part.image): part.image for part in parts if part.image is not None}.values())
    index = {id(image): i for i, image in enumerate(images)}
    is_see_through = any(part.corner_alphas is not None for part in parts)
    cutoffs = np.concatenate([np.full(len(part.faces), part.cutoff) for part in parts])
    return PaintedMesh(
        vertices=np.concatenate([part.vertices for part in parts]),
        faces=np.concatenate([part.faces + first for part, first in zip(parts, first_vertex, strict=False)]),
        corner_colors=np.concatenate([part.corner_colors for part in parts]).astype(np.float32),
        corner_uvs=np.concatenate([part.corner_uvs for part in parts]).astype(np.float32),
        texture_of_face=np.concatenate([np.full(len(p.faces), index.get(id(p.image), -1)) for p in parts]),
        textures=tuple(Texture(image) for image in images),
        colorless=np.concatenate([np.full(len(part.faces), part.is_colorless) for part in parts]),
        corner_alphas=np.concatenate([_alphas(part) for part in parts]) if is_see_through else None,
        cutoffs=cutoffs if is_see_through else None,
    )


def _alphas(part: _Part) -> Array:
    return np.ones((len(part.faces), 3), np.float32) if part.corner_alphas is None else part.corner_alphas


def _part(
    geometry: trimesh.Trimesh, transform: Array, is_linear: bool, stand_in: Array | None, moves: Mapping[str, Array]
) -> _Part:
    """stand_in: the picture for texture coordinates that have none; moves: see `texture_coordinates`."""
    faces, vertices = np.asarray(geometry.faces, np.int64), positions(geometry)
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ThreedgenError("has a face of a vertex that it does not have")
    visual: Any = geometry.visual  # of colours or of a texture; `kind` says which
    colors, uvs = np.full((len(faces), 3, 3), PLAIN, np.float32), np.zeros((len(faces), 3, 2), np.float32)
    image, alphas, cutoff, is_colorless, has_odd_uvs = None, None, math.nan, False, False
    match visual.kind:
        case "vertex":
            colors = _display(visual.vertex_colors, is_linear)[faces]
        case "face":
            colors = np.repeat(_display(visual.face_colors, is_linear)[:, None], 3, axis=1)
        case "texture":
            material = _material(visual.material, is_linear)
            coordinates = texture_coordinates(geometry, moves)
            if coordinates is not None:
                near = np.abs(coordinates) < _FARTHEST
                uvs = np.where(near, coordinates, 0.0).astype(np.float32)[faces]
                has_odd_uvs = not near[faces].all()
                image = stand_in if material.image is None else material.image
            of_vertices = visual.vertex_attributes.get("color")
            is_colorless = image is None and material.color is None and of_vertices is None
            if not is_colorless:
                colors[:] = 1.0 if material.color is None else material.color
            if of_vertices is not None:  # glTF: the material and the vertices' colours are multiplied
                colors = times(colors, _display(of_vertices, is_linear)[faces])
            if material.alpha is not None:
                alphas, cutoff = np.full((len(faces), 3), material.alpha, np.float32), material.cutoff
                if of_vertices is not None and of_vertices.shape[1] == 4:
                    alphas *= _fractions(of_vertices[:, 3]).astype(np.float32)[faces]
        case _:
            is_colorless = True
    if np.linalg.det(transform[:3, :3]) < 0:  # mirrored: turned round, so that the outside stays outside
        faces, colors, uvs = faces[:, ::-1], colors[:, ::-1], uvs[:, ::-1]
        alphas = None if alphas is None else alphas[:, ::-1]
    vertices = trimesh.transform_points(vertices, transform)
    return _Part(vertices, faces, colors, uvs, image, is_colorless, alphas, cutoff, has_odd_uvs)


class _Material(NamedTuple):
    image: Array | None  # [H, W, 3 or 4] uint8
    color: Array | None  # [3] that multiplies it; None: it says none
    alpha: float | None = None  # that multiplies those of image and vertices; None: opaque, whatever they are
    cutoff: float = math.nan  # see `PaintedMesh.cutoffs`


def _material(material: Any, is_linear: bool) -> _Material:
    if isinstance(material, PBRMaterial):
        factor, mode = material.baseColorFactor, material.alphaMode
        is_opaque = mode not in ("MASK", "BLEND")
        image = _pixels(material.baseColorTexture, keeps_alpha=not is_opaque)
        color = None if factor is None else _display(factor, is_linear)
        if is_opaque:
            return _Material(image, color)
        alpha = 1.0 if factor is None or len(factor) < 4 else float(_fractions(np.asarray(factor)[3]))
        cutoff = _CUTOFF if material.alphaCutoff is None else material.alphaCutoff
        return _Material(image, color, alpha, cutoff if mode == "MASK" else math.nan)
    if material.image is not None and material.image.format is not None:  # the reader's stand-in has no format
        return _Material(_pixels(material.image), None)  # .mtl: the picture alone, whatever stands in Kd, as is usual
    return _Material(None, _display(material.diffuse, is_linear) if "kd" in material.kwargs else None)


def _pixels(picture: Image.Image | None, keeps_alpha: bool = False) -> Array | None:
    if picture is None:
        return None
    has_alpha = picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info
    return np.asarray(picture.convert("RGBA" if keeps_alpha and has_alpha else "RGB"))


def _display(colors: Any, is_linear: bool) -> Array:
    """Colours [..., 3 or 4] of whole numbers (all of their range) or floats -> sRGB [..., 3] in 0..1."""
    colors = _fractions(np.asarray(colors)[..., :3])
    return (linear_to_srgb(colors) if is_linear else colors).astype(np.float32)


def _fractions(numbers: Array) -> Array:
    """Whole numbers as parts of all that their type can hold, floats as they are; within 0..1."""
    return fractions(numbers).clip(0.0, 1.0)
