"""Where a video prior starts: each frame is what the image network gives, and a prior asks it as it asks any other."""

import pytest
import torch

from threedgen.cameras import orbit
from threedgen.config.training import CameraInput, PriorNetwork, ViewAttention
from threedgen.core.errors import ConfigError
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.networks.multiview_unet import MultiViewUNet
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.start import inflate_unet, start_prior, video_unet_of


@pytest.fixture(scope="module")
def mini():
    return MultiViewPrior.from_pretrained("mini")


@pytest.fixture(scope="module")
def video():
    return start_prior("mini", network=PriorNetwork.video).eval()


def _noisy(count):
    rng = torch.Generator().manual_seed(0)
    return (
        torch.randn(count, 4, 16, 16, generator=rng),
        torch.full((count,), 600),
        torch.randn(2, 20, 96, generator=rng),
    )


@torch.no_grad()
def test_each_frame_is_at_first_what_the_image_network_gives_in_2d_mode(mini, video):
    noisy, timestep, text = _noisy(6)
    cameras = orbit([0, 15, 30, 100, 115, 130], 15, 2.0, 40, 64, num_views=3)
    expected = mini.denoise(noisy, timestep, Conditions(text.repeat_interleave(3, 0)))
    for told in (Conditions(text, None, 3), Conditions(text, cameras, 3)):
        found = video.denoise(noisy, timestep, told)
        torch.testing.assert_close(found.x0, expected.x0, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_prior_tells_each_object_its_text_and_each_frame_its_camera(video):
    """Against the network itself, asked for one object at a time."""
    unet = video.unet
    torch.manual_seed(0)
    for parameter in unet.parameters():
        parameter.copy_(torch.randn_like(parameter) * (0.5 / max(parameter[0].numel(), 1) ** 0.5))
    noisy, _, text = _noisy(6)
    timestep = torch.tensor([600, 600, 600, 200, 200, 200])
    cameras = orbit([0, 15, 30, 100, 115, 130], 15, 2.0, 40, 64, num_views=3)
    found = video._predict(noisy, timestep, Conditions(text, cameras, 3))
    for i in range(2):
        own = slice(3 * i, 3 * i + 3)
        pose = cameras.camera_to_world[own].reshape(1, 3, 16)
        expected = unet(noisy[own].transpose(0, 1)[None], timestep[own][:1], text[i : i + 1], pose)[0].transpose(0, 1)
        torch.testing.assert_close(found[own], expected, atol=1e-4, rtol=1e-4)


def test_saved_and_loaded_it_is_the_same_prior(video, tmp_path):
    video.save_pretrained(tmp_path / "video", torch.float32)
    again = MultiViewPrior.from_pretrained(tmp_path / "video")
    tensors = video.unet.state_dict()
    assert all(torch.equal(value, tensors[name]) for name, value in again.unet.state_dict().items())
    started = start_prior(tmp_path / "video", network=PriorNetwork.video)
    assert all(parameter.requires_grad for parameter in started.unet.parameters())
    with pytest.raises(ConfigError, match=r"train\.network=video"):
        start_prior(tmp_path / "video")


def test_layers_between_views_have_no_place_in_a_video_network():
    plain = start_prior("mini").unet
    for attention in (ViewAttention.temporal, ViewAttention.epipolar, ViewAttention.spad):
        with pytest.raises(ValueError, match="no Stable Diffusion 2"):
            video_unet_of(inflate_unet(plain, attention, CameraInput.timestep))


@torch.no_grad()
def test_a_wider_network_has_stable_diffusions_first_attention_over_frames():
    """And each of its frames is still what the image network gives: heads are counted as that counts them."""
    torch.manual_seed(0)
    image = MultiViewUNet(
        sample_size=8,
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(2, 4),
        cross_attention_dim=24,
        use_linear_projection=True,
    ).eval()
    video = video_unet_of(image)
    assert video.transformer_in.num_attention_heads == 8 and video.transformer_in.attention_head_dim == 64
    x, text, timestep = torch.randn(1, 4, 3, 8, 8), torch.randn(1, 5, 24), torch.tensor([300])
    frames = image(x[0].transpose(0, 1), timestep.expand(3), text.expand(3, -1, -1), None, 1)
    torch.testing.assert_close(video(x, timestep, text)[0].transpose(0, 1), frames, atol=1e-4, rtol=1e-4)
