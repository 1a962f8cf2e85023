"""Images against images. Arrays or tensors, values in 0..1; both arguments have the same shape, or ValueError."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from skimage.metrics import structural_similarity

from threedgen.imaging import to_numpy


def psnr(a: Any, b: Any) -> float:
    """Peak signal-to-noise ratio in dB over everything given, [..., 3]; inf where both are equal."""
    a, b = _pair(a, b)
    error = float(np.mean((a - b) ** 2))
    return math.inf if error == 0 else -10.0 * math.log10(error)


def ssim(a: Any, b: Any) -> float:
    """Structural similarity of images [B, H, W, 3] or [H, W, 3], at least 7 pixels wide and high; mean over B.

    Wang et al. 2004, in windows of 7 x 7 pixels, the mean of the three channels.
    """
    a, b = _pair(a, b)
    shape = (-1, *a.shape[-3:])
    pairs = zip(a.reshape(shape), b.reshape(shape), strict=True)
    return float(np.mean([structural_similarity(x, y, channel_axis=-1, data_range=1.0) for x, y in pairs]))


def silhouette_iou(opacity_a: Any, opacity_b: Any, threshold: float = 0.5) -> float:
    """Intersection over union of what is more opaque than `threshold`, over everything given; 1 if both are empty."""
    a, b = (opacity > threshold for opacity in _pair(opacity_a, opacity_b))
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def _pair(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    a, b = to_numpy(a).astype(np.float64), to_numpy(b).astype(np.float64)
    if a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape} differ")
    return a, b
