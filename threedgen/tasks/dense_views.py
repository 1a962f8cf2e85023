"""Text to 24 views and, in one pass, to Gaussians (VideoMV); to a mesh of these, or of a scene fitted to the views."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt
from torch import Tensor

from threedgen.cameras import Cameras
from threedgen.config.sampling import AssetFrom, AwareGuidance
from threedgen.config.schema import Config
from threedgen.core.errors import ConfigError
from threedgen.data.captioned_views import composite_on
from threedgen.data.posed_images import PosedImages
from threedgen.data.subject_images import read_object_picture
from threedgen.diffusion.denoising import Denoiser
from threedgen.diffusion.pipeline import MultiViewPipeline, Views
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.sampling import ddim_timesteps
from threedgen.diffusion.text.prompts import ASSET_SUFFIX
from threedgen.imaging import to_uint8
from threedgen.runs.directory import RunDirectory
from threedgen.scene.gaussians import Gaussians, save_gaussians
from threedgen.scene.protocol import RayScene, Solid
from threedgen.tasks.export import check_export, export_scene
from threedgen.tasks.feed_forward import FeedForward, aware, aware_timesteps
from threedgen.tasks.prompting import encode_prompts, load_joint, load_prior, read_prompts
from threedgen.tasks.reconstruct import optimize
from threedgen.tasks.refine import refine
from threedgen.tasks.sample_views import draw_views, write_views

_RIM = 2  # pixels, in which a view's colours go from the object's to the background's
_TOLD = 0.12  # distance of colours (0 to 1.7) from which on an object is told from its background
_NOTHING = 0.05  # opacity of Gaussians where nothing is, but their softest edges


def run(config: Config, run: RunDirectory) -> dict[str, Path]:
    """Write the views, the Gaussians as a .ply file and everything that export makes of them.

    Raises ConfigError, before anything is drawn, for 3D-aware steps that the sampler has not, and for a number of views
    that the Gaussians cannot use.
    """
    started = time.monotonic()
    check_export(config.export)
    sampler = config.views.sampler
    is_aware = aware_timesteps(config.aware, ddim_timesteps(config.views.num_inference_steps, sampler))
    if is_aware and config.views.joint.weights and config.aware.guidance is AwareGuidance.latents:
        raise ConfigError(
            "aware.guidance=latents guides between reconstructions of one model's answers, views.joint mixes what is "
            "guided already: take aware.guidance=before"
        )
    if is_aware and config.views.rescale and config.aware.guidance is AwareGuidance.latents:
        raise ConfigError(
            "aware.guidance=latents guides between reconstructions, which are not rescaled: take views.rescale=0 or "
            "aware.guidance=before"
        )
    if is_aware and sampler.looks_back:
        raise ConfigError(
            f"views.sampler={sampler.name} looks back on x0, which 3D-aware steps replace: take ddim, or "
            "aware.every=0 and no aware.steps"
        )
    if config.refine.rounds:
        _check_refinement(config)
    prior = load_prior(config)
    forward = FeedForward.of(config, prior.device)
    forward.inputs_of(config.views.num_frames)
    views = draw_views(dense_pipeline(prior, forward, config), config, _picture(config, prior))
    run.events.write("prompt", as_read=views.prompt.removesuffix(ASSET_SUFFIX))
    results = write_views(views, config, run)
    gaussians = forward.of_views(views.drawn, views.drawn_cameras)[0]
    results["gaussians"] = run.path("gaussians.ply")
    save_gaussians(results["gaussians"], gaussians)
    print(f"{len(gaussians)} Gaussians, {time.monotonic() - started:.1f} s so far", flush=True)
    solid: Solid
    if config.gaussians.asset is AssetFrom.gaussians:
        solid, steps = gaussians, 0
    else:
        solid, steps = _fitted(views, gaussians, config, run)
        if config.refine.rounds:
            steps = _refined(solid, steps, config, run)
    results |= export_scene(solid, config, run, steps)
    print(f"{time.monotonic() - started:.1f} s")
    return results


def _picture(config: Config, prior: MultiViewPrior) -> Tensor | None:
    """The config's picture on its background, [3, S, S] in 0..1."""
    if not config.image:
        return None
    rgba = read_object_picture(Path(config.image), prior.image_size, config.image_border, config.remove_background)
    return torch.from_numpy(composite_on(rgba, np.full(3, config.image_background))).movedim(-1, 0)


def dense_pipeline(prior: MultiViewPrior, forward: FeedForward, config: Config) -> MultiViewPipeline:
    """The pipeline whose sampling listens to the Gaussians at the config's steps."""

    def around(denoiser: Denoiser, timesteps: list[int], cameras: Cameras) -> Denoiser:
        behind = torch.full((3,), config.image_background, device=prior.device)
        shows = forward.shows(prior, cameras, behind)
        return aware(denoiser, config.aware, timesteps, shows)

    joint = load_joint(config.views.joint, prior)
    return MultiViewPipeline(prior, config.camera, None if config.views.sampler.looks_back else around, joint)


@torch.no_grad()
def _cut_out(views: Views, gaussians: Gaussians, background: float) -> Tensor:
    """The views as pictures [V, H, W, 4] uint8 with straight alpha.

    What is two pixels inside the Gaussians' silhouettes is opaque: a white thing on grey looks the same to colours
    alone if it is half transparent. The Gaussians' own edges are soft and lie too far out: beyond, alpha is how far a
    pixel's colour is from the background's, as a part of how far that of the nearest pixel inside is; where that one is
    hardly told from the background, it is the Gaussians' opacity.
    """
    opacities = gaussians.render(views.drawn_cameras).opacity[..., 0].cpu().numpy()
    pictures = []
    for rgb, opacity in zip(views.drawn.movedim(1, -1).cpu().numpy(), opacities, strict=True):
        inside = binary_erosion(opacity > 0.5, iterations=_RIM)
        row, column = distance_transform_edt(~inside, return_distances=False, return_indices=True)
        away = np.linalg.norm(rgb - background, axis=-1)
        whole = away[row, column]
        told = np.minimum(away / np.maximum(whole, _TOLD), 1.0) * (opacity > _NOTHING)
        rim = np.where((whole > _TOLD) & inside.any(), told, opacity)
        alpha = np.where(inside, 1.0, rim)[..., None]
        straight = (rgb - (1.0 - alpha) * background) / np.maximum(alpha, 1e-3)
        pictures.append(np.concatenate([straight.clip(0.0, 1.0), alpha], -1))
    return torch.from_numpy(to_uint8(np.stack(pictures)))


def _fitted(views: Views, gaussians: Gaussians, config: Config, run: RunDirectory) -> tuple[RayScene, int]:
    """A scene that was fitted to the views as to any pictures with alpha, and how many steps it has behind it."""
    pictures = _cut_out(views, gaussians, config.image_background)
    posed = PosedImages(pictures, views.drawn_cameras, tuple(f"view-{i}" for i in range(len(pictures))))
    return optimize(config, run, posed, posed.select([]))


def _check_refinement(config: Config) -> None:
    """Raise ConfigError for what cannot be refined."""
    if config.gaussians.asset is AssetFrom.gaussians:
        raise ConfigError(
            "refine.rounds: a scene is refined that was fitted to the views, not Gaussians: take gaussians.asset=views"
        )
    if config.image and not config.refine.weights:
        raise ConfigError("refine.rounds: a prior that draws from a picture does not refine: add refine.weights")
    if not config.prompt.strip():
        raise ConfigError("refine.rounds: the prior that refines reads a prompt: add one, or take refine.rounds=0")


def _refined(scene: RayScene, done: int, config: Config, run: RunDirectory) -> int:
    """Let the prior that the config says draw the fitted scene's views anew, and fit it to these; see `refine`.

    done: steps that the scene has behind it; returned: how many it has then.
    """
    drawing = replace(config, weights=config.refine.weights or config.weights)
    prior = load_prior(drawing)
    as_read = read_prompts(drawing, prior)
    text, negative, mix = encode_prompts(as_read, prior, drawing)
    return refine(scene, as_read, run, prior.without_text_encoder(), text, negative, config.steps, done, mix)
