"""Train a multi-view prior: from scratch at mini size, its VAE first, or from the weights of another prior.

A step is a function of (seed, step): it is the same after a restart, and however it is split over processes
(`torchrun`) and accumulated parts.
"""

import hashlib
import json
from collections.abc import Generator
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from threedgen.config.schema import Config
from threedgen.config.training import Precision, PriorNetwork, Trainable
from threedgen.core.errors import ConfigError
from threedgen.core.randomness import seeded
from threedgen.core.transfer import to_device
from threedgen.data.training_sources import CLIPS
from threedgen.diffusion.checkpoints.folders import load_vae
from threedgen.diffusion.checkpoints.locate import locate_part, locate_weights
from threedgen.diffusion.conditions import Conditions, Picture
from threedgen.diffusion.mini import IMAGE_SIZE, LEVELS, VAE_LEVELS, new_mini_prior
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.start import PICTURE_LAYERS, grow_vocabulary, start_prior
from threedgen.runs.device import select_device
from threedgen.runs.directory import RunDirectory
from threedgen.runs.distributed import first_process_first, rank, world_size
from threedgen.tasks.training.batches import (
    Batch,
    TrainingBatches,
    TrainingSources,
    draw_ahead,
    open_sources,
    parts_of_process,
)
from threedgen.tasks.training.latents import encoded
from threedgen.tasks.training.optimizers import make_optimizer, pace_of
from threedgen.tasks.training.prior_log import TrainingLog
from threedgen.tasks.training.samples import save_sample_sheet
from threedgen.tasks.training.train_image_encoder import has_untrained_encoder, train_image_encoder
from threedgen.tasks.training.train_vae import train_vae
from threedgen.training.average import MovingAverage
from threedgen.training.loop import Losses, Training, states
from threedgen.training.loop import train as train_network

_ENCODED_AT_ONCE = 32  # pictures: the VAE's layers at full resolution need much memory
_SHOWN_WORDS = 12


def run(config: Config, run: RunDirectory) -> dict[str, Path]:
    """Train, and return the finished prior's folder (usable as `weights=FOLDER`) and a sheet of its views.

    Raises ConfigError for a batch that does not divide, for data that is missing and for weights that do not fit.
    """
    train, device = config.train, select_device(config.runtime)
    if train.network is PriorNetwork.video and not train.start_from:
        raise ConfigError("train.network=video needs train.start_from: its spatial layers are an image network's")
    if train.image_conditioning and train.network is not PriorNetwork.video:
        raise ConfigError(
            "train.image_conditioning=true: only a video network is shown a picture (train.network=video)"
        )
    if train.train_vae_decoder and not (train.start_from or train.vae):
        raise ConfigError("train.train_vae_decoder=true needs a VAE that is there: train.start_from or train.vae")
    if train.trainable is Trainable.picture and not train.image_conditioning:
        raise ConfigError("train.trainable=picture: no layer of the network meets a picture (train.image_conditioning)")
    if train.network is PriorNetwork.video and train.layers_per_block:
        raise ConfigError("train.layers_per_block: a video network has those of the weights that it starts from")
    if train.network is PriorNetwork.video and train.gradient_checkpointing:
        raise ConfigError("train.gradient_checkpointing=true: the video network has none; use train.accumulate")
    parts_of_process(train.batch_objects, rank(), world_size(), train.accumulate)  # before anything is loaded
    prior, sources = _start(config, run, device)
    average = _train(config, run, prior, sources)
    folder, sheet = run.folder / "prior", run.path("samples/final.png")
    if rank() == 0:
        average.save_pretrained(folder)
        save_sample_sheet(average, config, sources.views, sheet)
    return {"prior": folder, "samples": sheet}


def _start(config: Config, run: RunDirectory, device: torch.device) -> tuple[MultiViewPrior, TrainingSources]:
    """The prior as it is before the first step, and the data."""
    train = config.train
    if train.start_from:
        prior = start_prior(
            train.start_from,
            train.view_attention,
            train.camera_input,
            device=device,
            network=train.network,
            image_conditioning=train.image_conditioning,
            layers_per_block=train.layers_per_block,
        )
        if train.vae:
            prior.vae = _vae_of(train.vae, device)
        _set_image_size(prior, train.image_size)
        with first_process_first():  # it leaves miniworld's pictures on disk
            sources = open_sources(config, prior.image_size)
            if train.train_vae_decoder:
                prior.vae = train_vae(config, run, sources, device, prior.vae)
        # words that nobody would learn stay unknown
        new_words = grow_vocabulary(prior, sources.texts()) if train.train_text_encoder else ()
        if new_words and rank() == 0:
            shown = ", ".join(new_words[:_SHOWN_WORDS]) + (", ..." if len(new_words) > _SHOWN_WORDS else "")
            print(f"{'new words':10} {len(new_words)} that {train.start_from} lacks: {shown}", flush=True)
    else:
        size, vae = train.image_size or IMAGE_SIZE, _vae_of(train.vae, device) if train.vae else None
        _latent_edge(size, len(vae.config.block_out_channels if vae else VAE_LEVELS), len(LEVELS))
        with first_process_first():  # and the VAE
            sources = open_sources(config, size)
            if vae is None or train.train_vae_decoder:
                vae = train_vae(config, run, sources, device, vae)
        with seeded(config.seed):
            prior = new_mini_prior(
                sources.texts(), vae, train.view_attention, train.camera_input, train.layers_per_block
            ).to(device)
        _set_image_size(prior, size)
    if train.network is PriorNetwork.multiview:
        has_2d_steps = sources.images is not None and train.multiview_probability < 1
        prior.unet.register_to_config(has_2d_mode=has_2d_steps)
    prior.train()
    prior.vae.eval()
    prior.text_encoder.requires_grad_(train.train_text_encoder)
    if train.trainable is Trainable.picture:
        for name, parameter in prior.unet.named_parameters():
            parameter.requires_grad_(PICTURE_LAYERS.fullmatch(name) is not None)
    return prior, sources


def _vae_of(weights: str, device: torch.device) -> AutoencoderKL:
    """The frozen VAE of other weights."""
    vae = load_vae(locate_part(locate_weights(weights), "vae"), torch.float32, device)
    return vae.eval().requires_grad_(False)


def _set_image_size(prior: MultiViewPrior, size: int) -> None:
    """Make `size` pixels the size of the prior's images; 0 leaves it."""
    if not size:
        return
    levels = (len(network.config.block_out_channels) for network in (prior.vae, prior.unet))
    prior.unet.register_to_config(sample_size=_latent_edge(size, *levels))


def _latent_edge(size: int, vae_levels: int, unet_levels: int) -> int:
    """Of a picture of `size` pixels. Raises ConfigError for one that the networks cannot halve as often as they do."""
    multiple = 2 ** (vae_levels + unet_levels - 2)
    if size % multiple:
        raise ConfigError(f"train.image_size={size}: these networks need a multiple of {multiple}")
    return size // 2 ** (vae_levels - 1)


def _train(config: Config, run: RunDirectory, prior: MultiViewPrior, sources: TrainingSources) -> MultiViewPrior:
    """Train UNet and, if it is to learn, text encoder; returns the prior with their moving averages."""
    train = config.train
    parts = parts_of_process(train.batch_objects, rank(), world_size(), train.accumulate)
    if train.gradient_checkpointing:
        prior.unet.enable_gradient_checkpointing()
    use_bfloat16 = train.precision is Precision.bfloat16

    def encode(images: Tensor) -> Tensor:
        with torch.autocast(prior.device.type, torch.bfloat16, enabled=use_bfloat16):
            return encode_images(prior, images)

    needs_pixels = prior.is_shown_a_picture and prior.looks_at_pixels
    drawn_from = sources if needs_pixels else encoded(sources, encode, train.background, config.seed)
    trained = ["unet", "text_encoder"] if train.train_text_encoder else ["unet"]
    if prior.is_shown_a_picture and not prior.looks_at_pixels:  # the mini encoder
        is_new = has_untrained_encoder(prior, train.start_from)
        if is_new and not train.image_encoder_steps:
            trained.append("image_encoder")
        else:
            if is_new:
                with first_process_first():  # it leaves its checkpoints
                    train_image_encoder(config, run, prior, drawn_from)
            for module in (prior.image_encoder, prior.unet.context_embedding):
                module.requires_grad_(False)  # the network's own loss would undo what they have learned of captions
    named = [pair for name in trained for pair in prior.get_submodule(name).named_parameters() if pair[1].requires_grad]
    optimizer = make_optimizer(train, named)
    average = MovingAverage(prior, train.ema_decay)
    modules = {name: prior.get_submodule(name) for name in trained}
    modules |= {f"average.{name}": average.module.get_submodule(name) for name in trained}
    batches = TrainingBatches(config, drawn_from, prior.latent_shape)
    images_per_step = train.batch_objects * config.camera.num_views

    def drawn(start: int) -> Generator[Batch]:
        order = ((step, part) for step in range(start, train.steps) for part in parts)
        return draw_ahead(batches, order, train.loader_workers)

    def show(done: int) -> None:
        if rank() == 0 and done % train.sample_every == 0:
            sheet = run.path(f"samples/step-{done:06d}.png")
            quality = save_sample_sheet(average.module, config, sources.views, sheet)
            average.module.save_pretrained(run.folder / "prior")
            log.samples(done, sheet, quality)

    log = TrainingLog(run, train, images_per_step, prior.device)
    without_cameras = sources.images is not None or train.multiview_data == CLIPS
    job = Training(
        _shared(_Objective(prior), without_cameras),
        drawn,
        [parameter for _, parameter in named],
        optimizer,
        states(modules),
        average,
        len(parts),
        use_bfloat16,
        {"the captions' words": _digest_of_words(prior)},  # which row of the embedding is whose
    )
    pace = pace_of(train, config.runtime.threads)
    train_network(job, pace, run.checkpoints, log.begin, after=show)
    return average.module


def _digest_of_words(prior: MultiViewPrior) -> str:
    ids = sorted(prior.tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(ids).encode("ascii")).hexdigest()


class _Objective(nn.Module):
    """The prior's losses from captions and pictures on, as the one module that several processes share."""

    def __init__(self, prior: MultiViewPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, batch: Batch) -> Losses:
        """Of each view, [B], as "views"."""
        prior, device = self.prior, self.prior.device
        is_encoded = batch.images.dtype == torch.float16
        latents = to_device(batch.images, device).float() if is_encoded else encode_images(prior, batch.images)
        picture = None
        if prior.is_shown_a_picture:
            first = latents[:: batch.num_views]
            pixels = None if is_encoded else to_device(batch.images[:: batch.num_views], device)
            picture = Picture(prior.look(first, pixels) * to_device(batch.shown, device)[:, None], first)
        told = Conditions(prior.encode_text(batch.captions), batch.cameras, batch.num_views, picture)
        views = prior.losses(latents, to_device(batch.noise, device), batch.timestep, told)
        return Losses(views.mean(), {"views": views})


@torch.no_grad()
def encode_images(prior: MultiViewPrior, images: Tensor) -> Tensor:
    """The latents [B, 4, h, w] of images [B, 3, H, W] in 0..1: the posterior's mean.

    Its spread is far below the noise that diffusion adds at all but the first timesteps, so that drawing from it would
    teach nothing more, and the mean makes the target a function of the picture.
    """
    chunks = to_device(images, prior.device).split(_ENCODED_AT_ONCE)
    return torch.cat([prior.encode_images(chunk) for chunk in chunks])


def _shared(objective: nn.Module, without_cameras: bool) -> nn.Module:
    """The objective, with gradients that are means over all processes where there are several.

    without_cameras: some steps are, which leave the camera's layers out.
    """
    if world_size() == 1:
        return objective
    return DistributedDataParallel(objective, find_unused_parameters=without_cameras)
