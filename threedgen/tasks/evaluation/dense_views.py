"""What dense views around an object are worth: named figures, of which those of true views are the best to be had."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from threedgen.cameras import Cameras
from threedgen.config.load import load_config
from threedgen.config.schema import Config
from threedgen.data.exact_views import exact_views
from threedgen.data.miniworld import MiniObject, Rendering
from threedgen.data.posed_images import PosedImages, background_color
from threedgen.diffusion.checkpoints.folders import load_vae
from threedgen.diffusion.checkpoints.locate import locate_weights
from threedgen.imaging import to_uint8
from threedgen.metrics.azimuth import azimuth_errors
from threedgen.metrics.consistency import unexplained
from threedgen.metrics.flow import Flow, OpticalFlow, flow_around, flow_seen, warped_error
from threedgen.metrics.novel_view import Fit, NovelViews, NovelViewScore
from threedgen.metrics.perceptual import feature_distance
from threedgen.runs.device import select_device
from threedgen.scene.make import make_scene
from threedgen.scene.output import RenderOutput
from threedgen.scene.protocol import RayScene
from threedgen.tasks.evaluation.tables import Figures
from threedgen.tasks.reconstruct import losses
from threedgen.tasks.scene_optimizer import SceneOptimizer

FLOW_DISTANCES = (1, 6)  # of 24 views: neighbours, and a quarter turn apart
_MIN_OPACITY = 1e-3
# A fit of seconds, with cells a little coarser than the pixels of 64 px views: it smooths what single views invent
_FIT = (
    "steps=150",
    "reconstruct.rays_per_step=2048",
    "scene.radius=0.8",
    "scene.samples_per_ray=128",
    "scene.grid.num_levels=3",
    "scene.grid.max_resolution=48",
    "scene.grid.log2_table_size=15",
)


@dataclass(frozen=True)
class Fitted:
    """A scene on the background of the views that it was fitted to."""

    scene: RayScene
    color: Tensor | None  # [3]; None: the scene's own background

    @property
    def device(self) -> torch.device:
        return self.scene.device

    def render(self, cameras: Cameras, *, background: Tensor | None = None) -> RenderOutput:
        return self.scene.render(cameras, background=self.color if background is None else background)


def fit_views(images: Any, cameras: Cameras, config: Config) -> Fitted:
    """What `reconstruct` makes of views [N, H, W, 3], in memory and with none held out."""
    posed = PosedImages(torch.from_numpy(to_uint8(images)), cameras, ("",) * len(cameras))
    background = background_color(posed)
    scene = make_scene(config, select_device(config.runtime))
    optimizer = SceneOptimizer(scene, config)
    for step in range(config.steps):
        optimizer.step(losses(scene, posed, background, config, step).total, step)
    return Fitted(scene, background)


def quick_fit(settings: Sequence[str] = ()) -> Fit:
    """A fit of seconds to 64 px views; settings: `key=value` words, changes of it."""
    return partial(fit_views, config=load_config("reconstruct-nerf.yaml", [*_FIT, *settings]))


def calibrated(objects: Sequence[MiniObject], cameras: Cameras, settings: Sequence[str] = ()) -> NovelViews:
    """The measure of novel views for sets like those of `cameras`, calibrated with true views of some objects.

    settings: `key=value` words, changes of the fit. Raises ThreedgenError where it then is not good enough.
    """
    fit = quick_fit(settings)
    sets = ((true_views(obj, cameras).rgb, cameras) for obj in objects)
    return NovelViews(fit, {"vae_distance": vae_distance}, sets)


def true_views(obj: MiniObject, cameras: Cameras) -> Rendering:
    return exact_views(obj, cameras, supersample=4)


def vae_distance(a: Any, b: Any) -> float:
    """Feature distance of pictures [B, H, W, 3] in the deepest stage of the bundled mini VAE's encoder, whatever made
    the pictures: 64 channels for each 4 x 4 pixels."""
    return feature_distance(a, b, encoder_stage)


def encoder_stage(images: Tensor) -> Tensor:
    """Features of the bundled mini VAE's encoder: [B, 3, H, W] in 0..1 -> [B, 64, H / 4, W / 4]."""
    encoder = _mini_encoder()
    features = encoder.conv_in(images * 2 - 1)
    for block in encoder.down_blocks:
        features = block(features)
    return features


@cache
def _mini_encoder() -> Any:
    return load_vae(locate_weights("mini") / "vae", torch.float32, "cpu").eval().encoder


def measure_views(images: Any, cameras: Cameras, novel: NovelViews, truth: MiniObject | None = None) -> Figures:
    """All figures of a closed ring of views; None: there is no such figure.

    Those of `novel_figures` and `fitted_figures`.
    With truth also those of `figures_beside`.

    Args:
        images: [N, H, W, 3] in 0..1.
        cameras: N, what was asked for.
        novel: calibrated for N views of this size.
        truth: the object of the caption that the views were made for, in standard sizes.
    """
    figures = novel_figures(images, cameras, novel) | fitted_figures(images, cameras, novel.fit)
    if truth is not None:
        figures |= figures_beside(true_views(truth, cameras), truth.spec.caption, images, cameras)
    return figures


def novel_figures(images: Any, cameras: Cameras, novel: NovelViews) -> dict[str, float | None]:
    """novel_psnr (dB), novel_ssim, novel_vae_distance, and so each other distance that `novel` has: half of the views
    fitted, the others measured."""
    return novel_scores(novel(images, cameras))


def novel_scores(score: NovelViewScore) -> dict[str, float | None]:
    distances = {f"novel_{name}": value for name, value in score.distances.items()}
    return {"novel_psnr": score.psnr, "novel_ssim": score.ssim, **distances}


def fitted_figures(images: Any, cameras: Cameras, fit: Fit) -> dict[str, float | None]:
    """Of a closed ring of views:

    unexplained: mean absolute difference to a scene that is fitted to all views.
    fitted_flow_D, fitted_flow_D_coverage: `warped_error` at distance D, by that scene's depth.
    """
    fitted = fit(images, cameras)
    with torch.no_grad():
        seen = fitted.render(cameras)
    depth = seen.depth / seen.opacity.clamp(min=_MIN_OPACITY)
    by_depth = _flow_figures("fitted_flow", images, partial(flow_around, cameras, depth, seen.opacity))
    return {"unexplained": unexplained(images, seen.rgb), **by_depth}


def figures_beside(true: Rendering, caption: str, images: Any, cameras: Cameras) -> dict[str, float | None]:
    """Of a closed ring of views [N, H, W, 3] that were made for a caption, beside its `true_views`:

    flow_D, flow_D_coverage: `warped_error` at distance D by the truth's depth.
    azimuth_deg: median of the absolute `azimuth_errors`; None where the object looks alike from several sides.
    """
    figures = _flow_figures("flow", images, partial(flow_around, cameras, true.depth, true.opacity))
    return figures | {"azimuth_deg": _finite(azimuth_errors(images, [caption] * len(cameras), cameras).median_deg)}


def seen_flow_figures(images: Any, optical_flow: OpticalFlow) -> dict[str, float | None]:
    """Of a closed ring of views [N, H, W, 3]: seen_flow_D, seen_flow_D_coverage, `warped_error` at distance D by the
    flow that is seen in them."""
    return _flow_figures("seen_flow", images, partial(flow_seen, images, optical_flow))


def _flow_figures(name: str, images: Any, flow: Callable[[int], Flow]) -> dict[str, float | None]:
    figures: dict[str, float | None] = {}
    for distance in FLOW_DISTANCES:
        found = warped_error(images, flow(distance))
        figures |= {f"{name}_{distance}": _finite(found.rmse), f"{name}_{distance}_coverage": found.coverage}
    return figures


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value
