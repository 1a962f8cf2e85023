"""Operations on a radiance field by the fused kernels: hash grid, network and compositing tile by tile.

The kernels compute in float32 and round the hash grid's features to half precision (they keep them for the backward
pass), so results differ from `ops.plain` by about a thousandth of a feature; gradients are those of what was
computed. Whatever the kernels do not cover (see `_is_fused`) is put together from single ops by `ops.plain.composed`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache, partial

import torch
from torch import Tensor

from threedgen.ops.native.compositing import composite
from threedgen.ops.native.hash_grid import check_grid, grid_arguments, hash_grid_encode
from threedgen.ops.native.library import call, define
from threedgen.ops.native.memory import features_row, learns, new_gradients, recycled
from threedgen.ops.plain import composed
from threedgen.ops.types import Composite, FieldLayout, RaySamples

PRIMITIVES = composed.Primitives(hash_grid_encode, composed.mlp, composite)


def evaluate_field(
    table: Tensor, weights: Sequence[Tensor], layout: FieldLayout, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """As `ops.plain.evaluate_field`."""
    _check(table, weights, layout, positions)
    if table.is_cuda:
        from threedgen.ops.native import cuda_field

        return cuda_field.evaluate_field(table, weights, layout, positions)
    if not _is_fused(table, weights, positions):
        return composed.evaluate_field(PRIMITIVES, table, weights, layout, positions)
    field = table, list(weights), layout.grid.layout, layout.numbers
    density, rgb, _ = torch.ops.threedgen.evaluate_field(*field, positions, learns(table, weights))
    return density, rgb


def render_field(
    table: Tensor,
    weights: Sequence[Tensor],
    layout: FieldLayout,
    origins: Tensor,
    directions: Tensor,
    samples: RaySamples,
    min_transmittance: float = 0.0,
) -> Composite:
    """As `ops.plain.render_field`."""
    _check(table, weights, layout, origins)
    if table.is_cuda:
        from threedgen.ops.native import cuda_field

        return cuda_field.render_field(table, weights, layout, origins, directions, samples, min_transmittance)
    if not _is_fused(table, weights, origins, directions, samples.t_starts, samples.t_ends):
        return composed.render_field(
            PRIMITIVES, table, weights, layout, origins, directions, samples, min_transmittance
        )
    num_rays, num_samples = len(origins), len(samples.t_starts)
    if directions.shape != origins.shape or len(samples.offsets) != num_rays + 1 or len(samples.t_ends) != num_samples:
        raise ValueError(
            f"{num_rays} origins need as many directions (not {len(directions)}) and one more offset"
            f" (not {len(samples.offsets)}), and samples as many t_starts as t_ends"
        )
    field = table, list(weights), layout.grid.layout, layout.numbers
    packed = samples.t_starts, samples.t_ends, samples.offsets
    seen = torch.ops.threedgen.render_field(
        *field, origins, directions, *packed, min_transmittance, learns(table, weights)
    )
    return Composite(*seen[:4])


def field_with_normals(
    table: Tensor, weights: Sequence[Tensor], layout: FieldLayout, positions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As `ops.plain.field_with_normals`."""
    _check(table, weights, layout, positions)
    if table.is_cuda:
        from threedgen.ops.native import cuda_field

        return cuda_field.field_with_normals(table, weights, layout, positions)
    if not _is_fused(table, weights, positions):
        return composed.field_with_normals(table, weights, layout, positions)
    field = table, list(weights), layout.grid.layout, layout.numbers
    seen = torch.ops.threedgen.field_with_normals(*field, positions, learns(table, weights))
    return seen[0], seen[1], seen[2]


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
    """As `ops.plain.refresh_occupancy`."""
    _check(table, weights, layout, opacity.new_empty(0, 3))
    if opacity.shape != occupied.shape or opacity.shape != (len(opacity),) * 3 or occupied.dtype != torch.bool:
        raise ValueError(f"opacity {list(opacity.shape)} and occupied {list(occupied.shape)} must be [G, G, G], bool")
    if table.is_cuda:
        from threedgen.ops.native import cuda_field

        return cuda_field.refresh_occupancy(table, weights, layout, opacity, occupied, seed, decay, all_cells)
    if not _is_fused(table, weights, opacity):
        return composed.refresh_occupancy(PRIMITIVES, table, weights, layout, opacity, occupied, seed, decay, all_cells)
    field = table, list(weights), layout.grid.layout, layout.numbers
    return torch.ops.threedgen.refresh_occupancy(*field, opacity, occupied, seed & 0xFFFFFFFF, decay, all_cells)


def _is_fused(table: Tensor, weights: Sequence[Tensor], *points: Tensor) -> bool:
    """Whether the fused kernels compute this: everything in float32, and no gradient asked for by where points are."""
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in points)
    return not wanted and all(x.dtype == torch.float32 for x in (table, *weights, *points))


def _check(table: Tensor, weights: Sequence[Tensor], layout: FieldLayout, points: Tensor) -> None:
    """Raises ValueError for sizes that do not fit together."""
    check_grid(points, table, layout.grid)
    inputs = layout.grid.num_outputs
    for index, weight in enumerate(weights):
        if weight.ndim != 2 or weight.shape[1] != inputs:
            raise ValueError(f"weight {index} must be [outputs, {inputs}], not {list(weight.shape)}")
        inputs = weight.shape[0]
    if not weights or inputs != 4:
        raise ValueError(f"a field's network has 4 outputs, not {inputs if weights else 'none'}")


@lru_cache(maxsize=64)
def _sizes(shapes: tuple[torch.Size, ...]) -> ctypes.Array:
    """Inputs and outputs of the layers, one after the other."""
    sizes = [shapes[0][1], *(shape[0] for shape in shapes)]
    return (ctypes.c_int64 * len(sizes))(*sizes)


def _field_arguments(table, weights, layout, numbers):
    """TG_FIELD_PARAMETERS in cuda_ext/cpu/field.h."""
    flat = torch.cat([weight.reshape(-1) for weight in weights])
    sizes = _sizes(tuple(weight.shape for weight in weights))
    return *grid_arguments(tuple(layout)), table.contiguous(), len(weights), sizes, flat, *map(float, numbers)


def _gradients_fake(table, weights, *_):
    return torch.empty_like(table), table.new_empty(sum(weight.numel() for weight in weights))


def _contiguous(*tensors):
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def _of_each(weights, flat):
    """A gradient of all weights, cut into those of each."""
    sizes = [weight.numel() for weight in weights]
    return [part.view_as(weight) for part, weight in zip(flat.split(sizes), weights, strict=True)]


# at points


def _evaluate_cpu(table, weights, layout, numbers, positions, learn):
    n = positions.shape[0]
    density, rgb = table.new_empty(n), table.new_empty(n, 3)
    features = recycled((n if learn else 0, features_row(layout)), torch.float16)
    field = _field_arguments(table, weights, layout, numbers)
    positions = positions.contiguous()
    call("tg_evaluate_field", table.dtype, *field, n, positions, density, rgb, features if learn else None)
    return density, rgb, features


def _evaluate_fake(table, weights, layout, numbers, positions, learn):
    n = positions.shape[0]
    features = table.new_empty(n if learn else 0, features_row(layout), dtype=torch.float16)
    return table.new_empty(n), table.new_empty(n, 3), features


def _backward_by(name: str, table, weights, layout, numbers, *saved_and_grads):
    """The gradients by the kernel of this name, of what was computed at points, the first among what was saved."""
    grads = new_gradients(table, weights)
    field = _field_arguments(table, weights, layout, numbers)
    num_samples = len(saved_and_grads[0])
    call(name, table.dtype, *field, num_samples, *_contiguous(*saved_and_grads), *grads)
    return grads


def _setup(ctx, inputs, output):
    """Keeps the field, then the points, then all results."""
    table, weights, ctx.layout, ctx.numbers, positions, _ = inputs
    ctx.num_weights = len(weights)
    ctx.mark_non_differentiable(*(output[2:] if len(output) == 3 else output[3:]))
    ctx.save_for_backward(table, *weights, positions, *output)


def _saved(ctx):
    """The field as the ops' first arguments, its weights alone, and what else was kept."""
    table, *rest = ctx.saved_tensors
    weights, kept = rest[: ctx.num_weights], rest[ctx.num_weights :]
    return (table, weights, ctx.layout, ctx.numbers), weights, kept


def _evaluate_autograd(ctx, grad_density, grad_rgb, *_):
    field, weights, saved = _saved(ctx)
    grad_table, flat = torch.ops.threedgen.evaluate_field_backward(*field, *saved, grad_density, grad_rgb)
    return grad_table, _of_each(weights, flat), None, None, None, None


# with normals


def _normals_cpu(table, weights, layout, numbers, positions, learn):
    n = positions.shape[0]
    density, rgb, normals = table.new_empty(n), table.new_empty(n, 3), table.new_empty(n, 3)
    features = recycled((n if learn else 0, features_row(layout)), torch.float16)
    gradients = table.new_empty(n if learn else 0, 3)
    field = _field_arguments(table, weights, layout, numbers)
    kept = (features, gradients) if learn else (None, None)
    call("tg_field_with_normals", table.dtype, *field, n, positions.contiguous(), density, rgb, normals, *kept)
    return density, rgb, normals, features, gradients


def _normals_fake(table, weights, layout, numbers, positions, learn):
    n, new = positions.shape[0], table.new_empty
    kept = n if learn else 0
    return new(n), new(n, 3), new(n, 3), new(kept, features_row(layout), dtype=torch.float16), new(kept, 3)


def _normals_autograd(ctx, grad_density, grad_rgb, grad_normals, *_):
    field, weights, (positions, density, rgb, _, features, gradients) = _saved(ctx)
    grad_table, flat = torch.ops.threedgen.field_with_normals_backward(
        *field, positions, density, rgb, features, gradients, grad_density, grad_rgb, grad_normals
    )
    return grad_table, _of_each(weights, flat), None, None, None, None


# along rays


def _render_cpu(
    table, weights, layout, numbers, origins, directions, t_starts, t_ends, offsets, min_transmittance, learn
):
    num_rays, num_samples, new = len(origins), len(t_starts), table.new_empty
    seen = new(num_rays, 3), new(num_rays), new(num_rays), new(num_samples)
    values = recycled((4, num_samples if learn else 0), torch.float32)
    features = recycled((num_samples if learn else 0, features_row(layout)), torch.float16)
    counts = offsets.new_empty(num_rays if learn else 0)
    field = _field_arguments(table, weights, layout, numbers)
    rays = _contiguous(origins, directions, offsets, t_starts, t_ends)
    kept = (values, features, counts) if learn else (None, None, None)
    call("tg_render_field", table.dtype, *field, num_rays, *rays, float(min_transmittance), *seen, *kept)
    return *seen, values, features, counts


def _render_fake(
    table, weights, layout, numbers, origins, directions, t_starts, t_ends, offsets, min_transmittance, learn
):
    num_rays, num_samples, new = origins.shape[0], t_starts.shape[0], table.new_empty
    seen = new(num_rays, 3), new(num_rays), new(num_rays), new(num_samples)
    features = new(num_samples if learn else 0, features_row(layout), dtype=torch.float16)
    return *seen, new(4, num_samples if learn else 0), features, offsets.new_empty(num_rays if learn else 0)


def _render_backward_cpu(table, weights, layout, numbers, origins, directions, t_starts, t_ends, offsets, *others):
    grads = new_gradients(table, weights)
    field = _field_arguments(table, weights, layout, numbers)
    rays = _contiguous(origins, directions, offsets, t_starts, t_ends)
    call("tg_render_field_backward", table.dtype, *field, len(origins), *rays, *_contiguous(*others), *grads)
    return grads


def _render_setup(ctx, inputs, output):
    table, weights, ctx.layout, ctx.numbers, *rays, _, _ = inputs
    ctx.num_weights = len(weights)
    ctx.mark_non_differentiable(*output[4:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(table, *weights, *rays, *output[3:])


def _render_autograd(ctx, *grads):
    field, weights, saved = _saved(ctx)
    grad_table, flat = torch.ops.threedgen.render_field_backward(*field, *saved, *grads[:4])
    return grad_table, _of_each(weights, flat), *[None] * 9


def _refresh_cpu(table, weights, layout, numbers, opacity, occupied, seed, decay, all_cells):
    refreshed = torch.empty_like(opacity, memory_format=torch.contiguous_format)
    field = _field_arguments(table, weights, layout, numbers)
    call(
        "tg_refresh_occupancy", table.dtype, *field, len(opacity), *_contiguous(opacity, occupied), seed, float(decay),
        int(all_cells), refreshed,
    )  # fmt: skip
    return refreshed


_FIELD = "Tensor table, Tensor[] weights, int[] layout, float[] numbers"
_RAYS = "Tensor origins, Tensor directions, Tensor t_starts, Tensor t_ends, Tensor offsets"
define(
    f"evaluate_field_backward({_FIELD}, Tensor positions, Tensor density, Tensor rgb, Tensor features,"
    " Tensor grad_density, Tensor grad_rgb) -> (Tensor, Tensor)",
    partial(_backward_by, "tg_evaluate_field_backward"),
    _gradients_fake,
)
define(
    f"evaluate_field({_FIELD}, Tensor positions, bool learn) -> (Tensor, Tensor, Tensor)",
    _evaluate_cpu,
    _evaluate_fake,
    _evaluate_autograd,
    _setup,
)
define(
    f"field_with_normals_backward({_FIELD}, Tensor positions, Tensor density, Tensor rgb, Tensor features,"
    " Tensor gradients, Tensor grad_density, Tensor grad_rgb, Tensor grad_normals) -> (Tensor, Tensor)",
    partial(_backward_by, "tg_field_with_normals_backward"),
    _gradients_fake,
)
define(
    f"field_with_normals({_FIELD}, Tensor positions, bool learn) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _normals_cpu,
    _normals_fake,
    _normals_autograd,
    _setup,
)
define(
    f"render_field_backward({_FIELD}, {_RAYS}, Tensor sample_weights, Tensor values, Tensor features, Tensor counts,"
    " Tensor? grad_rgb, Tensor? grad_opacity, Tensor? grad_depth, Tensor? grad_sample_weights) -> (Tensor, Tensor)",
    _render_backward_cpu,
    _gradients_fake,
)
define(
    f"render_field({_FIELD}, {_RAYS}, float min_transmittance, bool learn)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _render_cpu,
    _render_fake,
    _render_autograd,
    _render_setup,
)
define(
    f"refresh_occupancy({_FIELD}, Tensor opacity, Tensor occupied, int seed, float decay, bool all_cells) -> Tensor",
    _refresh_cpu,
    lambda table, weights, layout, numbers, opacity, *_: torch.empty_like(opacity),
)
