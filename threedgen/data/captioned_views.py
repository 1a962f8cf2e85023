"""Training pictures of miniworld, drawn once and kept on disk: views around captioned objects, and single images.

Colours are premultiplied by opacity, so that any background can be put behind them later:
image = rgb + (1 - opacity) * background.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from threedgen.cameras import Cameras, orbit
from threedgen.config.scene import CameraConfig
from threedgen.core.files import atomic_folder
from threedgen.core.processes import mapping
from threedgen.core.randomness import stable_seed
from threedgen.data.clips import clip_cameras
from threedgen.data.miniworld import Spec, build, draw_training_specs, of_kinds, parse, render, training_patterned_specs

_FRONT_DEG = 75.0  # photographs show fronts: most single images look from within this angle of the front
_FRONT_PROBABILITY = 0.8
ALONG_PATHS = "clips"  # the kind of recipe whose cameras move along paths
_VERSION = 5  # part of the cache's key: raise it when the pictures change


class Pictures(Protocol):
    """Those of each object: an array [N, V, ...], or what stands for one (see `tasks/training/latents.py`)."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Any: ...


@dataclass(frozen=True)
class CapturedViews:
    """images [N, V, H, W, 4] uint8 premultiplied RGBA; cameras: N * V; captions: N texts. Of several views the first
    are evenly spaced, as many as `camera.num_views`, the others, if there are any, at random azimuths; those of a clip
    are its frames. Single images are V = 1 and have no use for their cameras."""

    images: Pictures
    cameras: Cameras
    captions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def azimuth_deg(self) -> NDArray[np.floating]:
        """[N, V] in 0..360."""
        return np.degrees(self.cameras.azimuth.numpy()).reshape(len(self), -1) % 360


@dataclass(frozen=True)
class _Recipe:
    """All that decides the pictures: equal recipes share a cache folder."""

    kind: str  # names the folder and the random streams
    captions: tuple[str, ...]
    num_even: int  # views of an object that are 360 / num_even degrees apart
    num_random: int  # views at random azimuths, the same camera otherwise
    camera: CameraConfig
    size: int  # pixels, square
    seed: int
    pattern_scale: float = 1.0

    @property
    def folder_name(self) -> str:
        camera = self.camera
        ranges = (camera.fov_y_deg_range, camera.distance_range, camera.elevation_deg_range)
        views = (self.num_even, self.num_random)
        parts = [_VERSION, self.captions, views, ranges, self.size, self.seed]
        text = json.dumps(parts if self.pattern_scale == 1 else [*parts, self.pattern_scale])
        return f"{self.kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def multiview_captures(
    cache: Path,
    num_objects: int,
    camera: CameraConfig,
    size: int,
    seed: int,
    workers: int,
    kinds: Sequence[str] = (),
    patterned_share: float = 0.0,
    pattern_scale: float = 1.0,
    *,
    num_random: int = 0,
    cameras: str = "multiview",
) -> CapturedViews:
    """`num_objects` jittered objects of the training captions, each seen by `camera.num_views` evenly spaced cameras
    and by `num_random` others; or, with cameras=ALONG_PATHS, in a video of so many frames (`clips.clip_cameras`).

    kinds: of these only; none: of all. patterned_share: of the objects those with patterns, which are `pattern_scale`
    times as coarse. Raises ConfigError for an unknown kind.
    """
    patterned = round(patterned_share * num_objects)
    specs = draw_training_specs(Random(stable_seed(seed, 0, "objects")), num_objects - patterned, kinds)
    specs += _patterned_specs(patterned, stable_seed(seed, 0, "patterned objects"), kinds)
    captions = tuple(spec.caption for spec in specs)
    recipe = _Recipe(cameras, captions, camera.num_views, num_random, camera, size, seed, pattern_scale)
    return _cached(cache, recipe, workers)


def _patterned_specs(count: int, seed: int, kinds: Sequence[str]) -> list[Spec]:
    return Random(seed).choices(of_kinds(training_patterned_specs(), kinds), k=count)


def patterned_captures(
    cache: Path,
    num_images: int,
    camera: CameraConfig,
    size: int,
    seed: int,
    workers: int,
    kinds: Sequence[str] = (),
    pattern_scale: float = 1.0,
) -> CapturedViews:
    """Single images of objects with patterns; kinds as above, the patterns `pattern_scale` times as coarse."""
    chosen = _patterned_specs(num_images, stable_seed(seed, 0, "patterned"), kinds)
    captions = tuple(spec.caption for spec in chosen)
    return _cached(cache, _Recipe("patterned", captions, 1, 0, camera, size, seed, pattern_scale), workers)


def front_probabilities(azimuth_deg: NDArray[np.floating]) -> NDArray[np.floating]:
    """Chance of each of an object's views to be picked as its photograph. [..., K] -> [..., K], sums to 1."""
    front = np.abs((azimuth_deg + 180) % 360 - 180) < _FRONT_DEG
    share = front / np.maximum(front.sum(-1, keepdims=True), 1)
    return _FRONT_PROBABILITY * share + (1 - _FRONT_PROBABILITY * front.any(-1, keepdims=True)) / azimuth_deg.shape[-1]


def composite_on(images: NDArray[np.uint8], background: NDArray[np.floating]) -> NDArray[np.floating]:
    """Put premultiplied RGBA [..., H, W, 4] on colours [..., 3] -> rgb [..., H, W, 3] in 0..1."""
    scaled = images.astype(np.float32) / 255
    return scaled[..., :3] + (1 - scaled[..., 3:]) * background[..., None, None, :].astype(np.float32)


def _cached(cache: Path, recipe: _Recipe, workers: int) -> CapturedViews:
    folder = cache / recipe.folder_name
    if not folder.is_dir():
        with atomic_folder(folder) as temporary:
            _render_all(temporary, recipe, workers)
    return CapturedViews(np.load(folder / "images.npy", mmap_mode="r"), _draw_cameras(recipe), recipe.captions)


def _render_all(folder: Path, recipe: _Recipe, workers: int) -> None:
    cameras = _draw_cameras(recipe)
    count, views, size = len(recipe.captions), recipe.num_even + recipe.num_random, recipe.size
    shape = (count, views)
    matrices = cameras.camera_to_world.numpy().reshape(*shape, 4, 4)
    fov_y = cameras.fov_y.numpy().reshape(shape)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (*shape, size, size, 4))
    seeds = [stable_seed(recipe.seed, i, f"{recipe.kind} sizes") for i in range(count)]
    with mapping(workers, "try fewer train.render_workers") as map_objects:
        scales = [recipe.pattern_scale] * count
        arguments = (recipe.captions, seeds, matrices, fov_y, [size] * count, scales)
        jobs = map_objects(_render_object, *arguments, chunksize=16)
        for i, rgba in enumerate(jobs):
            images[i] = rgba
            if (i + 1) % 500 == 0:
                print(f"rendered {i + 1} of {count} {recipe.kind} objects", flush=True)
    images.flush()


def _draw_cameras(recipe: _Recipe) -> Cameras:
    """One camera a picture: an object has one elevation, field of view and distance."""
    rng = np.random.default_rng(stable_seed(recipe.seed, 0, f"{recipe.kind} cameras"))
    count, views = len(recipe.captions), recipe.num_even + recipe.num_random
    if recipe.kind == ALONG_PATHS:
        return clip_cameras(recipe.camera, count, views, recipe.size, rng)

    def uniform(bounds: tuple[float, float]) -> NDArray[np.floating]:
        return rng.uniform(*bounds, (count, 1)).repeat(views, -1)

    if views > 1:
        even = rng.uniform(0, 360, (count, 1)) + np.arange(recipe.num_even) * 360 / recipe.num_even
        azimuth = np.concatenate([even, rng.uniform(0, 360, (count, recipe.num_random))], -1)
    else:
        in_front = rng.random((count, 1)) < _FRONT_PROBABILITY
        azimuth = np.where(in_front, rng.uniform(-_FRONT_DEG, _FRONT_DEG, (count, 1)), rng.uniform(0, 360, (count, 1)))
    fov = uniform(recipe.camera.fov_y_deg_range)
    distance = uniform(recipe.camera.distance_range) / np.tan(np.radians(fov) / 2)
    elevation = uniform(recipe.camera.elevation_deg_range)
    return orbit(azimuth.ravel(), elevation.ravel(), distance.ravel(), fov.ravel(), recipe.size, num_views=views)


def _render_object(
    caption: str,
    seed: int,
    matrices: NDArray[np.floating],
    fov_y: NDArray[np.floating],
    size: int,
    pattern_scale: float,
) -> NDArray[np.uint8]:
    rendering = render(
        build(parse(caption), Random(seed), pattern_scale), matrices, fov_y, size, background=(0.0, 0.0, 0.0)
    )
    rgba = np.concatenate([rendering.rgb, rendering.opacity], -1)
    return (rgba * 255).round().astype(np.uint8)
