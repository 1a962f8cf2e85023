"""What a prior in training draws: sheets of sampled views beside the truth, or beside the data."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from threedgen.cameras import Cameras, viewing_cameras
from threedgen.config.schema import Config
from threedgen.core.randomness import generator, stable_seed
from threedgen.data.captioned_views import composite_on
from threedgen.data.exact_views import exact_views
from threedgen.data.miniworld import Rendering, build, held_out, of_kinds
from threedgen.data.training_sources import MINIWORLD, ViewSource
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.sampling import sample_views
from threedgen.imaging import contact_sheet, save_png
from threedgen.metrics.image import psnr
from threedgen.tasks.training.batches import with_asset_suffix

PROMPTS = 6  # of a sheet
SHEET = "sample sheet"  # the stream of its noise
_MID_GREY = np.full(3, 0.5)


def save_sample_sheet(prior: MultiViewPrior, config: Config, views: ViewSource, path: Path) -> float | None:
    """Write a sheet of sampled views: of held-out captions beside their ground truth where the data is miniworld, and
    then return the mean PSNR inside the silhouettes; of the data's first captions beside its own views elsewhere."""
    if config.train.multiview_data == MINIWORLD:
        return _beside_the_truth(prior, config, path)
    _beside_the_data(prior, config, views, path)
    return None


def _beside_the_truth(prior: MultiViewPrior, config: Config, path: Path) -> float:
    """Only the object is scored: a sample may choose any background."""
    specs = of_kinds(held_out(), config.train.kinds)[:PROMPTS]
    cameras = sheet_cameras(config, prior.image_size)
    truths = [exact_views(build(spec), cameras) for spec in specs]
    first = torch.from_numpy(np.stack([truth.rgb[0] for truth in truths])).movedim(-1, 1)
    samples = sampled_sets(prior, config, [spec.caption for spec in specs], cameras, pictures=first)
    rows, scores = [], []
    for spec, sampled, truth in zip(specs, samples, truths, strict=True):
        scores.append(psnr_inside(sampled, truth))
        rows.append((spec.caption, np.concatenate([sampled, truth.rgb])))
    save_png(contact_sheet(rows, "sampled views, then ground truth"), path)
    return float(np.mean(scores))


def _beside_the_data(prior: MultiViewPrior, config: Config, views: ViewSource, path: Path) -> None:
    sets = [
        views.draw(i, np.random.default_rng(stable_seed(config.seed, i, SHEET)))
        for i in range(min(PROMPTS, len(views)))
    ]
    captions = [
        with_asset_suffix(drawn.caption) if config.train.asset_suffix_probability else drawn.caption for drawn in sets
    ]
    cameras = [drawn.cameras for drawn in sets if drawn.cameras is not None]
    first = torch.from_numpy(composite_on(np.stack([drawn.images[0] for drawn in sets]), _MID_GREY)).movedim(-1, 1)
    joined = Cameras.joined(cameras) if cameras else None
    samples = sampled_sets(prior, config, captions, joined, pictures=first)
    rows = [
        (drawn.caption, np.concatenate([sampled, composite_on(drawn.images, _MID_GREY)]))
        for drawn, sampled in zip(sets, samples, strict=True)
    ]
    save_png(contact_sheet(rows, "sampled views, then views of the data"), path)


def sheet_cameras(config: Config, size: int) -> Cameras:
    """Where a sheet's views of one object are seen from: all around, none straight at the front."""
    num_views = config.camera.num_views
    return viewing_cameras(config.camera, [20 + 360 / num_views * k for k in range(num_views)], 15, size)


def psnr_inside(views: NDArray[np.floating], truth: Rendering) -> float:
    """PSNR in dB of views [V, H, W, 3] inside the silhouettes of their truth."""
    inside = truth.opacity[..., 0] > 0.5
    return psnr(views[inside], truth.rgb[inside])


def sampled_sets(
    prior: MultiViewPrior,
    config: Config,
    captions: Sequence[str],
    cameras: Cameras | None,
    stream: str = SHEET,
    step: int = 0,
    pictures: Tensor | None = None,
) -> NDArray[np.float32]:
    """[captions, views, H, W, 3] from the noise of (seed, step, stream); cameras as `sample_views` takes them.

    pictures: [captions, 3, H, W], the first view of each, for a prior that is shown one.
    """
    is_shown = prior.is_shown_a_picture and pictures is not None
    with torch.no_grad():
        picture = prior.show(pictures.to(prior.device)) if is_shown and pictures is not None else None
    images = sample_views(
        prior,
        captions,
        cameras,
        generator(config.seed, step, stream),
        num_views=config.camera.num_views,
        picture=picture,
        **config.views.sampling(),
    )
    return images.unflatten(0, (len(captions), -1)).movedim(2, -1).cpu().numpy()
