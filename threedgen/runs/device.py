"""The device that a run computes on."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from threedgen.config.runtime import DeviceName, PriorPrecision, RuntimeConfig
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


def prior_dtype(precision: PriorPrecision, device: torch.device) -> torch.dtype:
    """What a prior that is not trained is held in on `device`."""
    match precision:
        case PriorPrecision.float32:
            return torch.float32
        case PriorPrecision.bfloat16:
            return torch.bfloat16
        case PriorPrecision.float16:
            return torch.float16
        case PriorPrecision.auto:
            return torch.float32 if device.type == "cpu" else torch.float16


def bfloat16_note(setting: str, device: torch.device) -> str:
    """What to say of `setting`=bfloat16 where it saves no time on `device`; empty if it may."""
    if device.type == "cpu" and not multiplies_bfloat16():
        return f"this processor has no instructions for bfloat16: {setting}=float32 is faster, and exact"
    return ""


def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for products of bfloat16; elsewhere they are emulated, and slow."""
    # older versions of torch do not say
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
