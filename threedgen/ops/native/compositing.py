"""Compositing by the compiled kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from threedgen.ops.native.library import call, define
from threedgen.ops.types import Composite


def composite(
    density: Tensor, rgb: Tensor, t_starts: Tensor, t_ends: Tensor, ray_indices: Tensor, offsets: Tensor
) -> Composite:
    """As `ops.plain.composite`."""
    return Composite(*torch.ops.threedgen.composite(density, rgb, t_starts, t_ends, offsets))


def _composite_cpu(density, rgb, t_starts, t_ends, offsets):
    samples = [x.contiguous() for x in (density, rgb, t_starts, t_ends, offsets)]
    outputs = composite_fake(density, rgb, t_starts, t_ends, offsets)
    call("tg_composite", density.dtype, len(offsets) - 1, *samples, *outputs)
    return outputs


def composite_fake(density, rgb, t_starts, t_ends, offsets, *_):
    num_rays = offsets.shape[0] - 1
    new = density.new_empty
    return new(num_rays, 3), new(num_rays), new(num_rays), new(density.shape[0])


def _composite_backward_cpu(density, rgb, t_starts, t_ends, offsets, weights, *grads):
    arguments = [x.contiguous() for x in (density, rgb, t_starts, t_ends, offsets, weights, *grads)]
    outputs = composite_backward_fake(density, rgb)
    call("tg_composite_backward", density.dtype, len(offsets) - 1, *arguments, *outputs)
    return outputs


def composite_backward_fake(density, rgb, *_):
    return density.new_empty(density.shape), rgb.new_empty(rgb.shape)


def _setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs, output[3])


def _backward(ctx, *grads: Tensor):
    grad_density, grad_rgb = torch.ops.threedgen.composite_backward(*ctx.saved_tensors, *grads)
    return grad_density, grad_rgb, None, None, None


define(
    "composite_backward(Tensor density, Tensor rgb, Tensor t_starts, Tensor t_ends, Tensor offsets, Tensor weights,"
    " Tensor grad_rgb, Tensor grad_opacity, Tensor grad_depth, Tensor grad_weights) -> (Tensor, Tensor)",
    _composite_backward_cpu,
    composite_backward_fake,
)
define(
    "composite(Tensor density, Tensor rgb, Tensor t_starts, Tensor t_ends, Tensor offsets)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _composite_cpu,
    composite_fake,
    _backward,
    _setup,
)
