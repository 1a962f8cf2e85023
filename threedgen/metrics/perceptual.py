"""How different do pictures look to a network? LPIPS's form with features that are at hand, so not LPIPS's figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from threedgen.imaging import to_numpy

Features = Callable[[Tensor], Tensor]  # images [B, 3, H, W] in 0..1 -> [B, C, h, w]


@torch.no_grad()
def feature_distance(a: Any, b: Any, features: Features) -> float:
    """Mean squared distance between the unit feature vectors of two sets of pictures: 0 for equal ones, 4 at most.

    Zhang et al. 2018, equation 1, for one layer and with every channel's weight 1: LPIPS learns these from what people
    saw, of another network, so figures are comparable only where `features` is the same. a, b: [B, H, W, 3] in 0..1.
    """
    unit_a, unit_b = (
        normalize(features(torch.tensor(to_numpy(images), dtype=torch.float32).movedim(-1, 1)), dim=1)
        for images in (a, b)
    )
    return float((unit_a - unit_b).square().sum(1).mean())
