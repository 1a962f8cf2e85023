"""Training of feed-forward Gaussians: what is compared with what, that a run goes on bit for bit, what is refused."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from threedgen.cameras import Cameras, orbit
from threedgen.cli import main
from threedgen.config.load import load_config
from threedgen.config.training import PriorNetwork, TrainBackground
from threedgen.data.training_samples import ViewSet
from threedgen.diffusion.networks.lgm_unet import PRESETS, LGMUNet
from threedgen.diffusion.start import start_prior
from threedgen.tasks.feed_forward import FeedForward
from threedgen.tasks.training import train_gaussians


def test_true_views_are_compared_on_their_own_backgrounds():
    """Two objects of four views, of which two each are compared; what each scene shows is plain."""
    config = load_config("train-gaussians-mini.yaml", ["camera.num_views=4", "gaussians.opacity_weight=3"])
    config = replace(config, gaussians=replace(config.gaussians, clean_steps=2))
    rng = torch.Generator().manual_seed(0)
    pictures = torch.rand(8, 4, 2, 2, generator=rng)
    pictures[:, :3] *= pictures[:, 3:]
    compared, behind = torch.tensor([[2, 0], [1, 3]]), torch.tensor([[0.1, 0.2, 0.3], [0.9, 0.5, 0.4]])
    one = orbit([0, 90, 180, 270], 15, 2, 40, 2, num_views=4)
    numbers = {"step": 2, "pictures": pictures, "captions": ["", ""], "cameras": Cameras.joined([one, one])}
    none = dict.fromkeys(("timestep", "noise", "behind"))
    batch = train_gaussians._Batch(**numbers, **none, first=0, compared=compared, backgrounds=behind)
    seen_from = []

    def scene(color):
        def render(cameras, background):
            seen_from.append(cameras.azimuth.rad2deg().round().tolist())
            return SimpleNamespace(rgb=(color * background).expand(2, 2, 2, 3), opacity=torch.full((2, 2, 2, 1), color))

        return SimpleNamespace(render=render)

    objective = train_gaussians._Objective(None, lambda images, cameras: [scene(0.3), scene(0.6)], config)
    objective.denoised = lambda batch: (torch.zeros(1), None)
    found = objective.losses(batch)
    assert seen_from == [[180, 0], [90, 270]]
    color = opacity = 0.0
    for i, plain in enumerate((0.3, 0.6)):
        true = pictures[4 * i + compared[i]]
        on = true[:, :3] + (1 - true[:, 3:]) * behind[i, :, None, None]
        color += (on - plain * behind[i, :, None, None]).square().mean().item() / 2
        opacity += (true[:, 3] - plain).square().mean().item() / 2
    assert found.total.item() == pytest.approx(color + 3 * opacity, rel=1e-5)
    assert found.others["psnr"].item() == pytest.approx(-10 * math.log10(color), rel=1e-5)


def test_the_first_steps_are_of_the_true_pictures():
    """On their own colours, the input views from the first one on, and nobody asks the prior."""
    config = load_config("train-gaussians-mini.yaml", ["gaussians.clean_steps=2"])
    shown = []

    class Shown(FeedForward):
        def __call__(self, images, cameras):
            shown.append((images, cameras))
            return []

    objective = train_gaussians._Objective(SimpleNamespace(device=torch.device("cpu")), Shown(None, 4), config)
    batch = train_gaussians._batch(config, _Nothing(), (4, 1, 1), 1, 2, 700)
    batch = replace(batch, pictures=torch.rand(batch.pictures.shape, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(RuntimeError, match="non-empty"):  # nothing came of it that could be compared
        objective.losses(batch)
    with pytest.raises(AttributeError, match="encode_images"):
        objective.losses(replace(batch, step=2))
    ((images, cameras),) = shown
    numbers = [24 * i + (batch.first + 6 * k) % 24 for i in range(2) for k in range(4)]
    assert torch.equal(cameras.camera_to_world, batch.cameras.camera_to_world[numbers]) and cameras.num_views == 4
    for image, number in zip(images, numbers, strict=True):
        rgb, alpha = batch.pictures[number].split([3, 1])
        torch.testing.assert_close(image, rgb + (1 - alpha) * batch.behind[number // 24][:, None, None])


def test_noise_is_as_strong_as_is_asked_for():
    config = load_config("train-gaussians-mini.yaml")
    steps = (train_gaussians._batch(config, _Nothing(), (4, 1, 1), step, 2, 3).timestep for step in range(20))
    by_object = torch.cat(list(steps)).unflatten(0, (-1, 24))
    assert (by_object == by_object[:, :1]).all() and set(by_object[:, 0].tolist()) == {0, 1, 2, 3}


class _Nothing:
    """Transparent pictures of 24 views."""

    def __len__(self):
        return 2

    def draw(self, index, rng):
        azimuth = np.arange(24) * 15.0
        return ViewSet(np.zeros((24, 2, 2, 4), np.uint8), orbit(azimuth, 15, 2, 40, 2, num_views=24), "nothing")


@pytest.mark.parametrize("kind", TrainBackground)
def test_each_object_is_shown_on_a_background_of_training(kind):
    config = load_config("train-gaussians-mini.yaml", [f"train.background={kind.name}"])
    colors = []
    for step in range(30):
        batch = train_gaussians._batch(config, _Nothing(), (4, 1, 1), step, 2, 700)
        seen = train_gaussians._on_colors(batch.pictures, batch.behind).unflatten(0, (2, 24))
        assert (seen == batch.behind[:, None, :, None, None]).all()
        colors.append(batch.behind)
    colors = torch.cat(colors)
    is_grey, different = (colors == colors[:, :1]).all(1), len(colors.unique(dim=0))
    if kind is TrainBackground.random_grey:
        assert is_grey.all() and different == 60
    elif kind is TrainBackground.mid_grey:
        assert (colors == 0.5).all()
    else:
        assert 0.3 < is_grey.float().mean() < 0.7 and different == 1 + int((~is_grey).sum())


def test_a_sheet_shows_views_that_the_network_was_not_given(monkeypatch, tmp_path):
    class Drawn(Exception):
        pass

    def denoised(self, batch):
        given.append(set(self.forward_pass.inputs_of(24, batch.first).tolist()))
        raise Drawn

    given: list[set[int]] = []
    monkeypatch.setattr(train_gaussians._Objective, "denoised", denoised)
    prior = SimpleNamespace(latent_shape=(4, 1, 1))
    for seed in range(12):
        config = load_config("train-gaussians-mini.yaml", [f"seed={seed}"])
        with pytest.raises(Drawn):
            train_gaussians._save_sheet(prior, FeedForward(None, 4), config, _Nothing(), tmp_path / "sheet.png")
    assert len(given) == 12 and all(numbers.isdisjoint(range(1, 24, 3)) for numbers in given)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video") / "prior"
    start_prior("mini", network=PriorNetwork.video).save_pretrained(folder, base="mini")
    return folder


def _words(video, root, *more):
    return [
        "--config", "train-gaussians-mini.yaml", f"weights={video}", "num_threads=1", f"output_root={root}",
        "camera.num_views=8", "gaussians.input_views=4", "train.num_objects=3", "train.render_workers=1",
        "train.batch_objects=1",
        "gaussians.clean_steps=2", "gaussians.supervised_views=2", "train.checkpoint_every=2", *more,
    ]  # fmt: skip


def _weights(root):
    (folder,) = root.glob("train-gaussians-mini/*/gaussians")
    return load_file(folder / "diffusion_pytorch_model.safetensors"), json.loads((folder / "config.json").read_text())


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(video, tmp_path, monkeypatch):
    from threedgen.training import loop

    assert main(_words(video, tmp_path / "whole", "train.steps=4")) == 0
    step = loop.apply_gradients
    calls = []

    def stopped(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(loop, "apply_gradients", stopped)
    assert main(_words(video, tmp_path / "parts", "train.steps=4")) == 130
    monkeypatch.setattr(loop, "apply_gradients", step)
    assert main(_words(video, tmp_path / "parts", "train.steps=4")) == 0
    # no step of it: what it began with, which is what the other run ended with
    trained = next((tmp_path / "parts").glob("train-gaussians-mini/*/gaussians"))
    again = _words(video, tmp_path / "again", "train.steps=1", "train.lr=0", f"gaussians.weights={trained}")
    assert main(again) == 0
    (whole, config), (parts, _), (kept, _) = (_weights(tmp_path / name) for name in ("whole", "parts", "again"))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items()) and config["norm_groups"] == 8
    assert config["pixel_aligned"]  # a new network
    assert all(torch.equal(value, kept[name]) for name, value in parts.items())


def test_weights_whose_rotations_are_none_are_not_trained_on(video, tmp_path, capsys):
    network = LGMUNet(**PRESETS["mini"], quaternion_norm="all")
    network.save_pretrained(tmp_path / "gaussians")
    assert main(_words(video, tmp_path, "train.steps=1", f"gaussians.weights={tmp_path / 'gaussians'}")) == 2
    error = capsys.readouterr().err
    assert "quaternion_norm=all can be used, but not trained" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["gaussians.preset=huge"], "gaussians.preset=huge: there are big, small, tiny, mini"),
        (["gaussians.supervised_views=9"], "there are camera.num_views=8 views"),
        (["train.accumulate=2"], "Gaussians are trained without"),
        (["train.gradient_checkpointing=true"], "Gaussians are trained without"),
        (["gaussians.input_views=3"], "gaussians.input_views=3 are not evenly spaced ones of 8 views"),
        (["train.multiview_data=miniworld-clips"], "has no cameras"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_line(video, tmp_path, capsys, words, told):
    assert main(_words(video, tmp_path, "train.steps=1", *words)) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
