"""AdamW by the compiled kernel."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from threedgen.ops.native.library import call, define


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
    """As `ops.plain.adamw_step`, for float32."""
    torch.ops.threedgen.adamw_step(param, grad, exp_avg, exp_avg_sq, step, lr, beta1, beta2, eps, weight_decay)


def adamw_step_by(call: Callable, param, grad, exp_avg, exp_avg_sq, step, lr, beta1, beta2, eps, weight_decay):
    """The step by a library's kernel: `call` is `library.call` or `cuda.call`."""
    if not (param.is_contiguous() and exp_avg.is_contiguous() and exp_avg_sq.is_contiguous()):
        raise ValueError("adamw_step updates in place: param, exp_avg and exp_avg_sq must be contiguous")
    correction = 1 / math.sqrt(1 - beta2**step)
    call(
        "tg_adamw", torch.float32, param.numel(), param, grad.contiguous(), exp_avg, exp_avg_sq, 1 - lr * weight_decay,
        beta1, beta2, lr / (1 - beta1**step), correction, eps,
    )  # fmt: skip


define(
    "adamw_step(Tensor(a!) param, Tensor grad, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, int step, float lr,"
    " float beta1, float beta2, float eps, float weight_decay) -> ()",
    partial(adamw_step_by, call),
    lambda *_: None,
)
