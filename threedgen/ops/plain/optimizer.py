"""One step of AdamW in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def adamw_step(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """Update param, exp_avg and exp_avg_sq, all of one shape, in place; `step` counts from 1.

    Loshchilov and Hutter 2019, algorithm 2, with the schedule's factor in `lr` as torch has it.
    """
    param.mul_(1 - lr * weight_decay)
    exp_avg.lerp_(grad, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    denominator = (exp_avg_sq / (1 - beta2**step)).sqrt_().add_(eps)
    param.addcdiv_(exp_avg, denominator, value=-lr / (1 - beta1**step))
