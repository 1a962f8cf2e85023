"""Cameras of object-centric videos: how a camera moves around, past and towards an object that stays where it is.

A network that had only seen orbits in its videos would have been given away the turning that it is to learn from
cameras afterwards; so there are slides and zooms among them, and orbits of any length and direction.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from threedgen.cameras import Cameras, orbit
from threedgen.config.scene import CameraConfig

_ORBITS, _SLIDES = 0.5, 0.25  # shares of the clips; the others are zooms
_TURN_DEG = (60.0, 360.0)  # of a whole orbit, either way
_RISE_DEG = 20.0  # at most, of the elevation meanwhile
_WAY = 0.5  # at most, of a slide to either side: fractions of half the view's height
_ZOOM = (0.65, 1.6)  # the distance that a zoom begins or ends with, times the usual one


def clip_cameras(config: CameraConfig, count: int, frames: int, size: int, rng: np.random.Generator) -> Cameras:
    """The cameras of `count` clips, `frames` of each side by side, [size, size] pixels; field of view, distance and
    elevation begin within the config's ranges.

    In a slide a camera moves within its own picture's plane and looks in the same direction; its angles and distance
    are those of the place that it looked from at the middle of the way.
    """

    def uniform(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, (count, 1))

    progress = np.linspace(0, 1, frames)[None]  # [1, F]
    kind, sign = rng.random((count, 1)), rng.choice([-1.0, 1.0], (count, 1))
    is_orbit, is_slide = kind < _ORBITS, (kind >= _ORBITS) & (kind < _ORBITS + _SLIDES)
    is_zoom = ~is_orbit & ~is_slide
    fov_y = uniform(*config.fov_y_deg_range)
    reach = uniform(*config.distance_range)  # half the view's height at the origin
    azimuth = uniform(0, 360) + is_orbit * sign * uniform(*_TURN_DEG) * progress
    lowest, highest = config.elevation_deg_range
    elevation = uniform(lowest, highest) + is_orbit * uniform(-_RISE_DEG, _RISE_DEG) * (progress - 0.5)
    zoom = 1 + is_zoom * (uniform(*_ZOOM) - 1) * progress
    distance = reach * zoom / np.tan(np.radians(fov_y) / 2)
    azimuths, elevations, distances, fovs = (
        np.repeat(x, frames // x.shape[1], 1).ravel() for x in (azimuth, elevation.clip(-89, 89), distance, fov_y)
    )
    still = orbit(azimuths, elevations, distances, fovs, size, num_views=frames)
    direction = uniform(0, 2 * np.pi)
    way = is_slide * reach * _WAY * (2 * progress - 1)  # [N, F] world units
    offset = torch.from_numpy(np.stack([np.cos(direction) * way, np.sin(direction) * way], -1)).float().flatten(0, 1)
    pose = still.camera_to_world.clone()
    pose[:, :3, 3] += torch.einsum("bik,bk->bi", pose[:, :3, :2], offset)
    return replace(still, camera_to_world=pose)
