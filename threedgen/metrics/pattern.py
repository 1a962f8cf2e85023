"""Which pattern does a picture of a patterned object show? Asked of miniworld's captions, whose geometry is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from threedgen.cameras import Cameras, rays_of
from threedgen.core.errors import ConfigError
from threedgen.data.miniworld import Spec, build, parse, render
from threedgen.data.miniworld.textures import PATTERNS, scaled
from threedgen.imaging import to_numpy

NONE = "none"
_PERIODS = {"stripes": (0, 0, 0.26), "dots": (0.3, 0.3, 0.3), "checks": (0.44, 0.44, 0.44)}  # world units, x y z
_PHASES = {"stripes": 12, "dots": 4, "checks": 4}  # tried along each axis on which there is a period
_LEAST_CONTRAST = 0.25  # of the two colours, between inside and outside of the pattern: less is no pattern
_LEAST_CORRELATION = 0.25
_FEWEST_PIXELS = 30


@dataclass(frozen=True)
class PatternVerdicts:
    """For each picture the pattern of its caption, and what is seen: a pattern or "none"."""

    named: tuple[str, ...]
    seen: tuple[str, ...]

    @property
    def rate(self) -> float:
        """Share of pictures that show what their caption names; nan where there is none."""
        right = [name == seen for name, seen in zip(self.named, self.seen, strict=True)]
        return float(np.mean(right)) if right else float("nan")

    def confusion(self) -> dict[str, dict[str, int]]:
        """Counts: named pattern -> seen pattern -> pictures."""
        pairs = list(zip(self.named, self.seen, strict=True))
        return {name: {seen: pairs.count((name, seen)) for seen in (*PATTERNS, NONE)} for name in PATTERNS}


def named_patterns(pictures: Any, captions: Sequence[str], cameras: Cameras, scale: float = 1.0) -> PatternVerdicts:
    """What each picture shows, told from the share of the second colour at the true surface's points.

    The true geometry gives each pixel of the body its world point, and what it would show in either of the caption's
    colours; the pixel lies somewhere between. Each pattern is laid over these points at all phases: that which
    correlates best is seen, if the colours inside and outside of it differ by a quarter of what they should.

    Args:
        pictures: [N, H, H, 3] in 0..1, array or tensor, on any background.
        captions: N, each with a pattern; ConfigError otherwise.
        cameras: N, from where each is seen.
        scale: of the patterns, as in `miniworld.build`.
    """
    specs = [parse(caption) for caption in captions]
    for spec in specs:
        if spec.form != "pattern":
            raise ConfigError(f"{spec.caption!r} names no pattern; one is 'a red cat with white stripes'")
    pictures = to_numpy(pictures).astype(np.float64)
    seen = [_seen(pictures[i], spec, cameras[i : i + 1], scale) for i, spec in enumerate(specs)]
    return PatternVerdicts(tuple(str(spec.feature) for spec in specs), tuple(seen))


def _seen(picture: np.ndarray, spec: Spec, camera: Cameras, scale: float) -> str:
    share, points = _second_share(picture, spec, camera)
    if len(share) < _FEWEST_PIXELS or share.std() == 0:
        return NONE
    fits = {pattern: _fit(share, points, pattern, scale) for pattern in PATTERNS}
    best = max(fits, key=lambda pattern: fits[pattern][0])
    correlation, contrast = fits[best]
    return best if correlation > _LEAST_CORRELATION and contrast > _LEAST_CONTRAST else NONE


def _second_share(picture: np.ndarray, spec: Spec, camera: Cameras) -> tuple[np.ndarray, np.ndarray]:
    """Of the body's K pixels: the second colour's share, 0..1 [K], and the world points [K, 3]."""
    size, pose, fov = len(picture), camera.camera_to_world.numpy(), camera.fov_y.numpy()
    colours = (spec.color, str(spec.feature_color))
    first, second = (render(build(Spec(spec.kind, color)), pose, fov, size) for color in colours)
    between = (second.rgb - first.rgb)[0].astype(np.float64)
    length = (between**2).sum(-1)
    body = (length > 0.02) & (first.opacity[0, ..., 0] > 0.99)
    share = ((picture - first.rgb[0]) * between).sum(-1)[body] / length[body]
    rays = rays_of(camera)
    points = rays.origins.numpy() + rays.directions.numpy() * first.depth[0].reshape(-1, 1)
    return share.clip(0, 1), points[body.ravel()]


def _fit(share: np.ndarray, points: np.ndarray, pattern: str, scale: float) -> tuple[float, float]:
    """The largest correlation with the pattern at any phase, and the difference of the mean shares in and out of it."""
    period = scale * np.array(_PERIODS[pattern])
    covers = scaled(PATTERNS[pattern], scale)
    steps = [np.arange(_PHASES[pattern]) / _PHASES[pattern] if p else [0.0] for p in period]
    centred = share - share.mean()
    best = (-1.0, 0.0)
    for phase in product(*steps):
        inside = covers(points + np.array(phase) * period).astype(np.float64)
        inside -= inside.mean()
        spread = (inside**2).sum()
        if spread > 0:
            covariance = float(inside @ centred)
            best = max(best, (covariance / float(np.sqrt(spread * (centred**2).sum())), covariance / float(spread)))
    return best
