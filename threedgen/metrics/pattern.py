"""Which pattern does a picture of a patterned object show? Asked of miniworld's captions, whose geometry is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np

from threedgen.cameras import Cameras, orbit, rays_of
from threedgen.core.errors import ConfigError
from threedgen.data.exact_views import exact_views
from threedgen.data.miniworld import Spec, build, parse
from threedgen.data.miniworld.textures import PATTERNS, scaled
from threedgen.imaging import to_numpy
from threedgen.metrics.image import border_color, drawn_silhouette

NONE = "none"
_PERIODS = {  # world units, x y z
    "stripes": (0, 0, 0.39),
    "dots": (0.45, 0.45, 0.45),
    "checks": (0.66, 0.66, 0.66),
    "zigzags": (0.62, 0, 0.5),  # along x + y
    "tiles": (0.66, 0, 0.72),
    "patches": (0.9, 0.9, 0.9),
}
# tried along each axis on which there is a period
_PHASES = {"stripes": 12, "dots": 4, "checks": 4, "zigzags": 6, "tiles": 8, "patches": 4}
_LEAST_CONTRAST = 0.25  # of the two colours, between inside and outside of the pattern: less is no pattern
_LEAST_CORRELATION = 0.3
_FEWEST_PIXELS = 30
_PLACES = 3  # tried, of those around the object
_DISTANCE, _FOV_Y_DEG = 2.47, 40.0  # the middle of miniworld's training cameras


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


def named_patterns(
    pictures: Any, captions: Sequence[str], cameras: Cameras | None, scale: float = 1.0
) -> PatternVerdicts:
    """What each picture shows, told from the share of the second colour at the true surface's points.

    The true geometry gives each pixel of the body its world point, and what it would show in either of the caption's
    colours; the pixel lies somewhere between. Each pattern is laid over these points at all phases: that which
    correlates best is seen, if the colours inside and outside of it differ by a quarter of what they should.

    Args:
        pictures: [N, H, H, 3] in 0..1, array or tensor, on any background.
        captions: N, each with a pattern; ConfigError otherwise.
        cameras: N, from where each is seen; None: each from where the pattern fits best of those three of 72 places
            around the object whose outlines are most alike. So pictures are judged that were drawn without a camera.
        scale: of the patterns, as in `miniworld.build`.
    """
    specs = [parse(caption) for caption in captions]
    for spec in specs:
        if spec.form != "pattern":
            raise ConfigError(f"{spec.caption!r} names no pattern; one is 'a red cat with white stripes'")
    pictures = to_numpy(pictures).astype(np.float64)
    seen = []
    for i, (picture, spec) in enumerate(zip(pictures, specs, strict=True)):
        if cameras is not None:
            known, places = _look(spec, cameras[i : i + 1]), [0]
        else:
            known = _look_around(spec, len(picture))
            places = _places_of(picture, known)
        seen.append(_seen(picture, known, places, scale))
    return PatternVerdicts(tuple(str(spec.feature) for spec in specs), tuple(seen))


@dataclass(frozen=True)
class _Looks:
    """An object from K places, wholly in its first colour: rgb [K, H, H, 3], the way to the second one, opacity
    [K, H, H] and world points [K, H, H, 3]."""

    first: np.ndarray
    between: np.ndarray
    opacity: np.ndarray
    points: np.ndarray


def _look(spec: Spec, cameras: Cameras) -> _Looks:
    colours = (spec.color, str(spec.feature_color))
    first, second = (exact_views(build(Spec(spec.kind, color)), cameras) for color in colours)
    rays = rays_of(cameras)
    depth = first.depth.reshape(-1, 1)
    points = (rays.origins.numpy() + rays.directions.numpy() * depth).reshape(*first.rgb.shape)
    return _Looks(first.rgb, (second.rgb - first.rgb).astype(np.float64), first.opacity[..., 0], points)


@lru_cache(maxsize=64)
def _look_around(spec: Spec, size: int) -> _Looks:
    azimuth, elevation = (grid.ravel() for grid in np.meshgrid(np.arange(0, 360, 15), (0, 15, 30)))
    return _look(spec, orbit(azimuth, elevation, _DISTANCE, _FOV_Y_DEG, size))


def _places_of(picture: np.ndarray, looks: _Looks) -> list[int]:
    """The indices of the places from which the object's outlines are most like the picture's."""
    drawn = drawn_silhouette(picture[None], border_color(picture[None]))[0, ..., 0] > 0
    outlines = looks.opacity > 0.5
    common = (outlines & drawn).sum((1, 2)) / (outlines | drawn).sum((1, 2))
    return np.argsort(-common, kind="stable")[:_PLACES].tolist()


def _seen(picture: np.ndarray, looks: _Looks, places: Sequence[int], scale: float) -> str:
    fits = []
    for place in places:
        share, points = _second_share(picture, looks, place)
        if len(share) >= _FEWEST_PIXELS and share.std() > 0:
            fits += [(*_fit(share, points, pattern, scale), pattern) for pattern in PATTERNS]
    correlation, contrast, best = max(fits, default=(0.0, 0.0, NONE))
    return best if correlation > _LEAST_CORRELATION and contrast > _LEAST_CONTRAST else NONE


def _second_share(picture: np.ndarray, looks: _Looks, place: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the body's K pixels: the second colour's share, 0..1 [K], and the world points [K, 3]."""
    between = looks.between[place]
    length = (between**2).sum(-1)
    body = (length > 0.02) & (looks.opacity[place] > 0.99)
    share = ((picture - looks.first[place]) * between).sum(-1)[body] / length[body]
    return share.clip(0, 1), looks.points[place][body]


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
