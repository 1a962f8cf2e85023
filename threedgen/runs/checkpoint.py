"""Checkpoints from which a run goes on exactly as if it had never stopped.

A checkpoint is a folder `step-000500/` with `state.safetensors`, `info.json` and `manifest.json` (sha256 of both); it
appears under its name only when it is whole. Randomness is not stored: it is a function of (seed, step), see
`core/randomness.py`. Frozen networks do not belong in a checkpoint.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from threedgen.core.errors import ThreedgenError
from threedgen.core.files import atomic_folder, remove_temporaries, verify_folder
from threedgen.ops.optimizer import Optimizer

_NUM_KEPT = 2
_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Checkpoint:
    step: int  # steps done when it was saved
    tensors: dict[str, torch.Tensor]  # on the CPU
    info: dict[str, Any]  # what JSON can hold


def save_checkpoint(
    folder: str | Path, step: int, tensors: Mapping[str, torch.Tensor], info: Mapping[str, Any], keep: int = 0
) -> Path:
    """Write `folder/step-000500/` atomically and keep only it and the newest before it.

    Checkpoints of later steps are removed too: a run that is at `step` again found them damaged.

    Args:
        step: steps done so far.
        tensors: name -> tensor of any shape, dtype and device; names such as "scene.grid.table".
        info: small facts that JSON can hold.
        keep: an earlier step whose checkpoint is kept besides.
    """
    folder = Path(folder)
    path = folder / f"step-{step:06d}"
    with atomic_folder(path) as temporary:
        # clones: safetensors refuses tensors that share memory, such as tied weights or views
        plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(plain, temporary / "state.safetensors")
        (temporary / "info.json").write_text(json.dumps({"step": step, "info": dict(info)}, indent=2) + "\n", "utf-8")
    saved = saved_steps(folder)
    earlier = [old for old in saved if old < step]
    for old in saved:
        if old > step or (old in earlier[: -(_NUM_KEPT - 1)] and old != keep):
            shutil.rmtree(saved[old])
    return path


def load_latest_checkpoint(folder: str | Path) -> Checkpoint | None:
    """The newest whole checkpoint, or None where none was ever saved.

    A damaged one is passed over with a warning on stderr. What a killed writer left behind is removed.

    Raises:
        ThreedgenError: there are checkpoints, but every one of them is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return None
    remove_temporaries(folder)
    saved = saved_steps(folder)
    for step in sorted(saved, reverse=True):
        try:
            verify_folder(saved[step])
            tensors = load_file(saved[step] / "state.safetensors")
            info = json.loads((saved[step] / "info.json").read_text("utf-8"))["info"]
        except (ThreedgenError, OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            print(f"warning: checkpoint passed over: {error}", file=sys.stderr)
        else:
            return Checkpoint(step, tensors, info)
    if saved:
        raise ThreedgenError(f"no checkpoint in {folder} is whole; --fresh starts the run anew")
    return None


def has_checkpoint(folder: Path) -> bool:
    """Whether there is any, whole or not."""
    return folder.is_dir() and bool(saved_steps(folder))


def flatten_optimizer_state(optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's memory (for AdamW: step, exp_avg, exp_avg_sq) as {"optimizer.PARAMETER.NAME": tensor}.

    PARAMETER is the parameter's number over all groups. Learning rates are not in it: they come from the config.
    """
    flat: dict[str, torch.Tensor] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if not isinstance(value, torch.Tensor):
                raise TypeError(f"{type(optimizer).__name__} keeps {name} as {type(value).__name__}, not as a tensor")
            flat[f"optimizer.{index}.{name}"] = value
    return flat


def restore_optimizer_state(optimizer: Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Undo `flatten_optimizer_state`; names that do not start with "optimizer." are passed over.

    Raises:
        ThreedgenError: the tensors are of another set of parameters.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        prefix, _, rest = key.partition(".")
        if prefix != "optimizer":
            continue
        index, _, name = rest.partition(".")
        number = int(index)
        if number >= len(parameters) or (tensor.dim() > 0 and tensor.shape != parameters[number].shape):
            raise ThreedgenError(f"the checkpoint's {key} {list(tensor.shape)} fits no parameter of this optimiser")
        # the optimiser writes into it, and the fused one needs the parameter's order in memory
        like = parameters[number] if tensor.dim() > 0 else tensor
        state.setdefault(number, {})[name] = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_training(
    folder: Path,
    step: int,
    optimizer: Optimizer,
    tensors: Mapping[str, torch.Tensor],
    info: Mapping[str, str] = MappingProxyType({}),
    keep: int = 0,
) -> None:
    """`save_checkpoint` of tensors by name and their optimiser.

    info: what the tensors depend on and must still be so when they are restored.
    """
    save_checkpoint(folder, step, {**tensors, **flatten_optimizer_state(optimizer)}, info, keep)


def restore_training(
    folder: Path,
    optimizer: Optimizer,
    tensors: Mapping[str, torch.Tensor],
    info: Mapping[str, str] = MappingProxyType({}),
) -> int:
    """Fill the tensors with what `save_training` saved last, if anything, and return the step to go on from.

    Raises ThreedgenError if `info` is not what it was then, or the tensors are others.
    """
    checkpoint = load_latest_checkpoint(folder)
    if checkpoint is None:
        return 0
    if odd := [name for name, value in info.items() if checkpoint.info.get(name) != value]:
        raise ThreedgenError(
            f"{folder}: {odd[0]} changed since this was saved, so it cannot go on: --fresh begins anew"
        )
    saved = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.startswith("optimizer.")}
    if others := saved.keys() ^ tensors.keys() or {n for n in saved if saved[n].shape != tensors[n].shape}:
        raise ThreedgenError(f"{folder}: {min(others)} is not what it was, so this cannot go on: --fresh begins anew")
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(saved[name])
    restore_optimizer_state(optimizer, checkpoint.tensors)
    return checkpoint.step


def saved_steps(folder: Path) -> dict[int, Path]:
    """Step -> folder of every checkpoint, oldest first."""
    found = {int(match[1]): path for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))
