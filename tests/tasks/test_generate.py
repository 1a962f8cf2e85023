"""The whole chain with the bundled weights, short: the loss falls, a stopped run resumes exactly, files come out."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trimesh

from threedgen import cli
from threedgen.cameras import CameraSampler, orbit, rays_of
from threedgen.config.load import load_config
from threedgen.config.schedules import Schedule
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.denoising import Guided
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.guidance.sds import ScoreDistillation
from threedgen.runs.directory import open_run
from threedgen.runs.events import read_events
from threedgen.scene import regularizers
from threedgen.scene.nerf import NeRF
from threedgen.scene.neus import NeuS
from threedgen.tasks import generate, prior_fit
from threedgen.tasks.prompting import encode_prompts, load_prior

PROMPT = "a red cat with a green face"
SHORT = ["views.num_inference_steps=2"]  # of the views that a run begins with


def _config(*settings):
    return load_config("mvdream-mini.yaml", [f"prompt={PROMPT}", "refine.rounds=0", *settings])


@pytest.fixture
def quick_fit(monkeypatch):
    """How well the prior fits is asked in two steps of denoising."""
    monkeypatch.setattr(prior_fit, "_STEPS", 2)


@pytest.fixture(scope="module")
def prior():
    return MultiViewPrior.from_pretrained("mini")


def _loss_at_half_noise(scene, prior, config):
    """Mean guidance loss over fixed cameras, noise and timestep: comparable before and after."""
    fixed = replace(config.guidance, min_timestep=Schedule(0.5, 0.5), max_timestep=Schedule(0.5, 0.5))
    guidance, sampler = ScoreDistillation(prior, fixed, seed=9), CameraSampler(config.camera, seed=9)
    text, negative = prior.encode_text([PROMPT]), prior.encode_text([""])
    losses = []
    with torch.no_grad():
        for step in range(6):
            cameras = sampler.sample(step, 6)
            rgb = scene.render(cameras, background=torch.full((3,), 0.5)).rgb
            told = Conditions(text, cameras, cameras.num_views)
            denoiser = Guided(prior, told, negative, fixed.guidance_scale, fixed.rescale)
            losses.append(guidance(rgb, denoiser, step, 6).loss.item())
    return sum(losses) / len(losses)


def _fit(config, run):
    prior = load_prior(config)
    scene, done = generate.optimize(config, run, prior, *encode_prompts(config, prior))
    assert done == config.steps
    return scene


@pytest.mark.slow
def test_sixty_steps_bring_the_loss_down(prior, tmp_path):
    config = _config("steps=60", "camera.resolution=32", "preview_every=60")
    before = _loss_at_half_noise(NeRF(config.scene, config.seed), prior, config)
    with open_run(tmp_path / "run", config) as run:
        scene = _fit(config, run)
    after = _loss_at_half_noise(scene, prior, config)
    assert after < 0.75 * before, (before, after)
    assert (tmp_path / "run/previews/step-000060.png").exists()
    steps = [event for event in read_events(tmp_path / "run/events.jsonl") if event["event"] == "step"]
    assert [event["step"] for event in steps] == [10, 20, 30, 40, 50, 60]


def test_a_step_is_guided_in_its_range_of_the_schedule(prior, monkeypatch):
    asked, denoise = [], prior.denoise
    monkeypatch.setattr(prior, "denoise", lambda noisy, *told: asked.append(len(noisy)) or denoise(noisy, *told))
    text = prior.encode_text([PROMPT])
    for level in ("0.3", "0.7"):
        times = [f"guidance.{end}_timestep={level}" for end in ("min", "max")]
        config = _config("guidance.guidance_range=[0.5, 1]", "camera.resolution=8", *times)
        generate.distilling(NeRF(config.scene, config.seed), config, prior, text, text)(0)
    assert asked == [4, 8]  # four views; wanted and unwanted


def test_a_single_view_is_asked_for_without_its_camera(prior, monkeypatch):
    """Training never showed one with it."""
    asked, denoise = [], prior.denoise
    monkeypatch.setattr(prior, "denoise", lambda noisy, t, told: asked.append(told) or denoise(noisy, t, told))
    text = prior.encode_text([PROMPT])
    for num_views in (1, 4):
        config = _config("camera.resolution=8", f"camera.num_views={num_views}")
        generate.distilling(NeRF(config.scene, config.seed), config, prior, text, text)(0)
    assert [told.cameras is None for told in asked] == [True, False]


def test_the_loss_of_a_step_is_the_guidance_and_the_weighed_regularizers(prior):
    """Each as the recipe has it for this step, this seed and this scene."""
    weights = ["sparsity", "opaque", "orientation", "eikonal"]
    settings = [f"regularizer.{n}={{start: {2 + i}, end: {10 + i}, from_fraction: 0}}" for i, n in enumerate(weights)]
    settings += ["guidance.rescale=0.7", "guidance.guidance_scale=3", "seed=5", "steps=8", "camera.resolution=8"]
    config = _config(*settings, "camera.coarse_fraction=0", "scene.geometry=sdf", "guidance.image_size=16")
    scene, how = NeuS(config.scene, config.seed), config.guidance
    text, negative = prior.encode_text([PROMPT]), prior.encode_text(["a blue dog"])
    with torch.no_grad():
        taken = generate.distilling(scene, config, prior, text, negative)(2)
        cameras = CameraSampler(config.camera, 5).sample(2, 8)
        seen = generate._render(scene, cameras, config, 2)
        denoiser = Guided(prior, Conditions(text, cameras, 4), negative, 3.0, 0.7, how.guidance_range)
        expected = ScoreDistillation(prior, how, 5)(seen.rgb, denoiser, 2, 8).loss
        own = [regularizers.sparsity(seen), regularizers.opaque(seen), regularizers.orientation(seen)]
        own.append(regularizers.eikonal(scene, 2))
    for i, loss in enumerate(own):
        assert loss > 0
        expected = expected + (4.0 + i) * loss  # a quarter of the way from 2 to 10
    assert taken.loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_checkpoint_stands_before_the_first_step_with_larger_pictures():
    config = _config("steps=10", "camera.coarse_fraction=0.5")
    assert [done for done in range(1, 11) if generate._grows_next(done, config)] == [5]


def test_one_random_colour_stands_behind_a_step_at_the_stated_rate():
    config = _config("scene.samples_per_ray=8", "scene.background_random_probability=0.3")
    scene = NeRF(config.scene, config.seed)
    scene.occupancy.occupied.zero_()
    cameras = orbit([0, 90], 0, 2.6, 90, height=2)
    network = scene.background(rays_of(cameras).directions)
    seen = torch.stack([generate._render(scene, cameras, config, step).rgb.detach().view(8, 3) for step in range(200)])
    from_network = (seen - network).abs().amax((1, 2)) < 1e-6
    one_color = (seen - seen[:, :1]).abs().amax((1, 2)) < 1e-6
    assert (from_network ^ one_color).all() and 40 < one_color.sum() < 80
    colors = seen[one_color][:, 0]
    assert colors.min() < 0.1 and colors.max() > 0.9 and (colors.std(1) > 0.05).any()


@pytest.mark.parametrize("geometry", ["density", "sdf"])
def test_a_stopped_run_resumes_to_the_same_scene(geometry, tmp_path, monkeypatch):
    settings = ["camera.resolution=16", "checkpoint_every=4", "scene.occupancy_every=3", f"scene.geometry={geometry}"]
    config = _config("steps=8", *settings)
    with open_run(tmp_path / "straight", config) as run:
        straight = _fit(config, run)

    class Stopped(Exception):
        pass

    render = generate._render

    def stop_at_six(scene, cameras, config, step):
        if step == 6:
            raise Stopped
        return render(scene, cameras, config, step)

    monkeypatch.setattr(generate, "_render", stop_at_six)
    with open_run(tmp_path / "stopped", config) as run, pytest.raises(Stopped):
        _fit(config, run)
    monkeypatch.undo()
    with open_run(tmp_path / "stopped", config) as run:
        resumed = _fit(config, run)
    for (name, a), (_, b) in zip(straight.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_the_light_comes_on_when_the_recipe_says_and_depends_on_the_step_alone():
    config = load_config("mvdream-mini-shading.yaml", [f"prompt={PROMPT}", "steps=40", "scene.min_transmittance=0"])
    config = replace(config, shading=replace(config.shading, diffuse_probability=1.0))
    scene, sampler = NeRF(config.scene, config.seed), CameraSampler(config.camera, config.seed)
    plain = replace(config, shading=replace(config.shading, enabled=False))
    with torch.no_grad():
        for step in (0, 19, 20, 39):
            cameras = sampler.sample(step, 40)
            lit, again, unlit = (generate._render(scene, cameras, c, step) for c in (config, config, plain))
            assert torch.equal(lit.rgb, again.rgb)
            assert ((lit.rgb - unlit.rgb).abs().max() > 0.02) == (step >= 20)
            assert lit.facing_away is not None  # the orientation loss needs it from the start


def test_the_command_writes_a_textured_asset(tmp_path, capsys, quick_fit):
    settings = [f"prompt={PROMPT}", f"output_root={tmp_path}", "steps=2", "camera.resolution=16", "num_threads=1"]
    settings += ["export.resolution=32", "export.texture_size=128", "export.turntable_frames=4", "export.image_size=64"]
    settings += ["refine.rounds=2", "refine.sets=1", "refine.num_inference_steps=2", "refine.steps=3", *SHORT]
    assert cli.main(["--config", "mvdream-mini.yaml", *settings]) == 0
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    for name in ("glb", "obj", "turntable", "sheet", "report"):
        assert Path(printed[name]).stat().st_size > 100, name
    mesh = trimesh.load(printed["glb"], force="mesh")
    assert len(mesh.faces) > 100 and mesh.visual.material.baseColorTexture.size == (128, 128)
    report = json.loads(Path(printed["report"]).read_text())
    assert report["prompt"] == PROMPT and report["mesh_vs_scene_psnr"] > 15
    assert report["step"] == report["scene_vs_prior"]["step"] == 2 + 2 * 3  # refined twice
    # the same command finds the run finished
    assert cli.main(["--config", "mvdream-mini.yaml", *settings]) == 0
    assert "finished before" in capsys.readouterr().out


def test_what_cannot_be_done_is_one_line_and_a_status(tmp_path, capsys, quick_fit):
    def status(*settings):
        code = cli.main(["--config", "mvdream-mini.yaml", f"output_root={tmp_path}", *settings])
        return code, capsys.readouterr().err.strip()

    code, message = status("prompt=a red zebra")
    assert code == 2 and "'zebra'" in message and "'a red elephant'" in message and "\n" not in message
    code, message = status("prompt=a red cat", f"weights={tmp_path}/none")
    assert code == 3 and "none" in message and "\n" not in message
    tiny = ["steps=1", "camera.resolution=8", "num_threads=1", "refine.rounds=0", *SHORT]
    code, message = status("prompt=a red cat", "export.threshold=1000000", *tiny)
    assert code == 4 and "export.threshold" in message
    assert not list(tmp_path.rglob("*.glb"))
    # a hostile prompt runs as typed once unknown words are allowed, and stays as typed in the run's files
    hostile = "${oc.env:HOME} #1: a 'red' cat\\ \u00e9"
    code, _ = status(f"prompt={hostile}", "allow_unknown_words=true", "export.threshold=1000000", *tiny)
    assert code == 4
    assert any(load_config(path).prompt == hostile for path in tmp_path.rglob("config.yaml"))
