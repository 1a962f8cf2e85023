"""Several processes that carry out one run together, as torchrun starts them.

The first (rank 0) holds the run's folder and writes; the others compute their share. For a process alone everything
here does nothing, and torch is not imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from threedgen.config.runtime import RuntimeConfig
from threedgen.core.errors import ThreedgenError

if TYPE_CHECKING:
    import torch

_PATIENCE = timedelta(days=1)  # the others wait while the first draws pictures, which may take hours
_hosts: torch.distributed.ProcessGroup | None = None  # the processes without their GPUs; None: they use none


def world_size() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number, 0 the first."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


@contextmanager
def process_group(runtime: RuntimeConfig) -> Iterator[None]:
    """Join the other processes, unless that is done: NCCL and one GPU each, or gloo on CPUs.

    An error in a process that is not the first is told here, with its number; torchrun then ends the others.
    """
    if world_size() == 1:
        yield
        return
    import torch.distributed

    from threedgen.runs.device import select_device

    if torch.distributed.is_initialized():
        yield
        return
    global _hosts
    on_gpu = select_device(runtime).type == "cuda"
    if on_gpu:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise ThreedgenError(
                f"process {rank()} finds no GPU of its own: this machine has {torch.cuda.device_count()}; "
                "start as many processes (--nproc-per-node), or set runtime.device=cpu"
            )
        torch.cuda.set_device(local)
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    _hosts = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE) if on_gpu else None
    try:
        yield
    except ThreedgenError as error:
        if rank() > 0:
            print(f"error in process {rank()}: {error}", file=sys.stderr, flush=True)
        raise
    torch.distributed.destroy_process_group()


def barrier() -> None:
    """Wait until every process has come here."""
    if world_size() > 1:
        import torch.distributed

        torch.distributed.barrier()


@contextmanager
def first_process_first() -> Iterator[None]:
    """The first process goes through the block, then all others do: for what it leaves on disk for them."""
    if rank() > 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


def sum_over_processes(values: torch.Tensor) -> torch.Tensor:
    """The sum of every process's `values`, written into it; of those on a CPU no GPU is asked."""
    if world_size() > 1:
        import torch.distributed

        torch.distributed.all_reduce(values, group=_hosts if values.device.type == "cpu" else None)
    return values


def any_process(value: bool) -> bool:
    """Whether `value` is true in any of the processes, which wait for each other here; no GPU is waited for."""
    if world_size() == 1:
        return value
    import torch

    return bool(sum_over_processes(torch.tensor(int(value))))
