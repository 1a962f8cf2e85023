"""The Janus problem, counted: is the face that belongs on the front also seen from the back?

It can be counted where the face has a colour of its own and the truth is known, as with miniworld's captions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from threedgen.imaging import to_numpy
from threedgen.metrics.image import GREY, Color, without_background

_SHADING = (0.5, 1.15)  # how much darker or brighter than its palette entry a surface may look
_DARK: Color = (0.05, 0.05, 0.05)  # eyes


@dataclass(frozen=True)
class JanusScore:
    """Fractions of the foreground that has the face's colour, and the verdict."""

    front: float
    back: float
    truth_front: float
    truth_back: float
    is_janus: bool


def colour_fraction(
    rgb: Any,
    opacity: Any,
    colour_name: str,
    palette: Mapping[str, Color],
    background: Color = GREY,
) -> np.ndarray:
    """[B]: the part of each image's foreground (opacity > 0.5) whose nearest palette colour is `colour_name`.

    Light makes a surface brighter or darker: the distance of a pixel p to a colour c is the smallest
    |p - s c| for 0.5 <= s <= 1.15, so hue and saturation decide, and brightness only beyond that range.
    The background's share is taken out of half-covered pixels first. Pixels near black (eyes) belong to "black"
    if the palette has it, otherwise to no colour. An image without foreground gives 0.

    Args:
        rgb: [B, H, W, 3] in 0..1, array or tensor, on `background`.
        opacity: [B, H, W, 1].
        colour_name: a key of `palette`; KeyError otherwise.
        palette: name -> rgb of the unshaded surface.
    """
    own = without_background(rgb, opacity, background)
    entries = dict(palette) if "black" in palette else {**palette, "": _DARK}
    if colour_name not in palette:
        raise KeyError(f"no colour {colour_name!r} in the palette")
    target = list(entries).index(colour_name)
    distances = np.stack([_distance(own, np.array(color)) for color in entries.values()])
    foreground = to_numpy(opacity)[..., 0] > 0.5
    matching = foreground & (distances.argmin(0) == target)
    return matching.sum((1, 2)) / np.maximum(foreground.sum((1, 2)), 1)


def janus_score(front_fraction: Any, back_fraction: Any, truth_front: Any, truth_back: Any) -> JanusScore:
    """The verdict over views; each argument is a number or the `colour_fraction` of several views, whose mean counts.

    A Janus failure is a face seen from the back: there its colour covers more than halfway from what the truth
    shows at the back to what it shows at the front, back > truth_back + (truth_front - truth_back) / 2.
    A missing face is no Janus failure (`front` far below `truth_front` says so), and where the truth itself shows
    no more of the colour in front than behind, nothing can fail.
    """
    front, back, true_front, true_back = (
        float(np.mean(to_numpy(f))) for f in (front_fraction, back_fraction, truth_front, truth_back)
    )
    is_janus = true_front > true_back and back > 0.5 * (true_front + true_back)
    return JanusScore(front, back, true_front, true_back, is_janus)


def _distance(pixels: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Squared distance of pixels [..., 3] to the segment of `color`'s shades, [...]."""
    shade = np.clip(pixels @ color / (color @ color), *_SHADING)
    return ((pixels - shade[..., None] * color) ** 2).sum(-1)
