"""The prior that a run is guided by or samples from."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from threedgen.cameras import SHEET_AZIMUTHS, SHEET_ELEVATION, Cameras, viewing_cameras
from threedgen.config.guidance import JointConfig
from threedgen.config.runtime import MemoryUse, PriorPrecision
from threedgen.config.schema import Config
from threedgen.core.errors import ConfigError
from threedgen.core.randomness import generator
from threedgen.data.miniworld.reading import Reading
from threedgen.diffusion.image_prior import ImagePrior
from threedgen.diffusion.joint import Mix
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.sampling import sample_views
from threedgen.diffusion.text.prompts import read_prompt
from threedgen.runs.device import bfloat16_note, prior_dtype, select_device

_FRAMES_BETWEEN = 6  # that a video prior draws from one of the sheet's views to the next, 15 degrees apart


def load_prior(config: Config) -> MultiViewPrior:
    """The config's prior, to be asked and not changed, on its device, in the config's precision and memory."""
    device, precision = select_device(config.runtime), config.runtime.precision
    if precision is PriorPrecision.bfloat16 and (note := bfloat16_note("runtime.precision", device)):
        show_notes([note])
    dtype = prior_dtype(precision, device)
    prior = MultiViewPrior.from_pretrained(config.weights, dtype, device, only_reads=True)
    prior.replays = config.runtime.cuda_graphs
    if config.runtime.memory is MemoryUse.low:
        prior.take_less_memory()
    return prior


def load_joint(joint: JointConfig, prior: MultiViewPrior) -> ImagePrior | None:
    """The 2D model that is to answer beside the prior; None if there is none. Raises ConfigError if it does not fit."""
    return ImagePrior.beside(prior, joint) if joint.weights else None


@torch.no_grad()
def encode_prompts(
    config: Config, prior: MultiViewPrior, typed: Config | None = None
) -> tuple[Tensor, Tensor, Mix | None]:
    """The embeddings of the config's prompt and of its negative prompt, each [1, L, C], and what puts the 2D model of
    `guidance.joint` beside the prior, which has read them too.

    typed: the config before its prompts were read for the prior, which the 2D model reads in its own way; None: the
    same. Raises ConfigError where the prior is to be asked for single pictures and has no 2D mode.
    """
    if config.camera.num_views == 1 and not prior.has_2d_mode:
        raise ConfigError(
            f"camera.num_views=1 asks the prior for pictures without a camera, and weights={config.weights} have no "
            "such 2D mode: they are a video network's, or were trained on sets of views alone"
        )
    mix = _told(load_joint(config.guidance.joint, prior), typed or config)
    return prior.encode_text([config.prompt]), prior.encode_text([config.negative_prompt]), mix


def _told(joint: ImagePrior | None, config: Config) -> Mix | None:
    if joint is None:
        return None
    mix, notes = joint.told(config.prompt, config.negative_prompt, config.allow_unknown_words)
    show_notes(notes)
    return mix


def read_prompts(config: Config, prior: MultiViewPrior) -> Config:
    """The config with its prompts as the prior is told them; what was changed is printed.

    Raises ConfigError, before any work is done, if the prior cannot be told them.
    """
    if config.allow_unknown_words:
        return config
    reading = read_prompt(prior.tokenizer, config.prompt) if config.prompt else Reading("")
    negative = read_prompt(prior.tokenizer, config.negative_prompt, negative=True)
    show_reading(config.prompt, reading.text, (*reading.notes, *negative.notes))
    return replace(config, prompt=reading.text, negative_prompt=negative.text)


def show_reading(prompt: str, as_read: str, notes: Iterable[str]) -> None:
    """Print how a prompt was read if that is not how it was typed."""
    if prompt.lower().split() != as_read.lower().split():
        print(f"{'read as':10} {as_read}", flush=True)
    show_notes(notes)


def show_notes(notes: Iterable[str]) -> None:
    for note in notes:
        print(f"{'note':10} {note}", flush=True)


def sheet_cameras(config: Config, prior: MultiViewPrior) -> tuple[Cameras, int]:
    """The contact sheet's cameras at the prior's size, and every which of them they are: a video has more between."""
    between = _FRAMES_BETWEEN if prior.is_video else 1
    azimuths = [azimuth + 90 / between * k for azimuth in SHEET_AZIMUTHS for k in range(between)]
    return viewing_cameras(config.camera, azimuths, SHEET_ELEVATION, prior.image_size), between


@torch.no_grad()
def draw_prompt(config: Config, prior: MultiViewPrior, typed: Config | None = None) -> np.ndarray:
    """The contact sheet's views of the prompt as the prior draws them by itself, [4, H, W, 3] in 0..1; typed: see
    `encode_prompts`."""
    cameras, between = sheet_cameras(config, prior)
    views = sample_views(
        prior,
        [config.prompt],
        cameras,
        generator(config.seed, 0, "sampled views"),
        negative_prompt=config.negative_prompt,
        **config.views.sampling(),
        mix=_told(load_joint(config.views.joint, prior), typed or config),
    )
    return views[::between].movedim(1, -1).cpu().numpy()
