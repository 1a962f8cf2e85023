"""Two models that answer as one: a multi-view model's geometry with a 2D model's looks."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from threedgen.config.guidance import JointMode
from threedgen.config.schedules import Schedule, value_at
from threedgen.core.transfer import to_device
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.denoising import Denoised, Denoiser, Guided, Model
from threedgen.diffusion.schedule import NoiseSchedule

Mix = Callable[[Guided], Denoiser]  # what answers in the place of a guided multi-view model


@dataclass(frozen=True)
class Joint:
    """A mixture of a guided multi-view model and a guided 2D one; a `Denoiser`. w is `weight` at 1 - t / T.

    mix: w * multiview + (1 - w) * image, the score of p_multiview^w * p_2d^(1 - w), w in 0..1.
    consistency: image + w * (multiview of all views - multiview of each view alone), w >= 0. Of a single view nothing
    can agree: the difference is 0.

    Both models are guided first, each with its own scale and negative text. The weights of a sum are one altogether, so
    noise and x0 are mixed alike, whatever a network predicts. Rescaling is not linear: it is done once, on the mixture,
    as the multi-view model has it. A model whose weight is 0 is not asked, and where one alone is left the result is
    its own to the last bit, its own rescaling included.

    multiview, image: on the same noise schedule, see `OnSchedule`; image is told of each view alone, in 2D mode.
    self_camera: with consistency, whether a view alone is told its camera; otherwise it is in 2D mode.
    """

    multiview: Guided
    image: Guided
    weight: Schedule
    mode: JointMode = JointMode.mix
    self_camera: bool = False

    @property
    def schedule(self) -> NoiseSchedule:
        return self.multiview.schedule

    @property
    def num_views(self) -> int:
        return self.multiview.num_views

    @cached_property
    def alone(self) -> Guided:
        """The multi-view model where each view is all that it sees."""
        told = self.multiview.told.each_view_alone(self.self_camera)
        # the negative text is of objects, as the text is
        negative = Conditions(self.multiview.negative_text, num_views=self.num_views).each_view_alone(False).text
        return replace(self.multiview, told=told, negative_text=negative)

    def __call__(self, noisy: Tensor, timestep: Tensor) -> Denoised:
        weights = self._weights(timestep)
        if self.mode is JointMode.mix and all(weight == 1 for weight in weights):
            return self.multiview(noisy, timestep)
        nothing_to_agree_on = self.mode is JointMode.consistency and self.num_views == 1
        if nothing_to_agree_on or all(weight == 0 for weight in weights):
            return self.image(noisy, timestep)
        weight = to_device(torch.tensor(weights, dtype=noisy.dtype).reshape(-1, 1, 1, 1), noisy.device)
        if self.mode is JointMode.mix:
            terms = [(weight, self.multiview), (1 - weight, self.image)]
        else:
            terms = [(torch.ones_like(weight), self.image), (weight, self.multiview), (-weight, self.alone)]
        shares, models = zip(*terms, strict=True)
        guided, conditional = zip(*(model.unscaled(noisy, timestep) for model in models), strict=True)
        return self.multiview.rescaled(_sum(shares, guided), _sum(shares, conditional), noisy, timestep)

    def _weights(self, timestep: Tensor) -> list[float]:
        """The weight of each of the timesteps [B]; one where it never changes."""
        if self.weight.start == self.weight.end:
            return [self.weight.start]
        return [value_at(self.weight, progress_at(t, self.schedule)) for t in timestep.tolist()]


def progress_at(timestep: int, schedule: NoiseSchedule) -> float:
    """1 - t / T: how far sampling has come at a timestep, whatever the number of its steps."""
    return 1 - timestep / len(schedule)


def _sum(shares: tuple[Tensor, ...], answers: tuple[Denoised, ...]) -> Denoised:
    noise, x0 = (
        torch.stack([share * part for share, part in zip(shares, parts, strict=True)]).sum(0)
        for parts in zip(*answers, strict=True)
    )
    return Denoised(noise, x0)


@dataclass(frozen=True)
class OnSchedule:
    """A model that is asked at another's timesteps; a `Model`.

    It is asked at the timestep of its own schedule with the nearest signal-to-noise ratio, and its answer taken as one
    on the other's: both schedules preserve the variance, so the noisy latents need no scaling.
    """

    model: Model
    schedule: NoiseSchedule
    timesteps: Tensor  # [T] of `model`, on the CPU, see `matching_timesteps`

    def denoise(self, noisy: Tensor, timestep: Tensor, told: Conditions) -> Denoised:
        noise, x0 = self.model.denoise(noisy, self.timesteps[timestep], told)
        alpha, sigma = self.schedule.level(timestep)
        if self.schedule.ends_in_noise:
            return Denoised((noisy - alpha * x0) / sigma, x0)
        return Denoised(noise, (noisy - sigma * noise) / alpha)


def matching_timesteps(schedule: NoiseSchedule, other: NoiseSchedule) -> Tensor:
    """For each timestep of `schedule` the one of `other` whose log(alpha^2 / sigma^2) is nearest. [T]."""
    ours, theirs = (_log_snr(each.alphas_cumprod) for each in (schedule, other))
    return (ours[:, None] - theirs).abs().argmin(1)


def _log_snr(alphas_cumprod: Tensor) -> Tensor:
    # clamped, so that pure noise has a neighbour
    return torch.special.logit(alphas_cumprod.double(), eps=2**-24)
