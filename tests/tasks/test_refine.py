"""Refinement by a prior that knows the truth: its views are those, and the scene comes to look like them."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from threedgen import cli
from threedgen.cameras import viewing_cameras
from threedgen.config.load import load_config, to_yaml
from threedgen.config.scene import Geometry
from threedgen.config.schedules import Schedule
from threedgen.core.randomness import generator
from threedgen.data.miniworld import build, parse, render
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.denoising import Denoised
from threedgen.diffusion.networks.multiview_unet import MultiViewUNet
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.schedule import NoiseSchedule, stable_diffusion_schedule
from threedgen.metrics import psnr
from threedgen.runs.checkpoint import load_latest_checkpoint
from threedgen.runs.directory import open_run
from threedgen.runs.stopping import Terminated
from threedgen.scene import regularizers
from threedgen.scene.nerf import NeRF
from threedgen.scene.neus import NeuS
from threedgen.tasks import generate, prior_fit, refine
from threedgen.tasks.on_runs import refine_run
from threedgen.tasks.scene_optimizer import Span, fit

CONFIG = load_config(
    "mvdream-mini.yaml",
    [
        "prompt=a red ball",
        "steps=4",
        "camera.resolution=24",
        "guidance.image_size=24",
        "checkpoint_every=4",
        "refine.rounds=2",
        "refine.strength=0.5",
        "refine.sets=3",
        "refine.steps=40",
        "refine.num_inference_steps=8",
        "refine.coarse_rounds=0",
        "refine.background_random_probability=0",
        "num_threads=1",
    ],
)
TEXT = torch.zeros(1, 1, 1)


def refining(**settings):
    return replace(CONFIG, refine=replace(CONFIG.refine, **settings))


SEEN = {}  # by the cameras' matrices: a round asks for the same views in each of its denoising steps


def truth(cameras):
    key = (cameras.height, cameras.camera_to_world.numpy().tobytes())
    if key not in SEEN:
        object_, size = build(parse("a red ball")), cameras.height
        SEEN[key] = render(object_, cameras.camera_to_world.numpy(), cameras.fov_y.numpy(), size).rgb
    return SEEN[key]


class Knowing:
    """Latents are pixels; whatever the noisy views look like, their x0 is the truth from the cameras it is told."""

    schedule = NoiseSchedule(stable_diffusion_schedule().alphas_cumprod)

    def __init__(self):
        self.asked = []

    def encode_images(self, images):
        return images * 2 - 1

    def decode(self, latents):
        return (latents / 2 + 0.5).clamp(0, 1)

    def denoise(self, noisy, timestep, told):
        self.asked.append((int(timestep[0]), len(noisy), told.num_views))
        size = noisy.shape[-1]  # whatever the scene's own pictures are
        x0 = torch.from_numpy(truth(replace(told.cameras, height=size, width=size))).movedim(-1, 1).float() * 2 - 1
        x0 = x0.repeat(len(noisy) // len(x0), 1, 1, 1)
        alpha, sigma = self.schedule.level(timestep)
        return Denoised((noisy - alpha * x0) / sigma, x0)


def likeness(scene):
    cameras = viewing_cameras(CONFIG.camera, [20, 110, 200, 290], 15, 24)
    with torch.no_grad():
        return psnr(scene.render(cameras).rgb.numpy(), truth(cameras))


def test_the_targets_are_what_the_prior_makes_of_the_scenes_own_views():
    prior, scene = Knowing(), NeRF(CONFIG.scene, CONFIG.seed)
    cameras, targets = refine.draw_targets(scene, CONFIG, prior, TEXT, TEXT, step=4)
    assert [len(one) for one in cameras] == [4, 4, 4] and len(targets) == 3
    for one, target in zip(cameras, targets, strict=True):
        assert np.abs(target.numpy() - truth(one)).mean() < 0.03  # the schedule's first level of noise is left
    # Of eight timesteps those of the first half, four views together; wanted and unwanted while the recipe guides
    assert prior.asked == [(500, 24, 4), (375, 24, 4), (250, 12, 4), (125, 12, 4)]


def test_sets_are_drawn_in_even_pieces_and_in_each_as_in_the_whole(monkeypatch):
    scene, config, drawn = NeRF(CONFIG.scene, CONFIG.seed), refining(sets=6), []
    for at_once, count in ((8, 24), (4, 12)):  # views of six sets and of three, twice where they are guided
        monkeypatch.setattr(refine, "_SETS_AT_ONCE", at_once)
        prior = Knowing()
        drawn.append(refine.draw_targets(scene, config, prior, TEXT, TEXT, step=4)[1])
        assert {asked for _, asked, _ in prior.asked} == {2 * count, count}
    assert all(torch.equal(whole, piece) for whole, piece in zip(*drawn, strict=True))


def test_with_little_noise_the_targets_are_the_scenes_own_views():
    config = refining(strength=Schedule(0.001, 0.001))
    prior, scene = Knowing(), NeRF(CONFIG.scene, CONFIG.seed)
    prior.denoise = lambda noisy, timestep, told: Denoised(noisy * 0, noisy / prior.schedule.level(timestep)[0])
    cameras, targets = refine.draw_targets(scene, config, prior, TEXT, TEXT, step=4)
    for one, target in zip(cameras, targets, strict=True):
        difference = (target - scene.render(one).rgb).abs()
        assert 0.005 < difference.mean() < 0.05  # sigma is 0.04 at timestep 1, for values in -1..1


def test_a_set_that_comes_again_is_seen_by_other_samples():
    """The few rays of a round would otherwise be right only where their samples happened to lie."""
    scene = NeRF(replace(CONFIG.scene, samples_per_ray=8), CONFIG.seed)
    cameras, targets = refine.draw_targets(scene, CONFIG, Knowing(), TEXT, TEXT, step=4)
    step = refine._Fitting(scene, refining(smoothness_weight=0.0), cameras[:1], targets[:1], [None])
    first, again, other = (step(k).loss.item() for k in (4, 4, 5))
    assert first == again != other


def test_a_step_fits_as_many_sets_as_a_step_of_distillation_shows():
    camera = replace(CONFIG.camera, sets_per_step=2, coarse_sets_per_step=3)
    config = replace(refining(smoothness_weight=0.0, coarse_rounds=1), camera=camera)
    assert [refine._sets_a_step(config, number) for number in (0, 1)] == [3, 2]
    scene, shown = NeRF(CONFIG.scene, CONFIG.seed), []
    scene.ops = replace(scene.ops, ray_jitter=lambda seed, count, device: torch.full((count,), 0.5))
    cameras = refine._round_cameras(config, 4, 1)
    targets = [torch.full((4, 24, 24, 3), 0.1 * k) for k in range(3)]
    one, two = (refine._Fitting(scene, config, cameras, targets, [None] * 3, n) for n in (1, 2))
    for step in range(3):
        taken = two(step)
        alone = [one(2 * step + k) for k in (0, 1)]
        assert taken.loss.item() == pytest.approx(np.mean([each.loss.item() for each in alone]), rel=1e-5)
        assert torch.equal(taken.cameras.azimuth, torch.cat([each.cameras.azimuth for each in alone]))
        shown += taken.cameras.azimuth.tolist()
    assert sorted(shown) == sorted(2 * torch.cat([each.azimuth for each in cameras]).tolist())  # each as often


def test_strength_and_size_follow_the_rounds():
    config = refining(rounds=3, strength=Schedule(1.0, 0.5), sets=3, num_inference_steps=4, coarse_rounds=2)
    config = replace(config, camera=replace(config.camera, coarse_resolution=12, coarse_fraction=1.0))
    scene, first = NeRF(config.scene, config.seed), []
    for number in range(3):
        prior = Knowing()
        # from a step on in whose midst the scene's own pictures, were it not finished, would grow
        drawn = refine.draw_targets(scene, config, prior, TEXT, TEXT, step=2, number=number)
        first.append([t for t, _, _ in prior.asked])
        for cameras, target in zip(*drawn, strict=True):
            assert target.shape == (4, *[24 if number == 2 else 12] * 2, 3) and cameras.height == target.shape[1]
    assert first == [[999, 749, 500, 250], [750, 500, 250], [500, 250]]  # 1, 3/4 and 1/2 of the schedule


def test_views_are_drawn_with_the_guidance_that_is_set():
    """In one step from half of the schedule to its end, where hardly any noise is left of it."""
    wanted, unwanted = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def denoise(noisy, timestep, told):
        x0 = torch.where(
            told.text_of(len(noisy))[..., None] > 0, wanted.repeat(2, 1, 1, 1), unwanted.repeat(2, 1, 1, 1)
        )
        alpha, sigma = prior.schedule.level(timestep)
        return Denoised((noisy - alpha * x0) / sigma, x0)

    prior = Knowing()
    prior.encode_images, prior.decode, prior.denoise = lambda x: x, lambda x: x, denoise
    settings = replace(CONFIG.refine, guidance_scale=3.0, rescale=0.4, num_inference_steps=2)
    text = torch.ones(1, 1, 1)
    drawn = refine.redraw(
        torch.zeros(4, 3, 8, 8), Conditions(text, None, 4), 0 * text, prior, settings, 0.5, torch.Generator()
    )
    guided = unwanted + 3 * (wanted - unwanted)
    expected = guided * (0.4 * wanted.std() / guided.std() + 0.6)
    assert (drawn - expected).abs().mean() < 0.03 * expected.abs().mean()


def test_a_single_view_is_drawn_without_its_camera():
    """Training never showed one with it."""
    prior, told = Knowing(), []
    prior.denoise = lambda noisy, timestep, one: told.append(one) or Denoised(noisy, noisy)
    config = replace(CONFIG, camera=replace(CONFIG.camera, num_views=1))
    refine.draw_targets(NeRF(CONFIG.scene, CONFIG.seed), config, prior, TEXT, TEXT, step=4)
    assert told and all(one.cameras is None and one.num_views == 1 for one in told)


def test_smaller_pictures_have_something_of_every_pixel():
    stripes = torch.zeros(1, 3, 32, 32)
    stripes[..., ::4] = 1.0  # none of them is nearest to a middle of the eight that are left
    assert refine._resized(stripes, 8).mean().item() == pytest.approx(0.25, abs=0.03)


def test_rates_fall_over_all_rounds_and_sets_come_in_another_order_each_time(tmp_path, monkeypatch):
    config, spans = refining(rounds=3, lr_scale=Schedule(1.0, 0.4)), []

    def fit(scene, config, run, label, take, span, save):
        spans.append((span.first, span.last, span.lr_scale.start, span.lr_scale.end))
        return span.last

    monkeypatch.setattr(refine, "fit", fit)
    monkeypatch.setattr(refine, "draw_targets", lambda *_: ([], [torch.zeros(4, 2, 2, 3)] * 3))
    with open_run(tmp_path, config) as run:
        refine.refine(NeRF(CONFIG.scene, 0), config, run, Knowing(), TEXT, TEXT, begin=4, done=4)
    expected = [(4, 44, 1.0, 0.8), (44, 84, 0.8, 0.6), (84, 124, 0.6, 0.4)]
    assert spans == [pytest.approx(each) for each in expected]
    fitting = refine._Fitting(None, config, [], [torch.zeros(4, 2, 2, 3)] * 8, [None] * 8)
    orders = [tuple(fitting._set_of(8 * time + place) for place in range(8)) for time in range(3)]
    assert len(set(orders)) == 3 and all(sorted(order) == [*range(8)] for order in orders)


def test_a_set_on_a_random_colour_is_drawn_on_it_and_fitted_on_its_own_pictures_edge(monkeypatch):
    monkeypatch.setattr(refine, "_SETS_AT_ONCE", 2)
    config = refining(background_random_probability=1.0, strength=Schedule(0.001, 0.001))
    prior, scene = Knowing(), NeRF(config.scene, config.seed)
    prior.denoise = lambda noisy, timestep, told: Denoised(noisy * 0, noisy / prior.schedule.level(timestep)[0])
    cameras, targets = refine.draw_targets(scene, config, prior, TEXT, TEXT, step=4)
    colors = refine._colors_behind(config, 4)
    assert len({tuple(color.tolist()) for color in colors}) == 3
    with torch.no_grad():  # the scene's blob reaches no corner
        for target, color in zip(targets, colors, strict=True):
            assert (target[:, 0, 0] - color).abs().mean() < 0.05
    scene.occupancy.occupied[...] = False  # nothing is there: all that is seen is what stands behind
    plain = [torch.zeros_like(target) + color * 0.5 + 0.2 for target, color in zip(targets, colors, strict=True)]
    weightless = replace(config, refine=replace(config.refine, opaque_weight=0.0, smoothness_weight=0.0))
    step = refine._Fitting(scene, weightless, cameras, plain, colors)(4)
    assert step.loss.item() < 1e-12
    own = refine._Fitting(scene, weightless, cameras, plain, [None] * 3)(4)  # the scene's own: another colour
    assert own.loss.item() > 1e-3


def test_random_pixels_are_those_of_the_sets_each_before_what_stands_behind_its_own(monkeypatch):
    config = refining(rays_per_step=400, huber=0.0, opaque_weight=0.0, smoothness_weight=0.0)
    scene = NeRF(CONFIG.scene, CONFIG.seed)
    for weight in scene.background.parameters():  # a colour for each direction
        torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(0))
    cameras, colors = refine._round_cameras(config, 4, 0), [None, torch.tensor([0.9, 0.2, 0.4]), None]
    monkeypatch.setattr(refine, "_edge_color", lambda views: colors[1])  # the blob reaches some edges
    with torch.no_grad():
        targets = [scene.render(one, background=color).rgb for one, color in zip(cameras, colors, strict=True)]

    def losses(targets):
        scene.ops = replace(scene.ops, ray_jitter=lambda seed, count, device: torch.full((count,), 0.5))
        fitting = refine._Fitting(scene, config, cameras, targets, colors)
        return [fitting(step).loss.item() for step in (4, 5)]

    assert max(losses(targets)) < 1e-5
    assert min(losses([targets[2], *targets[1::-1]])) > 1e-4  # another set's
    assert min(losses([target.transpose(1, 2) for target in targets])) > 1e-4  # rows for columns
    noisy = [target + 0.1 * torch.randn(target.shape, generator=torch.Generator().manual_seed(1)) for target in targets]
    first, second = losses(noisy)
    assert first != second and first == pytest.approx(0.01, rel=0.15)  # other pixels each time, all as likely


def test_what_a_step_costs_besides_the_difference_is_weighed():
    scene = NeuS(replace(CONFIG.scene, geometry=Geometry.sdf), CONFIG.seed)
    torch.nn.init.normal_(scene.table, std=0.1, generator=torch.Generator().manual_seed(0))  # no longer a true distance
    scene.ops = replace(scene.ops, ray_jitter=lambda seed, count, device: torch.full((count,), 0.5))
    cameras, targets = refine._round_cameras(CONFIG, 4, 0)[:1], [torch.full((4, 24, 24, 3), 0.3)]

    @torch.no_grad()
    def loss(**weights):
        none = dict.fromkeys(("opaque_weight", "sparsity_weight", "smoothness_weight", "eikonal_weight"), 0.0)
        return refine._Fitting(scene, refining(**none | weights, huber=0.0), cameras, targets, [None])(4).loss.item()

    with torch.no_grad():
        seen, drawn = scene.render(cameras[0]), generator(CONFIG.seed, 4, "refine smoothness")
        losses = {
            "opaque": regularizers.opaque(seen),
            "sparsity": (seen.opacity.square() + 0.01).sqrt().mean(),
            "smoothness": regularizers.smoothness(scene, drawn),
            "eikonal": regularizers.eikonal(scene, 4),
        }
    assert loss() == pytest.approx((seen.rgb - 0.3).square().mean().item(), rel=1e-4)
    for name, one in losses.items():
        assert one > 1e-5
        assert loss(**{f"{name}_weight": 5.0}) - loss() == pytest.approx(5 * one.item(), rel=1e-3), name


def test_differences_count_by_their_square_and_large_ones_by_their_distance():
    rng = torch.Generator().manual_seed(0)
    target, direction = torch.rand(5, 3, generator=rng, dtype=torch.double), torch.randn(5, 3, generator=rng).double()
    direction /= direction.square().mean(-1, keepdim=True).sqrt()  # a pixel's root mean square is 1
    for distance, wanted in ((1e-4, 1e-8), (50.0, 2 * 0.1 * 50.0 - 2 * 0.1**2)):
        found = refine.pseudo_huber(target + distance * direction, target, 0.1)
        assert found.item() == pytest.approx(wanted, rel=1e-4)
    tiny = torch.full((4, 3), 1e-5)
    assert refine.pseudo_huber(tiny, torch.zeros(4, 3), 1.0).item() == pytest.approx(1e-10, rel=1e-4)


def test_pictures_that_disagree_are_followed_by_their_majority():
    """Of three pictures one shows something else: the mean of squares lies between them, this does not."""
    targets = torch.tensor([[0.2, 0.2, 0.2], [0.2, 0.2, 0.2], [0.8, 0.1, 0.5]], dtype=torch.double)
    color = torch.full((1, 3), 0.5, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.Adam([color], 0.01)
    for step in range(500):
        optimizer.param_groups[0]["lr"] = 0.01 * 0.99**step
        optimizer.zero_grad()
        refine.pseudo_huber(color.expand(3, 3), targets, 0.02).backward()
        optimizer.step()
    assert (color - 0.2).abs().max() < 0.02
    assert ((targets.mean(0) - 0.2).abs().max()) > 0.15


def test_a_step_weighs_its_differences_as_the_config_says():
    scene, fitted = NeRF(CONFIG.scene, CONFIG.seed), {}
    scene.ops = replace(scene.ops, ray_jitter=lambda seed, count, device: torch.full((count,), 0.5))
    cameras, targets = refine._round_cameras(CONFIG, 4, 0)[:1], [torch.full((4, 24, 24, 3), 0.3)]
    with torch.no_grad():
        seen = scene.render(cameras[0]).rgb
        for width in (0.0, 0.05):
            config = refining(huber=width, opaque_weight=0.0, smoothness_weight=0.0)
            fitted[width] = refine._Fitting(scene, config, cameras, targets, [None])(4)
    squared = (seen - targets[0]).square().mean(-1)
    assert fitted[0.0].loss.item() == pytest.approx(squared.mean().item(), rel=1e-4)
    robust = 2 * 0.05**2 * ((1 + squared / 0.05**2).sqrt() - 1).mean().item()
    assert fitted[0.05].loss.item() == pytest.approx(robust, rel=1e-4) != pytest.approx(squared.mean().item(), rel=0.1)
    psnr = -10 * squared.mean().log10().item()  # which is told of squares, whatever is minimised
    for step in fitted.values():
        assert step.told()[1]["psnr"] == pytest.approx(psnr, rel=1e-4)


def test_the_scene_comes_to_look_like_the_prior_s_views(tmp_path):
    scene = NeRF(CONFIG.scene, CONFIG.seed)
    before = likeness(scene)
    with open_run(tmp_path, CONFIG) as run:
        done = refine.refine(scene, CONFIG, run, Knowing(), TEXT, TEXT, begin=4, done=4)
    assert done == 4 + 2 * 40
    assert before < 17 and likeness(scene) > 20


def stop_at(monkeypatch, done):
    """SIGTERM in the middle of the step after which the scene has so many behind it."""

    def told(self, step):
        if step + 1 == done:
            os.kill(os.getpid(), signal.SIGTERM)
        return fitting(self, step)

    fitting = refine._Fitting.__call__
    monkeypatch.setattr(refine._Fitting, "__call__", told)


@pytest.mark.parametrize(("stopped_at", "drawn_again"), [(6, [8]), (10, [])])
def test_a_stopped_refinement_goes_on_in_the_round_that_it_was_in(tmp_path, monkeypatch, stopped_at, drawn_again):
    short = replace(CONFIG, refine=replace(CONFIG.refine, steps=4))

    def run_in(folder, done=4):
        scene = NeRF(CONFIG.scene, CONFIG.seed)
        with open_run(folder, short) as run:
            done = fit(scene, short, run, "none", take=None, span=Span(0, 0, CONFIG.optimizer.lr_scale)) or done
            refine.refine(scene, short, run, Knowing(), TEXT, TEXT, 4, done)
        return scene

    straight = run_in(tmp_path / "straight")
    with monkeypatch.context() as patch, pytest.raises(Terminated):
        stop_at(patch, stopped_at)
        run_in(tmp_path / "stopped")
    checkpoints = tmp_path / "stopped/checkpoints"
    assert load_latest_checkpoint(checkpoints).step == stopped_at
    draw, drawn = refine.draw_targets, []
    monkeypatch.setattr(refine, "draw_targets", lambda *given: drawn.append(given[5]) or draw(*given))
    again = run_in(tmp_path / "stopped")
    assert drawn == drawn_again
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    # the beginning of a round is kept, its pictures only as long as they are needed
    assert {path.name for path in checkpoints.iterdir()} - {"step-000010"} == {"step-000008", "step-000012"}


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """The folder of a finished run of a few steps, and its asset; how well the prior fits is not asked for long."""
    root = tmp_path_factory.mktemp("runs")
    settings = ["prompt=red ball", f"output_root={root}", "steps=3", "camera.resolution=16", "num_threads=1"]
    settings += ["export.resolution=24", "export.colors=vertex", "export.turntable_frames=2", "export.image_size=32"]
    settings += ["views.num_inference_steps=2"]
    patch = pytest.MonkeyPatch()
    patch.setattr(prior_fit, "_STEPS", 2)
    for module in (generate, refine_run):  # whatever the bundled weights know: as plain English is read
        patch.setattr(module, "read_prompts", lambda config, prior: replace(config, prompt=f"a {config.prompt}"))
    assert cli.main(["--config", "mvdream-mini.yaml", *settings, "refine.rounds=0"]) == 0
    (folder,) = (path.parent for path in root.rglob("asset.glb"))
    yield folder
    patch.undo()


@pytest.mark.slow
def test_a_run_s_scene_is_refined_beside_it(generated, capsys, monkeypatch):
    before = (generated / "asset.glb").read_bytes()
    small = ["refine.steps=5", "refine.sets=1", "refine.num_inference_steps=4", "refine.rounds=2"]
    with monkeypatch.context() as patch:
        stop_at(patch, 10)
        assert cli.main(["refine", str(generated), *small]) == 75
    assert not (generated / "refined/asset.glb").exists()
    meshes = []
    for goes_on in (True, False):  # once more: made anew
        assert cli.main(["refine", str(generated), *small]) == 0
        out = capsys.readouterr().out
        assert out.startswith("resumed    at step 10\n") == goes_on
        printed = dict(line.split(maxsplit=1) for line in out.splitlines())
        assert Path(printed["glb"]) == generated / "refined" / "asset.glb"
        report = json.loads(Path(printed["report"]).read_text())
        assert report["step"] == 3 + 2 * 5 and report["prompt"] == "red ball"
        meshes.append(Path(printed["glb"]).read_bytes())
    assert meshes[0] == meshes[1] != before == (generated / "asset.glb").read_bytes()
    assert {path.name for path in (generated / "refined/checkpoints").iterdir()} == {"step-000008", "step-000013"}
    assert {json.loads(path.read_text())["prompt_as_read"] for path in generated.rglob("report.json")} == {"a red ball"}
    assert "ground truth" in (generated / "preview.html").read_text()  # of what was typed there is none
    alone = json.loads((generated / "report.json").read_text())
    with Image.open(generated / "sampled_views.png") as views:
        assert (views.text["prompt"], views.text["prompt_as_read"]) == ("red ball", "a red ball")
    assert alone["prompt"] == "red ball" and alone["seconds"]["optimize"] < report["seconds"]["optimize"]
    with monkeypatch.context() as patch:  # stopped, then told otherwise
        stop_at(patch, 8)
        assert cli.main(["refine", str(generated), *small]) == 75
        assert cli.main(["refine", str(generated), *small, "refine.strength=0.6"]) == 75
    assert "resumed" not in capsys.readouterr().out


def test_a_report_of_a_refinement_has_the_prompt_that_it_was_told(generated, tmp_path):
    folder = shutil.copytree(generated, tmp_path / "run")
    small = ["refine.steps=1", "refine.sets=1", "refine.num_inference_steps=2"]
    assert cli.main(["refine", str(folder), "prompt=blue ball", *small]) == 0
    report = json.loads((folder / "refined/report.json").read_text())
    assert (report["prompt"], report["prompt_as_read"]) == ("blue ball", "a blue ball")


def test_a_newest_checkpoint_that_is_damaged_is_passed_over(generated, tmp_path, capsys):
    folder = shutil.copytree(generated, tmp_path / "run")
    (folder / "checkpoints/step-000003/state.safetensors").write_bytes(b"half")
    small = ["refine.steps=1", "refine.sets=1", "refine.num_inference_steps=2"]
    assert cli.main(["refine", str(folder), *small]) == 0
    assert "step-000003" in capsys.readouterr().err
    assert json.loads((folder / "refined/report.json").read_text())["step"] == 2 + 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "there is no run in that folder"),
        (["RUN", "steps=9"], "steps=9 needs a run of its own"),
        (["RUN", "seeds=0..3"], "seeds=0..3 needs a run of its own"),
        (["RUN", "prompt="], "was told no prompt"),
        (["RUN", "refine.strength=2"], "refine.strength"),
        ([], "usage: launch.py refine RUN"),
    ],
)
def test_what_cannot_be_refined_is_one_line(generated, capsys, arguments, said):
    assert cli.main(["refine", *(str(generated) if a == "RUN" else a for a in arguments)]) == 2
    message = capsys.readouterr().err.strip()
    assert said in message and "\n" not in message


@pytest.mark.parametrize(
    ("words", "used"), [([], "mini"), (["weights=other"], "other"), (["refine.weights=third"], "third")]
)
def test_which_prior_refines_a_run_of_dense_views(tmp_path, words, used):
    """The one that its recipe says, not the one that drew the views, unless another is said now."""
    (tmp_path / "config.yaml").write_text(to_yaml(load_config("videomv-mini-refined.yaml", ["prompt=a red cube"])))
    assert refine_run._config(tmp_path, words).weights == used


def test_weights_without_cameras_are_refused_before_anything_is_refined(generated, tmp_path, capsys):
    prior = MultiViewPrior.from_pretrained("mini")
    plain = {"class_embed_type": None, "projection_class_embeddings_input_dim": None}
    prior.unet = MultiViewUNet.from_config(prior.unet.config, **plain)
    prior.save_pretrained(tmp_path / "2d")
    folder = shutil.copytree(generated, tmp_path / "run", ignore=shutil.ignore_patterns("refined"))
    assert cli.main(["refine", str(folder), f"weights={tmp_path / '2d'}", "camera.num_views=1"]) == 2
    message = capsys.readouterr().err.strip()
    assert "these weights know no cameras" in message and "\n" not in message
    assert not (folder / "refined").exists()
