"""torch's AdamW with the update done by a back end of `ops`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from threedgen.ops.backends import Backend


class AdamW(torch.optim.AdamW):
    """`torch.optim.AdamW`, its state included; a step is one pass over the memory with the native back end."""

    def __init__(self, params: Iterable[dict[str, Any]], backend: Backend, **options: Any) -> None:
        super().__init__(params, **options)
        self.backend = backend

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self.state[param]
                if not state:
                    state["step"] = torch.zeros(())
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(param), torch.zeros_like(param)
                state["step"] += 1
                self.backend.adamw_step(
                    param, param.grad, state["exp_avg"], state["exp_avg_sq"], int(state["step"]),
                    group["lr"], beta1, beta2, group["eps"], group["weight_decay"],
                )  # fmt: skip
