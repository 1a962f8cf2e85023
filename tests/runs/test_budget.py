"""How long several processes go on, by the first one's clock."""

import pytest
import torch

from threedgen.runs import distributed
from threedgen.runs.budget import Budget


@pytest.mark.parametrize(("rank", "seen"), [(0, 0.75), (1, 0.0)])
def test_the_clock_is_shared_without_the_gpus(monkeypatch, rank, seen):
    """NCCL takes no tensor of a CPU, so that what is shared there goes through the processes' own group."""
    hosts, asked = object(), []

    def all_reduce(values, group=None):
        if values.device.type == "cpu" and group is not hosts:
            raise RuntimeError("No backend type associated with device type cpu")
        asked.append(values.item())

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setattr(distributed, "_hosts", hosts)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    now = iter([100.0, 130.0])
    budget = Budget(1000, minutes=2.0, clock=lambda: next(now))
    budget.remaining(0)
    budget.remaining(1)
    assert asked == [float(rank == 0), seen]
    assert distributed.any_process(True) and not distributed.any_process(False)
