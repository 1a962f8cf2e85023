"""The training objective of a multi-view prior, its moving average, and its learning rate."""

import copy
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from threedgen.cameras import Cameras
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.prior import MultiViewPrior


class DenoisingObjective(nn.Module):
    """`MultiViewPrior.losses` from captions on, as the one module that `DistributedDataParallel` wraps."""

    def __init__(self, prior: MultiViewPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(
        self,
        latents: Tensor,
        noise: Tensor,
        timestep: Tensor,
        captions: Sequence[str],
        cameras: Cameras | None,
    ) -> Tensor:
        """The loss of each view, [B]. captions: one an object; cameras: B, or None: 2D mode, a caption a picture."""
        told = Conditions(self.prior.encode_text(captions), cameras, len(latents) // len(captions))
        return self.prior.losses(latents, noise, timestep, told)


_Module = TypeVar("_Module", bound=nn.Module)


class MovingAverage(Generic[_Module]):
    """Exponential moving average of a module's trained parameters, which young averages forget faster.

    `module` is a copy with the averages. It shares the frozen parameters, those that require no gradient.
    """

    def __init__(self, module: _Module, decay: float) -> None:
        frozen = {id(p): p for p in module.parameters() if not p.requires_grad}
        self.module = copy.deepcopy(module, dict(frozen)).eval().requires_grad_(False)
        self.decay = decay
        pairs = zip(self.module.parameters(), module.parameters(), strict=True)
        self._averaged = [(mean, value) for mean, value in pairs if mean is not value]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the parameters in as they are after `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        means, values = zip(*self._averaged, strict=True)
        torch._foreach_lerp_(means, values, 1 - decay)


def learning_rate(step: int, remaining: float, peak: float, warmup_steps: int, decay_fraction: float) -> float:
    """Linear warm-up, constant, then linear decay to 1 % over the last `decay_fraction` of the training; 0: none.

    remaining: the part of the training that is left, from 1 to 0.
    """
    warm = min(1.0, (step + 1) / max(1, warmup_steps))
    return peak * warm * (max(0.01, min(1.0, remaining / decay_fraction)) if decay_fraction else 1.0)


def optimizer_step(
    optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor], loss: Tensor, lr: float, max_norm: float = 1.0
) -> float:
    """One update with the clipped gradient of `loss`; returns the gradient's norm before clipping."""
    loss.backward()
    return apply_gradients(optimizer, parameters, lr, max_norm)


def apply_gradients(
    optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor], lr: float, max_norm: float = 1.0
) -> float:
    """One update with the gradients that have come together, clipped and then dropped; returns their norm before."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(norm)
