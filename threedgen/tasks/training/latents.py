"""Miniworld's training pictures as latents: each is encoded once, on a background that its object keeps."""

from collections.abc import Callable
from dataclasses import replace
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from threedgen.config.training import TrainBackground
from threedgen.core.randomness import stable_seed
from threedgen.data.captioned_views import CapturedViews, Pictures, composite_on
from threedgen.data.training_sources import MiniworldOrbits, MiniworldPhotographs, MiniworldViews
from threedgen.tasks.training.batches import TrainingSources, draw_background, to_chw

Encode = Callable[[Tensor], Tensor]  # pictures [B, 3, H, W] in 0..1 -> latents [B, 4, h, w]


class Latents:
    """Stands for the pictures of `CapturedViews`: latents[index] is [V, 4, h, w] of an object, in half precision.

    They are made when they are first asked for. All views of an object are encoded together, whichever are asked for,
    so that a training that goes on after a stop gets the same bits.
    """

    def __init__(self, pictures: Pictures, encode: Encode, kind: TrainBackground, seed: int) -> None:
        """pictures: [N, V, H, W, 4] premultiplied RGBA."""
        self._pictures, self._encode, self._kind, self._seed = pictures, encode, kind, seed
        self._made: list[NDArray[np.float16] | None] = [None] * len(pictures)
        self._one_at_a_time = Lock()

    @property
    def shape(self) -> tuple[int, ...]:
        return self._pictures.shape

    def __len__(self) -> int:
        return len(self._made)

    def __getitem__(self, index: int) -> NDArray[np.float16]:
        with self._one_at_a_time:
            made = self._made[index]
            if made is None:
                rng = np.random.default_rng(stable_seed(self._seed, index, "background"))
                images = composite_on(self._pictures[index], draw_background(self._kind, rng))
                made = self._encode(to_chw(images)).to("cpu", torch.float16).numpy()
                self._made[index] = made
            return made


def encoded(sources: TrainingSources, encode: Encode, kind: TrainBackground, seed: int) -> TrainingSources:
    """The sources with miniworld's pictures as latents; other pictures, of which there may be any number, stay."""
    made: dict[tuple[str, ...], CapturedViews] = {}  # views and photographs are of the same objects

    def of(captured: CapturedViews) -> CapturedViews:
        if captured.captions not in made:
            made[captured.captions] = replace(captured, images=Latents(captured.images, encode, kind, seed))
        return made[captured.captions]

    views, images = sources.views, sources.images
    if isinstance(views, (MiniworldViews, MiniworldOrbits)):
        views = type(views)(of(views.captured))
    if isinstance(images, MiniworldPhotographs):
        patterned = None if images.patterned is None else of(images.patterned)
        images = MiniworldPhotographs(of(images.captured), patterned, images.patterned_share)
    return TrainingSources(views, images)
