"""Sets of orthogonal views out of what `launch.py render-meshes` wrote: folders with cameras.json, or shards."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from threedgen.cameras import Cameras
from threedgen.core.arguments import program
from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.data.captions import as_caption
from threedgen.data.meshes.views import Layout
from threedgen.data.posed_images import CAMERAS, cameras_at
from threedgen.data.shards import Shards
from threedgen.data.training_samples import ReplacingSource, ViewSet, decode_picture

_TOLERANCE = math.radians(0.5)


class Files(Protocol):
    """The files of one object: `json`, which describes it, and its pictures."""

    @property
    def name(self) -> str: ...

    def read(self, file: str) -> bytes: ...


@dataclass(frozen=True)
class _Folder:
    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def read(self, file: str) -> bytes:
        try:
            return (self.path / (CAMERAS if file == "json" else file)).read_bytes()
        except OSError as error:
            raise ThreedgenError(f"{self.path / file} cannot be read: {error.strerror}") from error


class RenderedViews(ReplacingSource[ViewSet]):
    """From the rings of one object: one ring, and from a random one of its views on `num_views` even ones.

    objects: folders that hold a cameras.json, or `Shards`. Of the description ("json") are used: `caption`,
    `settings.layout` ("orbit"), `settings.views` (in a ring) and of each of `views`, ring after ring, `file`,
    `camera_to_world` and `fov_y_deg`.
    """

    def __init__(self, objects: Sequence[Path] | Shards, num_views: int, image_size: int):
        super().__init__()
        self._objects, self._num_views, self._image_size = objects, num_views, image_size

    def __len__(self) -> int:
        return len(self._objects)

    def read(self, index: int, rng: np.random.Generator) -> ViewSet:
        """Raises ThreedgenError for an object without caption, without rings or with damaged files."""
        files = self._files(index)
        caption, rings = self._described(files)
        ring = rings[rng.integers(len(rings))]
        stride = len(ring) // self._num_views
        start = rng.integers(len(ring))
        views = [ring[(start + k * stride) % len(ring)] for k in range(self._num_views)]
        names = _names(files.name, views)
        images = [decode_picture(files.read(name), self._image_size, f"{files.name}, {name}") for name in names]
        return ViewSet(np.stack(images), _cameras(files.name, views, self._image_size), caption)

    def caption(self, index: int) -> str:
        return self._described(self._files(index))[0]

    def _files(self, index: int) -> Files:
        item = self._objects[index]
        return _Folder(item) if isinstance(item, Path) else item

    def _described(self, files: Files) -> tuple[str, list[list[dict[str, Any]]]]:
        """The object's caption, and its rings: views side by side, of one elevation."""
        try:
            content = json.loads(files.read("json"))
            caption, views = as_caption(content["caption"]).strip(), list(content["views"])
            layout, in_ring = content["settings"]["layout"], int(content["settings"]["views"])
        except (ValueError, KeyError, TypeError) as error:
            raise ThreedgenError(f"{files.name}: is not described as render-meshes does it ({error})") from error
        if layout != Layout.orbit.name or in_ring < 1 or not views or len(views) % in_ring:
            raise ThreedgenError(f"{files.name}: holds no rings of views; render it with --cameras orbit")
        if in_ring % self._num_views:
            raise ThreedgenError(
                f"{files.name}: {in_ring} views in a ring are not {self._num_views} times a whole number "
                f"(camera.num_views={self._num_views})"
            )
        if not caption:
            raise ThreedgenError(f"{files.name}: has no caption; add it to captions.jsonl and call render-meshes again")
        return caption, [views[i : i + in_ring] for i in range(0, len(views), in_ring)]


def _names(name: str, views: Sequence[dict[str, Any]]) -> list[str]:
    """Of the views' pictures."""
    try:
        return [str(view["file"]) for view in views]
    except (KeyError, TypeError) as error:
        raise ThreedgenError(f"{name}: a view has no file") from error


def _cameras(name: str, views: Sequence[dict[str, Any]], size: int) -> Cameras:
    """V of one object. Raises ThreedgenError where they are not even ones at one elevation, one after the other."""
    try:
        poses = torch.tensor([view["camera_to_world"] for view in views], dtype=torch.float64).reshape(-1, 4, 4)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ThreedgenError(f"{name}: a view has no camera_to_world of 4 x 4 numbers") from error
    try:
        fov_y = torch.tensor([math.radians(view["fov_y_deg"]) for view in views], dtype=torch.float64)
    except (KeyError, TypeError) as error:
        raise ThreedgenError(f"{name}: a view has no fov_y_deg") from error
    # single precision, as all cameras have: networks that look along rays meet them with features of that
    cameras = replace(cameras_at(poses.float(), fov_y.float(), size, size), num_views=len(views))
    step = 2 * math.pi / len(views)
    turns = torch.remainder(cameras.azimuth.roll(-1) - cameras.azimuth - step + math.pi, 2 * math.pi) - math.pi
    if max(turns.abs().max(), (cameras.elevation - cameras.elevation[0]).abs().max()) > _TOLERANCE:
        raise ThreedgenError(f"{name}: the views of a ring are not evenly around the object at one elevation")
    return cameras


def rendered_objects(folder: Path) -> list[Path]:
    """The folders at or below `folder` that hold a cameras.json, in order of their names."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder")
    objects = sorted(path.parent for path in folder.rglob(CAMERAS) if not path.parent.name.startswith("."))
    if not objects:
        raise ConfigError(f"{folder}: holds no views; {program()} render-meshes SRC {folder} makes them")
    return objects
