"""The training pictures: cached exactly, told their cameras truthfully, and composited by the formula."""

import numpy as np
import torch

from threedgen.cameras import mvdream_camera_vectors, orbit
from threedgen.config.scene import CameraConfig
from threedgen.data.captioned_views import composite_on, front_probabilities, multiview_captures, patterned_captures
from threedgen.data.miniworld import COLORS, held_out, held_out_patterned, parse
from threedgen.data.miniworld.textures import PATTERNS

CAMERA = CameraConfig(fov_y_deg_range=(40.0, 40.0), distance_range=(0.9, 0.9), elevation_deg_range=(10.0, 10.0))


def test_captures_are_cached_and_their_cameras_are_those_of_the_pictures(tmp_path):
    first = multiview_captures(tmp_path, 6, CAMERA, 24, seed=1, workers=1, num_random=CAMERA.num_views)
    again = multiview_captures(tmp_path, 6, CAMERA, 24, seed=1, workers=1, num_random=CAMERA.num_views)
    assert len(list(tmp_path.iterdir())) == 1
    np.testing.assert_array_equal(first.images, again.images)
    assert first.captions == again.captions
    assert first.images.shape == (6, 8, 24, 24, 4)
    assert not {spec.caption for spec in held_out()} & set(first.captions)
    even, at_random = np.split(first.azimuth_deg, 2, axis=-1)
    np.testing.assert_allclose(np.diff(even, axis=-1) % 360, 90, atol=1e-3)
    assert 60 < np.std((at_random - even) % 360) < 140  # a uniform one has 104
    # the camera vector's position is the unit vector of its azimuth and elevation
    position = mvdream_camera_vectors(first.cameras).reshape(6, 8, 4, 4)[..., :3, 3]
    expected = orbit(first.azimuth_deg.ravel().copy(), 10, 1.0, 40, 1).camera_to_world[:, :3, 3]
    torch.testing.assert_close(position.reshape(-1, 3), expected, atol=1e-5, rtol=0)
    other = multiview_captures(tmp_path, 6, CAMERA, 24, seed=2, workers=1, num_random=CAMERA.num_views)
    assert other.captions != first.captions


def test_a_share_of_the_objects_has_patterns_from_every_side(tmp_path):
    plain, mixed = (
        multiview_captures(tmp_path, 40, CAMERA, 24, 1, 1, (), share, 1.5, num_random=0) for share in (0, 0.3)
    )
    patterned = [i for i, caption in enumerate(mixed.captions) if caption.endswith(tuple(PATTERNS))]
    assert patterned == list(range(28, 40)) and mixed.captions[:28] == plain.captions[:28]
    assert not {spec.caption for spec in held_out_patterned()} & set(mixed.captions)
    shown = []  # is the pattern's colour on an object's view?
    for number in patterned:
        color = np.array(COLORS[parse(mixed.captions[number]).feature_color])
        for view in mixed.images[number].reshape(4, -1, 4):
            pixels = view[view[:, 3] > 250, :3] / 255
            tints = pixels / pixels.max(-1, keepdims=True).clip(0.05)
            shown.append((np.abs(tints - color / color.max()).max(-1) < 0.12).mean() > 0.02)
    assert np.mean(shown) > 0.8


def test_single_images_show_patterns_mostly_from_the_front(tmp_path):
    single = patterned_captures(tmp_path, 64, CAMERA, 8, seed=0, workers=1)
    assert single.images.shape == (64, 1, 8, 8, 4)
    assert all(caption.endswith(tuple(PATTERNS)) for caption in single.captions)
    front = np.abs((single.azimuth_deg + 180) % 360 - 180) < 75
    assert 0.7 < front.mean() < 1.0


def test_coarser_patterns_are_the_same_patterns_and_have_a_cache_of_their_own(tmp_path):
    fine, coarse = (patterned_captures(tmp_path, 24, CAMERA, 48, 0, 1, ["cube"], scale) for scale in (1.0, 2.0))
    assert fine.captions == coarse.captions and len(list(tmp_path.iterdir())) == 2
    edges = []
    for captures in (fine, coarse):
        striped = [i for i, caption in enumerate(captures.captions) if caption.endswith("stripes")]
        column = captures.images[striped][:, 0, :, 24, :3].astype(float)  # stripes lie: they change down a column
        edges.append((np.abs(np.diff(column, axis=1)).sum(-1) > 60).sum())
    assert len(striped) > 2 and 0.3 < edges[1] / edges[0] < 0.75


def test_photographs_prefer_the_front_and_their_chances_sum_to_one():
    azimuth = np.array([[0.0, 90, 180, 270], [80, 170, 260, 350], [100, 120, 140, 160]])
    chances = front_probabilities(azimuth)
    np.testing.assert_allclose(chances.sum(-1), 1)
    np.testing.assert_allclose(chances[0], [0.85, 0.05, 0.05, 0.05])
    np.testing.assert_allclose(chances[1], [0.05, 0.05, 0.05, 0.85])
    np.testing.assert_allclose(chances[2], 0.25)  # nothing shows the front: all views alike


def test_composite_puts_premultiplied_colours_on_a_background():
    image = np.zeros((2, 1, 1, 4), np.uint8)
    image[1] = (51, 0, 0, 102)  # 40 % covered, colour 0.2 already multiplied
    out = composite_on(image, np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 0.5]]))
    np.testing.assert_allclose(out.reshape(2, 3), [[0, 0, 1], [0.8, 0.6, 0.3]], atol=1e-6)
