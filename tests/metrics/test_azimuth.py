"""True views are found where they were taken from; what looks alike all around is not asked."""

import math
from random import Random

import numpy as np
import pytest

from threedgen.cameras import orbit
from threedgen.data.miniworld import build, parse, render
from threedgen.metrics import azimuth_errors, tells_azimuth

CAPTIONS = ["a red cat", "a blue chair with a green seat", "a yellow truck", "a purple teapot", "an orange robot"]
ASKED = [12.0, 98.3, 171.0, 266.6, 359.0]
CAMERAS = orbit(ASKED, [0, 8, 15, 22, 30], 2.5, 40, 64)


def views(turn_deg=0.0, background=(0.5, 0.5, 0.5), jitter=False):
    cameras = orbit(np.array(ASKED) + turn_deg, [0, 8, 15, 22, 30], 2.5, 40, 64)
    pictures = []
    for i, caption in enumerate(CAPTIONS):
        obj = build(parse(caption), Random(i) if jitter else None)
        one = cameras[i : i + 1]
        pictures.append(render(obj, one.camera_to_world.numpy(), one.fov_y.numpy(), 64, background))
    return np.concatenate([picture.rgb for picture in pictures])


@pytest.mark.parametrize("background", [(0.5, 0.5, 0.5), (0.1, 0.8, 0.3)])
def test_true_views_are_found(background):
    errors = azimuth_errors(views(background=background), CAPTIONS, CAMERAS)
    assert errors.counted == pytest.approx(0, abs=1.5) and len(errors.counted) == 5
    assert errors.share_within(5) == 1


@pytest.mark.parametrize("turn", [-90.0, -13.0, 40.0, 175.0])
def test_the_error_is_the_turn_with_its_sign(turn):
    errors = azimuth_errors(views(turn), CAPTIONS, CAMERAS)
    assert errors.counted == pytest.approx(turn, abs=1.5)
    assert errors.bias_deg == pytest.approx(turn, abs=1.5) and errors.median_deg == pytest.approx(abs(turn), abs=1.5)


def test_other_sizes_are_found_too():
    assert azimuth_errors(views(jitter=True), CAPTIONS, CAMERAS).counted == pytest.approx(0, abs=5)


@pytest.mark.parametrize(
    "caption, tells",
    [
        ("a red ball", False),
        ("a white lamp", False),
        ("a blue cube", False),  # the same after a quarter turn
        ("a purple table with black legs", False),
        ("a red cat", True),
        ("a green boat", True),
        ("a stone house", True),
    ],
)
def test_who_tells_the_azimuth(caption, tells):
    assert tells_azimuth(caption) == tells


def test_what_tells_nothing_is_not_counted():
    errors = azimuth_errors(np.full((1, 64, 64, 3), 0.5), ["a red ball"], CAMERAS[:1])
    assert errors.signed_deg == (None,) and math.isnan(errors.median_deg) and math.isnan(errors.share_within(5))
