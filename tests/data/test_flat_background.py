"""Alpha from a flat background, against discs whose coverage is known."""

import numpy as np
import pytest

from threedgen.core.errors import ThreedgenError
from threedgen.data.flat_background import cut_from_flat

GREY, RED = np.array([128.0, 128, 128]), np.array([200.0, 30, 10])


def coverage(radius, size=64, finer=16):
    """[size, size]: the part of each pixel that a disc in the middle covers."""
    at = (np.arange(size * finer) + 0.5) / finer - size / 2
    inside = (at[:, None] ** 2 + at**2 < radius**2).astype(float)
    return inside.reshape(size, finer, size, finer).mean((1, 3))


def drawn(alpha, color=RED, behind=GREY, noise=0.0):
    rgb = alpha[..., None] * color + (1 - alpha[..., None]) * behind
    return np.rint(rgb + noise * np.random.default_rng(0).standard_normal(rgb.shape)).clip(0, 255).astype(np.uint8)


def test_the_rim_is_covered_in_part_and_has_the_objects_colour():
    alpha = coverage(20)
    cut = cut_from_flat(drawn(alpha))
    assert np.abs(cut[..., 3] / 255 - alpha).max() < 0.25  # what hardly differs from the background counts as it
    assert np.abs(cut[..., 3] / 255 - alpha).mean() < 0.003
    assert np.abs(cut[cut[..., 3] > 0][:, :3] - RED).max() <= 1
    again = cut[..., 3:] / 255 * cut[..., :3] + (1 - cut[..., 3:] / 255) * GREY
    assert np.abs(again - drawn(alpha)).max() <= 17  # put back on its background it is the picture


def test_noise_stays_outside_and_what_is_enclosed_inside():
    alpha = coverage(20) - coverage(8)  # a ring around something of the background's colour
    cut = cut_from_flat(drawn(alpha, noise=3.0))
    assert (cut[coverage(22) == 0][:, 3] == 0).all()
    assert (cut[coverage(8) == 1][:, 3] == 255).all()


@pytest.mark.parametrize(
    "picture, message",
    [
        (drawn(np.zeros((32, 32)), noise=3.0), "nothing in it stands out"),
        (drawn(np.tile(np.linspace(0, 1, 32), (32, 1))), "border is not of one colour"),
        (drawn(coverage(40)), "border is not of one colour"),  # an object that the picture's edges cut
    ],
)
def test_what_cannot_be_told_is_refused(picture, message):
    with pytest.raises(ThreedgenError, match=message):
        cut_from_flat(picture)
