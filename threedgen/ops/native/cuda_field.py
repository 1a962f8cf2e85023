"""Operations on a radiance field on CUDA: the kernels with cuBLAS's matrix products between them.

Unlike `ops.plain.composed` nothing here waits for the GPU, so a step can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from threedgen.ops.native.cuda import call
from threedgen.ops.plain.composed import mlp
from threedgen.ops.types import Composite, FieldLayout, RaySamples

_CELLS_AT_ONCE = 1 << 19  # of the occupancy grid; bounds the memory


def evaluate_field(
    table: Tensor, weights: Sequence[Tensor], layout: FieldLayout, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """As `ops.plain.evaluate_field`."""
    return _evaluate(table, weights, layout, _in_unit_cube(positions, layout))


def render_field(
    table: Tensor,
    weights: Sequence[Tensor],
    layout: FieldLayout,
    origins: Tensor,
    directions: Tensor,
    samples: RaySamples,
    min_transmittance: float = 0.0,
) -> Composite:
    """As `ops.plain.render_field`. Samples that little light reaches are evaluated and then left out: to leave them
    out earlier would mean to wait for the GPU's answer how many there are."""
    positions = torch.empty(len(samples.t_starts), 3, dtype=table.dtype, device=table.device)
    rays = origins.contiguous(), directions.contiguous()
    of_samples = [x.contiguous() for x in (samples.ray_indices, samples.t_starts, samples.t_ends)]
    call("tg_place_samples", table.dtype, len(positions), *rays, *of_samples, float(layout.radius), positions)
    density, rgb = _evaluate(table, weights, layout, positions)
    op = torch.ops.threedgen.composite_reached
    return Composite(*op(density, rgb, samples.t_starts, samples.t_ends, samples.offsets, min_transmittance))


def field_with_normals(
    table: Tensor, weights: Sequence[Tensor], layout: FieldLayout, positions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As `ops.plain.field_with_normals`."""
    unit = _in_unit_cube(positions, layout)
    needed = torch.is_grad_enabled() and any(x.requires_grad for x in (table, *weights))
    with torch.enable_grad():
        features = torch.ops.threedgen.hash_grid_encode(unit, table, layout.grid.layout)
        if not features.requires_grad:
            features.requires_grad_()
        raw = mlp(features, weights)
        (by_features,) = torch.autograd.grad(raw[:, 0].sum(), features, create_graph=needed, retain_graph=True)
    with torch.set_grad_enabled(needed):
        by_unit = torch.ops.threedgen.hash_grid_grad_positions(by_features, unit, table, layout.grid.layout)
        tiny = torch.finfo(positions.dtype).tiny
        outward = positions / positions.norm(dim=-1, keepdim=True).clamp(min=tiny)
        gradient = by_unit / (2.0 * layout.radius) - outward * (layout.blob_density / layout.blob_radius)
        normals = -torch.nn.functional.normalize(gradient, dim=-1, eps=tiny)
        density, rgb = _activate(raw, unit, layout)
    return (density, rgb, normals) if needed else (density.detach(), rgb.detach(), normals.detach())


@torch.no_grad()
def refresh_occupancy(
    table: Tensor,
    weights: Sequence[Tensor],
    layout: FieldLayout,
    opacity: Tensor,
    occupied: Tensor,
    seed: int,
    decay: float,
    all_cells: bool,
) -> Tensor:
    """As `ops.plain.refresh_occupancy`. Every cell is evaluated; those that are not looked at keep their value."""
    resolution, real = opacity.shape[0], opacity.dtype
    opacity, occupied = opacity.contiguous(), occupied.contiguous()
    refreshed = torch.empty_like(opacity)
    for first in range(0, resolution**3, _CELLS_AT_ONCE):
        count = min(_CELLS_AT_ONCE, resolution**3 - first)
        points = opacity.new_empty(count, 3)
        call("tg_cell_points", real, count, first, resolution, seed, points)
        density, _ = _evaluate(table, weights, layout, points)
        call(
            "tg_update_cells", real, count, first, seed, float(decay), int(all_cells), 2.0 * layout.radius / resolution,
            occupied, density, opacity, refreshed,
        )  # fmt: skip
    return refreshed


def ray_jitter(seed: int, num_rays: int, device: torch.device | str = "cuda") -> Tensor:
    """As `ops.plain.ray_jitter`."""
    jitter = torch.empty(num_rays, device=device)
    call("tg_ray_jitter", torch.float32, num_rays, seed, jitter)
    return jitter


def _evaluate(table: Tensor, weights: Sequence[Tensor], layout: FieldLayout, unit: Tensor) -> tuple[Tensor, Tensor]:
    """Positions [N, 3] in the unit cube -> density [N], rgb [N, 3]."""
    features = torch.ops.threedgen.hash_grid_encode(unit, table, layout.grid.layout)
    return _activate(mlp(features, weights), unit, layout)


def _activate(raw: Tensor, unit: Tensor, layout: FieldLayout) -> tuple[Tensor, Tensor]:
    return torch.ops.threedgen.activate_field(
        raw, unit, layout.radius, layout.blob_density, layout.blob_radius, layout.density_scale
    )


def _in_unit_cube(positions: Tensor, layout: FieldLayout) -> Tensor:
    return (positions + layout.radius) / (2.0 * layout.radius)
