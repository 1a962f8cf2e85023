"""Training batches of a multi-view prior as a function of (seed, step), however a step is split over processes.

Every object of a step, and every image of a 2D step, has a random stream of its own: caption, pictures, background,
timestep and noise. A process draws only its own ones, and gets for them what one process alone would.
"""

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from threedgen.cameras import Cameras
from threedgen.config.schema import Config
from threedgen.config.training import TrainBackground
from threedgen.core.errors import ConfigError
from threedgen.core.randomness import stable_seed
from threedgen.data.captioned_views import composite_on
from threedgen.data.training_sources import (
    CLIPS,
    MINIWORLD,
    ImageSource,
    ViewSource,
    open_image_source,
    open_view_source,
)
from threedgen.diffusion.text.prompts import ASSET_SUFFIX

NUM_TIMESTEPS = 1000


@dataclass(frozen=True)
class TrainingSources:
    """Where the pictures come from; `images` is None where there is no 2D data, and every step is then multi-view."""

    views: ViewSource
    images: ImageSource | None

    def texts(self) -> Iterator[str]:
        """Everything whose words a prior that knows words one by one must know."""
        yield from self.views.texts()
        if self.images is not None:
            yield from self.images.texts()
        yield ASSET_SUFFIX


def open_sources(config: Config, image_size: int) -> TrainingSources:
    """The config's data as pictures of `image_size` pixels. Raises ConfigError where there is none."""
    train = config.train
    if not train.multiview_data:
        raise ConfigError("train.multiview_data is empty: give what render-meshes wrote, see docs/howto/train.md")
    if train.kinds and not {MINIWORLD, CLIPS} & {train.multiview_data, train.image_data}:
        raise ConfigError("train.kinds chooses among miniworld's things, and neither source of data is miniworld")
    views = open_view_source(train.multiview_data, config, image_size)
    images = open_image_source(train.image_data, config, image_size) if train.image_data else None
    return TrainingSources(views, images)


@dataclass(frozen=True)
class Part:
    """Part `index` of the `count` equal ones that a step is split into."""

    index: int = 0
    count: int = 1

    def of(self, total: int) -> range:
        """The numbers of this part among `total`, which `count` divides."""
        size = total // self.count
        return range(self.index * size, (self.index + 1) * size)


def parts_of_process(batch_objects: int, rank: int, processes: int, accumulate: int) -> list[Part]:
    """What one process computes of a step, one part after another.

    Raises ConfigError if the parts would not be equal: the mean of their losses would not be the batch's.
    """
    count = processes * accumulate
    if batch_objects % count:
        raise ConfigError(
            f"train.batch_objects={batch_objects} cannot be split evenly over {processes} process"
            f"{'es' if processes > 1 else ''} times train.accumulate={accumulate}: take a multiple of {count}"
        )
    return [Part(rank * accumulate + i, count) for i in range(accumulate)]


@dataclass(frozen=True)
class Batch:
    """N captions with V views each (V = 1 in 2D mode), the views of an object adjacent."""

    images: Tensor  # [N * V, 3, S, S] in 0..1, or latents [N * V, 4, h, w] in half precision
    captions: list[str]
    cameras: Cameras | None  # N * V; None in 2D mode, and of videos whose cameras nobody is told
    timestep: Tensor  # [N * V], one value for the views of an object
    noise: Tensor  # [N * V, *latent_shape]
    shown: Tensor  # [N], whether a network that is shown pictures is told what the first view shows

    @property
    def num_views(self) -> int:
        return len(self.images) // len(self.captions)


@dataclass(frozen=True)
class _Item:
    images: Tensor  # [V, ...] as those of a batch
    caption: str
    cameras: Cameras | None
    timestep: int
    noise: NDArray[np.float32]  # [V, *latent_shape]
    shown: bool


class TrainingBatches:
    """What a step trains on: `draw(step)` for the whole of it, `draw(step, part)` for a part."""

    def __init__(self, config: Config, sources: TrainingSources, latent_shape: tuple[int, int, int]) -> None:
        """latent_shape: channels, height and width of the noise that is drawn with each picture."""
        self._train, self._seed, self._num_views = config.train, config.seed, config.camera.num_views
        self._sources, self._latent_shape = sources, latent_shape

    def is_multiview(self, step: int) -> bool:
        """Whether a step shows objects from all sides, or single pictures (MVDream, algorithm 1)."""
        if self._sources.images is None:
            return True
        rng = np.random.default_rng(stable_seed(self._seed, step, "mode"))
        return bool(rng.random() < self._train.multiview_probability)

    def numbers(self, step: int, part: Part) -> range:
        """The items of a part: objects, or as many single images as a multi-view step has views."""
        views = 1 if self.is_multiview(step) else self._num_views
        return part.of(self._train.batch_objects * views)

    def draw(self, step: int, part: Part = Part()) -> Batch:
        return stack([self.item(step, number) for number in self.numbers(step, part)])

    def item(self, step: int, number: int) -> _Item:
        """Item `number` of the whole step. It may be called from any thread."""
        train, multiview = self._train, self.is_multiview(step)
        rng = np.random.default_rng(stable_seed(self._seed, step, f"item {number}"))
        timestep = int(rng.integers(NUM_TIMESTEPS))
        noise = rng.standard_normal((self._num_views if multiview else 1, *self._latent_shape), np.float32)
        background = draw_background(train.background, rng)
        dropped, suffixed = rng.random(2) < (train.text_drop_probability, train.asset_suffix_probability)
        if multiview:
            index = int(rng.integers(len(self._sources.views)))
            drawn = self._sources.views.draw(index, rng)
            caption = with_asset_suffix(drawn.caption) if suffixed else drawn.caption
            images, cameras = drawn.images, drawn.cameras
        else:
            assert self._sources.images is not None
            index = int(rng.integers(len(self._sources.images)))
            single = self._sources.images.draw(index, rng)
            caption, images, cameras = single.caption, single.image[None], None
        shown = True
        if train.image_conditioning:  # kept back together: what guidance leads away from, see Conditions.against
            shown = bool(rng.random() >= train.image_drop_probability)
        told = caption if shown and not dropped else ""
        return _Item(as_tensor(images, background), told, cameras, timestep, noise, shown)


def stack(items: list[_Item]) -> Batch:
    timestep = torch.tensor([item.timestep for item in items])
    cameras = [item.cameras for item in items if item.cameras is not None]
    return Batch(
        torch.cat([item.images for item in items]),
        [item.caption for item in items],
        Cameras.joined(cameras) if cameras else None,
        timestep.repeat_interleave(len(items[0].images)),
        torch.from_numpy(np.concatenate([item.noise for item in items])),
        torch.tensor([item.shown for item in items]),
    )


def draw_ahead(batches: TrainingBatches, parts: Iterable[tuple[int, Part]], workers: int) -> Generator[Batch]:
    """The batches of `parts` (step, part) in their order; meanwhile `workers` threads draw the next one's pictures.

    workers 0: each is drawn when it is asked for. The result is the same: a batch depends on nothing but its numbers.
    """
    if not workers:
        yield from (batches.draw(step, part) for step, part in parts)
        return
    pool = ThreadPoolExecutor(workers, "pictures")
    try:
        coming: list[Future[_Item]] = []
        for step, part in parts:
            ready, coming = coming, [pool.submit(batches.item, step, n) for n in batches.numbers(step, part)]
            if ready:
                yield stack([future.result() for future in ready])
        if coming:
            yield stack([future.result() for future in coming])
    finally:
        pool.shutdown(cancel_futures=True)


def as_tensor(images: NDArray[Any], background: NDArray[np.float64]) -> Tensor:
    """Pictures on the background; latents have theirs."""
    return to_chw(composite_on(images, background)) if images.dtype == np.uint8 else torch.from_numpy(images)


def draw_background(kind: TrainBackground, rng: np.random.Generator) -> NDArray[np.float64]:
    """One colour [3] for all views of a set: it is part of the scene."""
    is_mid_grey, color, level = rng.random() < 0.5, rng.random(3), rng.random()
    if kind is TrainBackground.random_grey:
        return np.full(3, level)
    return np.full(3, 0.5) if is_mid_grey or kind is TrainBackground.mid_grey else color


def with_asset_suffix(caption: str) -> str:
    """The caption marked as one of 3D data, unless it says "3d" already."""
    return caption if "3d" in caption.lower() else caption + ASSET_SUFFIX


def to_chw(images: NDArray[np.floating]) -> Tensor:
    """[..., H, W, C] -> [..., C, H, W] in the order in memory that convolutions are fastest with."""
    return torch.from_numpy(images).movedim(-1, -3).contiguous(memory_format=torch.channels_last)
