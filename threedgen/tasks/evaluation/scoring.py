"""A caption's truth, and comparing a scene with it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from threedgen.cameras import Cameras, viewing_cameras
from threedgen.config.scene import CameraConfig
from threedgen.config.schema import Config
from threedgen.core.errors import EmptyMeshError
from threedgen.data.exact_views import exact_views
from threedgen.data.miniworld import COLORS, MiniObject, Rendering, Spec, build, parse
from threedgen.data.miniworld.textures import MATERIALS
from threedgen.mesh.isosurface import extract_isosurface
from threedgen.mesh.types import RadianceField
from threedgen.metrics.geometry import chamfer_distance, normal_angle, sample_surface_with_normals, volume_iou
from threedgen.metrics.image import GREY, Color, contrast, psnr, saturation, silhouette_iou, ssim
from threedgen.metrics.janus import JanusScore, colour_fraction, janus_score
from threedgen.scene.protocol import Shown

ELEVATIONS = (5.0, 15.0, 25.0)
_FRONT, _BACK = (-40.0, 0.0, 40.0), (140.0, 180.0, 220.0)
_SURFACE_POINTS = 20_000
LEAST_SHARE = 0.02  # of the foreground: a feature that shows less of its colour cannot be counted


@dataclass(frozen=True)
class Truth:
    """Exact pictures of a caption's object on mid grey: all around, and from in front and behind."""

    object: MiniObject
    cameras: Cameras
    pictures: Rendering
    front_and_back: Cameras
    front_and_back_pictures: Rendering

    @property
    def saturation(self) -> float:
        return saturation(self.pictures.rgb, self.pictures.opacity)

    @property
    def contrast(self) -> float:
        return contrast(self.pictures.rgb, self.pictures.opacity)


@dataclass(frozen=True)
class Comparison:
    """A scene against its truth. face is None for objects without a feature that only the front shows."""

    psnr: float
    ssim: float
    iou: float
    saturation: float
    contrast: float
    face: JanusScore | None


def truth_of(caption: str, config: Config) -> Truth:
    """The truth from `eval.num_cameras` cameras that no training step was tied to; the last few are kept in memory."""
    camera, size = config.camera, config.eval.image_size
    return _truth(caption, camera.fov_y_deg_range, camera.distance_range, config.eval.num_cameras, size)


@lru_cache(maxsize=4)
def _truth(
    caption: str, fov_y_deg_range: tuple[float, float], distance_range: tuple[float, float], count: int, size: int
) -> Truth:
    camera = CameraConfig(fov_y_deg_range=fov_y_deg_range, distance_range=distance_range)
    azimuth = (np.arange(count) + 0.5) * 360 / count
    around = viewing_cameras(camera, azimuth, np.resize(ELEVATIONS, count), size)
    front_and_back = viewing_cameras(camera, [*_FRONT, *_BACK], 15.0, size)
    obj = build(parse(caption))
    pictures = [exact_views(obj, cameras, supersample=4) for cameras in (around, front_and_back)]
    return Truth(obj, around, pictures[0], front_and_back, pictures[1])


def compare(scene: Shown, truth: Truth) -> Comparison:
    """Render the scene from the truth's cameras, on mid grey, and compare."""
    rgb, opacity = _seen(scene, truth.cameras)
    return Comparison(
        psnr=psnr(rgb, truth.pictures.rgb),
        ssim=ssim(rgb, truth.pictures.rgb),
        iou=silhouette_iou(opacity, truth.pictures.opacity),
        saturation=saturation(rgb, opacity),
        contrast=contrast(rgb, opacity),
        face=_face(scene, truth),
    )


def surface_figures(scene: RadianceField, true: MiniObject, config: Config) -> dict[str, float | None]:
    """Of the surface that an export begins with, None where there is none: chamfer, world units; normals, the mean
    angle between those of the surfaces in degrees; volume_iou."""
    try:
        vertices, faces = extract_isosurface(scene, config.export.resolution, config.export.threshold)
    except EmptyMeshError:
        return {"chamfer": None, "normals": None, "volume_iou": None}
    return compare_surfaces(vertices, faces, true, scene.radius)


def compare_surfaces(
    vertices: np.ndarray, faces: np.ndarray, true: MiniObject, radius: float
) -> dict[str, float | None]:
    """The figures of `surface_figures` of a mesh, vertices [V, 3], faces [F, 3]; solids within [-radius, radius]^3."""
    drawn, expected = (
        sample_surface_with_normals(v, f, _SURFACE_POINTS, seed=0) for v, f in ((vertices, faces), true.mesh())
    )
    return {
        "chamfer": chamfer_distance(drawn[0], expected[0]),
        "normals": normal_angle(*drawn, *expected),
        "volume_iou": volume_iou(vertices, faces, true.signed_distance, radius),
    }


def _seen(scene: Shown, cameras: Cameras) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        seen = scene.render(cameras, background=torch.tensor(GREY))
    return seen.rgb.cpu().numpy(), seen.opacity.cpu().numpy()


def _face(scene: Shown, truth: Truth) -> JanusScore | None:
    """Is what belongs on the front also seen from behind?"""
    pictures, spec = truth.front_and_back_pictures, truth.object.spec
    true_front, true_back = np.split(feature_fraction(spec, pictures.rgb, pictures.opacity), [len(_FRONT)])
    if not can_fail(true_front, true_back):
        return None
    front, back = np.split(feature_fraction(spec, *_seen(scene, truth.front_and_back)), [len(_FRONT)])
    return janus_score(front, back, true_front, true_back)


def can_fail(true_front: np.ndarray, true_back: np.ndarray) -> bool:
    """Whether the truth shows a feature's colour in front, and there at least twice as much as behind."""
    front, back = float(np.mean(true_front)), float(np.mean(true_back))
    return front > LEAST_SHARE and front > 2 * back


def face_figures(face: JanusScore | None) -> dict[str, float | None]:
    """A Janus failure, and whether the front shows at least half as much of its feature as the truth, as 0 or 1."""
    if face is None:
        return {"janus": None, "front": None}
    return {"janus": float(face.is_janus), "front": float(face.front >= 0.5 * face.truth_front)}


def feature_fraction(spec: Spec, rgb: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """[B]: the part of the foreground that has the colour of the caption's feature; 0 where that is no plain colour.

    rgb: on mid grey.
    """
    if spec.feature_color not in COLORS:
        return np.zeros(len(rgb))
    return colour_fraction(rgb, opacity, spec.feature_color, _palette(spec), GREY)


def _palette(spec: Spec) -> Mapping[str, Color]:
    """The colours, and those of the object's material, which would otherwise count as the nearest of the former."""
    material = MATERIALS.get(spec.color)
    return COLORS if material is None else {**COLORS, "material": material.first, "in it": material.second}


def with_num_views(camera: CameraConfig, num_views: int) -> CameraConfig:
    """As many images a step whatever the number of views, so that only what the prior sees at once differs."""

    def sets(before: int) -> int:
        return before and max(1, before * camera.num_views // num_views)

    return replace(
        camera,
        num_views=num_views,
        sets_per_step=sets(camera.sets_per_step),
        coarse_sets_per_step=sets(camera.coarse_sets_per_step),
    )
