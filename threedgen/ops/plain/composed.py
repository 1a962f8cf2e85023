"""Operations on a radiance field, put together from three primitives.

The plain back end is these functions over plain torch; a back end with kernels of its own falls back on them for
fields that its fused kernels do not cover; an adapter to another library swaps single primitives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, relu, softplus

from threedgen.ops.grid import HashGrid
from threedgen.ops.plain.compositing import transmittance
from threedgen.ops.plain.hash_grid import interpolate
from threedgen.ops.plain.random import uniform
from threedgen.ops.types import Composite, FieldLayout, RaySamples


@dataclass(frozen=True)
class Primitives:
    """What a field is evaluated and rendered with; see `ops.plain` for each."""

    hash_grid_encode: Callable[[Tensor, Tensor, HashGrid], Tensor]
    mlp: Callable[[Tensor, Sequence[Tensor]], Tensor]
    composite: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Composite]


def mlp(inputs: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """[N, inputs] -> [N, outputs] through weights [outputs, inputs] without biases, ReLU between them."""
    for weight in weights[:-1]:
        inputs = relu(linear(inputs, weight))
    return linear(inputs, weights[-1])


def blob(positions: Tensor, layout: FieldLayout) -> Tensor:
    """[N] the bias on the first output: `blob_density` at the origin, 0 at `blob_radius` (Magic3D, supplement)."""
    return layout.blob_density * (1.0 - positions.norm(dim=-1) / layout.blob_radius)


def activate(raw: Tensor, positions: Tensor, layout: FieldLayout) -> tuple[Tensor, Tensor]:
    """The network's outputs [N, 4] -> density [N], rgb [N, 3]."""
    density = layout.density_scale * softplus(raw[:, 0] + blob(positions, layout))
    return density, torch.sigmoid(raw[:, 1:])


def logit_of(density: Tensor, layout: FieldLayout) -> Tensor:
    """[N] raw[0] + blob of densities [N] > 0: `activate` undone, to float32's precision down to logits of -80."""
    density = density / layout.density_scale
    return density + torch.log(-torch.expm1(-density))


def evaluate_field(
    ops: Primitives, table: Tensor, weights: Sequence[Tensor], layout: FieldLayout, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """World positions [N, 3] -> density [N] >= 0 per world unit, rgb [N, 3] in 0..1.

    Differentiable once with respect to the table and the weights.
    """
    features = ops.hash_grid_encode(in_unit_cube(positions, layout), table, layout.grid)
    return activate(ops.mlp(features, weights), positions, layout)


def render_field(
    ops: Primitives,
    table: Tensor,
    weights: Sequence[Tensor],
    layout: FieldLayout,
    origins: Tensor,
    directions: Tensor,
    samples: RaySamples,
    min_transmittance: float = 0.0,
) -> Composite:
    """The field at the middle of each sample, composited along the rays [R, 3].

    A sample that less than `min_transmittance` of the light reaches, for the samples before it on its ray, is left
    out: its weight is 0 and it gets no gradient. Differentiable once with respect to the table and the weights,
    for losses on single weights too.
    """

    def look(samples: RaySamples) -> tuple[Tensor, Tensor]:
        positions = origins[samples.ray_indices] + samples.t_mids[:, None] * directions[samples.ray_indices]
        return evaluate_field(ops, table, weights, layout, positions)

    return composite_reached(ops.composite, look, samples, min_transmittance)


def composite_reached(
    composite: Callable[..., Composite],
    look: Callable[[RaySamples], tuple[Tensor, Tensor]],
    samples: RaySamples,
    min_transmittance: float,
) -> Composite:
    """What `look`, samples -> density [S] and rgb [S, 3], finds along the rays, as `render_field` composites it."""
    if min_transmittance <= 0:
        return composite(*look(samples), *samples)
    with torch.no_grad():
        optical_depth = look(samples)[0] * (samples.t_ends - samples.t_starts)
        reached = transmittance(optical_depth, samples.ray_indices, samples.offsets) >= min_transmittance
    kept = samples.select(reached)
    seen = composite(*look(kept), *kept)
    return seen._replace(weights=torch.zeros_like(samples.t_starts).masked_scatter(reached, seen.weights))


def field_with_normals(
    table: Tensor, weights: Sequence[Tensor], layout: FieldLayout, positions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """World positions [N, 3] -> density [N], rgb [N, 3], normals [N, 3]: unit, towards falling density.

    The normal is -g / |g| for the gradient g of raw[0] + blob by the position, which is parallel to the density's;
    0 where g is 0. Differentiable with respect to the table and the weights, through the normals too.
    """
    with torch.enable_grad():
        at = positions.detach().requires_grad_()
        raw = mlp(interpolate(in_unit_cube(at, layout), table, layout.grid), weights)
        logit = (raw[:, 0] + blob(at, layout)).sum()
        needed = any(x.requires_grad for x in (table, *weights))
        (gradient,) = torch.autograd.grad(logit, at, create_graph=needed)
    density, rgb = activate(raw, positions, layout)
    normals = -torch.nn.functional.normalize(gradient, dim=-1, eps=torch.finfo(gradient.dtype).tiny)
    if torch.is_grad_enabled():
        return density, rgb, normals
    return density.detach(), rgb.detach(), normals.detach()


@torch.no_grad()
def refresh_occupancy(
    ops: Primitives,
    table: Tensor,
    weights: Sequence[Tensor],
    layout: FieldLayout,
    opacity: Tensor,
    occupied: Tensor,
    seed: int,
    decay: float,
    all_cells: bool,
) -> Tensor:
    """A new `opacity` [G, G, G]: what each cell hides, 1 - exp(-density * cell width), as a decaying maximum.

    One random point is looked at in each cell, or in the occupied cells and a random half of the others; these cells
    keep the larger of `decay` times their value and the one just met. Cell c = (x G + y) G + z draws
    uniform(seed, 4 c + k), k = 0, 1, 2 for its point and 3 for whether it is looked at.
    """

    def density(positions: Tensor) -> Tensor:
        return evaluate_field(ops, table, weights, layout, positions)[0]

    return refresh_cells(density, layout.radius, opacity, occupied, seed, decay, all_cells)


@torch.no_grad()
def refresh_cells(
    density: Callable[[Tensor], Tensor],
    radius: float,
    opacity: Tensor,
    occupied: Tensor,
    seed: int,
    decay: float,
    all_cells: bool,
) -> Tensor:
    """`refresh_occupancy` for any density: positions [N, 3] in the cube [-radius, radius]^3 -> [N] per world unit."""
    cells = opacity.shape[0]
    cell_width = 2.0 * radius / cells
    index = torch.arange(cells**3, device=opacity.device)
    if not all_cells:
        index = index[occupied.flatten() | (uniform(seed, 4 * index + 3) < 0.5)]
    corners = torch.stack([index // cells**2, index // cells % cells, index % cells], -1)
    inside = uniform(seed, 4 * index[:, None] + torch.arange(3, device=index.device)).to(opacity.dtype)
    met = -torch.expm1(-density((corners + inside) * cell_width - radius) * cell_width)
    refreshed = opacity.flatten().clone()
    refreshed[index] = torch.maximum(refreshed[index] * decay, met)
    return refreshed.view_as(opacity)


def in_unit_cube(positions: Tensor, layout: FieldLayout) -> Tensor:
    """World positions [N, 3] -> those of the hash grid, 0..1 inside of the field's cube."""
    return (positions + layout.radius) / (2.0 * layout.radius)
