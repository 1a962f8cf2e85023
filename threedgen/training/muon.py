"""Muon (Jordan et al. 2024): of a matrix's averaged gradient only the directions count, not how strong each is."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from threedgen.runs.device import multiplies_bfloat16

_ITERATION = 3.4445, -4.7750, 2.0315  # of Newton-Schulz: a X + b (X X^T) X + c (X X^T)^2 X
_ITERATIONS = 5
_MOMENTUM = 0.95
_RMS = 0.2  # of an update's elements over the rate, about AdamW's, whose rates are then right here (Liu et al. 2025)
_NARROWEST = 16  # rows and columns of what counts as a matrix


class Muon(torch.optim.AdamW):
    """Muon for the matrices of a network, AdamW for all else, at one rate.

    Matrices are the weights of its linear layers and convolutions, [out, in * kh * kw], but for embeddings and for the
    first and the last layer. A matrix has one tensor of memory, where AdamW has two. Those of one shape are made
    orthogonal together, in bfloat16 but on a processor that would emulate it.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        """named: the parameters by name; betas: AdamW's; weight_decay: of both, times the rate."""
        named = list(named)
        super().__init__([parameter for _, parameter in named], lr, betas, weight_decay=weight_decay, fused=True)
        self._matrices: dict[tuple[int, int], list[nn.Parameter]] = {}
        for name, parameter in named:
            if _is_matrix(name, parameter):
                rows, columns = len(parameter), parameter[0].numel()
                self._matrices.setdefault((min(rows, columns), max(rows, columns)), []).append(parameter)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """As AdamW's; the gradients of matrices are gone afterwards."""
        group = self.param_groups[0]
        for shape, parameters in self._matrices.items():
            used = [parameter for parameter in parameters if parameter.grad is not None]
            if not used:
                continue
            ahead = torch.stack([_wide(self._ahead(parameter)) for parameter in used])
            size = group["lr"] * _RMS * max(shape) ** 0.5
            for parameter, update in zip(used, orthogonal(ahead), strict=True):
                is_tall = len(parameter) > parameter[0].numel()
                update = (update.T if is_tall else update).reshape(parameter.shape)
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-size)
                parameter.grad = None  # so that AdamW passes it over
        super().step()

    def _ahead(self, parameter: nn.Parameter) -> Tensor:
        """The average of its gradients, looked at one step ahead (Nesterov)."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())  # AdamW asks for it when a state is loaded
            state["momentum_buffer"] = torch.zeros_like(parameter)
        state["momentum_buffer"].lerp_(parameter.grad, 1 - _MOMENTUM)
        return parameter.grad.lerp(state["momentum_buffer"], _MOMENTUM)


def orthogonal(matrices: Tensor) -> Tensor:
    """About U V^T of matrices U S V^T, [N, rows, columns] of no more rows than columns: singular values 0.7 .. 1.2."""
    a, b, c = _ITERATION
    is_slow = matrices.device.type == "cpu" and not multiplies_bfloat16()
    x = matrices.float() if is_slow else matrices.bfloat16()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * (square @ square)) @ x
    return x.to(matrices.dtype)


def _wide(tensor: Tensor) -> Tensor:
    matrix = tensor.flatten(1)
    return matrix.T if len(matrix) > matrix.shape[1] else matrix


def _is_matrix(name: str, parameter: Tensor) -> bool:
    if parameter.ndim < 2 or any(word in name for word in ("embedding", "conv_in", "conv_out")):
        return False
    return min(len(parameter), parameter[0].numel()) >= _NARROWEST
