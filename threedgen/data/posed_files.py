"""Posed pictures from the layouts that people have.

cameras.json       views rendered from a mesh (`meshes/views.py`), or sampled from a prior (task sample_views)
transforms.json    the layout of NeRF's synthetic scenes, of instant-ngp and of nerfstudio
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from threedgen.core.errors import ConfigError
from threedgen.data.meshes.views import CAMERAS
from threedgen.data.posed_images import PosedImages, cameras_at
from threedgen.mesh.types import Array

_TRANSFORMS = ("transforms.json", "transforms_train.json")
_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
_TOLERANCE = 0.01  # relative: pixels that are not square, a principal point beside the centre, another aspect
_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")  # tried where a transforms.json names none


def read_posed_images(path: str | Path, max_size: int = 0) -> PosedImages:
    """The pictures in a folder (or of one cameras.json or transforms.json).

    A folder with nothing but one folder of pictures stands for that one. `max_size`: larger pictures are made smaller
    until no edge is longer, in pixels; 0: they stay.

    Raises:
        ConfigError: nothing to read, a file that is missing or damaged, or cameras that a pinhole in the picture's
            middle with square pixels cannot stand for. One line that names the file.
    """
    path = _described_by(Path(path))
    try:
        content = json.loads(path.read_text("utf-8"))
        entries = _of_cameras(content, path) if path.name == CAMERAS else _of_transforms(content, path)
        half_edge = float(content["half_edge"]) if "half_edge" in content else None
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise ConfigError(f"{path}: cannot be read: {what}") from error
    if not entries:
        raise ConfigError(f"{path}: lists no pictures")
    images = _read_images([entry.file for entry in entries], max_size)
    height, width = images.shape[1:3]
    fov_y = [entry.vertical_fov(width / height) for entry in entries]
    poses = torch.tensor(np.stack([entry.pose for entry in entries]), dtype=torch.float32)
    cameras = cameras_at(poses, torch.tensor(fov_y, dtype=torch.float32), height, width)
    return PosedImages(images, cameras, tuple(entry.file.name for entry in entries), half_edge)


class _Entry(NamedTuple):
    """One picture as a file describes it. One of the fields of view is known, radians."""

    file: Path
    pose: Array  # [4, 4]
    fov_y: float | None = None
    fov_x: float | None = None
    aspect: float | None = None  # width / height, where the file says it

    def vertical_fov(self, aspect: float) -> float:
        """Radians, for a picture of this width / height."""
        if self.aspect is not None and abs(aspect / self.aspect - 1.0) > _TOLERANCE:
            raise ConfigError(f"{self.file}: width / height is {aspect:.3f}, its camera's {self.aspect:.3f}")
        if self.fov_y is not None:
            return self.fov_y
        assert self.fov_x is not None
        return 2.0 * math.atan(math.tan(self.fov_x / 2.0) / aspect)


def _described_by(path: Path) -> Path:
    """The JSON file that describes the pictures at `path`."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise ConfigError(f"data={path}: no such folder")
    names = (CAMERAS, *_TRANSFORMS)
    found = [path / name for name in names if (path / name).is_file()]
    if found:
        return found[0]
    below = [folder / name for folder in sorted(path.iterdir()) for name in names if (folder / name).is_file()]
    if len(below) == 1:
        return below[0]
    hint = f"; did you mean {below[0].parent}?" if below else ""
    raise ConfigError(f"data={path}: holds no {', '.join(names[:-1])} or {names[-1]}{hint}")


def _of_cameras(content: Mapping[str, Any], path: Path) -> list[_Entry]:
    folder = path.parent
    if "views" in content:
        return [
            _Entry(folder / v["file"], _pose(v["camera_to_world"]), math.radians(v["fov_y_deg"]))
            for v in content["views"]
        ]
    # of task sample_views: positions of unit length, one distance and field of view for all
    fov_y, distance = math.radians(content["assumed_fov_y_deg"]), float(content["assumed_distance"])
    entries = []
    for i, matrix in enumerate(content["camera_matrices"]):
        pose = _pose(matrix)
        pose[:3, 3] *= distance
        entries.append(_Entry(folder / f"view-{i}.png", pose, fov_y))
    return entries


def _of_transforms(content: Mapping[str, Any], path: Path) -> list[_Entry]:
    return [_frame({**content, **frame}, path) for frame in content["frames"]]


def _frame(frame: Mapping[str, Any], path: Path) -> _Entry:
    """One frame of a transforms.json, the file's own settings included."""
    file = path.parent / str(frame["file_path"])
    if not file.is_file():  # NeRF's synthetic scenes leave the extension out
        candidates = [Path(f"{file}{extension}") for extension in _EXTENSIONS]
        file = next((candidate for candidate in candidates if candidate.is_file()), file)

    def refuse(problem: str) -> ConfigError:
        return ConfigError(f"{path}: {frame['file_path']}: {problem}")

    bent = [name for name in _DISTORTION if abs(float(frame.get(name, 0.0))) > 1e-6]
    if bent:
        raise refuse(f"the lens distorts ({', '.join(bent)}); undistort the pictures first")
    model = str(frame.get("camera_model", "OPENCV"))
    if model not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE"):
        raise refuse(f"camera_model {model} is not supported; undistort the pictures to a pinhole camera")
    width, height = (float(frame[name]) if name in frame else None for name in ("w", "h"))
    focal_x, focal_y = (float(frame[name]) if name in frame else None for name in ("fl_x", "fl_y"))
    if focal_x and focal_y and abs(focal_x / focal_y - 1.0) > _TOLERANCE:
        raise refuse(f"pixels are not square (fl_x {focal_x:g}, fl_y {focal_y:g}); stretch the pictures first")
    for name, size in (("cx", width), ("cy", height)):
        if name in frame and size and abs(float(frame[name]) / size - 0.5) > _TOLERANCE:
            raise refuse(f"{name} {frame[name]:g} is not the middle of {size:g} pixels; crop the pictures first")
    pose, aspect = _pose(frame["transform_matrix"]), width / height if width and height else None
    if focal_x and width:
        return _Entry(file, pose, fov_x=2.0 * math.atan(0.5 * width / focal_x), aspect=aspect)
    if focal_y and height:
        return _Entry(file, pose, fov_y=2.0 * math.atan(0.5 * height / focal_y), aspect=aspect)
    if "camera_angle_x" in frame:
        return _Entry(file, pose, fov_x=float(frame["camera_angle_x"]), aspect=aspect)
    raise refuse("has neither camera_angle_x nor fl_x and w")


def _pose(matrix: Any) -> Array:
    """[4, 4] float64 from rows of numbers; the last row may be left out."""
    pose = np.eye(4)
    rows = np.asarray(matrix, np.float64)
    if rows.shape not in ((3, 4), (4, 4)):
        raise ValueError(f"a camera's matrix has the shape {list(rows.shape)} instead of [4, 4]")
    pose[: len(rows)] = rows
    rotation = pose[:3, :3]
    is_rotation = np.abs(rotation.T @ rotation - np.eye(3)).max() < 1e-3 and np.linalg.det(rotation) > 0
    if not np.isfinite(pose).all() or not is_rotation:
        raise ValueError("a camera's matrix is not a rotation and a position")
    return pose


def _read_images(files: Sequence[Path], max_size: int) -> Tensor:
    pictures = [_read_image(file, max_size) for file in files]
    for file, picture in zip(files, pictures, strict=True):
        if picture.shape[:2] != pictures[0].shape[:2]:
            sizes = [f"{p.shape[1]} x {p.shape[0]}" for p in (picture, pictures[0])]
            raise ConfigError(f"{file}: is {sizes[0]} pixels, {files[0].name} {sizes[1]}: all must have one size")
        if picture.shape[2] != pictures[0].shape[2]:
            have = [
                f"{f.name} {'has' if p.shape[2] == 4 else 'has no'} alpha"
                for f, p in ((file, picture), (files[0], pictures[0]))
            ]
            raise ConfigError(f"{file.parent}: {', '.join(have)}: all or none must have it")
    images = torch.from_numpy(np.stack(pictures))
    if images.shape[-1] == 4 and (images[..., 3] == 255).all():
        return images[..., :3].contiguous()  # alpha that says nothing
    return images


def _read_image(file: Path, max_size: int) -> Array:
    """[H, W, 3 or 4] uint8."""
    try:
        with Image.open(file) as opened:
            has_alpha = "A" in opened.getbands() or "transparency" in opened.info
            picture = opened.convert("RGBA" if has_alpha else "RGB")
    except FileNotFoundError as error:
        raise ConfigError(f"{file}: is not there, although the cameras' file lists it") from error
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise ConfigError(f"{file}: is no picture, or a damaged one ({type(error).__name__})") from error
    factor = max_size / max(picture.size)
    if 0 < factor < 1:
        size = (max(round(picture.width * factor), 1), max(round(picture.height * factor), 1))
        picture = picture.resize(size, Image.Resampling.BOX)  # weighted by alpha: what transparent pixels hide stays so
    return np.asarray(picture)
