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


_CUDA = [f"test_cuda_{name}" for name in ("emulation", "fused_field", "group_norm", "splats")]
for _name in (*_CUDA, "test_gaussian_field"):
    _tests = {k: v for k, v in vars(_load(_name)).items() if k.startswith("test_") and _takes_a_device(v)}
    assert not _tests.keys() & globals().keys()
    globals().update(_tests)
