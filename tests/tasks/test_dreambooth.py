"""DreamBooth at mini size: it learns, resumes bit for bit, changes only what it should, and is found by its word."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from threedgen import cli
from threedgen.config.load import load_config
from threedgen.config.sampling import Sampler
from threedgen.config.training import DreamboothConfig, ViewAttention
from threedgen.core.errors import ConfigError
from threedgen.core.randomness import generator
from threedgen.data.subject_images import read_subject_images
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.networks.multiview_unet import MultiViewUNet
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.sampling import sample_views
from threedgen.diffusion.start import grow_vocabulary, start_prior
from threedgen.diffusion.text.clip_tokenizer import PAD_SD1, PAD_SD2, clip_tokenizer
from threedgen.diffusion.text.prompts import check_prompt
from threedgen.runs.directory import open_run
from threedgen.runs.events import read_events
from threedgen.tasks.training import dreambooth
from threedgen.tasks.training.dreambooth import is_ordinary_word, mean_change, read_prompt
from threedgen.training import loop

TURQUOISE, PINK = (25, 190, 180), (250, 140, 180)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three cut-outs of a turquoise thing with a pink mark."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        pixels = np.zeros((80, 64, 4), np.uint8)
        pixels[20:60, 16:48] = (*TURQUOISE, 255)
        pixels[30:40, 18 + 8 * i : 28 + 8 * i] = (*PINK, 255)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def config(photos):
    settings = [
        f"data={photos}",
        "prompt=a [v] cat",
        "steps=4",
        "views.num_inference_steps=2",
        "dreambooth.batch_size=2",
        "dreambooth.lora_rank=0",
        "dreambooth.lr=2e-4",
    ]
    return load_config("dreambooth-mini.yaml", [*settings, "checkpoint_every=2", "preview_every=3"])


def tune(config, folder):
    with open_run(folder, config) as run:
        return dreambooth.run(config, run)


@pytest.fixture(scope="module")
def tuned(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tuned"
    tune(config, folder)
    return folder


class _Stopped(Exception):
    pass


def test_weights_that_can_draw_no_views_are_refused_before_they_are_tuned(config, tiny_prior, tmp_path):
    prior, no_camera = MultiViewPrior.from_pretrained(tiny_prior), {"class_embed_type": None}
    no_camera |= {"projection_class_embeddings_input_dim": None}
    prior.unet = MultiViewUNet.from_config(prior.unet.config, **no_camera)
    prior.save_pretrained(tmp_path / "2d")
    with pytest.raises(ConfigError, match="know no cameras"):
        tune(replace(config, weights=str(tmp_path / "2d")), tmp_path / "run")
    assert not (tmp_path / "run/checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        DreamboothConfig(
            batch_size=2, lr=1e-3, train_text_encoder=True, preservation_weight=0.5, preservation_images=2
        ),
        DreamboothConfig(batch_size=2, lr=1e-3, lora_rank=2),
    ],
    ids=["full", "lora"],
)
def test_a_stopped_run_resumes_to_the_same_weights(config, tmp_path, monkeypatch, settings):
    config, update, calls = replace(config, dreambooth=settings), loop.apply_gradients, []
    tune(config, tmp_path / "straight")

    def stop_at_the_fourth(*args):
        calls.append(args)
        if len(calls) == 4:
            raise _Stopped
        return update(*args)

    monkeypatch.setattr(loop, "apply_gradients", stop_at_the_fourth)
    with pytest.raises(_Stopped):
        tune(config, tmp_path / "stopped")
    monkeypatch.setattr(loop, "apply_gradients", update)
    tune(config, tmp_path / "stopped")
    first, second = (MultiViewPrior.from_pretrained(tmp_path / name) for name in ("straight", "stopped"))
    for (name, a), (_, b) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_only_the_unet_and_the_new_word_change(config, tuned):
    base, after = MultiViewPrior.from_pretrained("mini"), MultiViewPrior.from_pretrained(tuned)
    old, new = (prior.text_encoder.get_input_embeddings().weight for prior in (base, after))
    assert len(new) == len(old) + 1 and torch.equal(new[: len(old)], old)
    grow_vocabulary(base, [read_prompt(config.prompt).identifier])
    start = base.text_encoder.get_input_embeddings().weight
    assert (new[len(old) :] - start[len(old) :].half()).abs().max() > 1e-4
    for part in ("text_encoder", "vae", "unet"):
        before, now = (getattr(prior, part).state_dict() for prior in (base, after))
        changed = {name for name, value in before.items() if not torch.equal(value.half(), now[name].half())}
        if part == "unet":  # without a camera its MLP has nothing to learn from
            assert len(changed) > 100 and not any("class_embedding" in name for name in changed)
        else:
            assert changed <= {"embeddings.token_embedding.weight"}


@pytest.mark.parametrize("lora_rank", [0, 2])
@pytest.mark.parametrize("attention", ViewAttention)
def test_what_is_trained_is_what_single_pictures_teach(tiny_prior, attention, lora_rank):
    """Whatever the network's kind: what has no part in the loss must stay, not decay."""
    prior = start_prior(tiny_prior, attention).requires_grad_(False)
    trained = dreambooth._make_trainable(prior, DreamboothConfig(lora_rank=lora_rank), 0, ())
    if lora_rank == 0:
        prior.unet.requires_grad_(True)
    latents, noise = torch.randn(2, 2, 4, 4, 4)
    told = Conditions(prior.encode_text(["a cat"]))
    prior.losses(latents, noise, torch.tensor([3, 700]), told).mean().backward()
    taught = {name for name, parameter in prior.named_parameters() if parameter.grad is not None}
    assert taught == trained.keys()


@pytest.mark.slow
@pytest.mark.parametrize(("lora_rank", "lr"), [(0, 5e-4), (4, 3e-3)])
def test_the_loss_on_the_pictures_falls(config, photos, tmp_path, lora_rank, lr):
    settings = replace(config.dreambooth, lora_rank=lora_rank, lr=lr)
    longer = replace(config, steps=16, dreambooth=settings, preview_every=100)
    tune(longer, tmp_path / "run")
    images = torch.from_numpy(read_subject_images(photos, 64)[..., :3] / np.float32(255)).movedim(-1, 1)
    losses = []
    for weights in ("mini", tmp_path / "run"):
        prior = MultiViewPrior.from_pretrained(weights)
        grow_vocabulary(prior, ["[v]"])
        rng = torch.Generator().manual_seed(1)
        with torch.no_grad():
            latents = prior.encode_images(images).repeat(6, 1, 1, 1)
            noise, timestep = torch.randn(latents.shape, generator=rng), torch.randint(1000, (18,), generator=rng)
            told = Conditions(prior.encode_text(["a [v] cat"]))
            losses.append(prior.losses(latents, noise, timestep, told).mean())
    assert losses[1] < 0.85 * losses[0]


def test_the_mean_change_is_the_l1_norm_over_the_number_of_parameters():
    start = [torch.zeros(2), torch.ones(3, 2)]
    parameters = [torch.tensor([0.5, -1.5]), torch.ones(3, 2) - 0.25]
    assert mean_change(parameters, start).item() == pytest.approx((0.5 + 1.5 + 6 * 0.25) / 8)


def test_the_penalty_keeps_the_weights_near_their_start(config, tmp_path):
    changes = []
    for weight in (0.0, 1e7):
        one = replace(config, dreambooth=replace(config.dreambooth, l1_weight=weight))
        tune(one, tmp_path / f"{weight:g}")
        (step,) = (e for e in read_events(tmp_path / f"{weight:g}" / "events.jsonl") if e["event"] == "step")
        changes.append(step["change"])
    assert changes[1] < 0.8 * changes[0]


def test_preservation_learns_from_what_the_untuned_prior_draws(config, tmp_path):
    settings = replace(config.dreambooth, preservation_weight=0.5, preservation_images=2, l1_weight=300.0)
    views = replace(config.views, rescale=0.5, sampler=Sampler.dpm)
    one = replace(config, steps=2, dreambooth=settings, views=views)
    tune(one, tmp_path / "run")
    expected = sample_views(
        MultiViewPrior.from_pretrained("mini"),
        ["a cat"],
        None,
        generator(config.seed, 1, "class images"),
        num_inference_steps=2,
        guidance_scale=config.views.guidance_scale,
        rescale=0.5,
        sampler=Sampler.dpm,
    )[0]
    saved = np.asarray(Image.open(tmp_path / "run" / "class_images" / "001.png"))
    assert np.abs(saved / 255 - expected.movedim(0, -1).numpy()).max() < 0.01
    (step,) = (e for e in read_events(tmp_path / "run" / "events.jsonl") if e["event"] == "step")
    assert step["class"] > 0 and step["change"] > 0
    assert step["loss"] == pytest.approx(step["subject"] + 300 * step["change"] + 0.5 * step["class"], abs=1e-5)


def test_a_batch_is_of_the_subject_on_any_colour_and_then_of_its_class(config):
    subject, of_class = np.zeros((3, 4, 4, 4), np.uint8), np.full((2, 4, 4, 4), 255, np.uint8)
    batches = dreambooth._Batches(config, subject, of_class)
    prior = SimpleNamespace(device=torch.device("cpu"), encode_images=lambda images: images)
    drawn = torch.stack([batches(step, prior) for step in range(100)])
    assert (drawn[:, 2:] == 1).all() and torch.equal(batches(7, prior), drawn[7])
    colors = drawn[:, :2].flatten(0, 1).flatten(2)
    assert (colors == colors[..., :1]).all()  # what is transparent shows one colour in all of a picture
    is_grey = (colors[..., 0] == 0.5).all(1)
    assert 0.35 < is_grey.float().mean() < 0.65 and colors[~is_grey][..., 0].std(0).min() > 0.2


def test_a_run_leaves_previews_and_a_sheet(tuned):
    with Image.open(tuned / "previews" / "step-000003.png") as preview, Image.open(tuned / "views.png") as sheet:
        assert preview.size == (4 * 64, 64)
        assert sheet.width > 4 * 160


def test_other_commands_take_the_run_and_know_its_word(tuned, tmp_path, capsys):
    command = ["--config", "views-mini.yaml", "prompt=a [v] cat", "views.num_inference_steps=2", "num_threads=1"]
    assert cli.main([*command, f"weights={tuned}", f"output_root={tmp_path}"]) == 0
    assert list(tmp_path.rglob("contact_sheet.png"))
    capsys.readouterr()
    assert cli.main([*command, f"output_root={tmp_path}"]) == 2
    assert "does not know '[v]'" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["a red cat", "a [] cat", "a [v cat", "a [v] cat and a [w] dog"])
def test_a_prompt_names_the_subject_once(text, photos, tmp_path, capsys):
    with pytest.raises(ConfigError, match="one word in square brackets"):
        read_prompt(text)
    command = ["--config", "dreambooth-mini.yaml", f"prompt={text}", f"data={photos}", f"output_root={tmp_path}"]
    assert cli.main(command) == 2 and "[v]" in capsys.readouterr().err


def test_the_class_prompt_is_the_prompt_without_the_identifier():
    prompt = read_prompt("a photo of a [v] dog")
    assert (prompt.identifier, prompt.class_prompt) == ("[v]", "a photo of a dog")


def test_an_ordinary_word_is_warned_of_and_tuned_to(config, tmp_path, capsys):
    tune(replace(config, prompt="a [red] cat", steps=1), tmp_path / "run")
    assert "warning: the prior knows 'red' already" in capsys.readouterr().err
    check_prompt(MultiViewPrior.from_pretrained(tmp_path / "run").tokenizer, "a [red] cat")
    tune(replace(config, steps=1), tmp_path / "other")
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("pad", [PAD_SD1, PAD_SD2])
def test_what_is_an_ordinary_word_to_clip(pad):
    prior = SimpleNamespace(tokenizer=clip_tokenizer(pad))
    assert [word for word in ("dog", "red", "Anna", "v", "sks", "zwxq") if is_ordinary_word(prior, word)] == [
        "dog",
        "red",
        "Anna",
    ]


def test_bad_input_is_told_in_one_line(photos, tmp_path, capsys):
    command = ["--config", "dreambooth-mini.yaml", "prompt=a [v] cat", "num_threads=1", "steps=1"]
    command += ["views.num_inference_steps=1", f"output_root={tmp_path / 'out'}"]
    assert cli.main([*command, f"data={tmp_path / 'none'}"]) == 2
    assert "docs/howto/dreambooth.md" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert cli.main([*command, f"data={tmp_path / 'empty'}"]) == 2
    assert "no pictures in that folder" in capsys.readouterr().err
    assert cli.main([*command, "prompt=a photo of a [v] unicorn", f"data={photos}"]) == 2
    error = capsys.readouterr().err
    assert "'unicorn'" in error and "'v'" not in error
    five = tmp_path / "five"
    shutil.copytree(photos, five)
    for name in ("3.png", "4.png"):
        shutil.copy(photos / "0.png", five / name)
    (five / "4.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert cli.main([*command, f"data={five}"]) == 0
    printed = capsys.readouterr()
    assert "4.png" in printed.err and "[v] in 4 pictures" in printed.out
