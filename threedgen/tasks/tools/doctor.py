"""`launch.py doctor`: what this machine can run, and why it cannot run the rest."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

import threedgen
from threedgen.config.load import all_recipes, load_config
from threedgen.config.scene import BackendName
from threedgen.config.schema import DRAWING
from threedgen.core.arguments import ArgumentParser, program
from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.diffusion.checkpoints.locate import locate_weights
from threedgen.ops.backends import select_backend
from threedgen.runs.device import multiplies_bfloat16

GIB = 2**30
# what a step of the full-size recipes needs on a GPU, with weights in half precision. Counted, not measured, are 5.4
# (benchmarks/full_size_count.py), and libraries and the driver come on top. Without the fused kernels of the field
# 18.4 were measured, and with parts of a step computed again 11 are estimated
FULL_SIZE_GIB, UNFUSED_GIB = 7, 11
_FUSED_FROM = 8  # the first number of the compute capability


def main(arguments: Sequence[str]) -> int:
    """Print one line per thing looked at; always 0, for a machine that cannot do everything is not ill."""
    about = "What this machine can run, and why it cannot run the rest."
    ArgumentParser(prog=f"{program()} doctor", description=about).parse_args(arguments)
    for line in [*_machine(), *_backends(), *_recipes()]:
        print(line)
    return 0


def _machine() -> list[str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    lines = [
        f"threedgen  {threedgen.__version__}, Python {platform.python_version()}, torch {torch.__version__}",
        f"processor  {torch.get_num_threads()} threads, {memory:.0f} GiB of memory"
        + (", bfloat16 in hardware" if multiplies_bfloat16() else ""),
    ]
    if not torch.cuda.is_available():
        why = "torch finds none" if torch.version.cuda else "torch is built without CUDA"
        return [*lines, f"GPU        no: {why}"]
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        lines.append(f"GPU        {card.name}, {card.total_memory / GIB:.0f} GiB")
    return lines


def _backends() -> list[str]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return [
        _line("backend", f"{name.value} on {device}", partial(select_backend, name, device))
        for name in BackendName
        if name is not BackendName.auto
    ]


def _recipes() -> list[str]:
    lines = []
    for path in all_recipes().values():
        try:
            config = load_config(path)
        except ConfigError as error:
            lines.append(_no("recipe", path.name, error))
            continue
        if config.task in DRAWING:
            lines.append(_line("recipe", path.name, partial(_check_weights, config.weights)))
    return lines


def _check_weights(weights: str) -> None:
    """Raise if the weights are not there, or if they are full-size ones and no GPU could hold a step with them."""
    folder = locate_weights(weights)
    size = sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors")) / GIB
    if size < 1:
        return
    if not torch.cuda.is_available():
        raise ConfigError("the weights are there, but without a GPU a step takes minutes")
    cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    largest = max(cards, key=lambda card: card.total_memory)
    needed = FULL_SIZE_GIB if largest.major >= _FUSED_FROM else UNFUSED_GIB
    if largest.total_memory < needed * GIB:
        raise ConfigError(f"the GPU has {largest.total_memory / GIB:.1f} GiB, about {needed} are needed")


def _line(kind: str, name: str, check: Callable[[], object]) -> str:
    try:
        check()
    except ThreedgenError as error:
        return _no(kind, name, error)
    return f"{kind:10} {name}: yes"


def _no(kind: str, name: str, why: ThreedgenError) -> str:
    return f"{kind:10} {name}: no: {why}"
