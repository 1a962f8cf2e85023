"""What watches an optimisation while it runs: numbers that are none, scenes that are gone or have filled up.

A step whose loss or gradient is not finite is not taken. When that happens over and over, or a parameter is not finite,
the optimisation goes back to its last checkpoint, once: what was a fault of the machine does not come again. What does
come again ends it with `DivergedError`.

On a CPU every step is looked at before it is taken. On a GPU that would make every step wait, so the numbers are
gathered there and looked at when they are read anyway. Every step is looked at before the first checkpoint, when
nothing could undo it (a scene's is therefore written after its first step), and after a rollback, until the fault is
passed.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from threedgen.core.errors import DivergedError
from threedgen.runs.checkpoint import has_checkpoint
from threedgen.runs.progress import REPORT_EVERY

_BAD_IN_A_ROW = 5  # steps that are left out before the state itself is held for the fault
_ADVICE = "start again with smaller learning rates ({}) or another seed=N"
_JUDGED_FROM = 0.2  # of a span: scenes may begin as thin fog, or full
_PATIENCE = 5  # reports in a row that say so, before a scene counts as gone or full
_HALF, _OPAQUE = 0.5, 0.99  # export finds no surface where nothing is half opaque


class NotFinite(Exception):
    """The state, or too many steps from it, is not finite: it is to be taken from the last checkpoint."""


class NumberGuard:
    """Watches loss, gradients and parameters.

    Example:
        for start in guard.attempts(restore, checkpoints):
            with guard:
                for step in range(start, steps):
                    loss.backward()
                    if guard.allows(step, loss):
                        optimizer.step()
                    guard.look(step + 1, is_due=False)
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        saved: Mapping[str, Tensor],
        rates: str,
        counts_loss: bool = True,
        tell: Callable[[str], None] = lambda text: print(f"warning: {text}", file=sys.stderr, flush=True),
    ) -> None:
        """saved: tensors by name, among them the parameters; rates: the settings that are to be made smaller.

        counts_loss: a loss that is not finite is a fault though its gradient is; it must be the same in all processes.
        """
        by_place = {tensor.data_ptr(): name for name, tensor in saved.items()}
        self._parameters = [(by_place.get(p.data_ptr(), f"number {i}"), p) for i, p in enumerate(parameters)]
        self._counts_loss, self._tell, self._advice = counts_loss, tell, _ADVICE.format(rates)
        self._looks_always = all(p.device.type == "cpu" for p in parameters)
        self._fault: Tensor | None = None  # [], of the steps since it was last looked: not finite if one of them was
        self._bad = 0  # steps in a row
        self._step = 0  # that was last looked at, counted from 1
        self._rolled_back_at = 0  # the step at which that became necessary; those up to it are looked at one by one
        self._problem: NotFinite | None = None
        self._is_kept = False  # a state to go back to

    @property
    def wants_checkpoint(self) -> bool:
        """Whether one would spare steps: each is looked at until there is a state to go back to, where that is dear."""
        return not self._looks_always and not self._is_kept

    def allows(self, step: int, loss: Tensor, norm: Tensor | None = None) -> bool:
        """Whether the step may be taken. loss: []; norm: [], of all gradients, if it is known. Raises NotFinite."""
        self._step = step + 1
        found = total([p.grad for _, p in self._parameters if p.grad is not None]) if norm is None else norm.detach()
        if self._counts_loss:
            found = found + 0.0 * loss.detach()
        if not self._looks_always and self._is_kept and self._step > self._rolled_back_at:
            # 0 * x is 0, or nan for what is not finite: the host needs not know which
            self._fault = 0.0 * found if self._fault is None else self._fault + 0.0 * found
            return True
        if torch.isfinite(found):
            self._bad = 0
            return True
        self._bad += 1
        what = self._named(loss)
        if self._bad >= _BAD_IN_A_ROW:
            raise NotFinite(f"step {step + 1}: {what}, as in the {_BAD_IN_A_ROW - 1} steps before")
        self._tell(f"step {step + 1} is left out: {what}")
        return False

    def look(self, done: int, is_due: bool) -> None:
        """Look at what was gathered and at the parameters every few steps and when due: then a checkpoint follows.

        Raises NotFinite.
        """
        if not is_due and done % REPORT_EVERY:
            return
        self._step = done
        fault, self._fault = self._fault, None
        state = total([p.detach() for _, p in self._parameters])
        if torch.isfinite(state if fault is None else state + fault):
            self._is_kept |= is_due
            return
        names = [name for name, parameter in self._parameters if not torch.isfinite(parameter).all()]
        what = f"the parameter {names[0]} is not finite" if names else "a loss or gradient was not finite"
        raise NotFinite(f"step {done}: {what}")

    def attempts(self, restore: Callable[[], int], checkpoints: Path) -> Iterator[int]:
        """The step to go on from, as `restore` gives it; once more after each rollback to the latest of `checkpoints`.

        What is done with it stands in a `with guard:`. Raises DivergedError where there is nothing to go back to, or
        where going back has not helped.
        """
        while True:
            self._problem, self._is_kept = None, has_checkpoint(checkpoints)
            yield restore()
            if self._problem is None:
                return
            found = has_checkpoint(checkpoints)
            if not found or self._step <= self._rolled_back_at:
                again = " again" if found else ""
                raise DivergedError(f"the optimisation has diverged{again} at {self._problem}: {self._advice}")
            self._tell(f"{self._problem}; back to the last checkpoint")
            self._rolled_back_at = self._step
            self._bad, self._fault = 0, None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._problem = error if isinstance(error, NotFinite) else None
        return self._problem is not None

    def _named(self, loss: Tensor) -> str:
        if not torch.isfinite(loss):
            return f"the loss is {loss.item()}"
        bad = [name for name, p in self._parameters if p.grad is not None and not torch.isfinite(p.grad).all()]
        return f"the gradient of {bad[0]} is not finite" if bad else "the gradient's norm is not finite"


class SceneGuard:
    """Watches whether there is a scene at all, by the opacity of what is rendered for the steps that are reported."""

    def __init__(self) -> None:
        self._gone = self._full = 0

    def look(self, fraction: float, lowest: float, highest: float) -> None:
        """Take a step's picture; raises DivergedError when several in a row say the same.

        fraction: of the steps that are done; lowest: smallest opacity of a pixel in which nothing is known to be (0:
        nothing is known of any); highest: largest opacity of any pixel.
        """
        if fraction < _JUDGED_FROM:
            return
        self._gone = self._gone + 1 if highest < _HALF else 0
        self._full = self._full + 1 if lowest > _OPAQUE else 0
        if self._gone >= _PATIENCE:
            raise DivergedError(
                f"the scene has vanished: nothing in it is more than {highest:.2g} opaque. Start again with a smaller "
                "regularizer.sparsity, with smaller learning rates (optimizer.grid_lr, optimizer.network_lr) or "
                "another seed=N"
            )
        if self._full >= _PATIENCE:
            raise DivergedError(
                f"the scene has filled up: every pixel of its pictures is at least {lowest:.2g} opaque. Start again "
                "with a larger regularizer.sparsity, with a lower scene.blob_density or another seed=N"
            )


def total(tensors: Sequence[Tensor]) -> Tensor:
    """[], the sum of all elements of the tensors (at least one, of any shapes): not finite if one of these is not.

    Also if finite ones come to more than 3e38 together. Many times faster on a CPU than asking for each of them.
    """
    return torch.stack([tensor.sum(dtype=torch.float32) for tensor in tensors]).sum()
