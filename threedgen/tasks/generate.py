"""Text to 3D: optimise a scene until the prior finds its views likely, then export what it became."""

import resource
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from threedgen.cameras import Cameras, CameraSampler
from threedgen.config.schema import Config, MemoryUse
from threedgen.core.randomness import generator
from threedgen.core.schedules import value_at
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.denoising import Guided
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.guidance.sds import GuidanceOutput, ScoreDistillation
from threedgen.imaging import save_png, tile
from threedgen.mesh import make_rasterizer
from threedgen.runs.directory import RunDirectory
from threedgen.runs.progress import ProgressLine, StepReport
from threedgen.scene import regularizers
from threedgen.scene.nerf import NeRF
from threedgen.scene.output import RenderOutput
from threedgen.scene.shading import draw_shading
from threedgen.tasks.export import SAMPLED_VIEWS, export_scene
from threedgen.tasks.prior import draw_prompt, load_prior, read_prompts
from threedgen.tasks.scene_optimizer import SceneOptimizer

REPORT_EVERY = 10  # steps; reading the numbers makes a GPU wait


def run(config: Config, run: RunDirectory) -> dict[str, Path]:
    """Generate the asset of `config.prompt`; returns the files made for the user."""
    started = time.monotonic()
    make_rasterizer(config.export.rasterizer)  # what cannot be used is told before any work is done
    prior = load_prior(config)
    as_read = read_prompts(config, prior)
    run.events.write("prompt", as_read=as_read.prompt, negative_as_read=as_read.negative_prompt)
    show_views(as_read, run, prior)
    scene = optimize(as_read, run, prior)
    optimized = time.monotonic()
    results = export_scene(scene, config, run)
    seconds = {"optimize": optimized - started, "export": time.monotonic() - optimized}
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    run.events.write("timing", peak_memory_gib=peak_gib, **seconds)
    print(f"{seconds['optimize']:.0f} s to optimise, {seconds['export']:.0f} s to export, {peak_gib:.1f} GiB at most")
    return results


def show_views(config: Config, run: RunDirectory, prior: MultiViewPrior) -> None:
    """Draw what the prior alone makes of the prompt: seconds that tell whether the rest is worth waiting for."""
    path = run.path(SAMPLED_VIEWS)
    if path.exists():
        return
    save_png(np.concatenate(list(draw_prompt(config, prior)), axis=1), path)
    print(f"{'views':10} {path}", flush=True)


def optimize(config: Config, run: RunDirectory, prior: MultiViewPrior) -> NeRF:
    """Score distillation into a NeRF; goes on from the run's latest checkpoint, bit for bit."""
    sampler = CameraSampler(config.camera, config.seed)
    low_memory = config.runtime.memory is MemoryUse.low
    scene = NeRF(config.scene, config.seed, prior.device, low_memory)
    if low_memory:
        prior.vae.enable_gradient_checkpointing()
    guidance = ScoreDistillation(prior, config.guidance, config.seed)
    with torch.no_grad():
        text, negative_text = prior.encode_text([config.prompt]), prior.encode_text([config.negative_prompt])
    prior.release("text_encoder")

    def ask(cameras: Cameras) -> Guided:
        # a single view is asked for as a picture from anywhere: training never showed one with its camera
        told = Conditions(text, cameras if cameras.num_views > 1 else None, cameras.num_views)
        return Guided(prior, told, negative_text, config.guidance.guidance_scale, config.guidance.rescale)

    optimizer = SceneOptimizer(scene, config)
    start = optimizer.restore(run)
    with ProgressLine("optimise") as progress:
        for step in range(start, config.steps):
            cameras = sampler.sample(step, config.steps)
            output = _render(scene, cameras, config, step)
            guided = guidance(output.rgb, ask(cameras), step, config.steps)
            optimizer.step(guided.loss + _regularization(output, config, step), step)
            if (step + 1) % REPORT_EVERY == 0 or step + 1 == config.steps:
                _report(run, progress, step + 1, config, guided, output)
            if (step + 1) % config.preview_every == 0:
                _save_preview(run, step + 1, output, guided)
            if _is_checkpoint_due(step + 1, config, sampler):
                optimizer.save(run, step + 1)
    return scene


def _is_checkpoint_due(done: int, config: Config, sampler: CameraSampler) -> bool:
    """Every so many steps, at the end, and before the resolution grows: what needs more memory may fail."""
    grows = sampler.coarse(done - 1, config.steps) and not sampler.coarse(done, config.steps)
    return done % config.checkpoint_every == 0 or done == config.steps or grows


def _render(scene: NeRF, cameras: Cameras, config: Config, step: int) -> RenderOutput:
    """The scene as this step shows it: with a light where the config has one, with normals where a loss needs them."""
    fraction, shading = step / config.steps, None
    if config.shading.enabled and fraction >= config.shading.from_fraction:
        shading = draw_shading(config.shading, cameras, generator(config.seed, step, "shading"))
    normals = value_at(config.regularizer.orientation, fraction) > 0
    return scene.render(cameras, generator=generator(config.seed, step, "render"), shading=shading, normals=normals)


def _regularization(output: RenderOutput, config: Config, step: int) -> Tensor:
    """The scene's own losses. They are means over pixels, the guidance a sum over latents: the weights say how much."""
    weights, loss = config.regularizer, output.opacity.new_zeros(())
    losses = (
        (weights.sparsity, regularizers.sparsity),
        (weights.opaque, regularizers.opaque),
        (weights.orientation, regularizers.orientation),
    )
    for schedule, loss_of in losses:
        weight = value_at(schedule, step / config.steps)
        if weight > 0:
            loss = loss + weight * loss_of(output)
    return loss


def _report(
    run: RunDirectory,
    progress: ProgressLine,
    step: int,
    config: Config,
    guided: GuidanceOutput,
    output: RenderOutput,
) -> None:
    fields = {
        "grad_norm": guided.grad_norm.item(),
        "t": float(guided.timestep[0]),
        "opacity": output.opacity.mean().item(),
    }
    report = StepReport(step, config.steps, guided.loss.item(), fields)
    progress.update(report)
    run.events.write("step", step=step, loss=report.loss, **fields)


@torch.no_grad()
def _save_preview(run: RunDirectory, step: int, output: RenderOutput, guided: GuidanceOutput) -> None:
    """What was rendered, above what the prior made of it."""
    target = guided.preview().movedim(1, -1)
    save_png(tile([output.rgb.detach(), target]), run.path(f"previews/step-{step:06d}.png"))
