"""A frozen network's calls as CUDA graphs: recorded once, then launched as one, each way.

A graph repeats the same kernels at the same addresses. Of the 1,104 operations of a step of distillation at full size
975 are the two networks' (benchmarks/full_size_count.py).
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

_AGREES = 1e-2  # a recorded call with the call itself, relative: half precision, and sums in another order


class GraphedCalls:
    """Calls of a frozen network, of which those that are alike are recorded and repeated. Not for several threads.

    The second call with inputs of the same shapes is recorded and compared with the call itself, its gradient too;
    later ones are repeated. Where something cannot be recorded or does not agree, a warning says so once, and all calls
    are made as they are.
    """

    def __init__(self, kept: int) -> None:
        """kept: how many graphs at most, each with memory of its own; those of the last shapes."""
        self._kept = kept
        self._kinds: dict[Hashable, _Kind] = {}  # the last one used comes last
        self._gave_up = False

    def __call__(self, network: nn.Module, compute: Callable[..., Tensor], *inputs: Any) -> Tensor:
        """`compute(*inputs)` of tensors, numbers and None; for anything else there is no graph.

        It takes what it needs from its inputs and from the network's weights alone.
        What it gives is a tensor of its own, which later calls leave as it is. It can be differentiated once.
        """
        if self._gave_up or not all(map(_is_recordable, inputs)) or torch.is_autocast_enabled():
            return compute(*inputs)
        name = tuple(map(_alike, inputs))
        kind = self._kinds.pop(name, None)
        if kind is None or kind.addresses != _addresses(kind.weights):
            kind = _Kind(network)
            self._kinds = dict([*self._kinds.items(), (name, kind)][-self._kept :])
            return compute(*inputs)
        self._kinds[name] = kind
        if kind.learns or kind.is_waiting():
            return compute(*inputs)
        if kind.graph is None and (problem := kind.record(compute, inputs)):
            self._kinds, self._gave_up = {}, True
            print(f"warning: without CUDA graphs, which takes longer: {problem}", file=sys.stderr, flush=True)
            return compute(*inputs)
        return kind.repeat(inputs)


class _Kind:
    """Calls that are alike: what they have in common."""

    def __init__(self, network: nn.Module) -> None:
        self.weights = list(network.parameters())
        self.addresses = _addresses(self.weights)
        self.learns = any(weight.requires_grad for weight in self.weights)
        self.graph: Callable[..., Tensor] | None = None
        self._turn: Callable[[], _Turn | None] = lambda: None

    def is_waiting(self) -> bool:
        """Whether a backward pass is still to come, which reads what the last forward pass left."""
        return self._turn() is not None

    def record(self, compute: Callable[..., Tensor], inputs: Sequence[Any]) -> str:
        """Make the graph; returns what speaks against it."""
        tensors = _tensors(inputs)

        def of_tensors(*given: Tensor) -> Tensor:
            those = iter(given)
            return compute(*(next(those) if isinstance(x, Tensor) else x for x in inputs))

        expected = compute(*inputs)
        learning = [x for x in tensors if x.requires_grad] if expected.requires_grad else []
        direction = torch.randn_like(expected)

        def with_gradients(result: Tensor) -> list[Tensor]:
            return [result.detach(), *(torch.autograd.grad(result, learning, direction) if learning else ())]

        wanted = with_gradients(expected)
        del expected
        samples = tuple(x.detach().clone().requires_grad_(x.requires_grad) for x in tensors)
        try:
            self.graph = cast(Callable[..., Tensor], torch.cuda.make_graphed_callables(of_tensors, samples))
            found = with_gradients(self.repeat(inputs))
        except RuntimeError as error:  # CUDA's, and that there is too little memory
            return str(error).splitlines()[0]
        if all(
            (one - other).float().norm() <= _AGREES * other.float().norm()
            for one, other in zip(found, wanted, strict=True)
        ):
            return ""
        return "a recorded call does not give what the call gives"

    def repeat(self, inputs: Sequence[Any]) -> Tensor:
        assert self.graph is not None
        turn = _Turn()
        result = _Once.apply(self.graph(*_tensors(inputs)), turn)
        self._turn = weakref.ref(turn)
        return result


class _Turn:
    """From a recorded forward pass to its backward pass, or until its result is forgotten."""


class _Once(torch.autograd.Function):
    """A graph's result as a tensor of its own, which holds the turn for as long as it can be differentiated."""

    @staticmethod
    def forward(ctx: Any, result: Tensor, turn: _Turn) -> Tensor:
        ctx.turn = turn
        return result.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if ctx.turn is None:
            raise RuntimeError("what a CUDA graph gave can be differentiated once: set the prior's `replays` to False")
        ctx.turn = None
        return grad, None


def is_on_gpu(tensor: Tensor) -> bool:
    return tensor.is_cuda


def _is_recordable(given: Any) -> bool:
    return is_on_gpu(given) if isinstance(given, Tensor) else given is None or isinstance(given, int)


def _alike(given: Any) -> Hashable:
    if not isinstance(given, Tensor):
        return cast(Hashable, given)
    return given.shape, given.stride(), given.dtype, given.device, given.requires_grad and torch.is_grad_enabled()


def _tensors(inputs: Sequence[Any]) -> list[Tensor]:
    return [given for given in inputs if isinstance(given, Tensor)]


def _addresses(weights: list[nn.Parameter]) -> list[int]:
    return [weight.data_ptr() for weight in weights]
