"""The CUDA kernels: compiling them at first use, calling them, registering them with torch.

Importing this costs nothing and needs no CUDA. No function waits for the GPU, except `march`, which has to know how
many samples there are; `march_within` does not, so that a whole step can be captured in a CUDA graph.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Iterator
from functools import cache, partial

import torch
from torch import Tensor

from threedgen.core.errors import ConfigError
from threedgen.ops.native import build
from threedgen.ops.native.compositing import composite_backward_fake, composite_fake
from threedgen.ops.native.hash_grid import grid_arguments
from threedgen.ops.native.library import TORCH_LIBRARY, define, invoke
from threedgen.ops.native.optimizer import adamw_step_by
from threedgen.ops.types import RaySamples


@cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    """The library for the GPUs of this machine, compiled now if it was not yet; or None and why not."""
    if not torch.cuda.is_available():
        return None, "torch sees no CUDA device"
    devices = range(torch.cuda.device_count())
    architectures = sorted({"sm_{}{}".format(*torch.cuda.get_device_capability(device)) for device in devices})
    try:
        build.nvcc()
    except build.BuildError as error:
        return None, f"{error}: install the CUDA toolkit or use scene.backend=plain"
    try:
        return ctypes.CDLL(str(build.cached_cuda_library(architectures))), ""
    except (build.BuildError, OSError) as error:
        return None, str(error)


def why_not() -> str:
    """Why the CUDA kernels cannot be used; empty if they can. The first call may compile them."""
    return _load()[1]


@contextlib.contextmanager
def _stream_of(device: torch.device) -> Iterator[ctypes.c_void_p]:
    """The caller's stream on this device, which is the current one meanwhile."""
    with torch.cuda.device(device):
        yield ctypes.c_void_p(torch.cuda.current_stream(device).cuda_stream)


def call(name: str, dtype: torch.dtype, *arguments: Tensor | float | int | ctypes.Array | None) -> None:
    """Put the kernel of this name for real numbers of `dtype` (float32 or float64) on the current stream.

    Tensors must be contiguous and of the size that the kernel expects. Raises ConfigError without the library,
    ValueError for tensors on different devices, TypeError for other real numbers.
    """
    library, reason = _load()
    if library is None:
        raise ConfigError(f"the CUDA kernels are not available: {reason}")
    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    device = tensors[0].device
    for tensor in tensors:
        if tensor.device != device:
            raise ValueError(f"{name}: tensors on different devices, {device} and {tensor.device}")
        if tensor.is_floating_point() and tensor.dtype != dtype:
            raise TypeError(f"{name}: {tensor.dtype} among numbers of {dtype}")
    with _stream_of(device) as stream:
        code = invoke(library, name, dtype, arguments, stream)
    if code != 0:
        library.tg_error_text.restype = ctypes.c_char_p
        raise RuntimeError(f"{name}: {library.tg_error_text(ctypes.c_int64(code)).decode()}")


def march_cuda(
    origins: Tensor, directions: Tensor, occupancy: Tensor, radius: float, step_size: float, jitter: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    offsets, write = _find_samples(origins, directions, occupancy, radius, step_size, jitter)
    return write(int(offsets[-1]))


def march_within(
    capacity: int,
    origins: Tensor,
    directions: Tensor,
    occupancy: Tensor,
    radius: float,
    step_size: float,
    jitter: Tensor | None = None,
) -> tuple[RaySamples, Tensor]:
    """As `ops.plain.march`, with tensors of `capacity` samples and without waiting for the GPU.

    Samples that do not fit are left out, from the last rays on. Places that are left over hold empty intervals of the
    last ray, behind offsets[-1].

    Returns:
        The samples, and how many there would have been [] int64: read it a step later, and march with a larger
        capacity from then on if it was exceeded.
    """
    if len(origins) == 0:
        raise ValueError("march_within: there are no rays")
    offsets, write = _find_samples(origins, directions, occupancy, radius, step_size, jitter)
    num_wanted = offsets[-1].clone()
    offsets.clamp_(max=capacity)
    return RaySamples(*write(capacity)), num_wanted


def _find_samples(origins, directions, occupancy, radius, step_size, jitter):
    """Each ray's first sample among all, [R + 1], and a function that writes a given number of samples."""
    num_rays, resolution, real, device = len(origins), occupancy.shape[0], origins.dtype, origins.device
    _check("origins", origins, num_rays, 3)
    _check("directions", directions, num_rays, 3)
    _check("occupancy", occupancy, resolution, resolution, resolution)
    if jitter is not None:
        _check("jitter", jitter, num_rays)
    if occupancy.dtype != torch.bool:
        raise TypeError(f"occupancy must be bool, not {occupancy.dtype}")
    origins, directions, occupancy = origins.contiguous(), directions.contiguous(), occupancy.contiguous()
    jitter = None if jitter is None else jitter.contiguous()
    words_per_ray = int(2 * math.sqrt(3) * radius / step_size) // 32 + 1  # one bit a step along the cube's diagonal
    edge = (resolution + 7) // 8
    cells = torch.empty((resolution**3 + 31) // 32, dtype=torch.int32, device=device)
    blocks = torch.zeros((edge**3 + 31) // 32, dtype=torch.int32, device=device)
    steps = torch.empty(words_per_ray, num_rays, dtype=torch.int32, device=device)
    t_near, counts = origins.new_empty(num_rays), torch.empty(num_rays, dtype=torch.int64, device=device)
    call(
        "tg_march_find", real, num_rays, origins, directions, jitter, occupancy, resolution, float(radius),
        float(step_size), cells, blocks, words_per_ray, steps, t_near, counts,
    )  # fmt: skip
    offsets = torch.zeros(num_rays + 1, dtype=torch.int64, device=device)
    torch.cumsum(counts, 0, out=offsets[1:])

    def write(num_samples: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        t_starts, t_ends = origins.new_empty(num_samples), origins.new_empty(num_samples)
        ray_indices = torch.empty(num_samples, dtype=torch.int64, device=device)
        call(
            "tg_march_write", real, num_rays, jitter, float(step_size), words_per_ray, steps, t_near, offsets,
            num_samples, t_starts, t_ends, ray_indices,
        )  # fmt: skip
        return t_starts, t_ends, ray_indices, offsets

    return offsets, write


def _check(name: str, tensor: Tensor, *shape: int) -> None:
    """Raises ValueError for a size that a kernel would read beyond."""
    if tensor.shape != shape:
        raise ValueError(f"{name} must be {list(shape)}, not {list(tensor.shape)}")


def composite_reached_cuda(density, rgb, t_starts, t_ends, offsets, min_transmittance):
    for name, tensor in (("density", density), ("t_starts", t_starts), ("t_ends", t_ends)):
        _check(name, tensor, len(density))
    _check("rgb", rgb, len(density), 3)
    samples = [x.contiguous() for x in (density, rgb, t_starts, t_ends, offsets)]
    outputs = composite_fake(density, rgb, t_starts, t_ends, offsets)
    sizes = len(offsets) - 1, len(density)
    call("tg_composite", density.dtype, *sizes, *samples, float(min_transmittance), *outputs)
    return outputs


def composite_reached_backward_cuda(density, rgb, t_starts, t_ends, offsets, weights, *grads_and_limit):
    *grads, min_transmittance = grads_and_limit
    arguments = [x.contiguous() for x in (density, rgb, t_starts, t_ends, offsets, weights, *grads)]
    outputs = torch.empty_like(arguments[0]), torch.empty_like(arguments[1])
    sizes = len(offsets) - 1, len(density)
    call("tg_composite_backward", density.dtype, *sizes, *arguments, float(min_transmittance), *outputs)
    return outputs


def composite_cuda(density, rgb, t_starts, t_ends, offsets):
    return composite_reached_cuda(density, rgb, t_starts, t_ends, offsets, 0.0)


def composite_backward_cuda(density, rgb, t_starts, t_ends, offsets, weights, *grads):
    return composite_reached_backward_cuda(density, rgb, t_starts, t_ends, offsets, weights, *grads, 0.0)


def _setup_composite(ctx, inputs, output):
    *samples, ctx.min_transmittance = inputs
    ctx.save_for_backward(*samples, output[3])


def _composite_autograd(ctx, *grads: Tensor):
    op = torch.ops.threedgen.composite_reached_backward
    grad_density, grad_rgb = op(*ctx.saved_tensors, *grads, ctx.min_transmittance)
    return grad_density, grad_rgb, None, None, None, None


def hash_grid_encode_cuda(positions: Tensor, table: Tensor, layout: list[int]) -> Tensor:
    return hash_grid_slope_cuda(positions, None, table, layout)


def hash_grid_encode_backward_cuda(
    grad: Tensor, positions: Tensor, table: Tensor, layout: list[int], to_positions: bool
) -> tuple[Tensor, Tensor]:
    grad_table = grad_of_table(grad, positions, None, table, layout)
    if not to_positions:
        return grad_table, positions.new_empty(0)
    return grad_table, hash_grid_grad_positions_cuda(grad, positions, table, layout)


def hash_grid_slope_cuda(positions: Tensor, directions: Tensor | None, table: Tensor, layout: list[int]) -> Tensor:
    """Features [N, L * F], or their derivatives along a direction for each position."""
    num_levels, num_features, levels = grid_arguments(tuple(layout))
    out = table.new_empty(len(positions), num_levels * num_features)
    directions = None if directions is None else directions.contiguous()
    call(
        "tg_hash_grid_encode", table.dtype, len(positions), positions.contiguous(), directions, aligned(table),
        num_levels, num_features, levels, out,
    )  # fmt: skip
    return out


def grad_of_table(
    grad: Tensor,
    positions: Tensor,
    directions: Tensor | None,
    table: Tensor,
    layout: list[int],
    deterministic: bool | None = None,
) -> Tensor:
    """The table's gradient for gradients of features, or of their derivatives along a direction for each position.

    deterministic: the same bits in every run, not sums in the order in which the GPU's threads come by; slower, and 8
    bytes of memory more per number. None: as `torch.use_deterministic_algorithms` says. All other kernels always give
    the same bits.
    """
    num_levels, num_features, levels = grid_arguments(tuple(layout))
    grad, positions = grad.contiguous(), positions.contiguous()
    directions = None if directions is None else directions.contiguous()
    bound = sums = None
    if deterministic is None:
        deterministic = torch.are_deterministic_algorithms_enabled()
    if deterministic and len(positions):
        # No row gets more from one sample than this, for its weights sum to 1 and their slopes to 2 in each direction.
        bound = torch.linalg.vector_norm(grad, math.inf).reshape(1)
        if directions is not None:
            cells = max(resolution - 1 for resolution in layout[2::3])
            bound = bound * torch.linalg.vector_norm(directions, math.inf) * (6.0 * cells)
        sums = torch.zeros(table.shape, dtype=torch.int64, device=table.device)
    grad_table = torch.zeros_like(table, memory_format=torch.contiguous_format)
    call(
        "tg_hash_grid_grad_table", table.dtype, len(positions), grad, positions, directions, num_levels, num_features,
        levels, len(table), bound, sums, grad_table,
    )  # fmt: skip
    return grad_table


def hash_grid_grad_positions_cuda(grad: Tensor, positions: Tensor, table: Tensor, layout: list[int]) -> Tensor:
    num_levels, num_features, levels = grid_arguments(tuple(layout))
    out = torch.empty_like(positions, memory_format=torch.contiguous_format)
    call(
        "tg_hash_grid_grad_positions", table.dtype, len(positions), grad.contiguous(), positions.contiguous(),
        aligned(table), num_levels, num_features, levels, out,
    )  # fmt: skip
    return out


def aligned(tensor: Tensor) -> Tensor:
    """Contiguous, and at an address that is a multiple of 16 bytes, which a part of another tensor may not be."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def _grad_positions_setup(ctx, inputs, output):
    *tensors, ctx.layout = inputs
    ctx.save_for_backward(*tensors)


def _grad_positions_autograd(ctx, direction: Tensor):
    """Of sum(direction * output), which is linear in the gradient and in the table."""
    grad, positions, table = ctx.saved_tensors
    ops = torch.ops.threedgen
    of_grad = ops.hash_grid_slope(positions, direction, table, ctx.layout) if ctx.needs_input_grad[0] else None
    of_table = None
    if ctx.needs_input_grad[2]:
        of_table = ops.hash_grid_slope_backward(grad, positions, direction, table, ctx.layout)
    return of_grad, None, of_table, None


def activate_field_cuda(raw, positions, radius, blob_density, blob_radius, density_scale):
    density, rgb = _activate_fake(raw, positions, radius, blob_density, blob_radius, density_scale)
    numbers = [float(x) for x in (radius, blob_density, blob_radius, density_scale)]
    call("tg_activate", raw.dtype, len(raw), aligned(raw), positions.contiguous(), *numbers, density, rgb)
    return density, rgb


def _activate_fake(raw, positions, radius, blob_density, blob_radius, density_scale):
    return raw.new_empty(raw.shape[0]), raw.new_empty(raw.shape[0], 3)


def activate_field_backward_cuda(density, rgb, grad_density, grad_rgb, density_scale):
    grad_raw = density.new_empty(len(density), 4)
    tensors = [x.contiguous() for x in (density, rgb, grad_density, grad_rgb)]
    call("tg_activate_backward", density.dtype, len(density), *tensors, float(density_scale), grad_raw)
    return grad_raw


def _activate_setup(ctx, inputs, output):
    ctx.density_scale = inputs[5]
    ctx.save_for_backward(*output)


def _activate_autograd(ctx, *grads: Tensor):
    grad_raw = torch.ops.threedgen.activate_field_backward(*ctx.saved_tensors, *grads, ctx.density_scale)
    return grad_raw, None, None, None, None, None


_GRADS = "Tensor grad_rgb, Tensor grad_opacity, Tensor grad_depth, Tensor grad_weights"
_SAMPLES = "Tensor density, Tensor rgb, Tensor t_starts, Tensor t_ends, Tensor offsets"
define(
    f"composite_reached_backward({_SAMPLES}, Tensor weights, {_GRADS}, float min_transmittance) -> (Tensor, Tensor)",
    None,
    composite_backward_fake,
)
define(
    f"composite_reached({_SAMPLES}, float min_transmittance) -> (Tensor, Tensor, Tensor, Tensor)",
    None,
    composite_fake,
    _composite_autograd,
    _setup_composite,
)
define(
    "hash_grid_slope(Tensor positions, Tensor directions, Tensor table, int[] layout) -> Tensor",
    None,
    lambda positions, directions, table, layout: table.new_empty(positions.shape[0], layout[0] * layout[1]),
)
define(
    "hash_grid_slope_backward(Tensor grad, Tensor positions, Tensor directions, Tensor table, int[] layout) -> Tensor",
    None,
    lambda grad, positions, directions, table, layout: torch.empty_like(table),
)
define(
    "hash_grid_grad_positions(Tensor grad, Tensor positions, Tensor table, int[] layout) -> Tensor",
    None,
    lambda grad, positions, table, layout: torch.empty_like(positions),
    _grad_positions_autograd,
    _grad_positions_setup,
)
define(
    "activate_field_backward(Tensor density, Tensor rgb, Tensor grad_density, Tensor grad_rgb, float density_scale)"
    " -> Tensor",
    None,
    lambda density, *_: density.new_empty(density.shape[0], 4),
)
define(
    "activate_field(Tensor raw, Tensor positions, float radius, float blob_density, float blob_radius,"
    " float density_scale) -> (Tensor, Tensor)",
    None,
    _activate_fake,
    _activate_autograd,
    _activate_setup,
)

KERNELS = {
    "march": march_cuda,
    "composite": composite_cuda,
    "composite_backward": composite_backward_cuda,
    "composite_reached": composite_reached_cuda,
    "composite_reached_backward": composite_reached_backward_cuda,
    "hash_grid_encode": hash_grid_encode_cuda,
    "hash_grid_encode_backward": hash_grid_encode_backward_cuda,
    "hash_grid_slope": hash_grid_slope_cuda,
    "hash_grid_slope_backward": grad_of_table,
    "hash_grid_grad_positions": hash_grid_grad_positions_cuda,
    "activate_field": activate_field_cuda,
    "activate_field_backward": activate_field_backward_cuda,
    "adamw_step": partial(adamw_step_by, call),
}
for _name, _kernel in KERNELS.items():
    TORCH_LIBRARY.impl(_name, _kernel, "CUDA")
