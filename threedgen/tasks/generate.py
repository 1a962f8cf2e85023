"""Text to 3D: optimise a scene until the prior finds its views likely, then export what it became."""

import resource
import time
from pathlib import Path

import torch
from torch import Tensor

from threedgen.cameras import CameraSampler
from threedgen.config.schema import Config
from threedgen.core.randomness import generator
from threedgen.core.schedules import value_at
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.guidance.sds import GuidanceOutput, ScoreDistillation
from threedgen.imaging import save_png, tile
from threedgen.runs.checkpoint import (
    flatten_optimizer_state,
    load_latest_checkpoint,
    restore_optimizer_state,
    save_checkpoint,
)
from threedgen.runs.directory import RunDirectory
from threedgen.runs.progress import ProgressLine, StepReport
from threedgen.scene import regularizers
from threedgen.scene.nerf import NeRF
from threedgen.scene.output import RenderOutput
from threedgen.tasks.export import export_scene


def run(config: Config, run: RunDirectory) -> dict[str, Path]:
    """Generate the asset of `config.prompt`; returns the files made for the user."""
    started = time.monotonic()
    prior = load_prior(config)
    scene = optimize(config, run, prior)
    optimized = time.monotonic()
    results = export_scene(scene, prior, config, run)
    seconds = {"optimize": optimized - started, "export": time.monotonic() - optimized}
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    run.events.write("timing", peak_memory_gib=peak_gib, **seconds)
    print(f"{seconds['optimize']:.0f} s to optimise, {seconds['export']:.0f} s to export, {peak_gib:.1f} GiB at most")
    return results


def load_prior(config: Config) -> MultiViewPrior:
    """The config's prior, with its prompts checked before any work is done."""
    prior = MultiViewPrior.from_pretrained(config.weights)
    if not config.allow_unknown_words:
        for text in (config.prompt, config.negative_prompt):
            prior.check_prompt(text)
    return prior


def optimize(config: Config, run: RunDirectory, prior: MultiViewPrior) -> NeRF:
    """Score distillation into a NeRF; goes on from the run's latest checkpoint, bit for bit."""
    sampler = CameraSampler(config.camera, config.seed)
    scene = NeRF(config.scene, config.seed)
    guidance = ScoreDistillation(prior, config.guidance, config.seed)
    with torch.no_grad():
        text, negative_text = prior.encode_text([config.prompt]), prior.encode_text([config.negative_prompt])
    num_objects = config.camera.sets_per_step
    text, negative_text = (t.expand(num_objects, -1, -1) for t in (text, negative_text))
    optimizer = torch.optim.AdamW(
        scene.param_groups(config.optimizer),
        betas=config.optimizer.betas,
        eps=config.optimizer.eps,
        weight_decay=config.optimizer.weight_decay,
    )
    peak_lr = [group["lr"] for group in optimizer.param_groups]
    start = _restore(run, scene, optimizer)
    with ProgressLine("optimise") as progress:
        for step in range(start, config.steps):
            cameras = sampler.sample(step, config.steps, num_objects)
            output = scene.render(cameras, generator=generator(config.seed, step, "render"))
            guided = guidance(output.rgb, cameras, text, negative_text, step, config.steps)
            loss = guided.loss + _regularization(output, config, step)
            for group, lr in zip(optimizer.param_groups, peak_lr, strict=True):
                group["lr"] = lr * value_at(config.optimizer.lr_scale, step / config.steps)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            scene.after_step(step)
            _report(run, progress, step + 1, config, guided, output)
            if (step + 1) % config.preview_every == 0:
                _save_preview(run, step + 1, output, guided)
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                tensors = {f"scene.{name}": value for name, value in scene.state_dict().items()}
                save_checkpoint(run.checkpoints, step + 1, tensors | flatten_optimizer_state(optimizer), {})
    return scene


def _restore(run: RunDirectory, scene: NeRF, optimizer: torch.optim.Optimizer) -> int:
    """Load the latest checkpoint, if there is one; returns the step to go on from."""
    checkpoint = load_latest_checkpoint(run.checkpoints)
    if checkpoint is None:
        return 0
    prefix = "scene."
    scene.load_state_dict({k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)})
    restore_optimizer_state(optimizer, checkpoint.tensors)
    print(f"resumed    at step {checkpoint.step}")
    return checkpoint.step


def _regularization(output: RenderOutput, config: Config, step: int) -> Tensor:
    """The scene's own losses. They are means over pixels, the guidance a sum over latents: the weights say how much."""
    fraction = step / config.steps
    sparsity = value_at(config.regularizer.sparsity, fraction)
    opaque = value_at(config.regularizer.opaque, fraction)
    loss = output.opacity.new_zeros(())
    if sparsity > 0:
        loss = loss + sparsity * regularizers.sparsity(output)
    if opaque > 0:
        loss = loss + opaque * regularizers.opaque(output)
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
