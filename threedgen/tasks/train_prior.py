"""Train a multi-view prior from scratch on miniworld: pictures, then the VAE, then text encoder and UNet together.

Each stage is kept on disk when it is done, and each is resumed exactly where it stopped.
"""

import math
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from threedgen.cameras import mvdream_camera_vectors, viewing_cameras
from threedgen.config.schema import Config, TrainConfig
from threedgen.core.files import atomic_folder
from threedgen.core.randomness import generator
from threedgen.data.captioned_views import (
    CapturedViews,
    composite_on,
    front_probabilities,
    multiview_captures,
    patterned_captures,
)
from threedgen.data.miniworld import build, held_out, render, vocabulary
from threedgen.diffusion.mini import IMAGE_SIZE, new_mini_prior, new_mini_vae
from threedgen.diffusion.prior import ASSET_SUFFIX, MultiViewPrior
from threedgen.diffusion.sampling import sample_views
from threedgen.diffusion.training import MovingAverage, denoising_loss, learning_rate, optimizer_step
from threedgen.imaging import contact_sheet, save_png
from threedgen.metrics.image import psnr
from threedgen.runs.checkpoint import (
    flatten_optimizer_state,
    load_latest_checkpoint,
    restore_optimizer_state,
    save_checkpoint,
)
from threedgen.runs.directory import RunDirectory
from threedgen.runs.progress import ProgressLine, StepReport

_BACKGROUNDS = 2  # each picture is encoded on mid grey and on one random colour
_SAMPLE_PROMPTS = 6


def run(config: Config, run: RunDirectory) -> dict[str, Path]:
    """Train, and return the finished prior's folder (usable as `weights=FOLDER`) and a sheet of its views."""
    train, cache = config.train, Path(config.output_root) / "cache"
    views = multiview_captures(cache, train.num_objects, config.camera, IMAGE_SIZE, config.seed, train.render_workers)
    patterned = patterned_captures(
        cache, train.num_patterned_images, config.camera, IMAGE_SIZE, config.seed, train.render_workers
    )
    vae = _train_vae(config, run, views, patterned)
    multiview_latents = _encoded(config, run, vae, views, "multiview")
    patterned_latents = _encoded(config, run, vae, patterned, "patterned")
    batches = _Batches(config, views, multiview_latents, patterned, patterned_latents)
    prior = _train_prior(config, run, vae, batches)
    prior.save_pretrained(run.folder / "prior")
    sheet = _sample_sheet(prior, config, run.path("samples/final.png"))[0]
    return {"prior": run.folder / "prior", "samples": sheet}


def _train_vae(config: Config, run: RunDirectory, views: CapturedViews, patterned: CapturedViews) -> AutoencoderKL:
    train, folder = config.train, run.folder / "vae"
    if folder.is_dir():
        return AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False).eval().requires_grad_(False)
    torch.manual_seed(config.seed)
    vae = new_mini_vae().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.99), weight_decay=1e-4)
    checkpoints = run.folder / "checkpoints-vae"
    start = _restore(checkpoints, optimizer, {"vae": vae})
    pictures = [views.images.reshape(-1, *views.images.shape[-3:]), patterned.images[:, 0, 0]]
    with ProgressLine("vae") as progress:
        for step in range(start, train.vae_steps):
            images = _vae_batch(pictures, train.vae_batch, config.seed, step)
            posterior = vae.encode(images).latent_dist
            latents = posterior.sample(generator=generator(config.seed, step, "vae posterior"))
            error = vae.decode(latents).sample - images
            kl = posterior.kl().mean() / latents[0].numel()  # nats per latent value
            loss = error.abs().mean() + 0.5 * error.square().mean() + 1e-3 * kl
            lr = learning_rate(step, train.vae_steps, train.vae_lr, train.warmup_steps, train.decay_fraction)
            optimizer_step(optimizer, vae.parameters(), loss, lr)
            fields = {"psnr": -10 * math.log10(error.square().mean().item() / 4), "kl": kl.item()}
            _report(run, progress, "vae_step", StepReport(step + 1, train.vae_steps, loss.item(), fields), train)
            if (step + 1) % train.checkpoint_every == 0:
                _save(checkpoints, step + 1, optimizer, {"vae": vae})
    vae = vae.eval().requires_grad_(False)
    with torch.no_grad():
        sample = _vae_batch(pictures, 512, config.seed, train.vae_steps)
        vae.register_to_config(scaling_factor=1 / vae.encode(sample).latent_dist.mean.std().item())
    with atomic_folder(folder) as temporary:
        vae.save_pretrained(temporary)
    return vae


def _vae_batch(pictures: list[np.ndarray], count: int, seed: int, step: int) -> Tensor:
    """[count, 3, H, W] in -1..1: three quarters objects, one quarter patterned, half of them on mid grey."""
    rng = generator(seed, step, "vae batch")
    quarter = count // 4
    chosen = [
        source[torch.randint(len(source), (n,), generator=rng).numpy()]
        for source, n in zip(pictures, (count - quarter, quarter), strict=True)
    ]
    background = torch.rand(count, 3, generator=rng)
    background[torch.rand(count, generator=rng) < 0.5] = 0.5
    return _to_chw(composite_on(np.concatenate(chosen), background.numpy())) * 2 - 1


def _to_chw(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).movedim(-1, -3).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _encoded(config: Config, run: RunDirectory, vae: AutoencoderKL, captures: CapturedViews, name: str) -> np.ndarray:
    """Scaled latents of every picture on its backgrounds, float16 [N, S, BACKGROUNDS, V, 4, h, w], kept on disk."""
    folder = run.folder / "latents" / name
    if not folder.is_dir():
        print(f"encoding {len(captures)} {name} objects", flush=True)
        with atomic_folder(folder) as temporary:
            _encode_all(config, vae, captures, name, temporary / "latents.npy")
    return np.load(folder / "latents.npy")


def _encode_all(config: Config, vae: AutoencoderKL, captures: CapturedViews, name: str, path: Path) -> None:
    n, sets, views, height, width, _ = captures.images.shape
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    shape = (n, sets, _BACKGROUNDS, views, vae.config.latent_channels, height // factor, width // factor)
    latents = np.lib.format.open_memmap(path, "w+", np.float16, shape)
    background = torch.rand(
        n, sets, _BACKGROUNDS, 3, generator=generator(config.seed, 0, f"{name} backgrounds")
    ).numpy()
    background[:, :, 0] = 0.5
    chunk = max(1, 256 // (sets * views * _BACKGROUNDS))
    for first in range(0, n, chunk):
        part = slice(first, first + chunk)
        # the views of a set share their background: it is part of the scene
        pictures = composite_on(captures.images[part][:, :, None], background[part][:, :, :, None])
        images = _to_chw(pictures.reshape(-1, height, width, 3)) * 2 - 1
        encoded = vae.encode(images).latent_dist.mean * vae.config.scaling_factor
        latents[part] = encoded.reshape(-1, *shape[1:]).numpy()
    latents.flush()


class _Batches:
    """Training batches as a function of the step: 70 % four views of objects, 30 % single images without cameras."""

    def __init__(
        self,
        config: Config,
        views: CapturedViews,
        latents: np.ndarray,
        patterned: CapturedViews,
        patterned_latents: np.ndarray,
    ) -> None:
        self.train, self.seed = config.train, config.seed
        self.views, self.latents = views, latents
        self.patterned, self.patterned_latents = patterned, patterned_latents
        azimuth = views.azimuth_deg.reshape(len(views), -1)
        self.photograph_probability = torch.from_numpy(front_probabilities(azimuth))

    def __call__(self, step: int) -> tuple[Tensor, list[str], Tensor | None]:
        """latents [B, 4, h, w], one caption per object (per image in 2D mode), camera [B, 16] or None."""
        rng = generator(self.seed, step, "batch")
        is_multiview = torch.rand((), generator=rng) < self.train.multiview_probability
        latents, captions, camera = self._objects(rng) if is_multiview else self._photographs(rng)
        dropped = torch.rand(len(captions), generator=rng) < self.train.text_drop_probability
        texts = ["" if drop else caption for drop, caption in zip(dropped, captions, strict=True)]
        return torch.from_numpy(latents).float(), texts, camera

    def _objects(self, rng: torch.Generator) -> tuple[np.ndarray, list[str], Tensor]:
        count = self.train.batch_objects
        index, chosen_set, background = (
            torch.randint(size, (count,), generator=rng).numpy() for size in self.latents.shape[:3]
        )
        # on half of the captions, so that prompts work with the suffix and without
        suffix = torch.rand(count, generator=rng) < 0.5
        captions = [
            self.views.captions[i] + (ASSET_SUFFIX if marked else "") for i, marked in zip(index, suffix, strict=True)
        ]
        camera = torch.from_numpy(self.views.camera_vectors[index, chosen_set]).flatten(0, 1)
        latents = self.latents[index, chosen_set, background]
        return latents.reshape(-1, *latents.shape[2:]), captions, camera

    def _photographs(self, rng: torch.Generator) -> tuple[np.ndarray, list[str], None]:
        """As many images as a multi-view batch has views: half patterned, half views picked as photographs."""
        count = self.train.batch_objects * self.latents.shape[3] // 2
        index, background = (
            torch.randint(size, (count,), generator=rng) for size in (len(self.views), self.latents.shape[2])
        )
        view = torch.multinomial(self.photograph_probability[index], 1, generator=rng)[:, 0]
        sets, views = self.latents.shape[1], self.latents.shape[3]
        chosen_set, chosen_view = torch.unravel_index(view, (sets, views))
        plain = self.latents[index.numpy(), chosen_set.numpy(), background.numpy(), chosen_view.numpy()]
        other = torch.randint(len(self.patterned), (count,), generator=rng).numpy()
        patterned = self.patterned_latents[other, 0, background.numpy(), 0]
        captions = [self.views.captions[i] for i in index] + [self.patterned.captions[i] for i in other]
        return np.concatenate([plain, patterned]), captions, None


def _train_prior(config: Config, run: RunDirectory, vae: AutoencoderKL, batches: _Batches) -> MultiViewPrior:
    """Train text encoder and UNet; returns the prior with their moving averages."""
    train = config.train
    torch.manual_seed(config.seed)
    prior = new_mini_prior(vocabulary(), vae)
    average = MovingAverage(prior, train.ema_decay)
    parameters = [*prior.unet.parameters(), *prior.text_encoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=1e-3)
    parts: dict[str, nn.Module] = {
        "unet": prior.unet,
        "text_encoder": prior.text_encoder,
        "average.unet": average.module.unet,
        "average.text_encoder": average.module.text_encoder,
    }
    start = _restore(run.checkpoints, optimizer, parts)
    with ProgressLine("prior") as progress:
        for step in range(start, train.steps):
            latents, captions, camera = batches(step)
            num_views = len(latents) // len(captions)
            rng = generator(config.seed, step, "noise")
            noise = torch.randn(latents.shape, generator=rng)
            timestep = torch.randint(1000, (len(captions),), generator=rng).repeat_interleave(num_views)
            text = prior.encode_text(captions).repeat_interleave(num_views, 0)
            loss = denoising_loss(prior, latents, noise, timestep, text, camera, num_views)
            lr = learning_rate(step, train.steps, train.lr, train.warmup_steps, train.decay_fraction)
            norm = optimizer_step(optimizer, parameters, loss.mean(), lr)
            average.update(prior, step)
            late = timestep >= 750
            name = "2d" if camera is None else "multiview"
            fields = {name: loss.mean().item(), "grad_norm": norm}
            if late.any():
                fields[f"{name}_t750"] = loss[late].mean().item()
            _report(run, progress, "step", StepReport(step + 1, train.steps, loss.mean().item(), fields), train)
            if (step + 1) % train.checkpoint_every == 0:
                _save(run.checkpoints, step + 1, optimizer, parts)
            if (step + 1) % train.sample_every == 0:
                path, quality = _sample_sheet(average.module, config, run.path(f"samples/step-{step + 1:06d}.png"))
                average.module.save_pretrained(run.folder / "prior")
                run.events.write("samples", step=step + 1, psnr=quality, path=path)
                print(f"held-out views at step {step + 1}: {quality:.2f} dB inside the silhouettes", flush=True)
    return average.module


def _report(run: RunDirectory, progress: ProgressLine, event: str, report: StepReport, train: TrainConfig) -> None:
    progress.update(report)
    if report.step % train.log_every == 0 or report.step == report.num_steps:
        run.events.write(event, step=report.step, loss=report.loss, **report.fields)


def _restore(folder: Path, optimizer: torch.optim.Optimizer, modules: dict[str, nn.Module]) -> int:
    """Load the latest checkpoint, if any, and return the step to go on from."""
    checkpoint = load_latest_checkpoint(folder)
    if checkpoint is None:
        return 0
    for name, module in modules.items():
        prefix = f"{name}."
        module.load_state_dict(
            {k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}
        )
    restore_optimizer_state(optimizer, checkpoint.tensors)
    return checkpoint.step


def _save(folder: Path, step: int, optimizer: torch.optim.Optimizer, modules: dict[str, nn.Module]) -> None:
    tensors = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    save_checkpoint(folder, step, tensors | flatten_optimizer_state(optimizer), {})


@torch.no_grad()
def _sample_sheet(prior: MultiViewPrior, config: Config, path: Path) -> tuple[Path, float]:
    """Sample held-out captions beside their ground truth; returns the picture and the mean PSNR inside silhouettes.

    Only the object is scored: a sample may choose any background.
    """
    specs, num_views = held_out()[:_SAMPLE_PROMPTS], config.camera.num_views
    azimuth = [20 + 360 / num_views * k for k in range(num_views)]
    cameras = viewing_cameras(config.camera, azimuth, 15, prior.image_size)
    camera = mvdream_camera_vectors(cameras).repeat(len(specs), 1)
    images = sample_views(
        prior,
        [spec.caption for spec in specs],
        camera,
        num_views,
        generator(config.seed, 0, "sample sheet"),
        num_inference_steps=25,
        guidance_scale=3.0,
    )
    sampled_views = images.unflatten(0, (len(specs), num_views)).movedim(2, -1).numpy()
    rows, scores = [], []
    for spec, sampled in zip(specs, sampled_views, strict=True):
        truth = render(build(spec), cameras.camera_to_world.numpy(), cameras.fov_y.numpy(), prior.image_size)
        inside = truth.opacity[..., 0] > 0.5
        scores.append(psnr(sampled[inside], truth.rgb[inside]))
        rows.append((spec.caption, np.concatenate([sampled, truth.rgb])))
    save_png(contact_sheet(rows, "sampled views, then ground truth"), path)
    return path, float(np.mean(scores))
