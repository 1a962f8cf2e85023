"""The mini prior's autoencoder, trained before the prior on the same pictures; or the decoder of any."""

from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from threedgen.config.schema import Config
from threedgen.config.training import Precision, TrainBackground
from threedgen.core.files import atomic_folder
from threedgen.core.randomness import generator, seeded, stable_seed
from threedgen.core.transfer import to_device
from threedgen.data.captioned_views import composite_on
from threedgen.diffusion.checkpoints.folders import load_vae
from threedgen.diffusion.mini import new_mini_vae
from threedgen.runs.directory import RunDirectory
from threedgen.tasks.training.batches import TrainingSources, draw_background, to_chw
from threedgen.training.average import MovingAverage
from threedgen.training.log import StepLog
from threedgen.training.loop import Losses, Pace, Training, states
from threedgen.training.loop import train as train_network

_MEASURED = 512  # pictures that the scale of the latents is measured on
_DECAY_FRACTION, _AVERAGE_DECAY = 0.4, 0.999
# Per nat and latent value. At 1e-3 one of the four channels stays unused, at 1e-5 the round trip gains 0.5 dB more.
_KL_WEIGHT = 1e-4
_BACKGROUND_WEIGHT = 0.35  # of an error where there is nothing, against 1.35 on the object
_EDGE_WEIGHT = 0.5


def train_vae(
    config: Config, run: RunDirectory, sources: TrainingSources, device: torch.device, start: AutoencoderKL | None
) -> AutoencoderKL:
    """The VAE from scratch, or from the run's folder where it is finished; frozen.

    start: only its decoder is trained: to the priors that know its latents it is the same VAE. None: a new one.
    """
    train, folder = config.train, run.folder / "vae"
    if folder.is_dir():
        vae = load_vae(folder, torch.float32, device)
        return vae.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    with seeded(config.seed):
        vae = (start or new_mini_vae()).to(device, memory_format=torch.channels_last)
    vae.train().requires_grad_(start is None)
    vae.decoder.requires_grad_(True)
    trained = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    average = MovingAverage(vae, _AVERAGE_DECAY)

    def objective(batch: _Batch) -> Losses:
        images = to_device(batch.images, device)
        with torch.no_grad() if start else nullcontext():
            posterior = vae.encode(images).latent_dist
            latents = posterior.sample(generator=generator(config.seed, batch.step, "vae posterior"))
        error = vae.decode(latents).sample.float() - images
        kl = posterior.kl().float().mean() / latents[0].numel()  # nats per latent value
        psnr = -10 * (error.square().mean() / 4).log10()
        total = reconstruction_loss(error, to_device(batch.opacity, device)) + _KL_WEIGHT * kl
        return Losses(total, {"psnr": psnr, "kl": kl})

    def batches(start: int) -> Generator[_Batch]:
        yield from (_batch(sources, train.vae_batch, config.seed, step) for step in range(start, train.vae_steps))

    job = Training(
        objective,
        batches,
        trained,
        optimizer,
        states({"vae": vae, "average.vae": average.module}),
        average,
        bfloat16=train.precision is Precision.bfloat16,
    )
    steps, every = train.vae_steps, train.checkpoint_every
    threads = config.runtime.threads
    pace = Pace(steps, train.vae_lr, train.vae_minutes, train.warmup_steps, _DECAY_FRACTION, every, threads)
    log = StepLog(run.events, "vae", steps, "vae_step", train.log_every)
    train_network(job, pace, run.folder / "checkpoints-vae", lambda start: log, shared=False)
    vae = average.module
    if not start:
        with torch.no_grad():
            sample = _batch(sources, _MEASURED, config.seed, train.vae_steps).images.to(device)
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


@dataclass(frozen=True)
class _Batch:
    step: int
    images: Tensor  # [B, 3, H, W] in -1..1
    opacity: Tensor  # [B, 1, H, W]


def _batch(sources: TrainingSources, count: int, seed: int, step: int) -> _Batch:
    """`count` pictures as a function of the step.

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
    images, opacity = composite_on(rgba, backgrounds), rgba[..., 3:].astype(np.float32) / 255
    return _Batch(step, to_chw(images) * 2 - 1, to_chw(opacity))
