"""Sampling of the views of objects: DDIM (Song et al. 2021), and diffusers' solvers of higher order."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from threedgen.cameras import Cameras
from threedgen.config.sampling import Sampler
from threedgen.core.transfer import to_device
from threedgen.diffusion.conditions import Conditions, Picture
from threedgen.diffusion.denoising import Denoiser, Guided, Pinned
from threedgen.diffusion.joint import Mix
from threedgen.diffusion.prior import MultiViewPrior


def ddim_timesteps(
    num_inference_steps: int, sampler: Sampler = Sampler.ddim, num_train_timesteps: int = 1000
) -> list[int]:
    """Descending timesteps of a sampler that does not look back.

    `ddim`: 1 + k * (1000 // steps), as MVDream's own sampler takes them. 30 steps give 31 timesteps, because
    1000 // 30 = 33 fits 31 times. Where the first would lie behind the schedule's end (3 steps: 1000), it is the end;
    the original fails there. 8 steps begin at 876, where the noise still tells what lies beneath it.

    `ddim_trailing`: 999 - k * 1000 / steps, rounded: always from the end on (Lin et al. 2024, section 3.3), and none is
    spent at timestep 1, where next to nothing is left to remove.
    """
    if sampler is Sampler.ddim_trailing:
        last = num_train_timesteps
        return [round(last - k * last / num_inference_steps) - 1 for k in range(num_inference_steps)]
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
        timestep = torch.full((len(latents),), t)
        noise, x0 = denoiser(latents, timestep)
        alpha, sigma = denoiser.schedule.level(torch.full_like(timestep, previous))
        if eta == 0:
            latents = alpha * x0 + sigma * noise
            continue
        alpha_now, sigma_now = denoiser.schedule.level(timestep)
        anew = eta * sigma / sigma_now * (1 - (alpha_now / alpha) ** 2).clamp(min=0).sqrt()
        drawn = to_device(torch.randn(latents.shape, generator=generator), latents.device)
        latents = alpha * x0 + (sigma**2 - anew**2).clamp(min=0).sqrt() * noise + anew * drawn
    return latents


@torch.no_grad()
def solve(denoiser: Denoiser, noisy: Tensor, num_inference_steps: int, sampler: Sampler) -> Tensor:
    """As `ddim`, from pure noise on by one of diffusers' solvers, which look back on the x0 of earlier steps.

    They are therefore wrong where x0 is not the denoiser's own answer, as in `Reconstructed`.
    """
    from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler  # here: with scipy.stats they take long

    # Steps even in sigma^(1/7) (Karras et al. 2022) leave the last ones short, where noise becomes detail. A schedule
    # that ends in noise alone has no sigma = noise / signal there; its steps are even in time.
    ends_in_noise = denoiser.schedule.ends_in_noise
    levels = denoiser.schedule.alphas_cumprod.double().cpu().clamp_min(2**-24)
    betas = 1 - levels / torch.cat([levels.new_ones(1), levels[:-1]])
    kind = {Sampler.dpm: DPMSolverMultistepScheduler, Sampler.unipc: UniPCMultistepScheduler}[sampler]
    solver = kind(
        trained_betas=betas.numpy(),
        prediction_type="sample",
        timestep_spacing="trailing",
        use_karras_sigmas=not ends_in_noise,
    )
    solver.set_timesteps(num_inference_steps)
    latents = noisy
    for t in solver.timesteps:
        x0 = denoiser(latents, torch.full((len(latents),), int(t))).x0
        latents = solver.step(x0, t, latents).prev_sample
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
    guidance_range: tuple[float, float] = (0.0, 1.0),
    rescale: float = 0.0,
    image_size: int | None = None,
    num_views: int = 1,
    picture: Picture | None = None,
    image_pinned: bool = False,
    sampler: Sampler = Sampler.ddim,
    around: Callable[[Denoiser, list[int]], Denoiser] | None = None,
    mix: Mix | None = None,
) -> Tensor:
    """Images [P * V, 3, H, W] in 0..1 of P prompts.

    cameras: those of one object (V of them), for all prompts, or V of each; None: 2D mode, a picture a prompt, or
    `num_views` frames (V) of a video.
    guidance_range: see `Guided.interval`.
    picture: what a prior that is shown one sees, see `MultiViewPrior.show`.
    image_pinned: the first view of each prompt is its picture, see `Pinned`. Raises ValueError without one.
    around: given what is sampled from and DDIM's timesteps, what is sampled from in its place. Raises ValueError for
    one with another sampler.
    mix: given the guided prior, what answers in its place with any sampler, see `ImagePrior.mix`.
    """
    num_views = num_views if cameras is None else cameras.num_views
    edge = prior.unet.config.sample_size * (image_size or prior.image_size) // prior.image_size
    shape = (len(prompts) * num_views, prior.unet.config.in_channels, edge, edge)
    noise = to_device(torch.randn(shape, generator=generator), prior.device)
    told = Conditions(prior.encode_text(prompts), cameras, num_views, picture)
    guided = Guided(prior, told, prior.encode_text([negative_prompt]), guidance_scale, rescale, guidance_range)
    denoiser: Denoiser = guided if mix is None else mix(guided)
    timesteps = ddim_timesteps(num_inference_steps, sampler, len(prior.schedule))
    if around is not None:
        if sampler.looks_back:
            raise ValueError("solvers that look back need the prior's own x0 in every step")
        denoiser = around(denoiser, timesteps)
    if image_pinned:
        if picture is None:
            raise ValueError("image_pinned: there is no picture that the first view could be")
        denoiser = Pinned(denoiser, picture.latent)
    if sampler.looks_back:
        return prior.decode(solve(denoiser, noise, num_inference_steps, sampler))
    return prior.decode(ddim(denoiser, noise, timesteps))
