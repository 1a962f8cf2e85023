"""What answers to a noisy latent: a model, and what guides it. Samplers and distillation know nothing else."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from threedgen.core.transfer import to_device
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.schedule import NoiseSchedule


class Denoised(NamedTuple):
    """The noise and the x0 that a noisy latent is taken apart into, each [B, 4, h, w]."""

    noise: Tensor
    x0: Tensor


class Denoiser(Protocol):
    """noisy [B, 4, h, w] at timestep [B] -> noise and x0; B is a whole number of objects with `num_views` views.

    Timesteps are on the CPU, where samplers and losses make them: what depends on their values need not ask a GPU.
    """

    @property
    def schedule(self) -> NoiseSchedule: ...

    @property
    def num_views(self) -> int: ...

    def __call__(self, noisy: Tensor, timestep: Tensor) -> Denoised: ...


class Model(Protocol):
    """A network with its noise schedule, whatever it was trained to predict: see `prior.MultiViewPrior`."""

    @property
    def schedule(self) -> NoiseSchedule: ...

    def denoise(self, noisy: Tensor, timestep: Tensor, told: Conditions) -> Denoised: ...


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance (Ho & Salimans 2021) with MVDream's rescaling per object; a `Denoiser`.

    noise = uncond + scale * (cond - uncond). `rescale` in 0..1 moves x0 towards the standard deviation of the
    conditional x0, over all views of an object together (MVDream section 3.3, after Lin et al. 2023, equation 16);
    the noise returned is then the one that belongs to the rescaled x0. Outside `interval` the
    scale is 1 (Kynkäänniemi et al. 2024). Where it is 1 for all, the model is asked once and not twice.
    """

    model: Model
    told: Conditions
    negative_text: Tensor  # [P, L, C], or [1, L, C]: what guidance leads away from
    scale: float
    rescale: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)  # of t / T, both ends in it: where the scale counts

    @property
    def schedule(self) -> NoiseSchedule:
        return self.model.schedule

    @property
    def num_views(self) -> int:
        return self.told.num_views

    def __call__(self, noisy: Tensor, timestep: Tensor) -> Denoised:
        guided, conditional = self.unscaled(noisy, timestep)
        return self.rescaled(guided, conditional, noisy, timestep)

    def unscaled(self, noisy: Tensor, timestep: Tensor) -> tuple[Denoised, Denoised]:
        """Guided, but not rescaled; and what the model answers where it is told what is wanted."""
        scales = [self.scale_at(t) for t in timestep.tolist()]
        if all(scale == 1 for scale in scales):
            conditional = self.model.denoise(noisy, timestep, self.told)
            return conditional, conditional
        noise, x0 = self.both(noisy, timestep)
        alpha, sigma = self.schedule.level(timestep)
        scale = _one_or_each(scales, noisy)
        guided = self.away(noise, scale)
        # Where all is noise x0 does not follow from it; elsewhere it does, with less rounding.
        guided_x0 = self.away(x0, scale) if self.schedule.ends_in_noise else (noisy - sigma * guided) / alpha
        return Denoised(guided, guided_x0), Denoised(noise.chunk(2)[0], x0.chunk(2)[0])

    def rescaled(self, guided: Denoised, conditional: Denoised, noisy: Tensor, timestep: Tensor) -> Denoised:
        if self.rescale == 0:
            return guided
        alpha, sigma = self.schedule.level(timestep)
        wanted, found = (_std_per_object(x, self.num_views) + 1e-8 for x in (conditional.x0, guided.x0))
        x0 = guided.x0 * (self.rescale * (wanted / found) + 1 - self.rescale)
        return Denoised((noisy - alpha * x0) / sigma, x0)

    def both(self, noisy: Tensor, timestep: Tensor) -> Denoised:
        """What the model answers before it is guided: 2 * B, told what is wanted, then what is not."""
        told = self.told.against(self.negative_text, len(noisy))
        return self.model.denoise(torch.cat([noisy, noisy]), torch.cat([timestep, timestep]), told)

    def away(self, both: Tensor, scale: float | Tensor) -> Tensor:
        """[2 * B, ...] of the two -> [B, ...], guided by one scale or by that of each, [B, 1, ...]."""
        conditional, unconditional = both.chunk(2)
        return unconditional + scale * (conditional - unconditional)

    def scale_at(self, timestep: int) -> float:
        low, high = self.interval
        return self.scale if low <= timestep / len(self.schedule) <= high else 1.0


@dataclass(frozen=True)
class Pinned:
    """Samples views of which the first of each object is known; a `Denoiser`.

    Whatever the denoiser inside answers, that view's x0 is the known one, and its noise what belongs to it: the others
    are denoised beside it, and agree with it as far as the model makes views agree (the replacement method, Ho et al.
    2022, Video Diffusion Models, section 3.1). x0 is the same at every step, so solvers that look back stay right.
    """

    inner: Denoiser
    first: Tensor  # [P, 4, h, w], or [1, 4, h, w]: latents

    @property
    def schedule(self) -> NoiseSchedule:
        return self.inner.schedule

    @property
    def num_views(self) -> int:
        return self.inner.num_views

    def __call__(self, noisy: Tensor, timestep: Tensor) -> Denoised:
        found = self.inner(noisy, timestep)
        alpha, sigma = self.schedule.level(timestep)
        noise, x0 = found.noise.clone(), found.x0.clone()
        x0[:: self.num_views] = self.first
        noise[:: self.num_views] = ((noisy - alpha * x0) / sigma)[:: self.num_views]
        return Denoised(noise, x0)


def _one_or_each(values: list[float], like: Tensor) -> float | Tensor:
    """The one value that all are, or all of them, [B, 1, 1, 1]."""
    if len(set(values)) == 1:
        return values[0]
    return to_device(torch.tensor(values, dtype=like.dtype).reshape(-1, 1, 1, 1), like.device)


def _std_per_object(x: Tensor, num_views: int) -> Tensor:
    """Standard deviation over views, channels and pixels of each object. [B, ...] -> [B, 1, 1, 1]."""
    std = x.reshape(len(x) // num_views, -1).std(1)
    return std.repeat_interleave(num_views).reshape(-1, 1, 1, 1)
