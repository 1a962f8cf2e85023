"""The loop that trains every network: from scratch, from a checkpoint on, alone or as one of several processes.

What is trained comes as a `Training`: an objective, its batches as a function of the step, an optimiser. The loop adds
what is the same for all: learning rate, accumulated parts, clipping, moving average, log, checkpoints, the end by steps
or by the clock. Scenes are not trained here: their step is one picture set, and their own housekeeping belongs to it
(`tasks/scene_optimizer.py`).
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from threedgen.runs.budget import Budget
from threedgen.runs.checkpoint import restore_training, save_training
from threedgen.runs.device import bfloat16_note
from threedgen.runs.distributed import barrier, rank, world_size
from threedgen.runs.stopping import stopping
from threedgen.training.average import MovingAverage
from threedgen.training.guard import NumberGuard
from threedgen.training.threads import Threads

B = TypeVar("B")
_B = TypeVar("_B", contravariant=True)
_MAX_NORM = 1.0  # of the gradient of all parameters together


class Losses(NamedTuple):
    """What an objective says of a batch. total: [], to be minimised; others: whatever its log is to be told."""

    total: Tensor
    others: Mapping[str, Tensor]


class Log(Protocol[_B]):
    """Told of every part and of every step; see `training/log.py`."""

    def add(self, batch: _B, losses: Losses) -> None: ...

    def step(self, done: int, loss: Tensor, grad_norm: Tensor, lr: float) -> None:
        """done: steps done so far; loss: this process's mean over the parts, [] like the gradient's norm."""

    def finish(self) -> None:
        """The last step was done."""


@dataclass(frozen=True)
class Pace:
    """How long and how fast. The learning rate warms up linearly over `warmup_steps`, stays at `lr`, and falls linearly
    to 1 % over the last `decay_fraction` of the training (0: it does not fall)."""

    steps: int
    lr: float
    minutes: float = 0.0  # of the clock after which it ends, if its steps were not done; 0: only steps count
    warmup_steps: int = 0
    decay_fraction: float = 0.0
    checkpoint_every: int = 500
    threads: int = 0  # of a step on a CPU; 0: as many as make it fastest


@dataclass(frozen=True)
class Training(Generic[B]):
    """What is trained.

    objective: batch -> losses; wrapped in `DistributedDataParallel` where several processes share a step.
    batches: those of the steps from a given one on, `parts` of each, in order.
    parameters: what the optimiser holds, in the order in which the gradient's norm is summed.
    saved: name -> tensor of a checkpoint, beside the optimiser's memory.
    info: what the tensors depend on and must still be so when training goes on.
    """

    objective: Callable[[B], Losses]
    batches: Callable[[int], Generator[B]]
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    saved: Mapping[str, Tensor]
    average: MovingAverage | None = None
    parts: int = 1
    bfloat16: bool = False  # the objective, not the weights
    info: Mapping[str, str] = field(default_factory=dict)


def states(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The tensors of modules by name: "unet" gives "unet.conv_in.weight", ..."""
    return {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}


def train(
    job: Training[B],
    pace: Pace,
    checkpoints: Path,
    log: Callable[[int], AbstractContextManager[Log[B]]],
    after: Callable[[int], None] = lambda done: None,
    shared: bool = True,
) -> None:
    """Train to the end, from the latest of `checkpoints` on if there is one: to the very weights of an unbroken run.

    log: made for the step that it begins at; after: called after every step with the number done so far, the
    checkpoint written; shared: all processes call this together, and the first one writes.
    """
    if job.bfloat16 and rank() == 0 and (note := bfloat16_note("train.precision", job.parameters[0].device)):
        print(f"{'note':10} {note}", flush=True)
    budget = Budget(pace.steps, pace.minutes, shared=shared)
    saved = {**job.saved, **states(budget.modules_to_save())}
    # a loss is its process's own, and all must do the same
    guard = NumberGuard(job.parameters, saved, "the task's lr", counts_loss=not shared or world_size() == 1)

    def restore() -> int:
        return restore_training(checkpoints, job.optimizer, saved, job.info)

    threads = Threads(checkpoints, pace.threads, job.parameters[0].device)
    with stopping(shared) as stop:
        for start in guard.attempts(restore, checkpoints):
            threads.resume(start)
            with guard, closing(job.batches(start)) as drawn, log(start) as told:
                for step in range(start, pace.steps):
                    remaining = budget.remaining(step)
                    if remaining <= 0:  # the clock's end, which no step knew of
                        guard.look(step, is_due=True)
                        break
                    with threads.step(step):
                        loss = _backward(job, drawn, told)
                        lr = learning_rate(step, remaining, pace.lr, pace.warmup_steps, pace.decay_fraction)
                        norm = apply_gradients(job.optimizer, job.parameters, lr, partial(guard.allows, step, loss))
                        if job.average is not None:
                            job.average.update(step)
                    told.step(step + 1, loss, norm, lr)
                    asked = stop.is_asked()
                    is_due = asked or (step + 1) % pace.checkpoint_every == 0
                    guard.look(step + 1, is_due or step + 1 == pace.steps)
                    if is_due and rank() == 0:
                        save_training(checkpoints, step + 1, job.optimizer, saved, job.info)
                    if asked:
                        if shared:
                            barrier()  # the others' end would be the end of the one that still writes
                        stop.leave()
                    after(step + 1)
                told.finish()


def _backward(job: Training[B], drawn: Generator[B], log: Log[B]) -> Tensor:
    """The gradient of a step's mean loss, all its parts together; returns that mean, []."""
    device = job.parameters[0].device
    mean = torch.zeros((), device=device)
    for number in range(1, job.parts + 1):
        batch = next(drawn)
        with nullcontext() if number == job.parts else _no_exchange(job.objective):
            with torch.autocast(device.type, torch.bfloat16, enabled=job.bfloat16):
                losses = job.objective(batch)
            loss = losses.total / job.parts
            loss.backward()
        mean += loss.detach()
        log.add(batch, losses)
    return mean


def _no_exchange(objective: object) -> AbstractContextManager[None]:
    """Keep gradients to this process: they are summed up first and exchanged with the step's last part."""
    return objective.no_sync() if isinstance(objective, DistributedDataParallel) else nullcontext()


def learning_rate(step: int, remaining: float, peak: float, warmup_steps: int, decay_fraction: float) -> float:
    """Linear warm-up, constant, then linear decay to 1 % over the last `decay_fraction` of the training; 0: none.

    remaining: the part of the training that is left, from 1 to 0.
    """
    warm = min(1.0, (step + 1) / max(1, warmup_steps))
    return peak * warm * (max(0.01, min(1.0, remaining / decay_fraction)) if decay_fraction else 1.0)


def apply_gradients(
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    lr: float,
    allows: Callable[[Tensor], bool],
) -> Tensor:
    """One update with the gradients that have come together, clipped and then dropped; their norm before, [].

    allows: whether the update may be made, by that norm.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if allows(norm):  # asked while the gradients are as they came
        clip_grads_with_norm_(parameters, _MAX_NORM, norm)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
