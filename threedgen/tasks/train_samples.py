"""What a prior in training draws: sheets of sampled views beside the truth, or beside the data."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from threedgen.cameras import mvdream_camera_vectors, viewing_cameras
from threedgen.config.schema import Config
from threedgen.core.randomness import generator, stable_seed
from threedgen.data.captioned_views import composite_on
from threedgen.data.miniworld import build, held_out, of_kinds, render
from threedgen.data.training_sources import MINIWORLD, ViewSource
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.sampling import sample_views
from threedgen.imaging import contact_sheet, save_png
from threedgen.metrics.image import psnr
from threedgen.tasks.train_batches import with_asset_suffix

_PROMPTS = 6
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
    specs, num_views = of_kinds(held_out(), config.train.kinds)[:_PROMPTS], config.camera.num_views
    azimuth = [20 + 360 / num_views * k for k in range(num_views)]
    cameras = viewing_cameras(config.camera, azimuth, 15, prior.image_size)
    camera = mvdream_camera_vectors(cameras).repeat(len(specs), 1)
    samples = _sampled(prior, config, [spec.caption for spec in specs], camera)
    rows, scores = [], []
    for spec, sampled in zip(specs, samples, strict=True):
        truth = render(build(spec), cameras.camera_to_world.numpy(), cameras.fov_y.numpy(), prior.image_size)
        inside = truth.opacity[..., 0] > 0.5
        scores.append(psnr(sampled[inside], truth.rgb[inside]))
        rows.append((spec.caption, np.concatenate([sampled, truth.rgb])))
    save_png(contact_sheet(rows, "sampled views, then ground truth"), path)
    return float(np.mean(scores))


def _beside_the_data(prior: MultiViewPrior, config: Config, views: ViewSource, path: Path) -> None:
    sets = [
        views.draw(i, np.random.default_rng(stable_seed(config.seed, i, "sample sheet")))
        for i in range(min(_PROMPTS, len(views)))
    ]
    captions = [
        with_asset_suffix(drawn.caption) if config.train.asset_suffix_probability else drawn.caption for drawn in sets
    ]
    camera = torch.from_numpy(np.concatenate([drawn.camera_vectors for drawn in sets]))
    samples = _sampled(prior, config, captions, camera)
    rows = [
        (drawn.caption, np.concatenate([sampled, composite_on(drawn.images, _MID_GREY)]))
        for drawn, sampled in zip(sets, samples, strict=True)
    ]
    save_png(contact_sheet(rows, "sampled views, then views of the data"), path)


def _sampled(prior: MultiViewPrior, config: Config, captions: list[str], camera: Tensor) -> NDArray[np.float32]:
    """[captions, views, H, W, 3]. camera: [captions * views, 16]."""
    num_views = len(camera) // len(captions)
    images = sample_views(
        prior,
        captions,
        camera.to(prior.device),
        num_views,
        generator(config.seed, 0, "sample sheet"),
        num_inference_steps=config.views.num_inference_steps,
        guidance_scale=config.views.guidance_scale,
    )
    return images.unflatten(0, (len(captions), num_views)).movedim(2, -1).cpu().numpy()
