"""Gaussians from chosen views, and what a denoiser is given back of them."""

import pytest
import torch

from threedgen.cameras import Cameras, orbit
from threedgen.config.sampling import AwareConfig, AwareGuidance, GaussiansConfig
from threedgen.config.scene import BackendName, SceneConfig
from threedgen.config.schema import Config
from threedgen.core.errors import ConfigError
from threedgen.diffusion.networks.lgm_unet import PRESETS, LGMUNet
from threedgen.diffusion.reconstructed import Reconstructed
from threedgen.diffusion.sampling import ddim_timesteps
from threedgen.ops import native
from threedgen.scene.gaussians import gaussians_of_channels, lgm_inputs
from threedgen.tasks.feed_forward import FeedForward, aware, aware_timesteps


class _Codec:
    """Pictures are latents of three channels: nothing is lost on the way."""

    device = torch.device("cpu")

    def decode(self, latents):
        return latents

    def encode_images(self, images):
        return images


@pytest.fixture(scope="module")
def forward():
    torch.manual_seed(0)
    return FeedForward(LGMUNet(**PRESETS["mini"]).eval().requires_grad_(False), 4)


def _cameras(num_views, size=16):
    return orbit([360 / num_views * k for k in range(num_views)], 15, 2.3, 40, size, num_views=num_views)


def test_views_are_evenly_spaced_from_the_first_on(forward):
    assert forward.inputs_of(24).tolist() == [0, 6, 12, 18]
    assert forward.inputs_of(24, first=20).tolist() == [20, 2, 8, 14]
    assert forward.inputs_of(4).tolist() == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match=r"4 are not .*22 views: take a number that divides 22, or .*4 divides"):
        forward.inputs_of(22)


@torch.no_grad()
def test_each_object_is_made_of_its_own_views_alone(forward):
    rng, cameras = torch.Generator().manual_seed(1), Cameras.joined([_cameras(8), _cameras(8)])
    images = torch.rand(16, 3, 16, 16, generator=rng)
    both = forward.of_views(images, cameras)
    for i, found in enumerate(both):
        own = images[8 * i : 8 * i + 8][[0, 2, 4, 6]]
        seen_from = _cameras(8).take(torch.tensor([0, 2, 4, 6]), 4)
        (expected,) = gaussians_of_channels(forward.network(lgm_inputs(own, seen_from)), seen_from)
        torch.testing.assert_close(found.positions, expected.positions, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.colors, expected.colors, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_an_answer_relative_to_pixels_is_read_with_the_pictures():
    torch.manual_seed(0)
    forward = FeedForward(LGMUNet(**PRESETS["mini"], pixel_aligned=True).eval(), 4)
    images, cameras = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)), _cameras(4)
    (found,) = forward(images, cameras)
    (expected,) = gaussians_of_channels(forward.network(lgm_inputs(images, cameras)), cameras, images=images)
    torch.testing.assert_close(found.positions, expected.positions)
    torch.testing.assert_close(found.colors, expected.colors)


@torch.no_grad()
def test_gaussians_are_drawn_with_what_the_config_says(forward, tmp_path):
    forward.network.save_pretrained(tmp_path)
    for name in (BackendName.plain, BackendName.native):
        if name is BackendName.native and not native.available("cpu"):
            continue
        scene = SceneConfig(backend=name)
        config = Config(gaussians=GaussiansConfig(weights=str(tmp_path)), scene=scene)
        (gaussians,) = FeedForward.of(config, torch.device("cpu"))(torch.rand(4, 3, 16, 16), _cameras(4))
        assert gaussians.ops is not None and gaussians.ops.name == name.value


@torch.no_grad()
def test_a_denoiser_is_given_what_the_gaussians_show_to_all_cameras(forward):
    """For one object, and for the two answers of guidance, which have the same cameras."""
    rng, cameras, grey = torch.Generator().manual_seed(2), _cameras(8), torch.full((3,), 0.5)
    x0 = torch.rand(16, 3, 16, 16, generator=rng)
    shown = forward.shows(_Codec(), cameras, grey)(x0)
    assert shown.shape == x0.shape
    for half in (x0[:8], x0[8:]):
        (scene,) = forward.of_views(half, cameras)
        expected = scene.render(cameras, background=grey).rgb.movedim(-1, 1)
        found = shown[:8] if half is x0[:8] or torch.equal(half, x0[:8]) else shown[8:]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_steps_of_the_loop_become_the_papers_timesteps():
    timesteps = ddim_timesteps(50)
    assert aware_timesteps(AwareConfig(steps=(20, 30, 40)), timesteps) == {581, 381, 181}
    assert aware_timesteps(AwareConfig(every=10), timesteps) == {581, 381, 181}  # of 981, 781, ... those up to 700
    assert aware_timesteps(AwareConfig(), timesteps) == set()
    with pytest.raises(ConfigError, match=r"there is no step 50 among the sampler's 0 \.\. 49"):
        aware_timesteps(AwareConfig(steps=(20, 50)), timesteps)
    with pytest.raises(ConfigError, match=r"step 10 is at timestep 781, above aware.max_timestep=700"):
        aware_timesteps(AwareConfig(steps=(10,)), timesteps)


def test_a_config_without_steps_leaves_the_denoiser_alone():
    guided, timesteps = object(), ddim_timesteps(50)
    assert aware(guided, AwareConfig(), timesteps, lambda x0: x0) is guided
    found = aware(guided, AwareConfig(every=10, blend=0.5, guidance=AwareGuidance.latents), timesteps, lambda x0: x0)
    assert isinstance(found, Reconstructed) and found.blend == 0.5 and not found.before
    assert GaussiansConfig().input_views == 4
