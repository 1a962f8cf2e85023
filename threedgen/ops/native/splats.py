"""3D Gaussian splatting by the compiled kernels, in three ops: project, sort into tiles, blend.

On either device the same splats lie in the same tiles in the same order, and every gradient is summed in a fixed order:
results are the same bits in every run. On a GPU one number is waited for, how many pairs of a splat and a tile there
are, which is needed before the blending; a buffer of a fixed size instead would leave splats out where it is too small.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from threedgen.ops.native import cuda
from threedgen.ops.native.library import TORCH_LIBRARY, call, define
from threedgen.ops.splats import SplatImages, check_arguments, focal_length

_TILE = 8  # pixels
_NUMBERS, _DEPTH = 12, 9  # of a projected splat, and the depth's place, see SplatNumber in threedgen/splats.h
_MOMENTS = 10  # of the pixels that a splat touches, see Moment in threedgen/splat_blending.h


def splat(
    means: Tensor,
    quaternions: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    camera_to_world: Tensor,
    fov_y: Tensor,
    height: int,
    width: int,
) -> SplatImages:
    """As `ops.plain.splat`, in memory that grows with the splats and the tiles they touch."""
    check_arguments(means, quaternions, scales, opacities, colors, camera_to_world, fov_y, height, width)
    poses = camera_to_world.detach().to(means.dtype)
    focal = focal_length(fov_y.detach().to(means.dtype), height)
    ops = torch.ops.threedgen
    splats = ops.splat_project(means, quaternions, scales, opacities, colors, poses, focal, height, width)
    offsets, ids = ops.splat_tiles(splats.detach(), height, width)
    return SplatImages(*ops.splat_blend(splats, offsets, ids, height, width))


def _num_coefficients(colors: Tensor) -> int:
    return 0 if colors.ndim == 2 else colors.shape[1]


def _num_tiles(splats: Tensor, height: int, width: int) -> int:
    return splats.shape[0] * -(-height // _TILE) * -(-width // _TILE)


def _project_by(call: Callable, means, quaternions, scales, opacities, colors, camera_to_world, focal, height, width):
    gaussians = [x.contiguous() for x in (means, quaternions, scales, opacities, colors)]
    cameras = camera_to_world.contiguous(), focal.contiguous()
    splats = means.new_empty(len(focal), len(means), _NUMBERS)
    sizes = len(means), len(focal), height, width
    call("tg_splat_project", means.dtype, *sizes, *gaussians, _num_coefficients(colors), *cameras, splats)
    return splats


def _project_fake(means, quaternions, scales, opacities, colors, camera_to_world, focal, height, width):
    return means.new_empty(focal.shape[0], means.shape[0], _NUMBERS)


def _project_backward_by(
    call: Callable, means, quaternions, scales, colors, camera_to_world, focal, grad, height, width
):
    gaussians = [x.contiguous() for x in (means, quaternions, scales, colors)]
    others = camera_to_world.contiguous(), focal.contiguous(), grad.contiguous()
    outputs = _project_backward_fake(*gaussians)
    sizes = len(means), len(focal), height, width
    call("tg_splat_project_backward", means.dtype, *sizes, *gaussians, _num_coefficients(colors), *others, *outputs)
    return outputs


def _project_backward_fake(means, quaternions, scales, colors, *_):
    new = [x.new_empty(x.shape) for x in (means, quaternions, scales, colors)]
    return new[0], new[1], new[2], means.new_empty(means.shape[0]), new[3]


def _project_setup(ctx, inputs, output):
    means, quaternions, scales, _, colors, camera_to_world, focal, ctx.height, ctx.width = inputs
    ctx.save_for_backward(means, quaternions, scales, colors, camera_to_world, focal)


def _project_backward(ctx, grad):
    grads = torch.ops.threedgen.splat_project_backward(*ctx.saved_tensors, grad, ctx.height, ctx.width)
    return *grads, None, None, None, None


def _tiles_cpu(splats, height, width):
    splats = splats.contiguous()
    num_cameras, num_gaussians, _ = splats.shape
    sizes = num_gaussians, num_cameras, height, width
    counts = torch.empty(_num_tiles(splats, height, width), dtype=torch.int64)
    call("tg_splat_count_tiles", splats.dtype, *sizes, splats, counts)
    offsets = torch.zeros(len(counts) + 1, dtype=torch.int64)
    torch.cumsum(counts, 0, out=offsets[1:])
    ids = torch.empty(int(offsets[-1]), dtype=torch.int32)
    call("tg_splat_fill_tiles", splats.dtype, *sizes, splats, offsets, ids)
    return offsets, ids


def _tiles_cuda(splats, height, width):
    splats = splats.contiguous()
    sizes = splats.shape[1], splats.shape[0], height, width
    order = splats[..., _DEPTH].flatten().argsort(stable=True)  # of equally near ones the lower index first
    first = _exclusive_sums(_count_cuda(splats, height, width)[order])
    num_pairs = int(first[-1])
    tiles, ids = (torch.empty(num_pairs, dtype=torch.int32, device=splats.device) for _ in range(2))
    cuda.call("tg_splat_list", splats.dtype, *sizes, splats, order, first, num_pairs, tiles, ids)
    tiles, pairs = tiles.sort(stable=True)
    every_tile = torch.arange(_num_tiles(splats, height, width) + 1, dtype=torch.int32, device=splats.device)
    return torch.searchsorted(tiles, every_tile), ids[pairs]


def _count_cuda(splats: Tensor, height: int, width: int) -> Tensor:
    """[B * N] int64: the tiles that each splat meets."""
    num_cameras, num_gaussians, _ = splats.shape
    counts = torch.empty(num_cameras * num_gaussians, dtype=torch.int64, device=splats.device)
    cuda.call("tg_splat_count", splats.dtype, num_gaussians, num_cameras, height, width, splats, counts)
    return counts


def _exclusive_sums(counts: Tensor) -> Tensor:
    """[n] -> [n + 1]; the last is the sum of all."""
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def _tiles_fake(splats, height, width):
    num_tiles = _num_tiles(splats, height, width)
    num_ids = torch.library.get_ctx().new_dynamic_size()
    return splats.new_empty(num_tiles + 1, dtype=torch.int64), splats.new_empty(num_ids, dtype=torch.int32)


def _blend_by(call: Callable, splats, offsets, ids, height, width):
    outputs = _blend_fake(splats, offsets, ids, height, width)
    sizes = splats.shape[1], splats.shape[0], height, width
    call("tg_splat_blend", splats.dtype, *sizes, cuda.aligned(splats), offsets.contiguous(), ids.contiguous(), *outputs)
    return outputs


def _blend_fake(splats, offsets, ids, height, width):
    size = splats.shape[0], height, width
    return splats.new_empty(*size, 3), splats.new_empty(size), splats.new_empty(size)


def _blend_backward_cpu(splats, offsets, ids, rgb, opacity, depth, grad_rgb, grad_opacity, grad_depth):
    arguments = [splats, offsets, ids, rgb, opacity, depth, grad_rgb, grad_opacity, grad_depth]
    grad = torch.empty_like(splats, memory_format=torch.contiguous_format)
    sizes = splats.shape[1], splats.shape[0], rgb.shape[1], rgb.shape[2]
    call("tg_splat_blend_backward", splats.dtype, *sizes, *[x.contiguous() for x in arguments], grad)
    return grad


def _blend_backward_cuda(splats, offsets, ids, rgb, opacity, depth, *grads):
    """By way of a record of moments for each pair of a splat and a tile: a splat's are neighbours."""
    splats, grad = cuda.aligned(splats), _blend_backward_fake(splats)
    height, width = opacity.shape[1:]
    first_record = _exclusive_sums(_count_cuda(splats, height, width))
    records = splats.new_zeros(len(ids), _MOMENTS)
    arguments = [x.contiguous() for x in (offsets, ids, rgb, opacity, depth, *grads)]
    sizes = splats.shape[1], splats.shape[0], height, width
    cuda.call("tg_splat_blend_backward", splats.dtype, *sizes, splats, *arguments, first_record, records, grad)
    return grad


def _blend_backward_fake(splats, *_):
    return torch.empty_like(splats, memory_format=torch.contiguous_format)


def _blend_setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:3], *output)


def _blend_backward(ctx, *grads):
    return torch.ops.threedgen.splat_blend_backward(*ctx.saved_tensors, *grads), None, None, None, None


define(
    "splat_project_backward(Tensor means, Tensor quaternions, Tensor scales, Tensor colors, Tensor camera_to_world,"
    " Tensor focal, Tensor grad, int height, int width) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    partial(_project_backward_by, call),
    _project_backward_fake,
)
define(
    "splat_project(Tensor means, Tensor quaternions, Tensor scales, Tensor opacities, Tensor colors,"
    " Tensor camera_to_world, Tensor focal, int height, int width) -> Tensor",
    partial(_project_by, call),
    _project_fake,
    _project_backward,
    _project_setup,
)
define("splat_tiles(Tensor splats, int height, int width) -> (Tensor, Tensor)", _tiles_cpu, _tiles_fake)
define(
    "splat_blend_backward(Tensor splats, Tensor offsets, Tensor ids, Tensor rgb, Tensor opacity, Tensor depth,"
    " Tensor grad_rgb, Tensor grad_opacity, Tensor grad_depth) -> Tensor",
    _blend_backward_cpu,
    _blend_backward_fake,
)
define(
    "splat_blend(Tensor splats, Tensor offsets, Tensor ids, int height, int width) -> (Tensor, Tensor, Tensor)",
    partial(_blend_by, call),
    _blend_fake,
    _blend_backward,
    _blend_setup,
)

CUDA_KERNELS = {
    "splat_project": partial(_project_by, cuda.call),
    "splat_project_backward": partial(_project_backward_by, cuda.call),
    "splat_tiles": _tiles_cuda,
    "splat_blend": partial(_blend_by, cuda.call),
    "splat_blend_backward": _blend_backward_cuda,
}
for _name, _kernel in CUDA_KERNELS.items():
    TORCH_LIBRARY.impl(_name, _kernel, "CUDA")
