"""The image encoder's own training: pictures come to say what their captions say, and nothing else is changed."""

import numpy as np
import pytest
import torch

from threedgen.config.load import load_config
from threedgen.config.training import PriorNetwork
from threedgen.diffusion.conditions import Conditions, Picture
from threedgen.diffusion.start import start_prior
from threedgen.runs.directory import open_run
from threedgen.tasks.training import train_image_encoder
from threedgen.tasks.training.batches import open_sources
from threedgen.tasks.training.train_image_encoder import caption_error, has_untrained_encoder

SETTINGS = (
    "num_threads=1",
    "camera.num_views=4",
    "train.num_objects=4",
    "train.render_workers=1",
    "train.image_encoder_steps=100",
    "train.warmup_steps=1",
    "train.lr=3e-3",
    "train.checkpoint_every=80",
    "train.precision=float32",
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return load_config("train-video-i2v-mini.yaml", [*SETTINGS, f"output_root={tmp_path_factory.mktemp('encoder')}"])


@pytest.fixture(scope="module")
def sources(config):
    return open_sources(config, 64)


def _start():
    return start_prior("mini-video", network=PriorNetwork.video, image_conditioning=True)


def _trained(config, sources, folder):
    prior = _start()
    with open_run(folder, config) as run, pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_image_encoder, "_PICTURES", 8)
        train_image_encoder.train_image_encoder(config, run, prior, sources)
    return prior


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run") / "run"


@pytest.fixture(scope="module")
def trained(config, sources, folder):
    return _trained(config, sources, folder)


@pytest.mark.slow
@torch.no_grad()
def test_a_picture_says_what_its_caption_says_and_one_that_is_kept_back_nothing(trained, sources):
    before = _start()
    drawn = [sources.views.draw(i, np.random.default_rng(i)) for i in range(len(sources.views))]
    rgba = torch.from_numpy(np.stack([d.images[0] for d in drawn])).float() / 255
    latents = trained.encode_images((rgba[..., :3] + (1 - rgba[..., 3:]) * 0.5).movedim(-1, 1))
    captions = [d.caption for d in drawn]
    states, embedding = trained.encode_text([*captions, ""]), trained.look(latents)
    tokens = trained.unet.picture_tokens(torch.cat([embedding, torch.zeros(1, 96)]))
    distances = torch.tensor([[(t - s).square().mean() for s in states] for t in tokens])
    assert distances.argmin(1).tolist() == list(range(len(states)))
    error = caption_error(trained, latents, captions)
    assert error.item() == pytest.approx(distances.diag().mean().item(), rel=1e-4)
    assert error < 0.3 * caption_error(before, latents, captions)
    for (name, was), value in zip(before.named_parameters(), trained.parameters(), strict=True):
        is_trained = name.startswith(("image_encoder.", "unet.context_embedding."))
        assert is_trained or torch.equal(was, value), name


@pytest.mark.slow
def test_a_training_that_goes_on_ends_at_the_same_bits(trained, config, sources, folder):
    again = _trained(config, sources, folder)  # from its checkpoint at step 80
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), again.parameters(), strict=True))


@torch.no_grad()
def test_a_network_told_its_text_by_the_picture_starts_as_the_text_network(monkeypatch):
    """Softmax over keys that are there twice is softmax over them once; planes and frame rate say nothing at first."""
    prior = _start().eval()
    rng = torch.Generator().manual_seed(0)
    noisy, text = torch.randn(3, 4, 16, 16, generator=rng), torch.randn(1, 20, 96, generator=rng)
    timestep, picture = torch.full((3,), 600), Picture(torch.randn(1, 96), torch.randn(1, 4, 16, 16))
    monkeypatch.setattr(prior.unet, "_tokens", lambda embedding, local: text)
    found = prior._predict(noisy, timestep, Conditions(text, None, 3, picture))
    base = start_prior("mini-video", network=PriorNetwork.video)
    torch.testing.assert_close(found, base._predict(noisy, timestep, Conditions(text, None, 3)), atol=1e-4, rtol=1e-4)


def test_only_an_encoder_that_nobody_trained_is_trained(tmp_path):
    prior = _start()
    assert has_untrained_encoder(prior, "mini-video")
    assert prior.unet.config.image_tokens == prior.encode_text([""]).shape[1]
    prior.save_pretrained(tmp_path / "i2v", base="mini-video")
    again = start_prior(tmp_path / "i2v", network=PriorNetwork.video, image_conditioning=True)
    assert not has_untrained_encoder(again, str(tmp_path / "i2v"))
    assert not has_untrained_encoder(start_prior("mini-video", network=PriorNetwork.video), "mini-video")
