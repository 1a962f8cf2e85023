"""Ray marching by the compiled kernel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from threedgen.ops import plain
from threedgen.ops.native.library import call, define
from threedgen.ops.types import RaySamples


def march(
    origins: Tensor,
    directions: Tensor,
    occupancy: Tensor,
    radius: float,
    step_size: float,
    jitter: Tensor | None = None,
) -> RaySamples:
    """As `ops.plain.march`."""
    return RaySamples(*torch.ops.threedgen.march(origins, directions, occupancy, radius, step_size, jitter))


def ray_jitter(seed: int, num_rays: int, device: torch.device | str = "cpu") -> Tensor:
    """As `ops.plain.ray_jitter`."""
    if torch.device(device).type != "cuda":
        return plain.ray_jitter(seed, num_rays, device)
    from threedgen.ops.native import cuda_field

    return cuda_field.ray_jitter(seed, num_rays, device)


def _march_cpu(
    origins: Tensor, directions: Tensor, occupancy: Tensor, radius: float, step_size: float, jitter: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    num_rays, resolution, real = len(origins), occupancy.shape[0], origins.dtype
    origins, directions, occupancy = origins.contiguous(), directions.contiguous(), occupancy.contiguous()
    jitter = None if jitter is None else jitter.contiguous()
    longest = 2 * math.sqrt(3) * radius / step_size  # steps along the cube's diagonal
    words_per_ray = int(longest) // 64 + 1
    num_words = resolution**3 // 32 + (resolution // 8 + 1) ** 3 // 32 + 2
    bits = torch.empty(num_words, dtype=torch.int32)
    steps = torch.empty(num_rays, words_per_ray, dtype=torch.int64)
    t_near, counts = origins.new_empty(num_rays), torch.empty(num_rays, dtype=torch.int64)
    call(
        "tg_march_find", real, num_rays, origins, directions, jitter, occupancy, resolution, float(radius),
        float(step_size), bits, words_per_ray, steps, t_near, counts,
    )  # fmt: skip
    offsets = torch.zeros(num_rays + 1, dtype=torch.int64)
    torch.cumsum(counts, 0, out=offsets[1:])
    num_samples = int(offsets[-1])
    t_starts, t_ends = origins.new_empty(num_samples), origins.new_empty(num_samples)
    ray_indices = torch.empty(num_samples, dtype=torch.int64)
    call(
        "tg_march_write", real, num_rays, jitter, float(step_size), words_per_ray, steps, t_near, offsets,
        t_starts, t_ends, ray_indices,
    )  # fmt: skip
    return t_starts, t_ends, ray_indices, offsets


def _march_fake(origins, directions, occupancy, radius, step_size, jitter):
    num_samples = torch.library.get_ctx().new_dynamic_size()
    t = origins.new_empty(num_samples)
    offsets = origins.new_empty(len(origins) + 1, dtype=torch.int64)
    return t, torch.empty_like(t), t.new_empty(num_samples, dtype=torch.int64), offsets


define(
    "march(Tensor origins, Tensor directions, Tensor occupancy, float radius, float step_size, Tensor? jitter)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _march_cpu,
    _march_fake,
)
