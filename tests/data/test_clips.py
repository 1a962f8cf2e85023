"""Videos' cameras: where the object is in their pictures, by projecting the origin."""

import math

import numpy as np
import pytest
import torch

from threedgen.config.scene import CameraConfig
from threedgen.data.clips import clip_cameras

_FRAMES = 9
_CONFIG = CameraConfig(fov_y_deg_range=(36, 44), distance_range=(0.85, 0.95), elevation_deg_range=(0, 30))


@pytest.fixture(scope="module")
def clips():
    """200 of them: cameras, the origin's place in the pictures [N, F, 2] (half heights) and its distance [N, F]."""
    cameras = clip_cameras(_CONFIG, 200, _FRAMES, 64, np.random.default_rng(0))
    origin = torch.linalg.inv(cameras.camera_to_world.double())[:, :3, 3]
    seen = origin[:, :2] / -origin[:, 2:] / (0.5 * cameras.fov_y.double()).tan()[:, None]
    return cameras, seen.reshape(200, _FRAMES, 2), origin.norm(dim=-1).reshape(200, _FRAMES)


def _kinds(clips):
    _, seen, distance = clips
    moves = seen.abs().amax((1, 2)) > 1e-4
    zooms = ~moves & (distance.std(1) > 1e-3)
    return moves, zooms, ~moves & ~zooms


def test_half_are_orbits_a_quarter_slides_a_quarter_zooms(clips):
    slides, zooms, orbits = (kind.double().mean().item() for kind in _kinds(clips))
    assert orbits == pytest.approx(0.5, abs=0.08)
    assert slides == pytest.approx(0.25, abs=0.08) and zooms == pytest.approx(0.25, abs=0.08)


def test_an_orbit_keeps_its_distance_and_turns_evenly_by_60_to_360_degrees(clips):
    cameras, _, _ = clips
    azimuth = np.unwrap(cameras.azimuth.double().reshape(200, _FRAMES)[_kinds(clips)[2]].numpy())
    steps = np.diff(azimuth)
    assert np.allclose(steps, steps[:, :1], atol=1e-4)
    turned = np.degrees(np.abs(azimuth[:, -1] - azimuth[:, 0]))
    assert turned.min() >= 60 - 1e-3 and turned.max() <= 360 + 1e-3 and {*np.sign(steps[:, 0])} == {-1.0, 1.0}


def test_in_a_slide_the_object_goes_straight_through_the_middle_and_the_camera_does_not_turn(clips):
    cameras, seen, distance = clips
    slides = _kinds(clips)[0]
    rotation = cameras.camera_to_world.reshape(200, _FRAMES, 4, 4)[slides][..., :3, :3]
    assert (rotation - rotation[:, :1]).abs().max() < 1e-5
    way, middle = seen[slides], _FRAMES // 2
    assert way[:, middle].abs().max() < 1e-4
    # evenly, through 0.85 .. 0.95 half heights times 0.5 over a view of 0.85 .. 0.95 half heights: a half, either way
    steps = way.diff(dim=1)
    assert (steps - steps[:, :1]).abs().max() < 1e-4
    assert torch.allclose(way[:, 0].norm(dim=-1), torch.full((len(way),), 0.5, dtype=torch.float64), atol=1e-4)
    assert (distance[slides][:, 0] > distance[slides][:, middle]).all()


def test_a_zoom_changes_the_distance_evenly_and_nothing_else(clips):
    cameras, _, distance = clips
    zooms = _kinds(clips)[1]
    steps = distance[zooms].diff(dim=1)
    assert (steps - steps[:, :1]).abs().max() < 1e-4
    ratio = distance[zooms][:, -1] / distance[zooms][:, 0]
    assert ratio.min() >= 0.65 - 1e-4 and ratio.max() <= 1.6 + 1e-4
    azimuth = cameras.azimuth.reshape(200, _FRAMES)[zooms]
    assert (azimuth == azimuth[:, :1]).all()


def test_views_begin_where_the_config_says(clips):
    cameras, _, distance = clips
    fov_y = cameras.fov_y.reshape(200, _FRAMES)
    assert (fov_y == fov_y[:, :1]).all() and math.radians(36) <= fov_y.min() and fov_y.max() <= math.radians(44)
    reach = (distance * (0.5 * fov_y).tan())[:, 0][~_kinds(clips)[0]]
    assert reach.min() >= 0.85 - 1e-4 and reach.max() <= 0.95 + 1e-4
