"""A video prior that is shown a picture: what reaches the network, what guidance leads away from, what is refused."""

import pytest
import torch

from threedgen.cameras import orbit
from threedgen.config.training import PriorNetwork
from threedgen.core.errors import ConfigError
from threedgen.diffusion.conditions import Conditions, Picture
from threedgen.diffusion.denoising import Guided
from threedgen.diffusion.pipeline import MultiViewPipeline
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.start import start_prior


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image") / "video"
    start_prior("mini", network=PriorNetwork.video).save_pretrained(folder, torch.float32, base="mini")
    started = start_prior(folder, network=PriorNetwork.video, image_conditioning=True).eval()
    torch.manual_seed(0)
    with torch.no_grad():  # no layer at zero: everything is heard
        for parameter in started.unet.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.7 / max(parameter[0].numel(), 1) ** 0.5))
    return started


def _asked():
    rng = torch.Generator().manual_seed(0)
    noisy, text = torch.randn(6, 4, 16, 16, generator=rng), torch.randn(2, 20, 96, generator=rng)
    cameras = orbit([0, 15, 30, 100, 115, 130], 15, 2.0, 40, 64, num_views=3)
    return noisy, text, cameras, torch.rand(2, 3, 64, 64, generator=rng)


@torch.no_grad()
def test_each_object_is_drawn_from_its_own_picture(prior):
    """Against the network itself, asked for one object at a time with that object's latent and embedding."""
    noisy, text, cameras, images = _asked()
    picture = prior.show(images)
    found = prior._predict(noisy, torch.full((6,), 600), Conditions(text, cameras, 3, picture))
    for i in range(2):
        own, latent = slice(3 * i, 3 * i + 3), prior.encode_images(images[i : i + 1])
        expected = prior.unet(
            noisy[own].transpose(0, 1)[None],
            torch.tensor([600]),
            text[i : i + 1],
            cameras.camera_to_world[own].reshape(1, 3, 16),
            image_embedding=prior.image_encoder(latent).image_embeds,
            local_image=latent[:, :, None],
            fps=torch.tensor([8]),
        )[0].transpose(0, 1)
        torch.testing.assert_close(found[own], expected, atol=1e-4, rtol=1e-4)
    assert (found[:3] - found[3:]).abs().max() > 0.1


@torch.no_grad()
def test_guidance_leads_away_from_a_picture_without_its_embedding(prior):
    noisy, text, cameras, images = _asked()
    timestep, negative, picture = torch.full((6,), 600), torch.randn(1, 20, 96), prior.show(images)
    both = Guided(prior, Conditions(text, cameras, 3, picture), negative, 4.0).both(noisy, timestep).noise
    without = Picture(torch.zeros_like(picture.embedding), picture.latent)
    wanted = prior.denoise(noisy, timestep, Conditions(text, cameras, 3, picture)).noise
    unwanted = prior.denoise(noisy, timestep, Conditions(negative, cameras, 3, without)).noise
    torch.testing.assert_close(both, torch.cat([wanted, unwanted]), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_its_parts_are_written_and_read(prior, tmp_path):
    prior.save_pretrained(tmp_path / "i2v", torch.float32, base="mini")
    again = MultiViewPrior.from_pretrained(tmp_path / "i2v")
    noisy, text, cameras, images = _asked()
    answers = [
        each.denoise(noisy, torch.tensor(600), Conditions(text, cameras, 3, each.show(images))).x0
        for each in (prior, again)
    ]
    torch.testing.assert_close(*answers, atol=1e-5, rtol=1e-5)


def test_clips_tower_looks_at_normalised_pixels_of_its_own_size(prior):
    class Tower(torch.nn.Module):
        config = type("Config", (), {"num_channels": 3, "image_size": 8})
        dtype = torch.float32

        def forward(self, pixels):
            self.seen = pixels
            return type("Out", (), {"image_embeds": pixels.mean((2, 3))})

    tower, own = Tower(), prior.image_encoder
    prior.image_encoder = tower
    prior.look(torch.zeros(1, 4, 16, 16), torch.full((1, 3, 64, 64), 0.5))
    prior.image_encoder = own
    expected = (0.5 - torch.tensor([0.48145466, 0.4578275, 0.40821073])) / torch.tensor(
        [0.26862954, 0.26130258, 0.27577711]
    )
    assert tower.seen.shape == (1, 3, 8, 8)
    torch.testing.assert_close(tower.seen[0, :, 4, 4], expected, atol=1e-4, rtol=0)


def test_a_picture_is_needed_where_one_is_shown_and_refused_elsewhere(prior):
    with pytest.raises(ConfigError, match="the prior needs a picture"):
        MultiViewPipeline(prior)("a red cat", image_size=64)
    with pytest.raises(ConfigError, match="the prior is shown no picture"):
        MultiViewPipeline(MultiViewPrior.from_pretrained("mini"))(
            "a red cat", image_size=64, image=torch.zeros(3, 8, 8)
        )
    with pytest.raises(ConfigError, match="image_pinned: there is no image"):
        MultiViewPipeline(MultiViewPrior.from_pretrained("mini"))("a red cat", image_size=64, image_pinned=True)
    views = MultiViewPipeline(prior)(
        "", image_size=64, num_frames=2, num_inference_steps=1, image=torch.rand(3, 80, 80)
    )
    assert views.prompt == "" and len(views.images) == 2


@torch.no_grad()
def test_a_pinned_picture_is_the_first_view(prior):
    image = torch.zeros(3, 64, 64)
    image[:, 20:40, 16:50] = torch.tensor([0.8, 0.1, 0.1])[:, None, None]
    how = {"image_size": 64, "num_frames": 3, "num_inference_steps": 4, "image": image, "seed": 1}
    free, pinned = (MultiViewPipeline(prior)("", image_pinned=on, **how).drawn for on in (False, True))
    kept = prior.decode(prior.encode_images(image[None]))[0]
    assert (pinned[0] - kept).abs().mean() < 0.02 < 0.1 < (free[0] - kept).abs().mean()
    assert (pinned[1:] - free[1:]).abs().mean() > 1e-5  # they heard of it


def test_tasks_that_show_no_picture_tell_in_a_line_what_does(prior):
    noisy, text, cameras, _ = _asked()
    with pytest.raises(ConfigError, match="only task dense_views shows") as caught:
        prior.denoise(noisy, torch.full((6,), 600), Conditions(text, cameras, 3))
    assert "\n" not in str(caught.value)
