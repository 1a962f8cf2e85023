"""Exact pictures of miniworld's objects from `Cameras`, which the rest of the project sees through."""

from __future__ import annotations

from typing import Any

from threedgen.cameras import Cameras
from threedgen.data.miniworld import MiniObject, Rendering, render


def exact_views(obj: MiniObject, cameras: Cameras, **settings: Any) -> Rendering:
    """Square pictures, one for each camera. settings: `background` and `supersample` of `miniworld.render`."""
    return render(obj, cameras.camera_to_world.numpy(), cameras.fov_y.numpy(), cameras.height, **settings)
