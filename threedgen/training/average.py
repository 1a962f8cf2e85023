"""The moving average of a module that is trained."""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

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
