"""The device that a run computes on."""

from __future__ import annotations

import os

import torch

from threedgen.config.runtime import DeviceName, RuntimeConfig
from threedgen.core.errors import ConfigError


def select_device(config: RuntimeConfig) -> torch.device:
    """The device of the config, with torch told whether it must be deterministic there.

    Raises ConfigError where cuda is asked for and torch cannot use one.
    """
    if config.device is DeviceName.cuda and not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"torch {torch.__version__} finds no GPU" if built else f"torch {torch.__version__} is built without CUDA"
        raise ConfigError(f"runtime.device=cuda: {why}; use runtime.device=cpu, or install what is missing")
    use_cuda = config.device is not DeviceName.cpu and torch.cuda.is_available()
    if use_cuda and config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is not deterministic without
        torch.use_deterministic_algorithms(True, warn_only=True)  # what has no such way is named once
    return torch.device("cuda" if use_cuda else "cpu")
