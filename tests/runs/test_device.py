import pytest
import torch

from threedgen.config.runtime import DeviceName, RuntimeConfig
from threedgen.core.errors import ConfigError
from threedgen.runs.device import select_device


@pytest.mark.parametrize("there", [False, True])
def test_auto_takes_the_gpu_that_is_there_and_cpu_is_kept(monkeypatch, there):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert select_device(RuntimeConfig()).type == ("cuda" if there else "cpu")
    assert select_device(RuntimeConfig(device=DeviceName.cpu)).type == "cpu"


def test_a_gpu_that_is_not_there_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"^runtime\.device=cuda: torch .*; use runtime\.device=cpu") as error:
        select_device(RuntimeConfig(device=DeviceName.cuda))
    assert "\n" not in str(error.value)


def test_deterministic_is_told_to_torch_on_a_gpu_only(monkeypatch):
    told = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode, warn_only: told.append(mode))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    select_device(RuntimeConfig(device=DeviceName.cpu, deterministic=True))
    select_device(RuntimeConfig())
    assert told == []
    select_device(RuntimeConfig(deterministic=True))
    assert told == [True]
