"""Refinement: the prior draws the scene's views anew, a little better than they are, and the scene is fitted to them.

Each round takes pictures from all around, adds noise up to a timestep, lets the prior denoise all views of a set
together, and then minimises the plain difference to these pictures. Score distillation gives every step another
target, so what it makes is an average of them, blurred and grainy; a round's pictures stay.
"""

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn.functional import interpolate, mse_loss

from threedgen.cameras import Cameras, CameraSampler, Rays, rays_of
from threedgen.config.guidance import RefineConfig
from threedgen.config.schedules import Schedule, value_at
from threedgen.config.schema import Config
from threedgen.core.errors import ThreedgenError
from threedgen.core.randomness import generator
from threedgen.core.transfer import to_device
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.denoising import Guided
from threedgen.diffusion.joint import Mix
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.sampling import ddim
from threedgen.imaging import tile
from threedgen.runs.checkpoint import load_latest_checkpoint, save_checkpoint
from threedgen.runs.directory import RunDirectory
from threedgen.scene import regularizers
from threedgen.scene.background import drawn_color
from threedgen.scene.output import RenderOutput
from threedgen.scene.protocol import RayScene
from threedgen.tasks.memory import saving
from threedgen.tasks.scene_optimizer import SceneStep, Span, fit

_SETS_AT_ONCE = 8  # of a round, at most: bounds the memory of the UNet


def refine(
    scene: RayScene,
    config: Config,
    run: RunDirectory,
    prior: MultiViewPrior,
    text: Tensor,
    negative: Tensor,
    begin: int,
    done: int,
    mix: Mix | None = None,
) -> int:
    """Do the rounds that are left of `config.refine`; returns how many steps the scene has then behind it.

    text, negative: [1, L, C], mix: see `prompting.encode_prompts`; begin: the step that the first round begins at;
    done: steps that the scene has behind it, `begin` or more. A round's pictures are kept beside its checkpoints, so a
    stopped run goes on in the middle of it, bit for bit.
    """
    settings, pictures = config.refine, run.checkpoints / "pictures"
    for number in range((done - begin) // settings.steps, settings.rounds):
        first = begin + number * settings.steps
        if done > first:
            cameras, targets = _round_cameras(config, first, number), _kept_targets(pictures, first, scene)
        else:
            cameras, targets = draw_targets(scene, config, prior, text, negative, first, mix, number)
            save_checkpoint(pictures, first, {f"{i}": target for i, target in enumerate(targets)}, {})
        ends = (value_at(settings.lr_scale, (number + k) / settings.rounds) for k in (0, 1))
        span = Span(first, first + settings.steps, Schedule(*ends))
        take = _Fitting(scene, config, cameras, targets, _colors_behind(config, first), _sets_a_step(config, number))
        done = fit(scene, config, run, f"refine {number + 1}", take, span, save=saving(config.runtime, scene, prior))
    shutil.rmtree(pictures, ignore_errors=True)
    return done


def _kept_targets(pictures: Path, step: int, scene: RayScene) -> list[Tensor]:
    """What `draw_targets` drew for the round that begins at `step`, on the scene's device."""
    kept = load_latest_checkpoint(pictures)
    if kept is None or kept.step != step:
        raise ThreedgenError(f"{pictures}: the pictures of step {step} are not there: --fresh starts the run anew")
    return [kept.tensors[f"{i}"].to(scene.device) for i in range(len(kept.tensors))]


def _round_cameras(config: Config, step: int, number: int) -> list[Cameras]:
    """Of each set of round `number`, counted from 0, which begins at `step`."""
    camera = config.camera
    size = camera.coarse_resolution if number < config.refine.coarse_rounds else camera.resolution
    sampler = CameraSampler(replace(camera, resolution=size, coarse_fraction=0.0), config.seed)
    return [sampler.sample(step + k, config.steps)[: camera.num_views] for k in range(config.refine.sets)]


def _sets_a_step(config: Config, number: int) -> int:
    """That a step of round `number`, counted from 0, fits: as many as one of distillation at its size shows."""
    is_coarse = number < config.refine.coarse_rounds
    return (is_coarse and config.camera.coarse_sets_per_step) or config.camera.sets_per_step


def _colors_behind(config: Config, step: int) -> list[Tensor | None]:
    """What each set of the round that begins at `step` is rendered on to be drawn anew; None: its own background."""
    draw = generator(config.seed, step, "refine background")
    return [drawn_color(draw, config.refine.background_random_probability) for _ in range(config.refine.sets)]


@torch.no_grad()
def draw_targets(
    scene: RayScene,
    config: Config,
    prior: MultiViewPrior,
    text: Tensor,
    negative: Tensor,
    step: int,
    mix: Mix | None = None,
    number: int = 0,
) -> tuple[list[Cameras], list[Tensor]]:
    """The pictures of round `number`, counted from 0, which begins at `step`: the cameras of each set and what it is
    to look like from there.

    Of each set [V, H, W, 3] in 0..1, V = `camera.num_views`, at the size of the config's pictures.
    """
    settings, num_views = config.refine, config.camera.num_views
    strength = value_at(settings.strength, number / max(1, settings.rounds - 1))
    cameras, behind = _round_cameras(config, step, number), _colors_behind(config, step)
    noise_of = generator(config.seed, step, "refine noise")
    targets: list[Tensor] = []
    # even pieces: six sets twice take less time than eight and four
    at_once = math.ceil(settings.sets / math.ceil(settings.sets / _SETS_AT_ONCE))
    for first in range(0, settings.sets, at_once):
        some = cameras[first : first + at_once]
        shown = zip(some, behind[first:], strict=False)
        seen = torch.cat([scene.render(one, background=color).rgb for one, color in shown]).movedim(-1, 1)
        told = Conditions(text, Cameras.joined(some) if num_views > 1 else None, num_views)
        drawn = redraw(
            _resized(seen, config.guidance.image_size), told, negative, prior, settings, strength, noise_of, mix
        )
        targets += _resized(drawn, seen.shape[-1]).movedim(1, -1).split(num_views)
    return cameras, targets


@torch.no_grad()
def redraw(
    seen: Tensor,
    told: Conditions,
    negative: Tensor,
    prior: MultiViewPrior,
    settings: RefineConfig,
    strength: float,
    noise_of: torch.Generator,
    mix: Mix | None = None,
) -> Tensor:
    """Views [B, 3, S, S] in 0..1, noised to `strength` of the schedule, as the prior then denoises them.

    mix: what puts a 2D model beside it.
    """
    timesteps = _timesteps(strength, settings.num_inference_steps, len(prior.schedule))
    latents = prior.encode_images(seen)
    noise = to_device(torch.randn(latents.shape, generator=noise_of), latents.device)
    alpha, sigma = prior.schedule.level(torch.tensor(timesteps[0]))
    guided = Guided(prior, told, negative, settings.guidance_scale, settings.rescale, settings.guidance_range)
    denoiser = guided if mix is None else mix(guided)
    return prior.decode(ddim(denoiser, alpha * latents + sigma * noise, timesteps))


def _timesteps(strength: float, num_inference_steps: int, num_train_timesteps: int) -> list[int]:
    """Descending, evenly from `strength` of the schedule to a step above its end: of few, none is spent there."""
    highest, count = min(strength * num_train_timesteps, num_train_timesteps - 1), round(strength * num_inference_steps)
    return [round(highest * (1 - k / count)) for k in range(count)] or [round(highest)]


def _resized(images: Tensor, size: int) -> Tensor:
    """[B, 3, H, W] at size x size pixels."""
    if images.shape[-2:] == (size, size):
        return images
    return interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)


class _Fitting:
    """Step after step the next `at_once` sets, in an order that is drawn anew for each time through all of them; or
    random pixels of all, where the config says so."""

    def __init__(
        self,
        scene: RayScene,
        config: Config,
        cameras: Sequence[Cameras],
        targets: Sequence[Tensor],
        behind: Sequence[Tensor | None],
        at_once: int = 1,
    ) -> None:
        self.scene, self.config, self.cameras, self.targets = scene, config, cameras, targets
        self.at_once = at_once
        # the prior keeps a plain background plain, but not its very colour
        self.backgrounds = [
            color if color is None else _edge_color(t) for color, t in zip(behind, targets, strict=True)
        ]

    def __call__(self, step: int) -> SceneStep:
        chosen = [self._set_of(step * self.at_once + k) for k in range(self.at_once)]
        # Samples are shifted: these few rays alone would only be right where theirs lie
        jitter = generator(self.config.seed, step, "refine render")
        if self.config.refine.rays_per_step > 0:
            seen, target = self._pixels(jitter)
        else:
            seen = _joined([self._render(i, jitter) for i in chosen])
            target = torch.cat([self.targets[i] for i in chosen])
        difference = mse_loss(seen.rgb, target)
        weights = self.config.refine
        loss = difference if weights.huber == 0 else pseudo_huber(seen.rgb, target, weights.huber)
        loss = loss + weights.opaque_weight * regularizers.opaque(seen)
        loss = loss + weights.sparsity_weight * regularizers.sparsity(seen)
        if weights.smoothness_weight > 0:
            drawn = generator(self.config.seed, step, "refine smoothness")
            loss = loss + weights.smoothness_weight * regularizers.smoothness(self.scene, drawn)
        loss = loss + weights.eikonal_weight * regularizers.eikonal(self.scene, step)
        return SceneStep(
            loss,
            lambda: (loss.item(), {"psnr": -10.0 * difference.log10().item()}),
            lambda: self._preview(chosen[0]),
            seen.opacity_range,
            Cameras.joined([self.cameras[i] for i in chosen]),
        )

    def _render(self, number: int, jitter: torch.Generator | None = None) -> RenderOutput:
        return self.scene.render(self.cameras[number], generator=jitter, background=self.backgrounds[number])

    @torch.no_grad()
    def _preview(self, number: int) -> Image:
        return tile([self._render(number).rgb, self.targets[number]])

    def _pixels(self, draw: torch.Generator) -> tuple[RenderOutput, Tensor]:
        """Random pixels of all sets as a picture of one row, and what they are to look like."""
        count, device = self.config.refine.rays_per_step, self.scene.device
        index = to_device(torch.randint(len(self._colors), (count,), generator=draw), device)
        rays = Rays(self._rays.origins[index], self._rays.directions[index])
        jitter = self.scene.ops.ray_jitter(int(torch.randint(2**32, (), generator=draw)), count, device)
        seen, _ = self.scene.trace(rays, jitter)
        number = index // (len(self._colors) // len(self.targets))
        behind = torch.where(self._has_plain[number, None], self._plain[number], self.scene.background(rays.directions))
        rgb = seen.rgb + (1.0 - seen.opacity[:, None]) * behind
        row = (1, 1, count, -1)
        return RenderOutput(rgb.view(row), seen.opacity.view(row), seen.depth.view(row)), self._colors[index].view(row)

    @cached_property
    def _rays(self) -> Rays:
        """Of the pixels of all sets."""
        return rays_of(Cameras.joined(self.cameras).to(self.scene.device))

    @cached_property
    def _colors(self) -> Tensor:
        """[R, 3], of the same pixels."""
        return torch.cat([target.reshape(-1, 3) for target in self.targets])

    @cached_property
    def _has_plain(self) -> Tensor:
        """[sets] whether one plain colour is behind a set."""
        return torch.tensor([color is not None for color in self.backgrounds], device=self.scene.device)

    @cached_property
    def _plain(self) -> Tensor:
        """[sets, 3] that colour, where there is one."""
        none = torch.zeros(3, device=self.scene.device)
        return torch.stack([none if color is None else color for color in self.backgrounds])

    def _set_of(self, turn: int) -> int:
        """Which set has turn 0, 1, ..."""
        time, place = divmod(turn, len(self.targets))
        order = torch.randperm(len(self.targets), generator=generator(self.config.seed, time, "refine order"))
        return int(order[place])


def pseudo_huber(seen: Tensor, target: Tensor, width: float) -> Tensor:
    """[] the mean of 2 w^2 (sqrt(1 + d^2 / w^2) - 1), d^2 a pixel's mean squared difference over its channels (last).

    Charbonnier et al. 1994; Barron 2019, equation 1 with alpha = 1. The squared difference up to about w, beyond it
    twice w times the difference: where pictures disagree the scene follows most of them, and is no mean of all.
    """
    squared = (seen - target).square().mean(-1)
    # the same expanded: of small differences the other form leaves rounding alone
    return (2.0 * squared / (1.0 + (1.0 + squared / width**2).sqrt())).mean()


def _joined(sets: Sequence[RenderOutput]) -> RenderOutput:
    """The images of several sets, all of one size, as one batch."""
    images = zip(*((each.rgb, each.opacity, each.depth) for each in sets), strict=True)
    return RenderOutput(*map(torch.cat, images))


def _edge_color(views: Tensor) -> Tensor:
    """[3]: the median of the outermost pixels of views [V, H, W, 3]."""
    return torch.cat([views[:, 0], views[:, -1], views[:, :, 0], views[:, :, -1]], 1).flatten(0, 1).median(0).values
