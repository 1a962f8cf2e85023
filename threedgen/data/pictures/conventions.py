"""What a camera's matrix may mean, and which meaning is likely."""

from __future__ import annotations

import numpy as np

from threedgen.config.scene import DataConvention
from threedgen.core.errors import ConfigError
from threedgen.data.posed_images import nearest_to_axes
from threedgen.mesh.types import Array

_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # between OpenCV's camera axes (y down, z forward) and OpenGL's (y up, z back)
_TOWARDS, _AWAY = 0.9, 0.5  # mean cosines: cameras around an object, and cameras that are not
_MEANING = {
    DataConvention.opengl: "camera-to-world in OpenGL's axes (y up, z back)",
    DataConvention.opencv: "camera-to-world in OpenCV's axes (y down, z forward)",
    DataConvention.opengl_world_to_camera: "world-to-camera in OpenGL's axes (y up, z back)",
    DataConvention.opencv_world_to_camera: "world-to-camera in OpenCV's axes (y down, z forward)",
}


def to_opengl(matrices: Array, convention: DataConvention) -> Array:
    """Matrices [N, 4, 4] of a convention as camera-to-world in OpenGL's axes."""
    if convention in (DataConvention.opengl_world_to_camera, DataConvention.opencv_world_to_camera):
        matrices = np.linalg.inv(matrices)
    if convention in (DataConvention.opencv, DataConvention.opencv_world_to_camera):
        matrices = matrices @ _FLIP
    return matrices


def check_convention(matrices: Array, convention: DataConvention, where: str) -> None:
    """Raises ConfigError, naming the convention, if the cameras look at one point in another one and not in this."""
    if inwardness(to_opengl(matrices, convention)) > _AWAY:
        return
    likely = max(DataConvention, key=lambda other: inwardness(to_opengl(matrices, other)))
    if inwardness(to_opengl(matrices, likely)) > _TOWARDS:
        raise ConfigError(
            f"{where}: read as {_MEANING[convention]}, the cameras do not look at one object; as {_MEANING[likely]} "
            f"they do: add data_convention={likely.value}"
        )


def inwardness(poses: Array) -> float:
    """The mean cosine between where cameras [N, 4, 4] look and the point nearest to their axes, -1 to 1.

    0 where they have no such point, or stand in it as matrices do whose inverse is meant.
    """
    center = nearest_to_axes(poses)
    if center is None:
        return 0.0
    towards = center - poses[:, :3, 3]
    distance = np.linalg.norm(towards, axis=1)
    if np.median(distance) < 1e-3 * np.linalg.norm(poses[:, :3, 3], axis=1).max():
        return 0.0
    return float((-(poses[:, :3, 2] * towards).sum(1) / distance.clip(1e-12)).mean())
