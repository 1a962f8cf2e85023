"""The training objective of a multi-view prior, its moving average, and its learning rate."""

import copy
from collections.abc import Iterable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from threedgen.diffusion.prior import MultiViewPrior


def denoising_loss(
    prior: MultiViewPrior,
    latents: Tensor,
    noise: Tensor,
    timestep: Tensor,
    text: Tensor,
    camera: Tensor | None,
    num_views: int,
) -> Tensor:
    """Mean squared error of the prediction for each view, [B].

    latents, noise: [B, 4, h, w]; timestep: [B], one value for the views of an object; text: [B, L, C];
    camera: [B, 16], or None with num_views 1 for the 2D part of the training (MVDream section 3.2, algorithm 1).
    The target is the noise, or the velocity alpha * noise - sigma * x0 (Salimans & Ho 2022).
    """
    alpha, sigma = prior.noise_level(timestep)
    noisy = (alpha * latents + sigma * noise).contiguous(memory_format=torch.channels_last)
    prediction = prior.unet(noisy, timestep, text, camera, num_views)
    velocity = prior.scheduler.config.prediction_type == "v_prediction"
    target = alpha * noise - sigma * latents if velocity else noise
    return (prediction - target).square().mean((1, 2, 3))


_Module = TypeVar("_Module", bound=nn.Module)


class MovingAverage(Generic[_Module]):
    """Exponential moving average of a module's parameters; young averages forget faster."""

    def __init__(self, module: _Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, module: _Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), 1 - decay)


def learning_rate(step: int, num_steps: int, peak: float, warmup_steps: int, decay_fraction: float) -> float:
    """Linear warm-up, constant, then linear decay to 1 % over the last `decay_fraction` of the steps."""
    remaining = (num_steps - step) / num_steps
    return peak * min(1.0, (step + 1) / warmup_steps) * max(0.01, min(1.0, remaining / decay_fraction))


def optimizer_step(
    optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor], loss: Tensor, lr: float, max_norm: float = 1.0
) -> float:
    """One update with a clipped gradient; returns the gradient's norm before clipping."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    optimizer.step()
    return float(norm)
