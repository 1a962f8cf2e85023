from pathlib import Path

import pytest
import torch

from threedgen.config.runtime import DeviceName, PriorPrecision, RuntimeConfig
from threedgen.core.errors import ConfigError
from threedgen.runs.device import bfloat16_note, multiplies_bfloat16, prior_dtype, select_device


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


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({}, True),
        ({"avx512_f": True, "avx512_bf16": False}, True),  # there it is emulated
        ({"avx512_bf16": True}, False),
        ({"amx_bf16": True}, False),
    ],
)
def test_a_precision_that_the_processor_emulates_is_told(flags, said, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert ("no instructions for bfloat16: x=float32 is faster" in bfloat16_note("x", cpu)) == said
    assert not bfloat16_note("x", cuda)


def test_a_prior_is_exact_on_a_cpu_and_in_half_precision_on_a_gpu_unless_the_config_says_so():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert prior_dtype(PriorPrecision.auto, cpu) is torch.float32
    assert prior_dtype(PriorPrecision.auto, cuda) is torch.float16
    for name in ("float32", "bfloat16", "float16"):
        for device in (cpu, cuda):
            assert prior_dtype(PriorPrecision[name], device) is getattr(torch, name)


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="the kernel does not list the processor's instructions")
def test_the_processor_has_what_the_kernel_says():
    words = set(Path("/proc/cpuinfo").read_text().split())
    assert multiplies_bfloat16() == bool({"avx512_bf16", "amx_bf16"} & words)
