"""Score distillation from a frozen multi-view prior: rendered images in, a loss out. Knows nothing of the scene."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from threedgen.cameras import Cameras, mvdream_camera_vectors
from threedgen.config.schema import GuidanceConfig, GuidanceLoss
from threedgen.core.randomness import generator
from threedgen.core.schedules import value_at
from threedgen.core.transfer import to_device
from threedgen.diffusion.classifier_free import NoisePredictor, guided_denoising


class LatentPrior(NoisePredictor, Protocol):
    """What score distillation needs of a prior: see `diffusion.prior.MultiViewPrior`."""

    alphas_cumprod: Tensor

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
    prior: NoisePredictor,
    latents: Tensor,
    noise: Tensor,
    timestep: Tensor,
    text: Tensor,
    negative_text: Tensor,
    camera: Tensor | None,
    num_views: int,
    config: GuidanceConfig,
) -> tuple[Tensor, Tensor]:
    """The loss's gradient w.r.t. the latents and the denoised x0, both [B, 4, h, w].

    latents, noise: [B, 4, h, w]; timestep: [B]; text, negative_text: [B, L, C]; camera: [B, 16] or None.
    reconstruction: d/dz of 0.5 * ||z - x0||^2 / B (MVDream, equation 5); without rescaling that is SDS with
    w(t) = sigma / alpha. sds: w(t) * (noise_hat - noise) / B with w(t) = sigma^2 (DreamFusion, equation 3).
    """
    alpha, sigma = prior.noise_level(timestep)
    noisy = alpha * latents + sigma * noise
    guided_noise, x0 = guided_denoising(
        prior, noisy, timestep, text, negative_text, camera, num_views, config.guidance_scale, config.rescale
    )
    if config.loss is GuidanceLoss.reconstruction:
        return (latents - x0) / len(latents), x0
    return sigma**2 * (guided_noise - noise) / len(latents), x0


class ScoreDistillation:
    """MVDream's x0-reconstruction loss, or plain SDS, with classifier-free guidance and rescaling.

    The prior is asked in multi-view mode with cameras where an object has several views, and in 2D mode
    (one view, no camera) where it has one.
    """

    def __init__(self, prior: LatentPrior, config: GuidanceConfig, seed: int) -> None:
        self.prior = prior
        self.config = config
        self.seed = seed

    def __call__(
        self, rgb: Tensor, cameras: Cameras, text: Tensor, negative_text: Tensor, step: int, num_steps: int
    ) -> GuidanceOutput:
        """rgb: [B, H, W, 3] in 0..1, B = len(cameras); text, negative_text: [P, L, C], one row per object."""
        size, num_views = self.config.image_size, cameras.num_views
        images = rgb.movedim(-1, 1)
        if images.shape[-2:] != (size, size):
            images = interpolate(images, (size, size), mode="bilinear", align_corners=False)
        latents = self.prior.encode_images(images)
        timestep = self._draw_timestep(len(latents) // num_views, step, num_steps)
        noise = torch.randn(latents.shape, generator=generator(self.seed, step, "guidance noise"))
        noise = to_device(noise, latents.device)
        camera = to_device(mvdream_camera_vectors(cameras), latents.device) if num_views > 1 else None
        text, negative_text = (t.repeat_interleave(num_views, 0) for t in (text, negative_text))
        per_view = to_device(timestep.repeat_interleave(num_views), latents.device)
        gradient, x0 = distillation_gradient(
            self.prior, latents.detach(), noise, per_view, text, negative_text, camera, num_views, self.config
        )
        target = latents.detach() - self._clipped(gradient) * len(latents)
        loss = 0.5 * (latents - target).square().sum() / len(latents)
        return GuidanceOutput(loss, gradient.norm(), timestep, lambda: self.prior.decode(x0))

    def _draw_timestep(self, num_objects: int, step: int, num_steps: int) -> Tensor:
        """One timestep for all objects and views, uniform in the annealed range, both ends included. [P]."""
        fraction, count = step / num_steps, len(self.prior.alphas_cumprod)
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
