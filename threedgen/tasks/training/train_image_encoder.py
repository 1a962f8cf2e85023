"""The mini image encoder, trained before the network that is shown pictures: to say of a picture what its caption says.

Its tokens follow the text in the network's cross-attention. Where they look like the text encoder's states of a
caption, the network draws what a picture shows as well as it draws from captions, before a step of its own. (CLIP does
as much for the full size: its pictures and texts share a space.)
"""

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from threedgen.config.schema import Config
from threedgen.config.training import Precision
from threedgen.core.randomness import stable_seed
from threedgen.core.transfer import to_device
from threedgen.diffusion.checkpoints.locate import IMAGE_ENCODER, locate_base, locate_part
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.runs.directory import RunDirectory
from threedgen.tasks.training.batches import TrainingSources, as_tensor, draw_background
from threedgen.tasks.training.optimizers import make_optimizer
from threedgen.training.log import StepLog
from threedgen.training.loop import Losses, Pace, Training, states
from threedgen.training.loop import train as train_network

_PICTURES = 64  # of a step
_DECAY_FRACTION = 0.6


def has_untrained_encoder(prior: MultiViewPrior, start_from: str) -> bool:
    """Whether the prior's image encoder is one that nobody has trained: the weights it started from have none."""
    return prior.image_encoder is not None and not locate_part(locate_base(start_from), IMAGE_ENCODER).is_dir()


def train_image_encoder(config: Config, run: RunDirectory, prior: MultiViewPrior, sources: TrainingSources) -> None:
    """Train the prior's image encoder, and what makes tokens of its embedding, in place.

    sources: of latents, or of pictures, which are encoded. A run that goes on does the steps after the latest
    checkpoint of this stage again, to the same bits.
    """
    train = config.train
    modules = {"image_encoder": prior.image_encoder, "context_embedding": prior.unet.context_embedding}
    named = [(f"{name}.{key}", value) for name, module in modules.items() for key, value in module.named_parameters()]
    parameters = [parameter for _, parameter in named]

    def objective(batch: _Batch) -> Losses:
        images = to_device(batch.images, prior.device)
        with torch.no_grad():
            latents = images.float() if images.dtype == torch.float16 else prior.encode_images(images)
        return Losses(caption_error(prior, latents, batch.captions), {})

    def batches(start: int) -> Generator[_Batch]:
        yield from (_batch(config, sources, step) for step in range(start, train.image_encoder_steps))

    bfloat16 = train.precision is Precision.bfloat16
    optimizer = make_optimizer(train, named)
    job = Training(objective, batches, parameters, optimizer, states(modules), bfloat16=bfloat16)
    pace = Pace(
        train.image_encoder_steps,
        train.lr,
        warmup_steps=train.warmup_steps,
        decay_fraction=_DECAY_FRACTION,
        checkpoint_every=train.checkpoint_every,
        threads=config.runtime.threads,
    )
    log = StepLog(run.events, "image encoder", pace.steps, "image_encoder_step", train.log_every)
    train_network(job, pace, run.folder / "checkpoints-image-encoder", lambda start: log, shared=False)


def caption_error(prior: MultiViewPrior, latents: Tensor, captions: list[str]) -> Tensor:
    """[]: mean squared error of the pictures' tokens against the text encoder's states of their captions.

    latents: [B, 4, h, w]. A picture that is kept back (its embedding is zero) has the tokens of an empty text.
    """
    with torch.no_grad():
        told = prior.encode_text([*captions, ""])
    embedding = prior.look(latents)
    tokens = prior.unet.picture_tokens(torch.cat([embedding, torch.zeros_like(embedding[:1])]))
    return (tokens.float() - told).square().mean()


@dataclass(frozen=True)
class _Batch:
    images: Tensor  # [B, 3, H, W] in 0..1, or latents [B, 4, h, w] in half precision
    captions: list[str]


def _batch(config: Config, sources: TrainingSources, step: int) -> _Batch:
    """First views, which show an object from any side, as a function of the step."""
    rng = np.random.default_rng(stable_seed(config.seed, step, "image encoder batch"))
    images, captions = [], []
    for _ in range(_PICTURES):
        drawn = sources.views.draw(int(rng.integers(len(sources.views))), rng)
        images.append(as_tensor(drawn.images[:1], draw_background(config.train.background, rng)))
        captions.append(drawn.caption)
    return _Batch(torch.cat(images), captions)
