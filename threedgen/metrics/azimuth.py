"""From where does a picture show its object? Asked of pictures of miniworld's captions, whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from threedgen.cameras import Cameras, orbit
from threedgen.data.exact_views import exact_views
from threedgen.data.miniworld import Rendering, build, parse
from threedgen.imaging import to_numpy
from threedgen.metrics.image import GREY, border_color

STEP_DEG = 5
_NEAR_DEG = 30  # views nearer to each other than this may look alike
_ALIKE = 10**-2.6  # mean squared error over the object's pixels (26 dB): kinds lie below 0.001 or above 0.0038


@dataclass(frozen=True)
class AzimuthErrors:
    """For each picture the azimuth that it looks like minus the one asked for, degrees in -180..180; None where the
    caption's object does not tell its azimuth (`tells_azimuth`)."""

    signed_deg: tuple[float | None, ...]

    @property
    def counted(self) -> np.ndarray:
        return np.array([error for error in self.signed_deg if error is not None])

    @property
    def median_deg(self) -> float:
        """Median of the absolute errors; nan where nothing is counted."""
        return float(np.median(np.abs(self.counted))) if len(self.counted) else float("nan")

    @property
    def bias_deg(self) -> float:
        """Median of the signed errors; nan where nothing is counted."""
        return float(np.median(self.counted)) if len(self.counted) else float("nan")

    def share_within(self, degrees: float) -> float:
        """Share of the counted pictures whose error is smaller; nan where nothing is counted."""
        return float((np.abs(self.counted) < degrees).mean()) if len(self.counted) else float("nan")


def azimuth_errors(pictures: Any, captions: Sequence[str], cameras: Cameras) -> AzimuthErrors:
    """The azimuth at which the true object (standard sizes) looks most like each picture.

    Compared are whole pictures, the truth on the picture's own background, so outline and colours count. The
    squared error on a grid of 5 degrees is refined by the parabola through its least value and the neighbours.

    Args:
        pictures: [N, H, H, 3] in 0..1, array or tensor, on any even background.
        captions: N, of miniworld's grammar; ConfigError otherwise.
        cameras: N, what was asked for; azimuths are searched at their elevation, distance and field of view.
    """
    pictures = to_numpy(pictures)
    background = border_color(pictures)
    errors: list[float | None] = []
    for i, caption in enumerate(captions):
        if not tells_azimuth(caption):
            errors.append(None)
            continue
        place = [cameras.elevation[i].rad2deg(), cameras.distance[i], cameras.fov_y[i].rad2deg()]
        around = _around(caption, *(round(float(value), 3) for value in place), pictures.shape[1])
        difference = around.rgb + (1 - around.opacity) * (background[i] - np.array(GREY)) - pictures[i]
        found = STEP_DEG * _least((difference**2).mean((1, 2, 3)))
        asked = float(cameras.azimuth[i].rad2deg())
        errors.append((found - asked + 180) % 360 - 180)
    return AzimuthErrors(tuple(errors))


@lru_cache(maxsize=512)
def tells_azimuth(caption: str) -> bool:
    """Whether no two true views 30 degrees or more apart look alike: whether their mean squared error, over the pixels
    that one of them covers, is larger than 0.0025 (26 dB) for all pairs, at elevation 15."""
    views = _around(caption, 15.0, 2.5, 40.0, 48)
    shifts = range(_NEAR_DEG // STEP_DEG, 180 // STEP_DEG + 1)
    return all(_unlike(views, shift) > _ALIKE for shift in shifts)


def _unlike(views: Rendering, shift: int) -> float:
    """The least error between two views `shift` steps apart."""
    error = ((views.rgb - np.roll(views.rgb, shift, 0)) ** 2).mean(-1)
    covered = np.maximum(views.opacity, np.roll(views.opacity, shift, 0))[..., 0]
    return float((error.sum((1, 2)) / covered.sum((1, 2))).min())


@lru_cache(maxsize=8)
def _around(caption: str, elevation_deg: float, distance: float, fov_y_deg: float, size: int) -> Rendering:
    cameras = orbit(np.arange(0, 360, STEP_DEG), elevation_deg, distance, fov_y_deg, size)
    truth = exact_views(build(parse(caption)), cameras)
    return replace(truth, depth=truth.depth[:0], feature=truth.feature[:0])


def _least(errors: np.ndarray) -> float:
    """The index, between those of a closed ring, at which the errors are least."""
    i = int(errors.argmin())
    before, here, after = errors[i - 1], errors[i], errors[(i + 1) % len(errors)]
    bend = before - 2 * here + after
    return i + (0.5 * (before - after) / bend if bend > 0 else 0.0)
