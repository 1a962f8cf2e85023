"""Which implementation of the ops a scene uses."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from threedgen.config.scene import BackendName
from threedgen.core.errors import ConfigError
from threedgen.ops import native, plain
from threedgen.ops.sample_room import MarchWithin
from threedgen.ops.splats import SplatImages
from threedgen.ops.types import Composite, FieldLayout, RaySamples


class Ops(Protocol):
    """The ops that a scene is optimised and rendered with; see `ops.plain` for each. A module of them is one."""

    def march(
        self,
        origins: Tensor,
        directions: Tensor,
        occupancy: Tensor,
        radius: float,
        step_size: float,
        jitter: Tensor | None = None,
    ) -> RaySamples: ...

    def ray_jitter(self, seed: int, num_rays: int, device: torch.device | str = "cpu") -> Tensor: ...

    def composite(
        self, density: Tensor, rgb: Tensor, t_starts: Tensor, t_ends: Tensor, ray_indices: Tensor, offsets: Tensor
    ) -> Composite: ...

    def evaluate_field(
        self, table: Tensor, weights: Sequence[Tensor], layout: FieldLayout, positions: Tensor
    ) -> tuple[Tensor, Tensor]: ...

    def render_field(
        self,
        table: Tensor,
        weights: Sequence[Tensor],
        layout: FieldLayout,
        origins: Tensor,
        directions: Tensor,
        samples: RaySamples,
        min_transmittance: float = 0.0,
    ) -> Composite: ...

    def field_with_normals(
        self, table: Tensor, weights: Sequence[Tensor], layout: FieldLayout, positions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]: ...

    def refresh_occupancy(
        self,
        table: Tensor,
        weights: Sequence[Tensor],
        layout: FieldLayout,
        opacity: Tensor,
        occupied: Tensor,
        seed: int,
        decay: float,
        all_cells: bool,
    ) -> Tensor: ...

    def adamw_step(
        self,
        param: Tensor,
        grad: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        step: int,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
    ) -> None: ...

    def splat(
        self,
        means: Tensor,
        quaternions: Tensor,
        scales: Tensor,
        opacities: Tensor,
        colors: Tensor,
        camera_to_world: Tensor,
        fov_y: Tensor,
        height: int,
        width: int,
    ) -> SplatImages: ...

    def sum_gaussians(
        self, positions: Tensor, gaussians: Tensor, members: Tensor, first: Tensor, last: Tensor, reach: float
    ) -> Tensor: ...


class Backend(Ops, Protocol):
    """The ops that were chosen for a device."""

    @property
    def name(self) -> str: ...

    @property
    def march_within(self) -> MarchWithin | None:
        """Where marching need not wait for a GPU, see `ops.sample_room`."""
        ...


@dataclass(frozen=True)
class _Chosen:
    """A back end whose ops come from several places. `Ops` states their types, and `_chosen` is given one."""

    name: str
    march: Callable[..., Any]
    ray_jitter: Callable[..., Any]
    composite: Callable[..., Any]
    evaluate_field: Callable[..., Any]
    render_field: Callable[..., Any]
    field_with_normals: Callable[..., Any]
    refresh_occupancy: Callable[..., Any]
    adamw_step: Callable[..., Any]
    splat: Callable[..., Any]
    sum_gaussians: Callable[..., Any]
    march_within: MarchWithin | None = None


def _chosen(name: str, ops: Ops) -> _Chosen:
    names = {field.name for field in fields(_Chosen)} - {"name", "march_within"}
    return _Chosen(name, **{op: getattr(ops, op) for op in names})


def select_backend(name: BackendName, device: torch.device | str = "cpu") -> Backend:
    """The back end of this name for scenes on this device.

    `auto` is the native one, or, with a note on standard error, the plain one where it cannot be compiled. Raises
    ConfigError for one that was asked for and cannot be used here; the message says why.
    """
    device = torch.device(device)
    match name:
        case BackendName.plain | BackendName.reference:  # one member, which mypy counts as two
            return _chosen("plain", plain)
        case BackendName.auto | BackendName.native:
            if native.available(device):
                return _native(device)
            if name is BackendName.native:
                raise ConfigError(f"scene.backend=native is not available: {native.why_not(device)}")
            print(f"note: rendering in plain torch, several times slower: {native.why_not(device)}", file=sys.stderr)
            return _chosen("plain", plain)
        case BackendName.nerfacc:
            from threedgen.ops import nerfacc_backend

            nerfacc_backend.require()
            return _chosen("nerfacc", nerfacc_backend)
        case BackendName.tinycudann:
            from threedgen.ops import tinycudann_backend

            tinycudann_backend.require()
            return _chosen("tinycudann", tinycudann_backend)
        case BackendName.gsplat:
            from threedgen.ops import gsplat_backend

            gsplat_backend.require()
            if device.type != "cuda":
                raise ConfigError("scene.backend=gsplat needs a CUDA device; use scene.backend=native")
            others = _native(device) if native.available(device) else _chosen("plain", plain)
            return replace(others, name="gsplat", splat=gsplat_backend.splat)


def _native(device: torch.device) -> _Chosen:
    chosen = _chosen("native", native)
    return replace(chosen, march_within=native.march_within) if device.type == "cuda" else chosen
