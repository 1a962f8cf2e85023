"""Latents that stand for pictures: each object's are made once, on its background, and are those of its pictures."""

import numpy as np
import pytest
import torch

from threedgen.cameras import orbit
from threedgen.config.load import load_config
from threedgen.config.training import TrainBackground
from threedgen.core.randomness import generator, seeded
from threedgen.data.captioned_views import CapturedViews
from threedgen.data.training_sources import MiniworldPhotographs, MiniworldViews
from threedgen.diffusion.mini import new_mini_vae
from threedgen.runs.directory import open_run
from threedgen.tasks.training import train_vae
from threedgen.tasks.training.batches import TrainingSources
from threedgen.tasks.training.latents import Latents, encoded
from threedgen.tasks.training.train_vae import reconstruction_loss


def captured(name, objects, views):
    """Opaque pictures of one colour each, but for the right half, which is transparent."""
    rng = np.random.default_rng(objects)
    images = np.zeros((objects, views, 4, 4, 4), np.uint8)
    images[:, :, :, :2, :3] = rng.integers(0, 256, (objects, views, 1, 1, 3))
    images[:, :, :, :2, 3] = 255
    cameras = orbit(np.zeros(objects * views), 0, 2, 40, 4)
    return CapturedViews(images, cameras, tuple(f"{name} {i}" for i in range(objects)))


class Encoder:
    """The pictures themselves, on four channels; counts the calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, images):
        self.calls.append(len(images))
        return torch.cat([images, images.mean(1, keepdim=True)], 1)


def test_latents_are_those_of_the_pictures_on_one_background():
    pictures, encoder = captured("cat", 3, 8).images, Encoder()
    latents = Latents(pictures, encoder, TrainBackground.random_grey, seed=4)
    first = latents[2]
    assert first.shape == (8, 4, 4, 4) and first.dtype == np.float16
    colors = pictures[2, :, 0, 0, :3].astype(np.float32) / 255
    np.testing.assert_allclose(first[:, :3, 1, 1], colors, atol=1e-3)
    background = first[:, :3, :, 2:]
    assert (background == background[0, 0, 0, 0]).all() and background[0, 0, 0, 0] not in (0, 0.5, 1)
    assert latents[2] is first and encoder.calls == [8]  # made once, all views together
    again = Latents(pictures, Encoder(), TrainBackground.random_grey, seed=4)
    again[0]
    np.testing.assert_array_equal(again[2], first)  # whatever was made before
    assert len({float(latents[i][0, 0, 0, 3]) for i in range(3)}) == 3  # each object has a background of its own
    assert float(Latents(pictures, Encoder(), TrainBackground.random_grey, 5)[2][0, 0, 0, 3]) != background[0, 0, 0, 0]


def test_views_and_photographs_share_them_and_other_sources_stay():
    encoder, objects, patterned = Encoder(), captured("cat", 3, 8), captured("dotted cat", 2, 1)
    other = TrainingSources(object(), None)  # such as pictures in a folder
    assert encoded(other, encoder, TrainBackground.random_grey, 0) == other
    sources = TrainingSources(MiniworldViews(objects), MiniworldPhotographs(objects, patterned, 0.25))
    latent = encoded(sources, encoder, TrainBackground.random_grey, 0)
    rng = np.random.default_rng
    for seed in range(6):
        same = sources.views.draw(1, rng(seed)), latent.views.draw(1, rng(seed))
        np.testing.assert_allclose(same[1].images[:, :3, 0, 0], same[0].images[:, 0, 0, :3] / 255, atol=1e-3)
        assert same[0].caption == same[1].caption
        assert len(latent.images) == len(sources.images)
        for index in range(len(sources.images)):
            same = sources.images.draw(index, rng(seed)), latent.images.draw(index, rng(seed))
            np.testing.assert_allclose(same[1].image[:3, 0, 0], same[0].image[0, 0, :3] / 255, atol=1e-3)
            assert same[0].caption == same[1].caption
    assert sorted(encoder.calls) == [1, 1, 8, 8, 8]


def test_the_vaes_loss_by_hand():
    """A step of 0.2 in the middle of 4 columns, opaque on the left: values 0.35 + alpha weighted, edges 0.25 / 3."""
    error, opacity = torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4)
    error[..., :2], opacity[..., :2] = 0.2, 1.0
    values = 0.5 * 1.35 * (0.2 + 0.5 * 0.04)
    across = 0.2 / 3  # one of three differences
    assert float(reconstruction_loss(error, opacity)) == pytest.approx(values + 0.25 * across)
    hidden = torch.flip(opacity, (-1,))
    assert float(reconstruction_loss(error, hidden)) == pytest.approx(0.5 * 0.35 * 0.22 + 0.25 * across)


def test_the_vae_is_taught_pictures_from_its_posterior_and_to_keep_that_near_a_unit_gaussian(tmp_path, monkeypatch):
    class Taken(Exception):
        pass

    def take(job, *_, **__):
        raise Taken(job)

    monkeypatch.setattr(train_vae, "train_network", take)
    config = load_config("train-mini.yaml", ["seed=3", "train.precision=float32"])
    with open_run(tmp_path, config) as run, pytest.raises(Taken) as taken:
        train_vae.train_vae(config, run, None, torch.device("cpu"), None)
    (job,) = taken.value.args
    with seeded(3), torch.no_grad():
        vae = new_mini_vae()
        images, opacity = 2 * torch.rand(2, 3, 16, 16) - 1, torch.rand(2, 1, 16, 16)
        found = job.objective(train_vae._Batch(7, images, opacity))
        mean, log_variance = vae.encode(images).latent_dist.parameters.chunk(2, 1)
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        noise = torch.randn(mean.shape, generator=generator(3, 7, "vae posterior"))
        error = vae.decode(mean + (0.5 * log_variance).exp() * noise).sample - images
    assert kl > 0.01 and found.others["kl"].item() == pytest.approx(kl.item(), rel=1e-4)
    assert found.others["psnr"].item() == pytest.approx(-10 * np.log10((error / 2).square().mean().item()), rel=1e-4)
    by_kl = found.total.double() - reconstruction_loss(error, opacity).double()
    assert by_kl.item() == pytest.approx(1e-4 * kl.item(), rel=0.1)
