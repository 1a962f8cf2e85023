"""Alpha for a picture of one object on a background of one colour, from the picture alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion, distance_transform_edt, label

from threedgen.core.errors import ThreedgenError

_EVEN = 16  # levels of 255 that a channel of the background may differ from its colour
_ENOUGH = 0.9  # part of the border that must have that colour
_LEAST = 0.001  # part of the picture that must be an object


def cut_from_flat(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W, 3] -> straight RGBA [H, W, 4]: transparent is what has the border's colour and hangs together with it.

    What the object encloses stays opaque, for it may be of that colour itself. A pixel on the object's rim is a mixture
    a F + (1 - a) B of the background's colour B and the object's F, that of the nearest pixel inside.

    Raises ThreedgenError if the border is not of one colour, or nothing stands out from it.
    """
    pixels = rgb.astype(np.float64)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    behind = np.median(border, axis=0)
    if (np.abs(border - behind).max(1) <= _EVEN).mean() < _ENOUGH:
        raise ThreedgenError("its border is not of one colour, so that the background cannot be told")
    regions, _ = label(np.abs(pixels - behind).max(-1) <= _EVEN)
    at_border = np.unique(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]))
    empty = np.isin(regions, at_border[at_border > 0])
    if (~empty).mean() < _LEAST:
        raise ThreedgenError("nothing in it stands out from its background")
    alpha = np.where(empty, 0.0, 1.0)
    inside = binary_erosion(~empty, iterations=2, border_value=1)
    if inside.any():
        row, column = distance_transform_edt(~inside, return_distances=False, return_indices=True)
        nearest = pixels[row, column]
        own = ((pixels - behind) * (nearest - behind)).sum(-1) / np.maximum(((nearest - behind) ** 2).sum(-1), 1.0)
        is_told = np.abs(nearest - behind).max(-1) > 2 * _EVEN  # a rim of the background's colour is not
        rim = ~empty & binary_dilation(empty) & is_told
        alpha[rim] = own[rim].clip(0.0, 1.0)
        pixels[rim] = nearest[rim]
    return np.rint(np.concatenate([pixels, 255.0 * alpha[..., None]], -1)).astype(np.uint8)
