"""Which implementation of the ops a scene uses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any

import torch

from threedgen.config.schema import BackendName
from threedgen.core.errors import ConfigError
from threedgen.ops import native, reference


@dataclass(frozen=True)
class Backend:
    """The ops that a scene is optimised and rendered with; see `ops.reference` for each."""

    name: str
    march: Callable[..., Any]
    ray_jitter: Callable[..., Any]
    composite: Callable[..., Any]
    evaluate_field: Callable[..., Any]
    render_field: Callable[..., Any]
    field_with_normals: Callable[..., Any]
    refresh_occupancy: Callable[..., Any]
    adamw_step: Callable[..., None]
    march_within: Callable[..., Any] | None  # where marching need not wait for a GPU, see `ops.sample_room`

    @staticmethod
    def of(name: str, module: ModuleType, march_within: Callable[..., Any] | None = None) -> Backend:
        names = [f.name for f in fields(Backend) if f.name not in ("name", "march_within")]
        return Backend(name, march_within=march_within, **{op: getattr(module, op) for op in names})


def select_backend(name: BackendName, device: torch.device | str = "cpu") -> Backend:
    """The back end of this name for scenes on this device.

    `auto` is the native one, or, with a note on standard error, the reference where it cannot be compiled. Raises
    ConfigError for one that was asked for and cannot be used here; the message says why.
    """
    device = torch.device(device)
    match name:
        case BackendName.reference:
            return Backend.of("reference", reference)
        case BackendName.auto | BackendName.native:
            if native.available(device):
                return Backend.of("native", native, native.march_within if device.type == "cuda" else None)
            if name is BackendName.native:
                raise ConfigError(f"scene.backend=native is not available: {native.why_not(device)}")
            print(f"note: rendering in plain torch, several times slower: {native.why_not(device)}", file=sys.stderr)
            return Backend.of("reference", reference)
        case BackendName.nerfacc:
            from threedgen.ops import nerfacc_backend

            nerfacc_backend.require()
            return Backend.of("nerfacc", nerfacc_backend)
        case BackendName.tinycudann:
            from threedgen.ops import tinycudann_backend

            tinycudann_backend.require()
            return Backend.of("tinycudann", tinycudann_backend)
