"""The compiled kernels: finding them, calling them, registering them with torch."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from threedgen.core import ahead
from threedgen.core.errors import ConfigError
from threedgen.ops.native import build

TORCH_LIBRARY = torch.library.Library("threedgen", "DEF")
_AVX2 = {"avx2", "fma", "f16c", "bmi2"}
# SIMD level -> what the processor must have; vectors of 512 bits with the first
_NEEDED = {"x86-64-v4": _AVX2 | {f"avx512{part}" for part in ("f", "bw", "cd", "dq", "vl")}, "x86-64-v3": _AVX2}
_SUFFIXES = {torch.float32: ("_f32", ctypes.c_float), torch.float64: ("_f64", ctypes.c_double)}


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None and why not: one that was installed and runs on this machine, or one compiled now."""
    for level in build.LEVELS:
        path = Path(__file__).parent / build.library_name(level)
        if path.is_file() and _runs_here(level):
            return ctypes.CDLL(str(path)), ""
    ahead.wait(ahead.KERNELS)
    try:
        return ctypes.CDLL(str(build.cached_cpu_library())), ""
    except (build.BuildError, OSError) as error:
        return None, str(error)


def _runs_here(level: str) -> bool:
    return _NEEDED.get(level, set()) <= set(build._cpu_model().split())


def why_not() -> str:
    """Why the CPU kernels cannot be used; empty if they can. The first call may compile them."""
    return _load()[1]


def call(name: str, dtype: torch.dtype, *arguments: Tensor | float | int | ctypes.Array | None) -> None:
    """Call the CPU kernel of this name for real numbers of `dtype` (float32 or float64).

    Tensors must be contiguous, on the CPU and of the size that the kernel expects. Raises ConfigError without the
    library and TypeError for another dtype.
    """
    library, reason = _load()
    if library is None:
        raise ConfigError(f"the native kernels are not available: {reason}")
    invoke(library, name, dtype, arguments, ctypes.c_int64(torch.get_num_threads()))


def invoke(
    library: ctypes.CDLL,
    name: str,
    dtype: torch.dtype,
    arguments: Sequence[Tensor | float | int | ctypes.Array | None],
    last: ctypes.c_int64 | ctypes.c_void_p,
) -> int:
    """Call a function of a library with tensors as pointers and numbers as the C interface has them."""
    if dtype not in _SUFFIXES:
        raise TypeError(f"{name}: {dtype} is not supported, only float32 and float64")
    suffix, real = _SUFFIXES[dtype]
    converted: list[Any] = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            assert argument.is_contiguous(), name
            converted.append(ctypes.c_void_p(argument.data_ptr()))
        elif isinstance(argument, float):
            converted.append(real(argument))
        else:
            converted.append(ctypes.c_int64(argument) if isinstance(argument, int) else argument)
    return getattr(library, name + suffix)(*converted, last)


def define(
    schema: str, cpu: Callable | None, fake: Callable, backward: Callable | None = None, setup: Callable | None = None
) -> None:
    """Register an op of torch.ops.threedgen: its CPU kernel if it has one, the shapes it returns, its derivative."""
    name = schema.partition("(")[0]
    TORCH_LIBRARY.define(schema)
    if cpu is not None:
        TORCH_LIBRARY.impl(name, cpu, "CPU")
    torch.library.register_fake(f"threedgen::{name}", fake, lib=TORCH_LIBRARY)
    if backward is not None:
        torch.library.register_autograd(f"threedgen::{name}", backward, setup_context=setup, lib=TORCH_LIBRARY)
