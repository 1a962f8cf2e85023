"""One guided denoising: classifier-free guidance (Ho & Salimans 2021) with MVDream's rescaling per object."""

from typing import Protocol

import torch
from torch import Tensor


class NoisePredictor(Protocol):
    """What guidance and sampling need of a prior."""

    def noise_level(self, timestep: Tensor) -> tuple[Tensor, Tensor]: ...

    def predict_noise(
        self, noisy: Tensor, timestep: Tensor, text: Tensor, camera: Tensor | None, num_views: int
    ) -> Tensor: ...


def guided_denoising(
    prior: NoisePredictor,
    noisy: Tensor,
    timestep: Tensor,
    text: Tensor,
    negative_text: Tensor,
    camera: Tensor | None,
    num_views: int,
    guidance_scale: float,
    rescale: float,
) -> tuple[Tensor, Tensor]:
    """The guided noise and the x0 that follows from it, each [B, 4, h, w].

    noisy: [B, 4, h, w]; timestep: [B]; text, negative_text: [B, L, C]; camera: [B, 16] or None.
    noise = uncond + guidance_scale * (cond - uncond). `rescale` in 0..1 moves x0 towards the standard deviation of
    the conditional x0, over all views of an object together (MVDream section 3.3, after Lin et al. 2023,
    equation 16); the noise returned is then the one that belongs to the rescaled x0.
    """
    alpha, sigma = prior.noise_level(timestep)
    both_cameras = None if camera is None else torch.cat([camera, camera])
    noise = prior.predict_noise(
        torch.cat([noisy, noisy]),
        torch.cat([timestep, timestep]),
        torch.cat([text, negative_text]),
        both_cameras,
        num_views,
    )
    conditional, unconditional = noise.chunk(2)
    guided = unconditional + guidance_scale * (conditional - unconditional)
    x0 = (noisy - sigma * guided) / alpha
    if rescale == 0:
        return guided, x0
    conditional_x0 = (noisy - sigma * conditional) / alpha
    factor = (_std_per_object(conditional_x0, num_views) + 1e-8) / (_std_per_object(x0, num_views) + 1e-8)
    x0 = x0 * (rescale * factor + 1 - rescale)
    return (noisy - alpha * x0) / sigma, x0


def _std_per_object(x: Tensor, num_views: int) -> Tensor:
    """Standard deviation over views, channels and pixels of each object. [B, ...] -> [B, 1, 1, 1]."""
    std = x.reshape(len(x) // num_views, -1).std(1)
    return std.repeat_interleave(num_views).reshape(-1, 1, 1, 1)
