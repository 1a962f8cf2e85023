"""Every test of the emulated kernels once more, on the device."""

import importlib.util
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("torch sees no CUDA device", allow_module_level=True)


def _load(name):
    spec = importlib.util.spec_from_file_location(f"{name}_on_device", Path(__file__).parents[1] / "ops" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _takes_a_device(test):
    return "device" in test.__code__.co_varnames[: test.__code__.co_argcount]


for _name in ("test_cuda_emulation", "test_cuda_fused_field", "test_cuda_group_norm", "test_cuda_splats"):
    _tests = {k: v for k, v in vars(_load(_name)).items() if k.startswith("test_") and _takes_a_device(v)}
    assert not _tests.keys() & globals().keys()
    globals().update(_tests)
