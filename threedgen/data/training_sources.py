"""Where training pictures come from: miniworld, rendered meshes, folders of captioned pictures, WebDataset shards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from threedgen.config.schema import Config
from threedgen.config.training import PriorNetwork
from threedgen.data.captioned_images import FolderImages, ShardImages, captioned_pictures
from threedgen.data.captioned_views import (
    ALONG_PATHS,
    CapturedViews,
    front_probabilities,
    multiview_captures,
    patterned_captures,
)
from threedgen.data.miniworld import vocabulary
from threedgen.data.rendered_views import RenderedViews, rendered_objects
from threedgen.data.shards import Shards, is_shards, shard_paths
from threedgen.data.training_samples import CaptionedImage, ImageSource, ViewSet, ViewSource

__all__ = [
    "CaptionedImage",
    "ImageSource",
    "MiniworldPhotographs",
    "MiniworldViews",
    "ViewSet",
    "ViewSource",
    "open_image_source",
    "open_view_source",
]

MINIWORLD, CLIPS = "miniworld", "miniworld-clips"


def open_view_source(where: str, config: Config, image_size: int) -> ViewSource:
    """Objects in sets of `config.camera.num_views` views, [image_size, image_size] pixels each.

    where: `miniworld`; `miniworld-clips`, videos of its objects without cameras; a folder that
    `launch.py render-meshes` wrote; shards (`DIR`, `DIR/*.tar`, `DIR/{00000..00012}.tar`).

    Raises:
        ConfigError: nothing there, or nothing that can be used; one line that says why.
    """
    if where in (MINIWORLD, CLIPS):
        captured = _miniworld_objects(config, image_size)
        if where == CLIPS:
            return MiniworldClips(captured)
        return MiniworldOrbits(captured) if _is_video(config) else MiniworldViews(captured)
    objects = Shards(shard_paths(where)) if is_shards(where) else rendered_objects(Path(where))
    source = RenderedViews(objects, config.camera.num_views, image_size)
    source.check(where)
    return source


def open_image_source(where: str, config: Config, image_size: int) -> ImageSource:
    """Single pictures with captions, [image_size, image_size] pixels.

    where: `miniworld`; a folder as `captioned_images.captioned_pictures` reads it; shards, as `open_view_source`.

    Raises:
        ConfigError: nothing there, or nothing that can be used; one line that says why.
    """
    if where == MINIWORLD:
        train = config.train
        patterned = _patterned(config, image_size) if train.patterned_share > 0 else None
        return MiniworldPhotographs(_miniworld_objects(config, image_size), patterned, train.patterned_share)
    source: ShardImages | FolderImages
    if is_shards(where):
        source = ShardImages(Shards(shard_paths(where)), image_size)
    else:
        source = FolderImages(captioned_pictures(Path(where)), image_size)
    source.check(where)
    return source


def _patterned(config: Config, image_size: int) -> CapturedViews:
    train = config.train
    return patterned_captures(
        _cache(config),
        train.num_patterned_images,
        config.camera,
        image_size,
        config.seed,
        train.render_workers,
        train.kinds,
        train.pattern_scale,
    )


def _miniworld_objects(config: Config, image_size: int) -> CapturedViews:
    """Those of the sets of views, of which single pictures are taken too."""
    train = config.train
    sizes = (
        train.num_objects,
        config.camera,
        image_size,
        config.seed,
        train.render_workers,
        train.kinds,
        train.patterned_object_share,
        train.pattern_scale,
    )
    if train.multiview_data == CLIPS:
        return multiview_captures(_cache(config), *sizes, cameras=ALONG_PATHS)
    num_random = 0 if _is_video(config) else config.camera.num_views
    return multiview_captures(_cache(config), *sizes, num_random=num_random)


def _is_video(config: Config) -> bool:
    return config.train.network is PriorNetwork.video


def _cache(config: Config) -> Path:
    return Path(config.output_root) / "cache"


class _OfMiniworld:
    """What all pictures of miniworld's objects have in common."""

    def __init__(self, captured: CapturedViews):
        self.captured = captured

    def __len__(self) -> int:
        return len(self.captured)

    def texts(self) -> Sequence[str]:
        return vocabulary()


class MiniworldViews(_OfMiniworld):
    """Of each object, in turn by chance, its evenly spaced views or as many of all its views.

    Orthogonal views alone would teach that a view is of the front, of a side or of the back and nothing between.
    """

    def draw(self, index: int, rng: np.random.Generator) -> ViewSet:
        captured = self.captured
        in_all = captured.images.shape[1]
        chosen = np.arange(in_all // 2) if rng.random() < 0.5 else rng.choice(in_all, in_all // 2, replace=False)
        cameras = captured.cameras.take(torch.from_numpy(index * in_all + chosen), len(chosen))
        return ViewSet(captured.images[index][chosen], cameras, captured.captions[index])


class MiniworldOrbits(_OfMiniworld):
    """The evenly spaced views of an object in their order, beginning at any of them."""

    def draw(self, index: int, rng: np.random.Generator) -> ViewSet:
        frames = self.captured.images.shape[1]
        chosen = np.roll(np.arange(frames), rng.integers(frames))
        cameras = self.captured.cameras.take(torch.from_numpy(index * frames + chosen), frames)
        return ViewSet(self.captured.images[index][chosen], cameras, self.captured.captions[index])


class MiniworldClips(MiniworldOrbits):
    """Videos of objects, forwards or backwards; nobody is told how the camera moved."""

    def draw(self, index: int, rng: np.random.Generator) -> ViewSet:
        frames = np.arange(self.captured.images.shape[1])[:: rng.choice([1, -1])]
        return ViewSet(self.captured.images[index][frames], None, self.captured.captions[index])


class MiniworldPhotographs(_OfMiniworld):
    """Patterned pictures, a share of all and evenly among them; the others are views picked as photographs of objects,
    mostly from the front."""

    def __init__(self, captured: CapturedViews, patterned: CapturedViews | None, patterned_share: float = 0.5):
        """patterned: None: there are none, and patterned_share is 0."""
        super().__init__(captured)
        self.patterned, self.patterned_share = patterned, patterned_share
        self._probabilities = front_probabilities(captured.azimuth_deg)

    def __len__(self) -> int:
        share = self.patterned_share
        halves = ((self.patterned or (), share), (self.captured, 1 - share))
        return max(math.ceil(len(views) / part) for views, part in halves if part > 0)

    def draw(self, index: int, rng: np.random.Generator) -> CaptionedImage:
        before, with_it = (math.ceil(i * self.patterned_share) for i in (index, index + 1))  # patterned ones
        captured, number = self.captured, index - before
        if self.patterned is not None and with_it > before:
            captured, number = self.patterned, before
        if number >= len(captured):  # of the smaller part: the numbers that it lacks stand for any of it
            number = int(rng.integers(len(captured)))
        views = captured.images[number]
        chosen = rng.choice(len(views), p=self._probabilities[number]) if captured is self.captured else 0
        return CaptionedImage(np.array(views[chosen]), captured.captions[number])
