"""How several processes come together; torch's own part is replaced."""

import pytest
import torch

from threedgen.config.runtime import DeviceName, RuntimeConfig
from threedgen.core.errors import ThreedgenError
from threedgen.runs import distributed


@pytest.fixture
def second_of_two(monkeypatch):
    """The second process on a machine with one GPU; the back ends that it joins by."""
    joined, placed = [], []
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", placed.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, timeout: joined.append(backend))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    yield joined
    assert not placed


def test_processes_on_the_cpu_need_no_gpus(second_of_two):
    with distributed.process_group(RuntimeConfig(device=DeviceName.cpu)):
        assert second_of_two == ["gloo"]


def test_one_without_a_gpu_says_so_itself(second_of_two, capsys):
    """The first process has one, and nothing to tell."""
    with pytest.raises(ThreedgenError), distributed.process_group(RuntimeConfig()):
        raise AssertionError("came in")
    error = capsys.readouterr().err
    assert error.startswith("error in process 1: process 1 finds no GPU of its own: this machine has 1;")
    assert second_of_two == []
