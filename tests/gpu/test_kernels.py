"""Every test of the emulated kernels once more, on the device."""

import importlib.util
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("torch sees no CUDA device", allow_module_level=True)

_path = Path(__file__).parents[1] / "ops" / "test_cuda_emulation.py"
_spec = importlib.util.spec_from_file_location("emulation_tests", _path)
_emulation = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_emulation)


def _takes_a_device(test):
    return "device" in test.__code__.co_varnames[: test.__code__.co_argcount]


globals().update({k: v for k, v in vars(_emulation).items() if k.startswith("test_") and _takes_a_device(v)})
