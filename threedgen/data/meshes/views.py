"""Pictures of mesh files with the cameras that took them: a folder a mesh, RGBA images and `cameras.json`.

Every mesh is turned so that z is up and its front looks along +x, centred, and scaled into [-0.5, 0.5]^3: half as
long as a scene's default cube [-1, 1]^3. The transform is written down, so that results can be compared with the file.
"""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from threedgen.cameras import Cameras, orbit
from threedgen.core.errors import ThreedgenError
from threedgen.core.files import atomic_folder, sha256_of_file
from threedgen.core.randomness import stable_seed
from threedgen.data.meshes.files import read_mesh
from threedgen.data.meshes.painted import PaintedMesh
from threedgen.data.miniworld.render import shade
from threedgen.data.posed_images import CAMERAS
from threedgen.mesh.rasterize import Rasterizer
from threedgen.mesh.render import render_views
from threedgen.mesh.types import Array

HALF_EDGE = 0.5  # of the cube that holds a mesh
_VERSION = 4  # of the pictures: raise it when the same settings give others


class Layout(Enum):
    orbit = "orbit"  # rings around the object, as multi-view priors are trained on (MVDream, section 3.1)
    sphere = "sphere"  # evenly all around, the whole object in every view: for reconstruction


class Light(Enum):
    auto = "auto"  # soft for a mesh that has one plain colour, and where the file has no colour; otherwise off
    soft = "soft"  # fixed to the world, from above and the front left; every face has one brightness
    off = "off"  # the mesh's own colours


@dataclass(frozen=True)
class RenderSettings:
    """What decides the pictures of a mesh, besides the mesh."""

    layout: Layout = Layout.orbit
    views: int = 32  # of an orbit, or of the whole sphere
    passes: int = 2  # orbits, each with one elevation, field of view and distance; nothing for the sphere
    size: int = 256  # pixels, square
    fov_deg: tuple[float, float] = (15.0, 60.0)
    elevation_deg: tuple[float, float] = (0.0, 30.0)  # of the orbits
    distance: tuple[float, float] = (0.9, 1.1)  # see `draw_cameras`
    light: Light = Light.auto
    up: str = "y"  # or "z": which axis of the file points up
    supersample: int = 3  # squared: rays a pixel
    seed: int = 0
    texture: Path | None = None  # the picture for texture coordinates that have none

    def as_json(self) -> dict[str, Any]:
        """The settings in types that JSON gives back equal; of the texture its sha256."""
        plain = {name: value.name if isinstance(value, Enum) else value for name, value in asdict(self).items()}
        plain["texture"] = self.texture and sha256_of_file(self.texture)
        return json.loads(json.dumps({"version": _VERSION, **plain}))


ORBIT = RenderSettings()
SPHERE = RenderSettings(Layout.sphere, views=100, distance=(1.05, 1.15))


def normalize(mesh: PaintedMesh, up: str) -> tuple[PaintedMesh, Array]:
    """The mesh centred and scaled into [-0.5, 0.5]^3 in world axes, and the matrix [4, 4] that did it.

    `up` "y": the file's front is +z, as in glTF and in most OBJ files. `up` "z": the axes stay.
    The box's centre goes to the origin, and its longest edge becomes 1.
    """
    axes = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]) if up == "y" else np.eye(3)
    used = mesh.vertices[np.unique(mesh.faces)].astype(np.float64) @ axes.T
    low, high = used.min(0), used.max(0)
    scale = 2.0 * HALF_EDGE / float((high - low).max())
    matrix = np.eye(4)
    matrix[:3, :3] = scale * axes
    matrix[:3, 3] = -scale * (low + high) / 2.0
    return mesh.moved(matrix), matrix


def draw_cameras(settings: RenderSettings, name: str, radius: float) -> Cameras:
    """The cameras for the mesh of this name, whose farthest point is `radius` from the origin.

    Orbit, as multi-view priors are trained on: each pass draws an elevation, a field of view and a distance, and
    `views` cameras stand evenly around, the first at azimuth 0. The distance is 0.5 / tan(fov / 2), from where the
    cube's edge is as high as the picture, times U(`distance`). Sphere: a spiral of evenly spread directions
    (Fibonacci) from a random azimuth; each camera draws a field of view, and the least distance from which it sees
    the whole object is multiplied by U(`distance`).
    """
    rng = np.random.default_rng(stable_seed(settings.seed, 0, f"cameras of {name}"))
    if settings.layout is Layout.orbit:
        draws: tuple[int, ...] = (settings.passes, 1)
        azimuth: Array = np.arange(settings.views) * 360 / settings.views
        elevation: Array = rng.uniform(*settings.elevation_deg, draws)
    else:
        draws, i = (settings.views,), np.arange(settings.views)
        azimuth = rng.uniform(0, 360) + i * 180 * (3 - math.sqrt(5))
        elevation = np.degrees(np.arcsin(1 - (2 * i + 1) / settings.views))
    half_fov = np.radians(rng.uniform(*settings.fov_deg, draws)) / 2
    # MVDream (section 4.1) places cameras at 0.5 * focal * U(0.9, 1.1), the focal length in normalised device
    # coordinates, where the picture goes from -1 to 1. There a point at height y and depth d is seen at focal * y / d,
    # and the upper edge of the picture, at 1, is y / d = tan(fov / 2): so focal = 1 / tan(fov / 2).
    nearest = HALF_EDGE / np.tan(half_fov) if settings.layout is Layout.orbit else radius / np.sin(half_fov)
    distance = nearest * rng.uniform(*settings.distance, draws)
    numbers = np.broadcast_arrays(azimuth % 360, elevation, distance, np.degrees(2 * half_fov))
    azimuth, elevation, distance, fov = (number.ravel() for number in numbers)
    return orbit(azimuth, elevation, distance, fov, settings.size, num_views=settings.views)


def prepare(mesh: PaintedMesh, settings: RenderSettings) -> PaintedMesh:
    """The normalised mesh with its light, and ready for the settings' resolution."""
    is_lit = np.full(len(mesh.faces), settings.light is Light.soft)
    if settings.light is Light.auto:
        is_lit |= mesh.is_plain if mesh.colorless is None else mesh.is_plain | mesh.colorless
    brightness = np.where(is_lit, shade(mesh.normals()), 1.0).astype(np.float32) if is_lit.any() else None
    spacing = 2.0 * HALF_EDGE / (settings.size * settings.supersample)
    return replace(mesh, brightness=brightness, spacing=spacing)


def render_rgba(
    mesh: PaintedMesh, cameras: Cameras, supersample: int, rasterizer: Rasterizer | None = None
) -> Iterator[Array]:
    """One image [H, W, 4] uint8 a camera: sRGB and straight alpha, the covered part of the pixel; 0 where empty."""
    for rgb, opacity in render_views(mesh, cameras, (0.0, 0.0, 0.0), supersample, rasterizer):
        straight = rgb / np.maximum(opacity, 1e-6)
        yield np.rint(np.concatenate([straight, opacity], -1).clip(0, 1) * 255).astype(np.uint8)


def is_rendered(source: Path, folder: Path, settings: RenderSettings) -> bool:
    """Whether `folder` holds the views of just this file with just these settings.

    Raises:
        ThreedgenError: there is a folder of that name that was not made here; nobody's files are replaced.
    """
    if not folder.exists():
        return False
    try:
        described = json.loads((folder / CAMERAS).read_text("utf-8"))
        before, digest = described["settings"], described["source"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ThreedgenError(f"{folder} is there already and holds no rendered views; remove it") from error
    return before == settings.as_json() and digest == sha256_of_file(source)


def recaption(folder: Path, caption: str) -> bool:
    """Give rendered views (`is_rendered`) this caption; False: they have it already."""
    facts = json.loads((folder / CAMERAS).read_text("utf-8"))
    if facts["caption"] == caption:
        return False
    with atomic_folder(folder) as temporary:
        shutil.copytree(folder, temporary, dirs_exist_ok=True)
        (temporary / CAMERAS).write_bytes(_as_text({**facts, "caption": caption}))
    return True


def write_views(
    source: Path,
    folder: Path,
    name: str,
    settings: RenderSettings,
    caption: str = "",
    rasterizer: Rasterizer | None = None,
) -> list[str]:
    """Render the mesh file `source` into `folder`: the files of `render_files`. All of them or nothing.

    Returns what is to be said of the file, phrases to follow a comma.
    Raises ThreedgenError as `read_mesh`.
    """
    files, remarks = render_files(source, name, settings, caption, rasterizer)
    with atomic_folder(folder) as temporary:
        for file, content in files:
            (temporary / file).write_bytes(content)
    return remarks


def render_files(
    source: Path, name: str, settings: RenderSettings, caption: str = "", rasterizer: Rasterizer | None = None
) -> tuple[Iterator[tuple[str, bytes]], list[str]]:
    """Name and content of 000.png, 001.png, ... and cameras.json, drawn one after the other, of the mesh file `source`.

    cameras.json: `views`, a list of file, camera_to_world (4 x 4, OpenGL axes), fov_y_deg, azimuth_deg,
    elevation_deg, distance; `caption`; `image_size`; `half_edge` of the cube that holds the mesh; `mesh_to_world`
    (4 x 4, from the file's coordinates to those of the cameras); `is_lit`; `source` and `settings`.

    Also returns what is to be said of the file, phrases to follow a comma.
    Raises ThreedgenError as `read_mesh`.
    """
    mesh, remarks = read_mesh(source, settings.texture)
    mesh, matrix = normalize(mesh, settings.up)
    radius = float(np.linalg.norm(mesh.vertices[np.unique(mesh.faces)], axis=1).max())
    mesh = prepare(mesh, settings)
    if settings.light is Light.auto and mesh.colorless is not None and mesh.colorless.any():
        remarks.append("lit " + ("" if mesh.colorless.all() else "in parts ") + "for want of colours of its own")
    facts = {
        "caption": caption,
        "image_size": settings.size,
        "half_edge": HALF_EDGE,
        "mesh_to_world": matrix.tolist(),
        "is_lit": mesh.brightness is not None,
        "source": {"file": source.name, "sha256": sha256_of_file(source)},
        "settings": settings.as_json(),
    }
    return _files(mesh, draw_cameras(settings, name, radius), settings.supersample, facts, rasterizer), remarks


def _files(
    mesh: PaintedMesh, cameras: Cameras, supersample: int, facts: dict[str, Any], rasterizer: Rasterizer | None
) -> Iterator[tuple[str, bytes]]:
    views = []
    for i, image in enumerate(render_rgba(mesh, cameras, supersample, rasterizer)):
        file, buffer = f"{i:03d}.png", io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        views.append({"file": file, **_described(cameras, i)})
        yield file, buffer.getvalue()
    yield CAMERAS, _as_text({**facts, "views": views})


def _as_text(facts: dict[str, Any]) -> bytes:
    """The content of cameras.json: a line for each fact and each view."""
    lines = [f'"{name}": {json.dumps(fact)}' for name, fact in facts.items() if name != "views"]
    lines.append('"views": [\n' + ",\n".join(f"  {json.dumps(view)}" for view in facts["views"]) + "\n]")
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _described(cameras: Cameras, i: int) -> dict[str, Any]:
    return {
        "camera_to_world": cameras.camera_to_world[i].tolist(),
        "fov_y_deg": round(math.degrees(cameras.fov_y[i]), 6),
        "azimuth_deg": round(math.degrees(cameras.azimuth[i]), 4),
        "elevation_deg": round(math.degrees(cameras.elevation[i]), 4),
        "distance": round(float(cameras.distance[i]), 6),
    }
