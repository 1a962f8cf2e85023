"""Training a prior, tiny: the same weights however it is stopped, split or accumulated, and in one process or two."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file

from threedgen import cli
from threedgen.cameras import orbit
from threedgen.config.load import load_config
from threedgen.config.sampling import Sampler
from threedgen.config.training import Precision, PriorNetwork, ViewAttention
from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.core.randomness import generator
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.sampling import sample_views
from threedgen.diffusion.start import start_prior
from threedgen.diffusion.text.prompts import unknown_words
from threedgen.runs.budget import Budget
from threedgen.runs.directory import open_run
from threedgen.runs.events import read_events
from threedgen.tasks.training import train_prior
from threedgen.tasks.training.batches import Batch
from threedgen.tasks.training.prior_log import TrainingLog
from threedgen.tasks.training.samples import SHEET, sampled_sets
from threedgen.training import loop
from threedgen.training.loop import Losses

RECIPE = """
task: train_prior
num_threads: 1
camera: {fov_y_deg_range: [36, 44], distance_range: [0.85, 0.95]}
views: {num_inference_steps: 2}
train: {steps: 6, batch_objects: 4, lr: 1e-3, warmup_steps: 1, num_objects: 6, num_patterned_images: 6,
        render_workers: 1, checkpoint_every: 2, sample_every: 6, log_every: 2, multiview_probability: 0.5}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe whose pictures are drawn once for all tests of this file."""
    folder = tmp_path_factory.mktemp("train")
    path = folder / "tiny.yaml"
    path.write_text(f"{RECIPE}output_root: {folder / 'outputs'}\n", "utf-8")
    return path


@pytest.fixture(scope="module")
def config(recipe, tiny_prior):
    return load_config(recipe, [f"train.start_from={tiny_prior}"])


def train(config, folder, **settings):
    config = replace(config, train=replace(config.train, **settings))
    with open_run(folder, config) as run:
        return train_prior.run(config, run)


def weights(folder, step=6):
    """Trained weights, averages and the optimiser's memory after `step` steps, in full precision."""
    return load_file(folder / f"checkpoints/step-{step:06d}/state.safetensors")


def largest_difference(a, b, prefix=""):
    assert a.keys() == b.keys()
    return max((a[key] - b[key]).abs().max().item() for key in a if key.startswith(prefix))


def assert_same_training(first, second):
    """Up to rounding: six steps of 1e-3 moved the weights by a hundred times the tolerance."""
    for prefix in ("unet.", "text_encoder.", "average."):
        assert largest_difference(weights(first), weights(second), prefix) < 6e-5
    for a, b in zip(losses(first), losses(second), strict=True):
        assert a.keys() == b.keys()
        measured = [key for key in a if key not in ("time", "event", "images_per_second")]
        assert [b[key] for key in measured] == pytest.approx([a[key] for key in measured], rel=1e-4)


def losses(folder):
    return [event for event in read_events(folder / "events.jsonl") if event["event"] == "step"]


@pytest.fixture(scope="module")
def straight(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    train(config, folder, sample_every=3)
    return folder


class _Stopped(Exception):
    pass


def stopping(at):
    def learning_rate(step, *args):
        if step == at:
            raise _Stopped
        return original(step, *args)

    original = loop.learning_rate
    return learning_rate


def test_the_steps_of_these_tests_are_of_both_kinds(straight):
    last = losses(straight)
    assert any("2d" in event for event in last) and any("multiview" in event for event in last)


def test_a_training_on_sets_of_views_alone_leaves_no_2d_mode(config, straight, tmp_path):
    assert MultiViewPrior.from_pretrained(straight / "prior").has_2d_mode
    results = train(config, tmp_path / "views", multiview_probability=1.0, steps=1, sample_every=100)
    assert not MultiViewPrior.from_pretrained(results["prior"]).has_2d_mode
    again = replace(config, train=replace(config.train, start_from=str(results["prior"])))
    assert MultiViewPrior.from_pretrained(train(again, tmp_path / "both", steps=1)["prior"]).has_2d_mode


def test_a_stopped_training_resumes_to_the_same_weights(config, straight, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "learning_rate", stopping(at=5))
    with pytest.raises(_Stopped):
        train(config, tmp_path)
    monkeypatch.undo()
    results = train(config, tmp_path)
    assert largest_difference(weights(straight), weights(tmp_path)) == 0
    prior = MultiViewPrior.from_pretrained(results["prior"])
    average = weights(straight)["average.unet.conv_in.weight"]
    torch.testing.assert_close(prior.unet.conv_in.weight, average, rtol=1e-3, atol=1e-4)
    assert results["samples"].exists()


def test_a_training_by_the_clock_ends_and_goes_on_with_what_was_left(config, tmp_path, monkeypatch):
    """Every look at the clock is a second later. Three of five steps are done when the process is stopped."""
    seconds, rates, original = iter(range(1000)), [], loop.learning_rate
    clocked = partial(Budget, clock=lambda: next(seconds))

    def learning_rate(step, remaining, *args):
        rates.append(remaining)
        if step == 3 and len(rates) == 4:
            raise _Stopped
        return original(step, remaining, *args)

    monkeypatch.setattr(loop, "Budget", clocked)
    monkeypatch.setattr(loop, "learning_rate", learning_rate)
    config = replace(config, train=replace(config.train, minutes=5 / 60, steps=10**6, checkpoint_every=1))
    with pytest.raises(_Stopped):
        train(config, tmp_path)
    results = train(config, tmp_path)
    # step 3 began a second before the process ended, and its checkpoint holds the time of its beginning
    assert rates == pytest.approx([1, 0.8, 0.6, 0.4, 0.6, 0.4, 0.2])
    assert results["prior"].is_dir()


@pytest.mark.parametrize(
    "settings", [{"accumulate": 4}, {"gradient_checkpointing": True, "loader_workers": 2}], ids=str
)
def test_what_saves_memory_or_time_leaves_the_weights(config, straight, tmp_path, settings):
    train(config, tmp_path, **settings)
    assert_same_training(straight, tmp_path)


def test_a_sheets_views_are_drawn_as_the_settings_say(config):
    prior, cameras = MultiViewPrior.from_pretrained(config.train.start_from), orbit([0, 90], 15, 2, 40, 16, num_views=2)
    settings = {"num_inference_steps": 2, "guidance_scale": 5.0, "rescale": 1.0, "sampler": Sampler.dpm}
    drawn = sampled_sets(prior, replace(config, views=replace(config.views, **settings)), ["a cat"], cameras)
    expected = sample_views(prior, ["a cat"], cameras, generator(config.seed, 0, SHEET), **settings)
    assert np.array_equal(drawn[0], expected.movedim(1, -1).numpy())


def test_training_moves_what_it_should(config, straight, tmp_path, monkeypatch):
    start = MultiViewPrior.from_pretrained(config.train.start_from)
    end = weights(straight)
    moved = {k: (v - end[f"unet.{k}"]).abs().max().item() for k, v in start.unet.state_dict().items()}
    assert min(moved.values()) > 0  # the camera's layers too, in the multi-view steps
    assert not torch.equal(end["text_encoder.final_layer_norm.weight"], start.text_encoder.final_layer_norm.weight)
    assert not any(key.startswith("vae") for key in end)
    monkeypatch.setattr(train_prior, "grow_vocabulary", lambda *_: pytest.fail("nobody would learn the new words"))
    train(config, tmp_path, train_text_encoder=False, steps=2)
    frozen = MultiViewPrior.from_pretrained(tmp_path / "prior")
    for name in ("text_encoder", "vae"):
        for a, b in zip(getattr(frozen, name).parameters(), getattr(start, name).parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)  # saved in half precision
    assert not any(key.startswith(("text_encoder", "average.text_encoder")) for key in weights(tmp_path, 2))


@pytest.mark.parametrize("attention", [ViewAttention.epipolar, ViewAttention.spad])
def test_layers_that_know_the_cameras_learn_and_are_kept(config, tmp_path, attention):
    """The tiny prior is of the inflated kind; the run's folder is of this one."""
    train(config, tmp_path, steps=3, checkpoint_every=3, view_attention=attention, multiview_probability=1.0)
    end = weights(tmp_path, 3)
    start = start_prior(config.train.start_from, attention).unet.state_dict()
    new = start.keys() - start_prior(config.train.start_from).unet.state_dict().keys()
    assert new and all((end[f"unet.{key}"] - start[key]).abs().max() > 0 for key in new)
    loaded = MultiViewPrior.from_pretrained(tmp_path / "prior").unet
    assert loaded.config.view_attention == attention.value and loaded.state_dict().keys() == start.keys()
    assert max(loaded.state_dict()[key].abs().max() for key in new if start[key].count_nonzero() == 0) > 0


def test_bfloat16_keeps_float32_weights_and_nearly_the_same_losses(config, straight, tmp_path):
    train(config, tmp_path, precision=Precision.bfloat16)
    assert {tensor.dtype for tensor in weights(tmp_path).values()} == {torch.float32}
    for ours, theirs in zip(losses(tmp_path), losses(straight), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.03)
        assert ours["loss"] != theirs["loss"]


def test_events_hold_the_mean_losses_by_mode_and_quarter(config, tmp_path):
    settings = replace(config.train, log_every=2)

    def part(timesteps, cameras, num_views=1):
        count = len(timesteps)
        told, noise = [""] * (count // num_views), torch.zeros(count, 4)
        return Batch(torch.zeros(count, 3, 8, 8), told, cameras, torch.tensor(timesteps), noise, torch.ones(count))

    def views(*losses):
        return Losses(torch.tensor(losses).mean(), {"views": torch.tensor(losses)})

    with open_run(tmp_path, config) as run, TrainingLog(run, settings, 4, torch.device("cpu")).begin(0) as log:
        log.add(part([0, 249, 250, 999], None), views(1.0, 2.0, 4.0, 8.0))
        log.step(1, torch.zeros(()), torch.tensor(3.0), lr=0.1)
        log.add(part([500, 749], orbit([0, 180], 15, 2, 40, 8, num_views=2)), views(5.0, 7.0))
        log.step(2, torch.zeros(()), torch.tensor(3.0), lr=0.1)
        log.add(part([10], None), views(9.0))
        log.step(3, torch.zeros(()), torch.tensor(3.0), lr=0.1)
        log.step(4, torch.zeros(()), torch.tensor(3.0), lr=0.1)
        log.add(part([0, 0], None), views(1.0, float("nan")))  # a fault, from which the training goes back
        with log.begin(4):
            log.step(5, torch.zeros(()), torch.tensor(3.0), lr=0.1)
            log.add(part([0, 0], None, num_views=2), views(1.0, 2.0))  # a video whose cameras nobody is told
            log.step(6, torch.zeros(()), torch.tensor(3.0), lr=0.1)
    first, second, third = losses(tmp_path)
    assert first | {"loss": 27 / 6, "2d": 15 / 4, "2d_t0": 1.5, "2d_t250": 4.0, "2d_t750": 8.0} == first
    assert first | {"multiview": 6.0, "multiview_t500": 6.0, "grad_norm": 3.0, "lr": 0.1, "step": 2} == first
    assert not {"2d_t500", "multiview_t0", "multiview_t250", "multiview_t750"} & first.keys()
    assert second["loss"] == second["2d_t0"] == 9.0 and "multiview" not in second
    assert third["loss"] == third["multiview_t0"] == 1.5 and "2d" not in third


def test_sheets_and_numbers_go_to_tensorboard(straight):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    records = EventAccumulator(str(straight / "tensorboard")).Reload()
    logged = {event["step"]: event["loss"] for event in losses(straight)}
    shown = {scalar.step: scalar.value for scalar in records.Scalars("loss/loss")}
    assert shown == pytest.approx(logged)
    assert [image.step for image in records.Images("samples")] == [3, 6]
    assert (straight / "samples/step-000003.png").exists()
    psnr = {event["step"]: event["psnr"] for event in read_events(straight / "events.jsonl") if "psnr" in event}
    assert {s.step: s.value for s in records.Scalars("psnr")} == pytest.approx(psnr)


def test_training_goes_on_without_tensorboard(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train(config, tmp_path, steps=2)
    assert capsys.readouterr().out.count("no TensorBoard records") == 1
    assert losses(tmp_path)


def straight_and_stopped(config, folder, monkeypatch, at, **settings):
    """The same training in one go, in `straight`, and stopped in its first network's step `at`, in `stopped`."""
    train(config, folder / "straight", **settings)
    with monkeypatch.context() as patched, pytest.raises(_Stopped):
        patched.setattr(loop, "learning_rate", stopping(at=at))
        train(config, folder / "stopped", **settings)
    train(config, folder / "stopped", **settings)


def test_from_scratch_the_vae_is_trained_first_and_resumed(config, tmp_path, monkeypatch):
    small = {"start_from": "", "image_size": 16, "steps": 1, "vae_steps": 4, "vae_batch": 4, "batch_objects": 1}
    small |= {"sample_every": 100}
    straight_and_stopped(config, tmp_path, monkeypatch, 3, **small)
    first, second = (
        load_file(tmp_path / n / "vae/diffusion_pytorch_model.safetensors") for n in ("straight", "stopped")
    )
    assert largest_difference(first, second) == 0
    last = load_file(tmp_path / "straight/checkpoints-vae/step-000004/state.safetensors")
    assert all(torch.equal(value, last[f"average.vae.{name}"]) for name, value in first.items())
    vae = json.loads((tmp_path / "stopped/vae/config.json").read_text("utf-8"))
    assert vae["scaling_factor"] != 0.18215  # measured: its latents have unit standard deviation
    prior = MultiViewPrior.from_pretrained(tmp_path / "stopped/prior")
    assert prior.image_size == 16


def test_a_start_may_take_the_vae_of_other_weights(config, tmp_path):
    other = MultiViewPrior.from_pretrained(config.train.start_from)
    with torch.no_grad():
        for parameter in other.vae.parameters():
            parameter.mul_(0.5)
    other.save_pretrained(tmp_path / "other", torch.float32)
    train(config, tmp_path / "run", vae=str(tmp_path / "other"), steps=1, sample_every=100)
    trained = MultiViewPrior.from_pretrained(tmp_path / "run/prior")
    for found, expected in zip(trained.vae.parameters(), other.vae.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_a_decoder_that_goes_on_learning_leaves_latents_what_they_are(config, tmp_path, monkeypatch):
    base = MultiViewPrior.from_pretrained(config.train.start_from)
    small = {"train_vae_decoder": True, "steps": 1, "vae_steps": 16, "vae_batch": 8, "sample_every": 100}
    straight_and_stopped(config, tmp_path, monkeypatch, 10, **small)
    straight, stopped = (MultiViewPrior.from_pretrained(tmp_path / name / "prior") for name in ("straight", "stopped"))
    assert straight.vae.config.scaling_factor == base.vae.config.scaling_factor
    changed = set()
    for (name, before), after, again in zip(
        base.vae.named_parameters(), straight.vae.parameters(), stopped.vae.parameters(), strict=True
    ):
        assert torch.equal(after, again)
        if not torch.equal(before.half(), after):  # priors are saved in half precision
            changed.add(name.split(".")[0])
    assert changed == {"decoder"}
    losses = [e["loss"] for e in read_events(tmp_path / "straight/events.jsonl") if e["event"] == "vae_step"]
    assert losses[-1] < 0.8 * losses[0]
    with pytest.raises(ConfigError, match="train_vae_decoder=true needs a VAE that is there"):
        train(config, tmp_path / "none", start_from="", train_vae_decoder=True)


def test_a_prior_from_nothing_on_a_vae_whose_decoder_goes_on_learning(config, tmp_path):
    start = config.train.start_from
    small = {"start_from": "", "vae": start, "train_vae_decoder": True, "image_size": 16, "steps": 1, "vae_steps": 4}
    train(config, tmp_path, **small, vae_batch=4, batch_objects=1, sample_every=100)
    vae, base = (MultiViewPrior.from_pretrained(folder).vae for folder in (tmp_path / "prior", start))
    same = {part: same_halves(getattr(vae, part), getattr(base, part)) for part in ("encoder", "decoder")}
    assert same == {"encoder": True, "decoder": False}


def same_halves(a, b):
    """Whether two modules have the same parameters in half precision, in which priors are saved."""
    return all(torch.equal(x.half(), y.half()) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_an_image_size_that_the_networks_cannot_halve_is_refused(config, tmp_path):
    with pytest.raises(ConfigError, match=r"train.image_size=20: .* multiple of 8"):
        train(config, tmp_path, image_size=20)
    scratch = {"start_from": "", "image_size": 40, "num_objects": 10**9}  # told before any picture is drawn
    with pytest.raises(ConfigError, match=r"train.image_size=40: .* multiple of 16"):
        train(config, tmp_path / "scratch", **scratch)


def test_a_prior_from_nothing_has_latents_of_the_vae_that_it_is_given(config, tmp_path):
    """One that halves pictures three times where the mini one does twice: 64 pixels are 8 x 8 latents."""
    widths = (4,) * 4
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(**blocks, block_out_channels=widths, layers_per_block=1, latent_channels=4, norm_num_groups=1)
    other = MultiViewPrior.from_pretrained(config.train.start_from)
    other.vae = vae
    other.save_pretrained(tmp_path / "other")
    settings = {"start_from": "", "vae": str(tmp_path / "other"), "steps": 1, "sample_every": 100, "batch_objects": 1}
    train(config, tmp_path / "run", **settings)
    prior = MultiViewPrior.from_pretrained(tmp_path / "run/prior")
    assert (prior.image_size, prior.unet.config.sample_size) == (64, 8)


@pytest.fixture
def own_data(tmp_path):
    """Settings for a mesh and a picture whose captions have words that no prior knows."""
    trimesh.creation.box().export(tmp_path / "box.ply")
    (tmp_path / "captions.jsonl").write_text('{"file": "box.ply", "caption": "a Velvet cube"}')
    views, pictures = tmp_path / "views", tmp_path / "pictures"
    assert cli.main(["render-meshes", str(tmp_path / "box.ply"), str(views), "--size", "16", "--supersample", "1"]) == 0
    pictures.mkdir()
    Image.new("RGB", (16, 16), "red").save(pictures / "a.png")
    (pictures / "a.txt").write_text("a tartan zeppelin")
    return {"multiview_data": str(views), "image_data": str(pictures), "steps": 2, "sample_every": 100}


def test_words_of_own_captions_are_learned(config, own_data, tmp_path, capsys):
    train(config, tmp_path / "grown", **own_data)
    assert "3 that" in (out := capsys.readouterr().out) and "velvet, tartan, zeppelin" in out
    start, grown = (MultiViewPrior.from_pretrained(f) for f in (config.train.start_from, tmp_path / "grown/prior"))
    assert not unknown_words(grown.tokenizer, "a red velvet zeppelin, 3d asset")
    assert unknown_words(start.tokenizer, "a red velvet zeppelin, 3d asset") == ["velvet", "zeppelin"]
    for caption in ("a paper zeppelin", "a tartan zeppelin in " + " ".join(f"colour{i}" for i in range(12))):
        (tmp_path / "pictures/a.txt").write_text(caption)  # as many words as before, and more
        with pytest.raises(ThreedgenError, match="the captions' words changed since this was saved"):
            train(config, tmp_path / "grown", **own_data | {"steps": 3})
    assert "16 that" in (out := capsys.readouterr().out) and "colour7, ...\n" in out and "colour8" not in out

    train(config, tmp_path / "new", **own_data, start_from="", vae="mini", image_size=16)
    new = MultiViewPrior.from_pretrained(tmp_path / "new/prior")
    assert unknown_words(new.tokenizer, "a red velvet tartan zeppelin, 3d asset") == ["red"]


def test_kinds_of_miniworld_are_not_taken_with_other_data(config, own_data, tmp_path):
    with pytest.raises(ConfigError, match="neither source of data is miniworld"):
        train(config, tmp_path / "run", **own_data, kinds=("cat",))


def test_missing_weights_and_data_and_odd_batches_are_one_line(recipe, tiny_prior, capsys):
    start = f"train.start_from={tiny_prior}"
    wrong = {
        "train.start_from=weights/nowhere": 3,
        "train.multiview_data=/nowhere": 2,
        "train.image_data=/nowhere": 2,
        "train.accumulate=3": 2,
    }
    for setting, status in wrong.items():
        assert cli.main(["--config", str(recipe), start, setting]) == status
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and setting.split("=")[1] in error, error


def test_several_processes_train_on_videos_without_cameras(config, tmp_path, monkeypatch):
    """As the first of two, which is alone in its group: what is not used in a step is found there too."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        monkeypatch.setattr(train_prior, "world_size", lambda: 2)
        clips = {"network": PriorNetwork.video, "multiview_data": "miniworld-clips", "image_data": ""}
        train(config, tmp_path / "run", **clips, steps=2, sample_every=100)
    finally:
        torch.distributed.destroy_process_group()
    end, start = weights(tmp_path / "run", 2), start_prior(config.train.start_from, network=PriorNetwork.video)
    moved = {name for name, value in start.unet.state_dict().items() if not torch.equal(value, end[f"unet.{name}"])}
    assert "conv_out.weight" in moved and not any(name.startswith("camera_embedding") for name in moved)


@pytest.mark.slow
def test_two_processes_train_as_one_does_and_resume_bit_for_bit(recipe, config, straight):
    recipes = [recipe.with_name(f"{name}.yaml") for name in ("two", "stopped")]
    for path in recipes:
        path.write_text(f"extends: {recipe}\ntrain: {{start_from: {config.train.start_from}}}\n", "utf-8")
    script = Path(__file__).with_name("two_processes.py")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, str(script), *map(str, recipes)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    two, stopped, resumed = (Path(words[1]) for words in lines if words[0] == "run")  # only the first process speaks
    assert stopped == resumed != two
    assert largest_difference(weights(two), weights(resumed)) == 0
    assert_same_training(straight, two)
