"""Posed pictures to 3D: fit the scene that text-to-3D optimises to pictures of a real object, then export it."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from threedgen.cameras import Rays
from threedgen.config.schedules import value_at
from threedgen.config.schema import Config
from threedgen.core.errors import ConfigError
from threedgen.core.files import write_json_atomically
from threedgen.core.randomness import generator
from threedgen.core.transfer import to_device
from threedgen.data.posed_files import read_posed_images
from threedgen.data.posed_images import PosedImages, background_color, normalization
from threedgen.imaging import contact_sheet, save_png, tile
from threedgen.mesh.render import GREY
from threedgen.mesh.types import Array
from threedgen.metrics.image import psnr, silhouette_iou, ssim
from threedgen.runs.device import select_device
from threedgen.runs.directory import RunDirectory
from threedgen.scene import regularizers
from threedgen.scene.distortion import distortion
from threedgen.scene.make import make_scene
from threedgen.scene.protocol import RayScene
from threedgen.tasks.export import check_export, export_scene
from threedgen.tasks.scene_optimizer import SceneStep, fit, tell_times

_SHOWN = 6  # held-out pictures on the sheet, at most


def run(config: Config, run: RunDirectory) -> dict[str, Path]:
    """Reconstruct the object in the pictures of `config.data`; returns the files made for the user."""
    started = time.monotonic()
    check_export(config.export)
    settings = config.reconstruct
    posed = read_posed_images(config.data, settings.max_size, config.data_convention, settings.masks)
    matrix = normalization(posed, config.scene.radius, settings.scale)
    training, held_out = split(posed.moved(matrix), settings.held_out_every)
    print(f"pictures   {len(training)} to learn from, {len(held_out)} held out, {_described(posed)}", flush=True)
    scene, done = optimize(config, run, training, held_out)
    optimized = time.monotonic()
    results = write_quality(scene, posed, held_out, background_color(training), matrix, run)
    results |= export_scene(scene, config, run, done)
    tell_times(run, started, optimized)
    return results


def split(posed: PosedImages, held_out_every: int) -> tuple[PosedImages, PosedImages]:
    """Pictures to learn from, and the last of every `held_out_every` (0: none) to measure with."""
    if held_out_every == 1:
        raise ConfigError("reconstruct.held_out_every=1 leaves no picture to learn from; 8 keeps seven of eight, 0 all")
    is_held_out = [held_out_every > 0 and (i + 1) % held_out_every == 0 for i in range(len(posed))]
    return (
        posed.select([i for i, held in enumerate(is_held_out) if not held]),
        posed.select([i for i, held in enumerate(is_held_out) if held]),
    )


def optimize(config: Config, run: RunDirectory, training: PosedImages, held_out: PosedImages) -> tuple[RayScene, int]:
    """Fit a scene to random pixels of the pictures; goes on from the run's latest checkpoint, bit for bit.

    Returns the scene and how many steps it has behind it.
    """
    scene = make_scene(config, select_device(config.runtime))
    background = background_color(training)
    watched = held_out if len(held_out) else training
    watched = watched.select(_spread(len(watched)))

    def take(step: int) -> SceneStep:
        found = losses(scene, training, background, config, step)
        return SceneStep(
            found.total,
            lambda: (found.total.item(), {"psnr": -10.0 * found.color.log10().item()}),
            lambda: tile([watched.on(GREY)[0], render_views(scene, watched, background)[0]]),
            found.opacity_range,
            training.cameras,
        )

    return scene, fit(scene, config, run, "reconstruct", take)


@dataclass(frozen=True)
class Losses:
    """Of one step's random pixels: scalars, with the config's weights."""

    color: Tensor  # mean squared error
    opacity: Tensor
    distortion: Tensor
    smoothness: Tensor
    eikonal: Tensor
    seen_opacity: Tensor  # [R] of the scene
    true_opacity: Tensor | None  # [R] of the pictures; None: they have none

    @property
    def total(self) -> Tensor:
        return self.color + self.opacity + self.distortion + self.smoothness + self.eikonal

    def opacity_range(self) -> tuple[float, float]:
        """The scene's lowest opacity where the pictures show nothing (0 where that is not known), and its highest."""
        seen = self.seen_opacity.detach()
        empty = seen[:0] if self.true_opacity is None else seen[self.true_opacity < 0.5]
        return empty.min().item() if len(empty) else 0.0, seen.max().item()


def losses(scene: RayScene, training: PosedImages, background: Tensor | None, config: Config, step: int) -> Losses:
    """What the scene's colours, its opacity and its fog cost at this step.

    Pictures that are cut out are put on a random colour, another for each ray: nothing but empty space looks right on
    all of them; their opacity is compared too. Others keep their background, the given colour [3] or one for each
    direction that the scene learns.
    """
    weights, random = config.reconstruct, generator(config.seed, step, "rays")
    index = torch.randint(training.num_pixels, (weights.rays_per_step,), generator=random)
    rays, pixels = training.pixels(index)
    cut_out = to_device(training.cut_out[training.views_of(index)], scene.device)
    rays = Rays(to_device(rays.origins, scene.device), to_device(rays.directions, scene.device))
    pixels = to_device(pixels, scene.device)
    jitter = scene.ops.ray_jitter(int(torch.randint(2**32, (), generator=random)), len(pixels), scene.device)
    seen, samples = scene.trace(rays, jitter)
    target, opacity_loss = pixels[:, :3], torch.zeros_like(seen.opacity[0])
    if training.cut_out.all():
        behind = torch.zeros_like(target)
    else:
        behind = scene.background(rays.directions) if background is None else to_device(background, scene.device)
    if training.has_alpha:
        random_color = to_device(torch.rand(len(pixels), 3, generator=random), scene.device)
        alpha = pixels[:, 3:]
        target = target * alpha + random_color * (1.0 - alpha)  # of a photograph as it is, its alpha is 1
        behind = torch.where(cut_out[:, None], random_color, behind)
        known = torch.where(cut_out, alpha[:, 0], seen.opacity.detach())
        opacity_loss = weights.opacity_weight * mse_loss(seen.opacity, known)
    color_loss = mse_loss(seen.rgb + (1.0 - seen.opacity[:, None]) * behind, target)
    fog = value_at(weights.distortion, step / config.steps)
    distortion_loss = fog * distortion(seen.weights, samples).mean() if fog > 0 else torch.zeros_like(color_loss)
    smoothness_loss = torch.zeros_like(color_loss)
    if weights.smoothness_weight > 0:
        drawn = generator(config.seed, step, "smoothness")
        smoothness_loss = weights.smoothness_weight * regularizers.smoothness(scene, drawn)
    eikonal_loss = weights.eikonal_weight * regularizers.eikonal(scene, step)
    true_opacity = pixels[:, 3] if training.has_alpha else None
    own = distortion_loss, smoothness_loss, eikonal_loss
    return Losses(color_loss, opacity_loss, *own, seen.opacity, true_opacity)


@torch.no_grad()
def render_views(scene: RayScene, posed: PosedImages, background: Tensor | None) -> tuple[Array, Array]:
    """The scene from the pictures' cameras, on what `PosedImages.on(GREY)` has behind it: rgb [N, H, W, 3] and
    opacity [N, H, W, 1]. background: of pictures without alpha, as `losses` was given it."""
    grey = torch.tensor(GREY, device=scene.device)
    behind = [grey if is_cut_out else background for is_cut_out in posed.cut_out]
    views = [scene.render(posed.cameras[i : i + 1], background=behind[i]) for i in range(len(posed))]
    rgb, opacity = torch.cat([view.rgb for view in views]), torch.cat([view.opacity for view in views])
    return rgb.cpu().numpy(), opacity.cpu().numpy()


def write_quality(
    scene: RayScene,
    posed: PosedImages,
    held_out: PosedImages,
    background: Tensor | None,
    matrix: Array,
    run: RunDirectory,
) -> dict[str, Path]:
    """Write reconstruction.json, and a sheet of held-out pictures beside the scene if there are any.

    background: see `render_views`.
    """
    facts: dict[str, object] = {
        "pictures": len(posed),
        "size": [posed.cameras.width, posed.cameras.height],
        "has_alpha": posed.has_alpha,
        "scene_from_data": (matrix if posed.world is None else matrix @ posed.world).tolist(),
        "held_out": None,
    }
    results = {"quality": run.path("reconstruction.json")}
    if len(held_out):
        (true, true_opacity), (seen, opacity) = held_out.on(GREY), render_views(scene, held_out, background)
        shows = np.ones(true.shape[:3], bool) if held_out.seen is None else held_out.seen.numpy()
        true = np.where(shows[..., None], true, seen)
        pairs = [(a[shown], b[shown]) for a, b, shown in zip(true, seen, shows, strict=True) if shown.any()]
        scores = {
            "pictures": len(held_out),
            "psnr": round(float(np.mean([psnr(a, b) for a, b in pairs])), 2),  # the mean over pictures, as is customary
            "ssim": round(ssim(true, seen, None if held_out.seen is None else shows), 4),
        }
        if held_out.cut_out.any():
            compared = shows & held_out.cut_out.numpy()[:, None, None]
            scores["silhouette_iou"] = round(silhouette_iou(true_opacity[compared], opacity[compared]), 4)
        facts["held_out"] = scores
        print("held out   " + ", ".join(f"{name} {value}" for name, value in scores.items()))
        results["held out"] = run.path("held_out.png")
        shown = _spread(len(held_out))
        rows = [("pictures that were held out", true[shown]), ("the scene", seen[shown])]
        save_png(contact_sheet(rows), results["held out"])
    write_json_atomically(results["quality"], facts)
    return results


def _spread(count: int) -> list[int]:
    """A few of so many pictures, from the first to the last."""
    return np.unique(np.linspace(0, count - 1, _SHOWN).round().astype(int)).tolist()


def _described(posed: PosedImages) -> str:
    return f"{posed.cameras.width} x {posed.cameras.height} pixels, {'with' if posed.has_alpha else 'without'} alpha"
