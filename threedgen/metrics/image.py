"""Images against images, and how strong an image's colours are. Arrays or tensors, values in 0..1.

Two images that are compared have the same shape, or ValueError.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.ndimage import binary_erosion
from skimage.metrics import structural_similarity

from threedgen.imaging import to_numpy

Color = tuple[float, float, float]
GREY: Color = (0.5, 0.5, 0.5)
_DIFFERENT = 0.12
_WINDOW = 7  # pixels, of `ssim`


def psnr(a: Any, b: Any) -> float:
    """Peak signal-to-noise ratio in dB over everything given, [..., 3]; inf where both are equal."""
    a, b = _pair(a, b)
    error = float(np.mean((a - b) ** 2))
    return math.inf if error == 0 else -10.0 * math.log10(error)


def ssim(a: Any, b: Any, shown: Any = None) -> float:
    """Structural similarity of images [B, H, W, 3] or [H, W, 3], at least 7 pixels wide and high; mean over B.

    Wang et al. 2004, in windows of 7 x 7 pixels, the mean of the three channels.

    shown: [B, H, W] or [H, W] bool, pixels that are compared: windows with others do not count, nor do images that
    have no others; nan where no window is left. None: all are.
    """
    a, b = _pair(a, b)
    shape = (-1, *a.shape[-3:])
    pairs = zip(a.reshape(shape), b.reshape(shape), strict=True)
    if shown is None:
        return float(np.mean([structural_similarity(x, y, channel_axis=-1, data_range=1.0) for x, y in pairs]))
    of_images = []
    for (x, y), mask in zip(pairs, to_numpy(shown).reshape(shape[:-1]), strict=True):
        whole = binary_erosion(mask, np.ones((_WINDOW, _WINDOW)))
        if whole.any():
            of_windows = structural_similarity(x, y, win_size=_WINDOW, channel_axis=-1, data_range=1.0, full=True)[1]
            of_images.append(float(of_windows[whole].mean()))
    return float(np.mean(of_images)) if of_images else math.nan


def silhouette_iou(opacity_a: Any, opacity_b: Any, threshold: float = 0.5) -> float:
    """Intersection over union of what is more opaque than `threshold`, over everything given; 1 if both are empty."""
    return overlap(*(opacity > threshold for opacity in _pair(opacity_a, opacity_b)))


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two masks of one shape; 1 if both are empty."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def border_color(images: Any) -> np.ndarray:
    """The median colour of each image's outermost pixels. [B, H, W, 3] -> [B, 3]."""
    images = to_numpy(images)
    return np.median(np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], 1), axis=1)


def drawn_silhouette(images: Any, background: Any) -> np.ndarray:
    """1 where some channel differs from the background by more than 0.12, otherwise 0; [B, H, W, 1].

    For pictures that have no opacity, such as a prior's samples. background: [B, 3].
    """
    difference = np.abs(to_numpy(images) - to_numpy(background)[:, None, None])
    return (difference.max(-1, keepdims=True) > _DIFFERENT).astype(np.float64)


def without_background(rgb: Any, opacity: Any, background: Color = GREY) -> np.ndarray:
    """The object's own colours in 0..1, [..., H, W, 3], of a picture on `background`.

    The background's share is taken out of what is at least half covered; opacity: [..., H, W, 1].
    """
    rgb, opacity = to_numpy(rgb).astype(np.float64), to_numpy(opacity).astype(np.float64)
    own = (rgb - (1 - opacity) * np.array(background)) / np.maximum(opacity, 0.5)
    return own.clip(0, 1)


def saturation(rgb: Any, opacity: Any, background: Color = GREY) -> float:
    """Mean over the foreground (opacity > 0.5) of largest minus smallest channel: 0 for grey, 1 for pure colours.

    0 where there is no foreground.
    """
    colours = _foreground(rgb, opacity, background)
    return float(np.ptp(colours, axis=-1).mean()) if len(colours) else 0.0


def contrast(rgb: Any, opacity: Any, background: Color = GREY) -> float:
    """Standard deviation over the foreground (opacity > 0.5) of the mean of the channels; 0 where there is none."""
    colours = _foreground(rgb, opacity, background)
    return float(colours.mean(-1).std()) if len(colours) else 0.0


def _foreground(rgb: Any, opacity: Any, background: Color) -> np.ndarray:
    """[N, 3]"""
    return without_background(rgb, opacity, background)[to_numpy(opacity)[..., 0] > 0.5]


def _pair(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    a, b = to_numpy(a).astype(np.float64), to_numpy(b).astype(np.float64)
    if a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape} differ")
    return a, b
