"""Operations on a radiance field on CUDA: in one kernel each way, or the kernels with cuBLAS's products between them.

The fused kernels (`is_fused` says when) read the table and multiply matrices in half precision, so that results differ
from `ops.plain` by about a thousandth of a feature; sums and gradients are float32.
Unlike `ops.plain.composed` nothing here waits for the GPU, so a step can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from threedgen.ops.native.cuda import aligned, call
from threedgen.ops.native.hash_grid import grid_arguments
from threedgen.ops.native.library import TORCH_LIBRARY
from threedgen.ops.native.memory import features_row, learns, new_gradients
from threedgen.ops.plain.composed import in_unit_cube, mlp
from threedgen.ops.types import Composite, FieldLayout, RaySamples

_CELLS_AT_ONCE = 1 << 19  # of the occupancy grid; bounds the memory
_LARGEST = ((32, 64), (48, 32))  # features and hidden numbers, as `with_sizes` in cuda_ext/cuda/field_network.h
# of a block's shared memory, for gradients of the coarsest levels: the first of the paper's grid fits exactly
GATHERED_BYTES = 32 << 10


def evaluate_field(
    table: Tensor, weights: Sequence[Tensor], layout: FieldLayout, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """As `ops.plain.evaluate_field`."""
    if is_fused(table, weights, layout, positions):
        field = table, list(weights), layout.grid.layout, layout.numbers
        density, rgb, _ = torch.ops.threedgen.evaluate_field(*field, positions, learns(table, weights))
        return density, rgb
    unit = in_unit_cube(positions, layout)
    features = torch.ops.threedgen.hash_grid_encode(unit, table, layout.grid.layout)
    return _activate(mlp(features, weights), unit, layout)


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
    call("tg_place_samples", table.dtype, len(positions), *rays, *of_samples, positions)
    density, rgb = evaluate_field(table, weights, layout, positions)
    op = torch.ops.threedgen.composite_reached
    return Composite(*op(density, rgb, samples.t_starts, samples.t_ends, samples.offsets, min_transmittance))


def field_with_normals(
    table: Tensor, weights: Sequence[Tensor], layout: FieldLayout, positions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As `ops.plain.field_with_normals`."""
    unit = in_unit_cube(positions, layout)
    needed = learns(table, weights)
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
        call("tg_cell_points", real, count, first, resolution, float(layout.radius), seed, points)
        density, _ = evaluate_field(table, weights, layout, points)
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


def is_fused(table: Tensor, weights: Sequence[Tensor], layout: FieldLayout, *points: Tensor) -> bool:
    """Whether the fused kernels compute this.

    They do on cards of compute capability 8.0 and up: everything in float32, features in levels of 2, 4 or 8, one
    hidden layer, at most 32 features with 64 hidden numbers or 48 with 32, no gradient asked for by where points are,
    and none that must have the same bits every time.
    """
    capable = table.device.type != "cuda" or torch.cuda.get_device_capability(table.device) >= (8, 0)
    grid, wanted = layout.grid, torch.is_grad_enabled() and any(x.requires_grad for x in points)
    sizes = grid.num_outputs, weights[0].shape[0]
    small = len(weights) == 2 and any(sizes[0] <= inputs and sizes[1] <= hidden for inputs, hidden in _LARGEST)
    exact = learns(table, weights) and torch.are_deterministic_algorithms_enabled()
    real = all(x.dtype == torch.float32 for x in (table, *weights, *points))
    return capable and small and grid.num_features in (2, 4, 8) and real and not wanted and not exact


def evaluate_field_cuda(table, weights, layout, numbers, positions, learn):
    n, new = positions.shape[0], table.new_empty
    density, rgb = new(n), new(n, 3)
    features = new(n if learn else 0, features_row(layout), dtype=torch.float16)
    halves = aligned(table.to(torch.float16)).view(torch.int32)
    call(
        "tg_evaluate_field", table.dtype, *grid_arguments(tuple(layout)), halves, len(weights[0]), _flat(weights),
        *map(float, numbers), n, positions.contiguous(), density, rgb, features.view(torch.int32) if learn else None,
    )  # fmt: skip
    return density, rgb, features


def evaluate_field_backward_cuda(table, weights, layout, numbers, *saved_and_grads):
    positions, density, rgb, features, *grads = (x.contiguous() for x in saved_and_grads)
    sums = new_gradients(table, weights)
    call(
        "tg_evaluate_field_backward", table.dtype, *grid_arguments(tuple(layout)), len(weights[0]), _flat(weights),
        float(numbers[0]), float(numbers[3]), len(positions), positions, density, rgb, features.view(torch.int32),
        *grads, GATHERED_BYTES, *sums,
    )  # fmt: skip
    return sums


def _flat(weights: Sequence[Tensor]) -> Tensor:
    return torch.cat([weight.reshape(-1) for weight in weights])


def _activate(raw: Tensor, unit: Tensor, layout: FieldLayout) -> tuple[Tensor, Tensor]:
    return torch.ops.threedgen.activate_field(
        raw, unit, layout.radius, layout.blob_density, layout.blob_radius, layout.density_scale
    )


# `ops.native.field` says what they are on a CPU, and how gradients go through them
KERNELS = {"evaluate_field": evaluate_field_cuda, "evaluate_field_backward": evaluate_field_backward_cuda}
for _name, _kernel in KERNELS.items():
    TORCH_LIBRARY.impl(_name, _kernel, "CUDA")
