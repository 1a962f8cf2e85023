"""DDIM sampling (Song et al. 2021) of the views of objects."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from threedgen.cameras import Cameras
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.denoising import Denoiser, Guided
from threedgen.diffusion.prior import MultiViewPrior


def ddim_timesteps(num_inference_steps: int, num_train_timesteps: int = 1000) -> list[int]:
    """Descending timesteps 1 + k * (1000 // steps), as MVDream's own sampler takes them.

    30 steps give 31 timesteps, because 1000 // 30 = 33 fits 31 times. Where the first would lie behind the
    schedule's end (3 steps: 1000), it is the end; the original fails there.
    """
    every = num_train_timesteps // num_inference_steps
    return [min(t + 1, num_train_timesteps - 1) for t in range(0, num_train_timesteps, every)][::-1]


@torch.no_grad()
def ddim(
    denoiser: Denoiser,
    noisy: Tensor,
    timesteps: Sequence[int],
    *,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """From `noisy` [B, 4, h, w] at the first of descending timesteps to latents [B, 4, h, w].

    eta: of the noise that DDPM adds anew in each step (0: none, the same result every time; 1: all of it; Song et al.
    2021, equation 16), drawn from `generator`.
    """
    latents = noisy
    # After the last step the schedule's own first alpha_bar remains (set_alpha_to_one=False), as in the original
    for t, previous in zip(timesteps, [*timesteps[1:], 0], strict=True):
        timestep = torch.full((len(latents),), t, device=latents.device)
        noise, x0 = denoiser(latents, timestep)
        alpha, sigma = denoiser.schedule.level(torch.full_like(timestep, previous))
        if eta == 0:
            latents = alpha * x0 + sigma * noise
            continue
        alpha_now, sigma_now = denoiser.schedule.level(timestep)
        anew = eta * sigma / sigma_now * (1 - (alpha_now / alpha) ** 2).clamp(min=0).sqrt()
        drawn = torch.randn(latents.shape, generator=generator).to(latents)
        latents = alpha * x0 + (sigma**2 - anew**2).clamp(min=0).sqrt() * noise + anew * drawn
    return latents


@torch.no_grad()
def sample_views(
    prior: MultiViewPrior,
    prompts: Sequence[str],
    cameras: Cameras | None,
    generator: torch.Generator,
    *,
    negative_prompt: str = "",
    num_inference_steps: int = 50,
    guidance_scale: float = 7.5,
    rescale: float = 0.0,
    image_size: int | None = None,
    num_views: int = 1,
    around: Callable[[Guided, list[int]], Denoiser] | None = None,
) -> Tensor:
    """Images [P * V, 3, H, W] in 0..1 of P prompts.

    cameras: those of one object (V of them), for all prompts, or V of each; None: 2D mode, a picture a prompt, or
    `num_views` frames (V) of a video.
    around: given the guided prior and the sampler's timesteps, what is sampled from in its place.
    """
    num_views = num_views if cameras is None else cameras.num_views
    edge = prior.unet.config.sample_size * (image_size or prior.image_size) // prior.image_size
    shape = (len(prompts) * num_views, prior.unet.config.in_channels, edge, edge)
    noise = torch.randn(shape, generator=generator).to(prior.device)
    told = Conditions(prior.encode_text(prompts), cameras, num_views)
    guided = Guided(prior, told, prior.encode_text([negative_prompt]), guidance_scale, rescale)
    timesteps = ddim_timesteps(num_inference_steps, len(prior.schedule))
    denoiser = guided if around is None else around(guided, timesteps)
    return prior.decode(ddim(denoiser, noise, timesteps))
