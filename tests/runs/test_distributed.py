"""Which group several processes join, and with which devices."""

import pytest
import torch

from threedgen.config.runtime import DeviceName, RuntimeConfig
from threedgen.core.errors import ThreedgenError
from threedgen.runs.distributed import process_group


def test_each_process_needs_a_gpu_of_its_own_unless_they_compute_on_cpus(monkeypatch):
    """The second of two processes on a machine with one GPU."""
    done = []
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", done.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, timeout: done.append(backend))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: done.append("left"))
    with (
        pytest.raises(ThreedgenError, match=r"process 1 finds no GPU of its own.* set runtime\.device=cpu"),
        process_group(RuntimeConfig()),
    ):
        pass
    assert not done
    with process_group(RuntimeConfig(device=DeviceName.cpu)):
        done.append("computing")
    assert done == ["gloo", "computing", "left"]
