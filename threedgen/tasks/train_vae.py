"""The mini prior's autoencoder, trained before the prior on the same pictures."""

import math

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from threedgen.config.schema import Config, Precision, TrainBackground
from threedgen.core.files import atomic_folder
from threedgen.core.randomness import generator, stable_seed
from threedgen.data.captioned_views import composite_on
from threedgen.diffusion.mini import new_mini_vae
from threedgen.diffusion.training import MovingAverage, learning_rate, optimizer_step
from threedgen.runs.budget import Budget
from threedgen.runs.checkpoint import restore_training, save_training
from threedgen.runs.directory import RunDirectory
from threedgen.runs.progress import ProgressLine, StepReport
from threedgen.tasks.train_batches import TrainingSources, draw_background, to_chw

_MEASURED = 512  # pictures that the scale of the latents is measured on
_DECAY_FRACTION, _AVERAGE_DECAY = 0.4, 0.999
# Per nat and latent value. At 1e-3 one of the four channels stays unused, at 1e-5 the round trip gains 0.5 dB more.
_KL_WEIGHT = 1e-4
_BACKGROUND_WEIGHT = 0.35  # of an error where there is nothing, against 1.35 on the object
_EDGE_WEIGHT = 0.5


def train_vae(config: Config, run: RunDirectory, sources: TrainingSources, device: torch.device) -> AutoencoderKL:
    """The VAE from scratch, or from the run's folder where it is finished; frozen."""
    train, folder = config.train, run.folder / "vae"
    if folder.is_dir():
        vae = AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False)
        return vae.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
    torch.manual_seed(config.seed)
    vae = new_mini_vae().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    checkpoints = run.folder / "checkpoints-vae"
    budget = Budget(train.vae_steps, train.vae_minutes)
    average = MovingAverage(vae, _AVERAGE_DECAY)
    modules = {"vae": vae, "average.vae": average.module, **budget.modules_to_save()}
    start = restore_training(checkpoints, optimizer, modules)
    with ProgressLine("vae") as progress:
        for step in range(start, train.vae_steps):
            remaining = budget.remaining(step)
            if remaining <= 0:
                break
            images, opacity = (x.to(device) for x in _batch(sources, train.vae_batch, config.seed, step))
            with torch.autocast(device.type, torch.bfloat16, enabled=train.precision is Precision.bfloat16):
                posterior = vae.encode(images).latent_dist
                latents = posterior.sample(generator=generator(config.seed, step, "vae posterior"))
                decoded = vae.decode(latents).sample
            error = decoded.float() - images
            kl = posterior.kl().float().mean() / latents[0].numel()  # nats per latent value
            loss = reconstruction_loss(error, opacity) + _KL_WEIGHT * kl
            lr = learning_rate(step, remaining, train.vae_lr, train.warmup_steps, _DECAY_FRACTION)
            optimizer_step(optimizer, vae.parameters(), loss, lr)
            average.update(step)
            fields = {"psnr": -10 * math.log10(error.detach().square().mean().item() / 4), "kl": kl.item()}
            report = StepReport(step + 1, train.vae_steps, loss.item(), fields)
            progress.update(report)
            if report.step % train.log_every == 0 or report.step == report.num_steps:
                run.events.write("vae_step", step=report.step, loss=report.loss, **fields)
            if report.step % train.checkpoint_every == 0:
                save_training(checkpoints, report.step, optimizer, modules)
    vae = average.module
    with torch.no_grad():
        sample = _batch(sources, _MEASURED, config.seed, train.vae_steps)[0].to(device)
        vae.register_to_config(scaling_factor=1 / vae.encode(sample).latent_dist.mean.std().item())
    with atomic_folder(folder) as temporary:
        vae.save_pretrained(temporary)
    return vae


def reconstruction_loss(error: Tensor, opacity: Tensor) -> Tensor:
    """[]: |e| + e^2 / 2, more where the object is, and the error of the picture's gradient, which sharpens edges.

    error: [B, 3, H, W] of pictures in -1..1; opacity: [B, 1, H, W].
    """
    across, down = error.diff(dim=-1).abs().mean(), error.diff(dim=-2).abs().mean()
    values = ((_BACKGROUND_WEIGHT + opacity) * (error.abs() + 0.5 * error.square())).mean()
    return values + _EDGE_WEIGHT * 0.5 * (across + down)


def _batch(sources: TrainingSources, count: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Pictures [count, 3, H, W] in -1..1 and their opacity [count, 1, H, W].

    Three quarters are single pictures, where there are any, for these are more varied, the others views of objects.
    Half of all are on mid grey.
    """
    rng = np.random.default_rng(stable_seed(seed, step, "vae batch"))
    chosen = []
    for number in range(count):
        if sources.images is not None and number % 4:
            chosen.append(sources.images.draw(int(rng.integers(len(sources.images))), rng).image)
        else:
            views = sources.views.draw(int(rng.integers(len(sources.views))), rng).images
            chosen.append(views[rng.integers(len(views))])
    backgrounds = np.stack([draw_background(TrainBackground.grey_or_color, rng) for _ in range(count)])
    rgba = np.stack(chosen)
    return to_chw(composite_on(rgba, backgrounds)) * 2 - 1, to_chw(rgba[..., 3:].astype(np.float32) / 255)
