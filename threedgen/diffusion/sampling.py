"""DDIM sampling (Song et al. 2021) of the views of objects."""

from collections.abc import Sequence

import torch
from torch import Tensor

from threedgen.diffusion.classifier_free import guided_denoising
from threedgen.diffusion.prior import MultiViewPrior


def ddim_timesteps(num_inference_steps: int, num_train_timesteps: int = 1000) -> list[int]:
    """Descending timesteps 1 + k * (1000 // steps), as MVDream's own sampler takes them.

    30 steps give 31 timesteps, because 1000 // 30 = 33 fits 31 times. Where the first would lie behind the
    schedule's end (3 steps: 1000), it is the end; the original fails there.
    """
    every = num_train_timesteps // num_inference_steps
    return [min(t + 1, num_train_timesteps - 1) for t in range(0, num_train_timesteps, every)][::-1]


@torch.no_grad()
def sample_latents(
    prior: MultiViewPrior,
    text: Tensor,
    negative_text: Tensor,
    camera: Tensor | None,
    num_views: int,
    noise: Tensor,
    num_inference_steps: int,
    guidance_scale: float,
    rescale: float = 0.0,
) -> Tensor:
    """Deterministic DDIM (eta 0) from `noise` [B, 4, h, w] to latents [B, 4, h, w].

    text, negative_text: [B, L, C]; camera: [B, 16] or None for 2D mode (then num_views is 1).
    """
    timesteps = ddim_timesteps(num_inference_steps, len(prior.alphas_cumprod))
    latents = noise
    # After the last step the schedule's own first alpha_bar remains (set_alpha_to_one=False), as in the original
    for t, previous in zip(timesteps, [*timesteps[1:], 0], strict=True):
        timestep = torch.full((len(latents),), t, device=latents.device)
        noise, x0 = guided_denoising(
            prior, latents, timestep, text, negative_text, camera, num_views, guidance_scale, rescale
        )
        alpha, sigma = prior.noise_level(torch.full_like(timestep, previous))
        latents = alpha * x0 + sigma * noise
    return latents


@torch.no_grad()
def sample_views(
    prior: MultiViewPrior,
    prompts: Sequence[str],
    camera: Tensor | None,
    num_views: int,
    generator: torch.Generator,
    *,
    negative_prompt: str = "",
    num_inference_steps: int = 50,
    guidance_scale: float = 7.5,
    rescale: float = 0.0,
    image_size: int | None = None,
) -> Tensor:
    """Images [P * num_views, 3, H, W] in 0..1 of P prompts. camera: [P * num_views, 16] or None for 2D mode."""
    count = len(prompts) * num_views
    edge = prior.unet.config.sample_size * (image_size or prior.image_size) // prior.image_size
    noise = torch.randn(count, prior.unet.config.in_channels, edge, edge, generator=generator).to(prior.device)
    text = prior.encode_text(prompts).repeat_interleave(num_views, 0)
    negative = prior.encode_text([negative_prompt]).expand_as(text)
    latents = sample_latents(
        prior, text, negative, camera, num_views, noise, num_inference_steps, guidance_scale, rescale
    )
    return prior.decode(latents)
