"""Text to views as an object: the reference's cameras, the seed, sizes, and what is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from threedgen import MultiViewPipeline
from threedgen.cameras import mvdream_camera_vectors
from threedgen.config.scene import CameraConfig
from threedgen.core.errors import ConfigError, WeightsMissingError
from threedgen.core.randomness import generator
from threedgen.diffusion import pipeline as pipeline_module
from threedgen.diffusion.pipeline import as_asset
from threedgen.diffusion.sampling import sample_views

CONVENTIONS = Path(__file__).parent.parent.parent / "docs" / "howto" / "camera-conventions.md"
QUICK = {"num_inference_steps": 2, "image_size": 64, "seed": 0}


@pytest.fixture(scope="module")
def pipe():
    return MultiViewPipeline.from_pretrained("mini")


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("cam.get_camera_nf4_el15_az90", {}),
        ("cam.get_camera_nf4_el15_az0_default", {"camera_azimuth": 0}),
        (
            "cam.get_camera_nf3_el30_az10_span180",
            {"num_frames": 3, "camera_elevation": 30, "camera_azimuth": 10, "camera_azimuth_span": 180},
        ),
    ],
)
def test_cameras_are_the_reference_s(goldens, pipe, key, settings):
    views = pipe("a red cat", **QUICK, **settings)
    expected = goldens[key].float()
    torch.testing.assert_close(views.camera_matrices.reshape(-1, 16), expected, atol=2e-6, rtol=0)
    # the cameras with a distance are the same directions
    torch.testing.assert_close(mvdream_camera_vectors(views.cameras), expected, atol=2e-6, rtol=0)


def test_the_page_on_conventions_has_the_reference_s_numbers(goldens, pipe):
    page = CONVENTIONS.read_text("utf-8")
    (block,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    written = torch.tensor(json.loads(block), dtype=torch.float32)
    views = pipe("a red cat", **QUICK)
    rounding = {"atol": 5.1e-5, "rtol": 0}
    torch.testing.assert_close(written, views.camera_matrices[:2], **rounding)
    torch.testing.assert_close(written, goldens["cam.get_camera_nf4_el15_az90"].float().view(4, 4, 4)[:2], **rounding)
    rows = re.findall(r"^\| (\d) \| (\d+) \| (\d+) \| ([+-][xy]) \|", page, re.MULTILINE)
    assert len(rows) == 4
    axes = {"+x": (1, 0), "-x": (-1, 0), "+y": (0, 1), "-y": (0, -1)}
    for i, mvdream, ours, axis in rows:
        position = views.camera_matrices[int(i), :2, 3]
        assert views.azimuth_angles[int(i)] == float(mvdream)
        assert float(views.cameras.azimuth[int(i)].rad2deg()) == pytest.approx(float(ours), abs=1e-3)
        assert (position / position.norm()).tolist() == pytest.approx(axes[axis], abs=1e-6)


@pytest.mark.parametrize(
    ("start", "span", "count", "expected"),
    [(90, 360, 4, [90, 180, 270, 360]), (10, 90, 3, [10, 40, 70]), (45, 0, 2, [45, 45]), (200, 360, 1, [200])],
)
def test_azimuths(pipe, start, span, count, expected):
    views = pipe("a red cat", **QUICK, num_frames=count, camera_azimuth=start, camera_azimuth_span=span)
    assert views.azimuth_angles == expected
    assert len(views.images) == len(views.cameras) == len(views.camera_matrices) == count
    assert views.cameras.azimuth.rad2deg().tolist() == pytest.approx([a - 90 for a in expected], abs=1e-3)


def test_straight_above_has_a_camera(pipe):
    matrix = pipe("a red cat", **QUICK, num_frames=1, camera_elevation=90).camera_matrices[0]
    expected = [[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]]  # the front, +x, is down in the image
    torch.testing.assert_close(matrix, torch.tensor(expected, dtype=torch.float32), atol=1e-5, rtol=0)


def test_the_pictures_are_the_sampler_s(pipe):
    views = pipe("a red cat", num_frames=2, num_inference_steps=4, image_size=64, seed=7, guidance_scale=3, rescale=0.5)
    expected = sample_views(
        pipe.prior,
        ["a red cat, 3d asset"],
        views.cameras,
        generator(7, 0, "sampled views"),
        num_inference_steps=4,
        guidance_scale=3,
        rescale=0.5,
    )
    found = np.stack([np.asarray(image) for image in views.images])
    assert np.abs(found - expected.movedim(1, -1).numpy() * 255).max() <= 0.51
    assert views.prompt == "a red cat, 3d asset"


def test_a_seed_is_drawn_and_told_and_gives_the_same_again(pipe):
    first, second = (pipe("a red cat", **{**QUICK, "seed": None}) for _ in range(2))
    assert first.seed != second.seed
    again = pipe("a red cat", **{**QUICK, "seed": first.seed})
    assert all(np.array_equal(a, b) for a, b in zip(first.images, again.images, strict=True))
    assert not np.array_equal(first.images[0], second.images[0])


def test_a_larger_image_of_a_small_model_is_its_own_size_resized(pipe):
    own, larger = pipe("a red cat", **QUICK), pipe("a red cat", **{**QUICK, "image_size": 128})
    assert (own.drawn_size, larger.drawn_size) == (64, 64)
    assert [image.size for image in larger.images] == [(128, 128)] * 4
    assert (larger.cameras.height, larger.cameras.width) == (128, 128)
    for small, large in zip(own.images, larger.images, strict=True):
        shrunk = np.asarray(large).reshape(64, 2, 64, 2, 3).mean((1, 3))
        assert np.abs(shrunk - np.asarray(small)).mean() < 2
        assert (np.asarray(large)[::2] != np.asarray(large)[1::2]).mean() > 0.1  # smoothly, not pixel by pixel


def test_a_model_of_the_api_s_size_draws_at_the_size_asked_for(pipe, monkeypatch):
    drawn_at = []

    def draw(prior, prompts, cameras, random, *, image_size, **settings):
        drawn_at.append(image_size)
        return torch.zeros(len(cameras), 3, image_size, image_size)

    monkeypatch.setattr(pipeline_module, "sample_views", draw)
    monkeypatch.setattr(type(pipe.prior), "image_size", 256)
    for size in (128, 512):
        views = pipe("a red cat", image_size=size, num_frames=1)
        assert (drawn_at.pop(), views.drawn_size, views.images[0].size) == (size, size, (size, size))
    with pytest.raises(ConfigError, match=r"^image_size=64: must be one of 128, 256, 512, 1024$"):
        pipe("a red cat", image_size=64)


def test_one_view_is_told_its_camera(pipe):
    front, back = (pipe("a red cat", **QUICK, num_frames=1, camera_azimuth=azimuth) for azimuth in (90, 270))
    assert not np.array_equal(front.images[0], back.images[0])


def test_the_pictures_do_not_depend_on_field_of_view_and_distance(pipe):
    other = MultiViewPipeline(pipe.prior, CameraConfig(fov_y_deg_range=(20, 20), distance_range=(2, 2)))
    one, two = pipe("a red cat", **QUICK), other("a red cat", **QUICK)
    assert float(one.cameras.distance[0]) != float(two.cameras.distance[0])
    assert np.array_equal(one.images[0], two.images[0])


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red cat", "a red cat, 3d asset"),
        ("a red cat, 3d asset", "a red cat, 3d asset"),
        ("a red cat, 3D Asset, high quality", "a red cat, 3D Asset, high quality"),
        ("a 3d printer", "a 3d printer, 3d asset"),
    ],
)
def test_the_asset_mark_is_added_once(prompt, expected):
    assert as_asset(prompt) == expected
    assert as_asset(as_asset(prompt)) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 64}, "num_frames=64: must be a whole number between 1 and 32"),
        ({"image_size": 300}, "image_size=300: must be one of 64, 128, 256, 512, 1024"),
        ({"guidance_scale": "high"}, "guidance_scale='high': must be a number between 1 and 50"),
        ({"camera_elevation": -1}, "camera_elevation=-1: must be a number between 0 and 90"),
        ({"seed": 0.5}, "seed=0.5: must be a whole number"),
        ({"prompt": " "}, "prompt=' ': must be text that is not blank"),
        ({"prompt": "a red zebra"}, "does not know 'zebra'"),
        ({"prompt": "two red cats"}, "one thing is drawn at a time"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_any_work(pipe, monkeypatch, arguments, message):
    monkeypatch.setattr(pipeline_module, "sample_views", None)
    with pytest.raises(ConfigError, match=re.escape(message)):
        pipe(**{"prompt": "a red cat", **arguments})


def test_plain_english_is_drawn_as_the_caption_that_means_it(pipe):
    views = pipe("Please draw a kitty that is red, 3d asset", **QUICK, negative_prompt="ugly, a blue cat")
    same = pipe("a red cat", **QUICK, negative_prompt="blue cat")
    assert views.prompt == same.prompt == "a red cat, 3d asset" and same.notes == ()
    assert views.notes == (
        "'kitty' is read as cat",
        "left out: 'please draw'",
        "the negative prompt is read as 'blue cat'; left out: 'ugly'",
    )
    assert all(np.array_equal(a, b) for a, b in zip(views.images, same.images, strict=True))


def test_unknown_words_on_request(pipe):
    views = pipe("the red zebra", **QUICK, allow_unknown_words=True)
    assert (len(views.images), views.prompt, views.notes) == (4, "the red zebra, 3d asset", ())


def test_missing_weights(tmp_path):
    with pytest.raises(WeightsMissingError):
        MultiViewPipeline.from_pretrained(tmp_path / "nowhere")
