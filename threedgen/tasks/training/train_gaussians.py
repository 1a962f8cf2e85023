"""Train LGM's network on what a dense prior denoises (VideoMV, section 3.3): Gaussians from blurred, noisy x0.

A step takes views around an object, adds noise, lets the frozen prior say x0 once, shows some of its views to the
network and compares what its Gaussians show with the true views, on random backgrounds.

Where the pictures' pixels are is learned sooner from pictures without noise: `gaussians.clean_steps` are of these, and
take half the time. A new network answers relative to its pixels (`scene.gaussians.lgm.pixel_aligned`).
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from threedgen.cameras import Cameras
from threedgen.config.sampling import QuaternionNorm
from threedgen.config.schema import Config
from threedgen.config.training import Precision
from threedgen.core.errors import ConfigError
from threedgen.core.files import atomic_folder
from threedgen.core.randomness import seeded, stable_seed
from threedgen.data.captioned_views import composite_on
from threedgen.data.training_sources import ViewSource, open_view_source
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.networks.lgm_unet import PRESETS, LGMUNet
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.imaging import contact_sheet, save_png
from threedgen.ops.backends import select_backend
from threedgen.runs.device import select_device
from threedgen.runs.directory import RunDirectory
from threedgen.tasks.feed_forward import FeedForward
from threedgen.tasks.prompting import load_prior
from threedgen.tasks.training.batches import draw_background, to_chw
from threedgen.tasks.training.optimizers import make_optimizer, pace_of
from threedgen.tasks.training.train_prior import encode_images
from threedgen.training.average import MovingAverage
from threedgen.training.log import StepLog
from threedgen.training.loop import Losses, Training, states
from threedgen.training.loop import train as train_network

_SHOWN_OBJECTS = 6
_SHOWN_TIMESTEPS = (1, 300, 600)  # rows of the sheet


def run(config: Config, run: RunDirectory) -> dict[str, Path]:
    """Train, and return the network's folder (for `gaussians.weights`) and a sheet of what it shows."""
    train, gaussians, device = config.train, config.gaussians, select_device(config.runtime)
    if gaussians.preset not in PRESETS:
        raise ConfigError(f"gaussians.preset={gaussians.preset}: there are {', '.join(PRESETS)}")
    if train.accumulate > 1 or train.gradient_checkpointing:
        raise ConfigError(
            "train.accumulate, train.gradient_checkpointing: Gaussians are trained without; to save memory take fewer "
            "train.batch_objects or gaussians.supervised_views"
        )
    if gaussians.supervised_views > config.camera.num_views:
        raise ConfigError(f"gaussians.supervised_views: there are camera.num_views={config.camera.num_views} views")
    prior = load_prior(config)
    source = open_view_source(train.multiview_data, config, prior.image_size)
    if gaussians.weights:
        network = FeedForward.of(config, device).network.requires_grad_(True)
        if network.config.quaternion_norm == QuaternionNorm.all.value:
            raise ConfigError(
                f"gaussians.weights={gaussians.weights}: quaternion_norm=all can be used, but not trained: its "
                "rotations are none"
            )
    else:
        with seeded(config.seed):
            network = LGMUNet(**PRESETS[gaussians.preset], pixel_aligned=True).to(device)
    average, ops = MovingAverage(network, train.ema_decay), select_backend(config.scene.backend, device)
    objective = _Objective(prior, FeedForward(network, gaussians.input_views, ops), config)
    objective.forward_pass.inputs_of(config.camera.num_views)  # refused before training, not in it
    job = Training(
        objective.losses,
        lambda start: _batches(config, source, prior, start),
        list(network.parameters()),
        make_optimizer(train, network.named_parameters()),
        states({"network": network, "average": average.module}),
        average,
        bfloat16=train.precision is Precision.bfloat16,
    )
    pace = pace_of(train, config.runtime.threads)
    log = StepLog(run.events, "gaussians", train.steps, "gaussians_step", train.log_every)
    shown = FeedForward(average.module, gaussians.input_views, ops)
    folder, sheet = run.folder / "gaussians", run.path("samples/final.png")

    def show(done: int) -> None:
        if done % train.sample_every == 0:
            _save_sheet(prior, shown, config, source, run.path(f"samples/step-{done:06d}.png"))

    train_network(job, pace, run.checkpoints, lambda start: log, after=show, shared=False)
    with atomic_folder(folder) as temporary:
        average.module.half().save_pretrained(temporary)
    average.module.float()
    _save_sheet(prior, shown, config, source, sheet)
    return {"gaussians": folder, "samples": sheet}


@dataclass(frozen=True)
class _Batch:
    """N objects with V views each."""

    step: int
    pictures: Tensor  # [N * V, 4, S, S] premultiplied RGBA in 0..1
    captions: list[str]
    cameras: Cameras  # N * V
    timestep: Tensor  # [N * V]
    noise: Tensor  # [N * V, *latent_shape]
    behind: Tensor  # [N, 3] that the prior and the network see the objects on
    first: int  # number of the first input view
    compared: Tensor  # [N, K] numbers of the views of each that are compared
    backgrounds: Tensor  # [N, 3] that they are compared on


def _batches(config: Config, source: ViewSource, prior: MultiViewPrior, start: int) -> Generator[_Batch]:
    for step in range(start, config.train.steps):
        yield _batch(
            config, source, prior.latent_shape, step, config.train.batch_objects, config.gaussians.max_timestep
        )


def _batch(
    config: Config, source: ViewSource, shape: tuple[int, ...], step: int, count: int, max_timestep: int
) -> _Batch:
    """A function of its arguments."""
    behind = np.random.default_rng(stable_seed(config.seed, step, "gaussians' inputs"))
    rng = np.random.default_rng(stable_seed(config.seed, step, "gaussians"))
    drawn = [source.draw(int(rng.integers(len(source))), rng) for _ in range(count)]
    views = config.camera.num_views
    cameras = [each.cameras for each in drawn if each.cameras is not None]
    if len(cameras) < count:
        raise ConfigError(f"train.multiview_data={config.train.multiview_data} has no cameras, Gaussians need them")
    timestep = torch.from_numpy(rng.integers(max_timestep + 1, size=count)).repeat_interleave(views)
    order = np.stack([rng.permutation(views)[: config.gaussians.supervised_views] for _ in range(count)])
    pictures = np.concatenate([each.images for each in drawn]).astype(np.float32) / 255
    return _Batch(
        step,
        to_chw(pictures),
        [each.caption for each in drawn],
        Cameras.joined(cameras),
        timestep,
        torch.from_numpy(rng.standard_normal((count * views, *shape), np.float32)),
        torch.from_numpy(np.stack([draw_background(config.train.background, behind) for _ in range(count)])).float(),
        int(rng.integers(views)),
        torch.from_numpy(order),
        torch.from_numpy(rng.random((count, 3), np.float32)),
    )


class _Objective:
    """The prior, frozen, then the network."""

    def __init__(self, prior: MultiViewPrior, forward_pass: FeedForward, config: Config) -> None:
        self.prior, self.forward_pass, self.config = prior, forward_pass, config

    def clean(self, batch: _Batch) -> tuple[Tensor, Cameras]:
        """The input views of each object, [N * V', 3, S, S], and their cameras."""
        chosen = self._chosen(batch)
        pictures = _on_colors(batch.pictures[chosen].to(self.prior.device), batch.behind)
        return pictures, batch.cameras.take(chosen, self.forward_pass.input_views)

    def _chosen(self, batch: _Batch) -> Tensor:
        return self.forward_pass.chosen(len(batch.pictures), self.config.camera.num_views, batch.first)

    @torch.no_grad()
    def denoised(self, batch: _Batch) -> tuple[Tensor, Cameras]:
        """The same as the prior sees them through the noise."""
        prior, views = self.prior, self.config.camera.num_views
        latents = encode_images(prior, _on_colors(batch.pictures, batch.behind))
        timestep, noise = batch.timestep.to(prior.device), batch.noise.to(prior.device)
        alpha, sigma = prior.schedule.level(timestep)
        told = Conditions(prior.encode_text(batch.captions), batch.cameras, views)
        x0 = prior.denoise(alpha * latents + sigma * noise, timestep, told).x0
        chosen = self._chosen(batch)
        return prior.decode(x0[chosen.to(x0.device)]), batch.cameras.take(chosen, self.forward_pass.input_views)

    def losses(self, batch: _Batch) -> Losses:
        """Of a step of training."""
        shown = self.clean if batch.step < self.config.gaussians.clean_steps else self.denoised
        images, cameras = shown(batch)
        views, device = self.config.camera.num_views, images.device
        scenes = self.forward_pass(images, cameras)
        with torch.autocast(device.type, enabled=False):
            color, opacity = [], []
            for i, scene in enumerate(scenes):
                numbers, behind = i * views + batch.compared[i], batch.backgrounds[i].to(device)
                seen = scene.render(batch.cameras.take(numbers, len(numbers)), background=behind)
                true = batch.pictures[numbers].movedim(1, -1).to(device)
                color.append(mse_loss(seen.rgb, true[..., :3] + (1 - true[..., 3:]) * behind))
                opacity.append(mse_loss(seen.opacity, true[..., 3:]))
        mean, mean_opacity = torch.stack(color).mean(), torch.stack(opacity).mean()
        total = mean + self.config.gaussians.opacity_weight * mean_opacity
        return Losses(total, {"psnr": -10 * mean.log10(), "opacity": mean_opacity})


def _on_colors(pictures: Tensor, colors: Tensor) -> Tensor:
    """Premultiplied RGBA [N * V, 4, H, W], the views of each object on its colour [N, 3] -> [N * V, 3, H, W]."""
    behind = colors.to(pictures).repeat_interleave(len(pictures) // len(colors), 0)
    return pictures[:, :3] + (1 - pictures[:, 3:]) * behind[:, :, None, None]


@torch.no_grad()
def _save_sheet(prior: MultiViewPrior, shown: FeedForward, config: Config, source: ViewSource, path: Path) -> None:
    """True views of the data's first objects, and what the Gaussians show of them through more and more noise."""
    objective = _Objective(prior, shown, config)
    views, count = config.camera.num_views, min(_SHOWN_OBJECTS, len(source))
    batch = replace(_batch(config, source, prior.latent_shape, 0, count, 0), first=0)
    numbers = torch.arange(0, views, max(1, views // 8)) + 1 % views  # none of them an input view
    rows: dict[int, list[np.ndarray]] = {i: [] for i in range(count)}
    for timestep in _SHOWN_TIMESTEPS:
        noisy = replace(batch, timestep=torch.full_like(batch.timestep, timestep))
        images, cameras = objective.denoised(noisy)
        for i, scene in enumerate(shown(images, cameras)):
            seen = scene.render(batch.cameras.take(i * views + numbers % views, len(numbers)), background=torch.ones(3))
            rows[i].append(seen.rgb.cpu().numpy())
    true = composite_on((batch.pictures.movedim(1, -1).numpy() * 255).round().astype(np.uint8), np.ones(3))
    sheet = []
    for i in range(count):
        sheet.append((batch.captions[i], true[i * views + (numbers % views).numpy()]))
        sheet += [(f"through noise of t = {t}", row) for t, row in zip(_SHOWN_TIMESTEPS, rows[i], strict=True)]
    save_png(contact_sheet(sheet, "true views, then what the Gaussians show"), path)
