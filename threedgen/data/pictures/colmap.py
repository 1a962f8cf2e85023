"""COLMAP's models as the words of a transforms.json."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from threedgen.core.errors import ConfigError
from threedgen.mesh.types import Array

_PLACES = (".", "sparse", "sparse/*", "colmap/sparse/*", "distorted/sparse/*")  # of a model in a folder
_PICTURES = ("images", "input", ".")  # of the pictures beside it
_OWN_NAMES = {"fx": "fl_x", "fy": "fl_y", "k": "k1"}  # where a transforms.json has another


def find_model(folder: Path) -> Path | None:
    """The folder of COLMAP's model in `folder`, text or binary; of several, the one with the most to say."""
    found = [(size, place) for place in _places(folder) if (size := _size(place))]
    return max(found)[1] if found else None


def _places(folder: Path) -> Iterator[Path]:
    for pattern in _PLACES:
        yield from [folder] if pattern == "." else sorted(folder.glob(pattern))


def _size(place: Path) -> int:
    """Bytes of the list of pictures; 0: no model."""
    for ending in (".bin", ".txt"):
        if (place / f"cameras{ending}").is_file() and (place / f"images{ending}").is_file():
            return (place / f"images{ending}").stat().st_size
    return 0


def read_model(model: Path) -> tuple[dict[str, Any], Path, Array]:
    """The content of a transforms.json, the folder of its pictures, and the rotation [4, 4] from COLMAP's world to its.

    COLMAP's world has no upwards: the mean of the cameras' is turned to +z.

    Raises:
        ConfigError: pycolmap is not there, or the model is damaged, empty or without its pictures.
    """
    try:
        import pycolmap
    except ImportError as error:
        raise ConfigError(f"{model}: COLMAP's model needs pycolmap (pip install pycolmap)") from error
    try:
        reconstruction = pycolmap.Reconstruction(str(model))
    except (RuntimeError, ValueError, OSError, IndexError, MemoryError) as error:
        raise ConfigError(f"{model}: is no model of COLMAP's, or a damaged one ({type(error).__name__})") from error
    images = sorted((image for image in reconstruction.images.values() if image.has_pose), key=lambda image: image.name)
    if not images:
        raise ConfigError(f"{model}: COLMAP placed no picture in it")
    poses = np.tile(np.eye(4), (len(images), 1, 1))
    poses[:, :3] = [image.cam_from_world().inverse().matrix() for image in images]
    poses[:, :, 1:3] *= -1.0  # OpenCV's axes to OpenGL's
    world = np.eye(4)
    world[:3, :3] = Rotation.align_vectors([[0.0, 0.0, 1.0]], [poses[:, :3, 1].mean(0)])[0].as_matrix()
    frames = [
        {"file_path": image.name, "transform_matrix": pose, **_words(reconstruction.cameras[image.camera_id])}
        for image, pose in zip(images, world @ poses, strict=True)
    ]
    return {"frames": frames}, _pictures_of(model, [image.name for image in images]), world


def _words(camera: Any) -> dict[str, Any]:
    names = str(camera.params_info).split(", ")
    values = map(float, camera.params)
    words: dict[str, Any] = {_OWN_NAMES.get(name, name): value for name, value in zip(names, values, strict=True)}
    if "f" in words:
        words["fl_x"] = words["fl_y"] = words.pop("f")
    return words | {"camera_model": camera.model_name, "w": camera.width, "h": camera.height}


def _pictures_of(model: Path, names: list[str]) -> Path:
    folders = [(base / name).resolve() for base in (model, *model.resolve().parents[:3]) for name in _PICTURES]
    best = max(folders, key=lambda folder: sum((folder / name).is_file() for name in names))
    if not any((best / name).is_file() for name in names):
        raise ConfigError(f"{model}: its pictures ({names[0]}, ...) are not beside it; put them into images/")
    return best
