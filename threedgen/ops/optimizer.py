"""AdamW with the update done by a back end of `ops`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from threedgen.ops.backends import Backend


class Optimizer(Protocol):
    """What torch's optimisers and ours share: what a scene, a checkpoint or a loop needs of one."""

    param_groups: list[dict[str, Any]]

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class AdamW:
    """As `torch.optim.AdamW`, its groups and its state included; a step is one pass over the memory with the native
    back end.

    It does not inherit from torch's, whose first call imports torch.compile's front end: a second.
    """

    def __init__(
        self,
        params: Iterable[Mapping[str, Any]],
        backend: Backend,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        """params: groups, {"params": tensors} and options of their own; the others are those given here."""
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        self.param_groups = [{**defaults, **group, "params": list(group["params"])} for group in params]
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        self.backend = backend

    def zero_grad(self) -> None:
        for param in self._parameters():
            param.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self.state.setdefault(param, {})
                if not state:
                    state["step"] = torch.zeros(())
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(param), torch.zeros_like(param)
                state["step"] += 1
                self.backend.adamw_step(
                    param, param.grad, state["exp_avg"], state["exp_avg_sq"], int(state["step"]),
                    group["lr"], beta1, beta2, group["eps"], group["weight_decay"],
                )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """As torch's: the state of parameter 0, 1, ... over all groups, and the groups with these numbers."""
        number = {param: i for i, param in enumerate(self._parameters())}
        groups = [{**group, "params": [number[param] for param in group["params"]]} for group in self.param_groups]
        return {"state": {number[param]: state for param, state in self.state.items()}, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a copy of the state and the groups' options, torch's own or those of `state_dict`.

        Raises ValueError if they are of other groups.
        """
        saved = state_dict["param_groups"]
        if [len(group["params"]) for group in saved] != [len(group["params"]) for group in self.param_groups]:
            raise ValueError("this optimiser has other groups of parameters than the one that was saved")
        for group, options in zip(self.param_groups, saved, strict=True):
            group.update({name: value for name, value in options.items() if name in group and name != "params"})
        parameters = self._parameters()
        self.state = {
            parameters[number]: {
                # the step's number stays on the CPU
                name: value.clone() if value.dim() == 0 else torch.empty_like(parameters[number]).copy_(value)
                for name, value in state.items()
            }
            for number, state in state_dict["state"].items()
        }

    def _parameters(self) -> list[Tensor]:
        return [param for group in self.param_groups for param in group["params"]]
