"""Score distillation: rendered images and what denoises them in, a loss out. Knows nothing of the scene."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from threedgen.config.guidance import GuidanceConfig, GuidanceLoss
from threedgen.config.schedules import value_at
from threedgen.core.randomness import generator
from threedgen.core.transfer import to_device
from threedgen.diffusion.denoising import Denoiser


class Codec(Protocol):
    """Images [B, 3, H, W] in 0..1 to latents [B, 4, h, w] and back: see `diffusion.prior.MultiViewPrior`."""

    def encode_images(self, images: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class GuidanceOutput:
    """loss: [], to be minimised; grad_norm: [], norm of its gradient w.r.t. the latents before clipping;
    timestep: [P], one per object; preview(): the target decoded to images [B, 3, H, W] in 0..1."""

    loss: Tensor
    grad_norm: Tensor
    timestep: Tensor
    preview: Callable[[], Tensor]


@torch.no_grad()
def distillation_gradient(
    denoiser: Denoiser, latents: Tensor, noise: Tensor, timestep: Tensor, loss: GuidanceLoss
) -> tuple[Tensor, Tensor]:
    """The loss's gradient w.r.t. the latents and the denoised x0, both [B, 4, h, w].

    latents, noise: [B, 4, h, w]; timestep: [B].
    reconstruction: d/dz of 0.5 * ||z - x0||^2 / B (MVDream, equation 5); without rescaling that is SDS with
    w(t) = sigma / alpha. sds: w(t) * (noise_hat - noise) / B with w(t) = sigma^2 (DreamFusion, equation 3).
    """
    alpha, sigma = denoiser.schedule.level(timestep)
    guided_noise, x0 = denoiser(alpha * latents + sigma * noise, timestep)
    if loss is GuidanceLoss.reconstruction:
        return (latents - x0) / len(latents), x0
    return sigma**2 * (guided_noise - noise) / len(latents), x0


class ScoreDistillation:
    """MVDream's x0-reconstruction loss, or plain SDS, against the answer of any denoiser."""

    def __init__(self, codec: Codec, config: GuidanceConfig, seed: int) -> None:
        self.codec = codec
        self.config = config
        self.seed = seed

    def __call__(self, rgb: Tensor, denoiser: Denoiser, step: int, num_steps: int) -> GuidanceOutput:
        """rgb: [B, H, W, 3] in 0..1, the views of an object adjacent, as the denoiser counts them."""
        size, num_views = self.config.image_size, denoiser.num_views
        images = rgb.movedim(-1, 1)
        if images.shape[-2:] != (size, size):
            images = interpolate(images, (size, size), mode="bilinear", align_corners=False)
        latents = self.codec.encode_images(images)
        timestep = self._draw_timestep(len(latents) // num_views, step, num_steps, len(denoiser.schedule))
        noise = torch.randn(latents.shape, generator=generator(self.seed, step, "guidance noise"))
        noise = to_device(noise, latents.device)
        per_view = timestep.repeat_interleave(num_views)
        gradient, x0 = distillation_gradient(denoiser, latents.detach(), noise, per_view, self.config.loss)
        target = latents.detach() - self._clipped(gradient) * len(latents)
        loss = 0.5 * (latents - target).square().sum() / len(latents)
        return GuidanceOutput(loss, gradient.norm(), timestep, lambda: self.codec.decode(x0))

    def _draw_timestep(self, num_objects: int, step: int, num_steps: int, count: int) -> Tensor:
        """One of `count` timesteps for all objects, uniform in the annealed range, both ends included. [P]."""
        fraction = step / num_steps
        low, high = (
            int(count * value_at(schedule, fraction))
            for schedule in (self.config.min_timestep, self.config.max_timestep)
        )
        drawn = torch.randint(low, high + 1, (1,), generator=generator(self.seed, step, "timestep"))
        return drawn.clamp(0, count - 1).expand(num_objects)

    def _clipped(self, gradient: Tensor) -> Tensor:
        """The gradient, shortened so that no image's part is longer than the limit. The norm counts whole latents."""
        limit = self.config.gradient_clip
        if limit == 0:
            return gradient
        norm = gradient.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) * len(gradient)
        return gradient * (limit / norm.clamp_min(limit))
