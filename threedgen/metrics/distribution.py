"""Do many pictures look like many others? Distances between two sets in the features of a network, by torchmetrics."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from threedgen.core.errors import ConfigError
from threedgen.imaging import to_numpy
from threedgen.metrics.perceptual import Features

_AT_ONCE = 256


@dataclass(frozen=True)
class SetDistance:
    """frechet: between Gaussians fitted to two sets' features (Heusel et al. 2017, equation 6); biased upwards, the
    more the fewer pictures there are. kernel: unbiased squared MMD with the cubic kernel (Binkowski et al. 2018); equal
    sets scatter about 0.

    Their names are FID and KID with Inception's features only: figures compare where features and numbers are equal.
    """

    frechet: float
    kernel: float


def require_torchmetrics() -> tuple[Any, Any]:
    """Its Fréchet and kernel distance. Raises ConfigError where it is not installed."""
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.kid import KernelInceptionDistance
    except ImportError as error:
        raise ConfigError(f"distances of sets need torchmetrics ({error}): pip install torchmetrics") from error
    return FrechetInceptionDistance, KernelInceptionDistance


def set_distance(images: Any, reference: Any, features: Features) -> SetDistance:
    """How far some pictures [N, H, W, 3] in 0..1 are from others [M, H, W, 3], in `features` averaged over a picture.

    Raises:
        ConfigError: torchmetrics is not installed.
        ValueError: N or M is not larger than the number of features, so that a covariance would be singular.
    """
    frechet_distance, kernel_distance = require_torchmetrics()
    vectors = [_vectors(pictures, features) for pictures in (reference, images)]
    smallest, channels = min(map(len, vectors)), vectors[0].shape[1]
    if smallest <= channels:
        raise ValueError(f"{channels} features need more than {channels} pictures in each set, got {smallest}")
    network = _AsTheyAre(channels)
    frechet = frechet_distance(network)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Metric .* will save all extracted features", UserWarning)
        kernel = kernel_distance(network, subsets=1, subset_size=smallest)
    for metric in (frechet, kernel):
        for rows, real in zip(vectors, (True, False), strict=True):
            metric.update(rows[:smallest] if metric is kernel else rows, real=real)
    return SetDistance(float(frechet.compute()), float(kernel.compute()[0]))


class _AsTheyAre(nn.Module):
    """Stands for Inception where features are given in place of pictures."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, rows: Tensor) -> Tensor:
        return rows


@torch.no_grad()
def _vectors(images: Any, features: Features) -> Tensor:
    """[N, H, W, 3] -> [N, C] in float64, means over the picture."""
    pictures = torch.tensor(to_numpy(images), dtype=torch.float32).movedim(-1, 1)
    return torch.cat([features(part).double().mean((2, 3)) for part in pictures.split(_AT_ONCE)])
