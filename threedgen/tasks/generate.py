"""Text to 3D: optimise a scene until the prior finds its views likely, then export what it became."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from threedgen.cameras import Cameras, CameraSampler
from threedgen.config.schedules import Schedule, value_at
from threedgen.config.schema import Config
from threedgen.core.randomness import generator
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.denoising import Denoiser, Guided
from threedgen.diffusion.joint import Mix
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.guidance.sds import GuidanceOutput, ScoreDistillation
from threedgen.imaging import save_png, tile
from threedgen.runs.directory import SAMPLED_VIEWS, RunDirectory
from threedgen.scene import regularizers
from threedgen.scene.background import drawn_color
from threedgen.scene.make import make_scene
from threedgen.scene.output import RenderOutput
from threedgen.scene.protocol import RayScene, Scene
from threedgen.scene.shading import draw_shading
from threedgen.tasks.export import check_export, export_scene
from threedgen.tasks.memory import saving
from threedgen.tasks.prior_fit import note_prior_fit
from threedgen.tasks.prompting import draw_prompt, encode_prompts, load_prior, read_prompts
from threedgen.tasks.refine import refine
from threedgen.tasks.sample_views import told as told_in_png
from threedgen.tasks.scene_optimizer import SceneStep, fit, tell_times
from threedgen.training.threads import Threads


def run(config: Config, run: RunDirectory) -> dict[str, Path]:
    """Generate the asset of `config.prompt`; returns the files made for the user."""
    started = time.monotonic()
    check_export(config.export)
    prior = load_prior(config)
    as_read = read_prompts(config, prior)
    run.events.write("prompt", as_read=as_read.prompt, negative_as_read=as_read.negative_prompt)
    told = encode_prompts(as_read, prior, config)
    show_views(config, as_read, run, prior)
    prior = prior.without_text_encoder()
    scene, done = optimize(as_read, run, prior, *told)
    optimized = time.monotonic()
    note_prior_fit(scene, as_read, run, prior, *told[:2], done)
    measured = time.monotonic()
    results = export_scene(scene, config, run, done)
    tell_times(run, started, optimized, measured)
    return results


def show_views(config: Config, as_read: Config, run: RunDirectory, prior: MultiViewPrior) -> None:
    """Draw what the prior alone makes of the prompt: seconds that tell whether the rest is worth waiting for."""
    path = run.path(SAMPLED_VIEWS)
    if path.exists():
        return
    with Threads(None, config.runtime.threads, prior.device).calls_of(prior.unet):
        views = draw_prompt(as_read, prior, config)
    save_png(np.concatenate(list(views), axis=1), path, told_in_png(config, as_read.prompt, config.seed))
    print(f"{'views':10} {path}", flush=True)


def optimize(
    config: Config,
    run: RunDirectory,
    prior: MultiViewPrior,
    text: Tensor,
    negative_text: Tensor,
    mix: Mix | None = None,
) -> tuple[RayScene, int]:
    """Score distillation into a scene, then the recipe's refinement; goes on from the run's latest checkpoint.

    text, negative_text: [1, L, C], mix: see `encode_prompts`; the prior needs no text encoder any more. Returns the
    scene and how many steps it has behind it.
    """
    scene = make_scene(config, prior.device)
    take = distilling(scene, config, prior, text, negative_text, mix)
    save = saving(config.runtime, scene, prior)
    done = fit(scene, config, run, "optimise", take, is_due=lambda done: _grows_next(done, config), save=save)
    return scene, refine(scene, config, run, prior, text, negative_text, config.steps, done, mix)


def distilling(
    scene: Scene,
    config: Config,
    prior: MultiViewPrior,
    text: Tensor,
    negative_text: Tensor,
    mix: Mix | None = None,
) -> Callable[[int], SceneStep]:
    """What a step of score distillation into the scene is, by its number; arguments as those of `optimize`."""
    sampler = CameraSampler(config.camera, config.seed)
    guidance = ScoreDistillation(prior, config.guidance, config.seed)

    def ask(cameras: Cameras) -> Denoiser:
        # a single view is asked for as a picture from anywhere: training never showed one with its camera
        told = Conditions(text, cameras if cameras.num_views > 1 else None, cameras.num_views)
        how = config.guidance
        guided = Guided(prior, told, negative_text, how.guidance_scale, how.rescale, how.guidance_range)
        return guided if mix is None else mix(guided)

    def take(step: int) -> SceneStep:
        cameras = sampler.sample(step, config.steps)
        output = _render(scene, cameras, config, step)
        guided = guidance(output.rgb, ask(cameras), step, config.steps)
        loss = guided.loss + _regularization(scene, output, config, step)
        told, preview = lambda: _figures(guided, output), lambda: _preview(guided, output)
        return SceneStep(loss, told, preview, output.opacity_range, cameras)

    return take


def _grows_next(done: int, config: Config) -> bool:
    """Whether the next step's pictures are larger: what needs more memory may fail."""
    sampler = CameraSampler(config.camera, config.seed)
    return sampler.coarse(done - 1, config.steps) and not sampler.coarse(done, config.steps)


def _render(scene: Scene, cameras: Cameras, config: Config, step: int) -> RenderOutput:
    """The scene as this step shows it: with a light where the config has one, with normals where a loss needs them."""
    fraction, shading = step / config.steps, None
    if config.shading.enabled and fraction >= config.shading.from_fraction:
        shading = draw_shading(config.shading, cameras, generator(config.seed, step, "shading"))
    normals = value_at(config.regularizer.orientation, fraction) > 0
    behind = drawn_color(generator(config.seed, step, "background"), config.scene.background_random_probability)
    jitter = generator(config.seed, step, "render")
    return scene.render(cameras, generator=jitter, background=behind, shading=shading, normals=normals)


def _regularization(scene: Scene, output: RenderOutput, config: Config, step: int) -> Tensor:
    """The scene's own losses. They are means over pixels, the guidance a sum over latents: the weights say how much."""
    weights, loss = config.regularizer, output.opacity.new_zeros(())
    losses: tuple[tuple[Schedule, Callable[[], Tensor]], ...] = (
        (weights.sparsity, lambda: regularizers.sparsity(output)),
        (weights.opaque, lambda: regularizers.opaque(output)),
        (weights.orientation, lambda: regularizers.orientation(output)),
        (weights.eikonal, lambda: regularizers.eikonal(scene, step)),
    )
    for schedule, loss_of in losses:
        weight = value_at(schedule, step / config.steps)
        if weight > 0:
            loss = loss + weight * loss_of()
    return loss


def _figures(guided: GuidanceOutput, output: RenderOutput) -> tuple[float, dict[str, float]]:
    fields = {
        "grad_norm": guided.grad_norm.item(),
        "t": float(guided.timestep[0]),
        "opacity": output.opacity.mean().item(),
    }
    return guided.loss.item(), fields


@torch.no_grad()
def _preview(guided: GuidanceOutput, output: RenderOutput) -> Image:
    """What was rendered, above what the prior made of it."""
    return tile([output.rgb.detach(), guided.preview().movedim(1, -1)])
