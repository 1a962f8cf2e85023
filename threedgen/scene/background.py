"""The background: a colour for every viewing direction."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn


def spherical_harmonics(directions: Tensor) -> Tensor:
    """Real spherical harmonics of bands 0, 1 and 2 ("degree 3"): unit directions [N, 3] -> [N, 9].

    Orthonormal on the sphere; order (l, m) = (0,0), (1,-1), (1,0), (1,1), (2,-2), ..., (2,2).
    """
    x, y, z = directions.unbind(-1)
    first = math.sqrt(3.0 / (4.0 * math.pi))
    second = math.sqrt(15.0 / (4.0 * math.pi))
    return torch.stack(
        [
            torch.full_like(x, math.sqrt(1.0 / (4.0 * math.pi))),
            first * y,
            first * z,
            first * x,
            second * x * y,
            second * y * z,
            math.sqrt(5.0 / (16.0 * math.pi)) * (3.0 * z * z - 1.0),
            second * x * z,
            0.5 * second * (x * x - y * y),
        ],
        -1,
    )


class BackgroundNetwork(nn.Module):
    """Directions -> colours: spherical harmonics (9) -> 16 -> 16 -> 3, ReLU, no biases, sigmoid."""

    def __init__(self, generator: torch.Generator):
        super().__init__()
        self.network = bias_free_mlp([9, 16, 16, 3], generator)

    def forward(self, directions: Tensor) -> Tensor:
        """Unit directions [N, 3] -> rgb [N, 3] in 0..1."""
        return torch.sigmoid(self.network(spherical_harmonics(directions)))


def drawn_color(generator: torch.Generator, probability: float) -> Tensor | None:
    """A random colour [3] in 0..1 for what stands behind a training image, or with 1 - probability none."""
    draw = torch.rand(4, generator=generator)
    return draw[:3] if draw[3] < probability else None


def bias_free_mlp(widths: list[int], generator: torch.Generator) -> nn.Sequential:
    """Linear layers without biases and ReLU between them; weights uniform in +-1/sqrt(inputs) as torch's default."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layer = nn.Linear(inputs, outputs, bias=False)
        nn.init.uniform_(layer.weight, -1.0 / math.sqrt(inputs), 1.0 / math.sqrt(inputs), generator=generator)
        layers += [layer, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])
