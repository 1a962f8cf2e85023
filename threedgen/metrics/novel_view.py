"""Are dense views views of one object? A scene is fitted to every second one and asked for the others.

What it shows there is right only where the views agree with each other and with their cameras. That the fit itself is
good enough to tell is shown on true views first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from threedgen.cameras import Cameras
from threedgen.core.errors import ThreedgenError
from threedgen.imaging import to_numpy
from threedgen.metrics.image import psnr, ssim
from threedgen.scene.protocol import Shown

LEAST_PSNR = 30.0  # dB on held-out true views, below which the fit's own faults would be measured
# images [N, H, W, 3] in 0..1 and their N cameras -> what was fitted to them, shown on their background
Fit = Callable[[np.ndarray, Cameras], Shown]
Distance = Callable[[np.ndarray, np.ndarray], float]  # of two sets of images [N, H, W, 3]


@dataclass(frozen=True)
class NovelViewScore:
    """Of the views that the fit has not seen, means over whole pictures; psnr in dB, distances as they were given."""

    psnr: float
    ssim: float
    distances: Mapping[str, float]

    @classmethod
    def mean(cls, scores: Sequence[NovelViewScore]) -> NovelViewScore:
        def of(values: Iterable[float]) -> float:
            return math.fsum(values) / len(scores)

        distances = {name: of(s.distances[name] for s in scores) for name in scores[0].distances}
        return cls(of(s.psnr for s in scores), of(s.ssim for s in scores), distances)


class NovelViews:
    """Novel views, half and half (12 of 24): fitted to views 0, 2, 4, ..., measured on views 1, 3, 5, ...

    `truth` is the mean score of true views: what perfect views get, to be told beside every other figure.
    """

    def __init__(self, fit: Fit, distances: Mapping[str, Distance], true_sets: Iterable[tuple[Any, Cameras]]) -> None:
        """Calibrates with sets of true views: images [N, H, W, 3] in 0..1 and their cameras.

        distances: by name, further measures of held-out views, such as `LPIPS.distance`.

        Raises ThreedgenError where the fit of the true views has less than 30 dB (`LEAST_PSNR`) on those held out, and
        ValueError where there is no set.
        """
        self.fit, self.distances = fit, distances
        sets = [(to_numpy(images), cameras) for images, cameras in true_sets]
        if not sets or len(shapes := {images.shape for images, _ in sets}) != 1:
            raise ValueError(f"calibration needs sets of one shape, got {sorted(shapes) if sets else 'none'}")
        self.shape = shapes.pop()
        self.truth = NovelViewScore.mean([self(images, cameras) for images, cameras in sets])
        if not self.truth.psnr >= LEAST_PSNR:
            raise ThreedgenError(
                f"the fit cannot judge novel views: of true ones it has {self.truth.psnr:.1f} dB on those held out, "
                f"{LEAST_PSNR:.0f} are needed; give it more steps or a finer scene"
            )

    def __call__(self, images: Any, cameras: Cameras) -> NovelViewScore:
        """The score of N views. images: [N, H, W, 3] in 0..1.

        Raises ThreedgenError for another number or size of views than the true ones had.
        """
        images = to_numpy(images)
        if images.shape != self.shape:
            raise ThreedgenError(
                f"novel views were calibrated with {_described(self.shape)}, not with {_described(images.shape)}; "
                "calibrate with true views like these"
            )
        fitted, held_out = self.fit(images[::2], cameras[::2]), images[1::2]
        with torch.no_grad():
            shown = to_numpy(fitted.render(cameras[1::2]).rgb)
        each = [psnr(a, b) for a, b in zip(shown, held_out, strict=True)]  # the mean over pictures, as is customary
        distances = {name: distance(shown, held_out) for name, distance in self.distances.items()}
        return NovelViewScore(float(np.mean(each)), ssim(shown, held_out), distances)


def _described(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} views of {shape[2]} x {shape[1]} pixels"
