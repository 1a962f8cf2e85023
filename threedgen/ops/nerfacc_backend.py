"""The back end `nerfacc`: marching and compositing by nerfacc (Li et al. 2023), everything else by our kernels.

Written for nerfacc 0.5.3, after its docstrings of `traverse_grids`, `render_weight_from_density` and
`accumulate_along_rays`, and after how its `OccGridEstimator.sampling` reads the intervals. nerfacc adds up the
distance along a ray step by step in float32, so samples lie up to 1e-5 beside the other back ends', and one on the face
of a cell may be decided otherwise.
"""

from __future__ import annotations

from functools import partial
from types import ModuleType

import torch
from torch import Tensor
from torch.nn.functional import pad

from threedgen.core.errors import ConfigError
from threedgen.ops.native.field import field_with_normals
from threedgen.ops.native.gaussian_field import sum_gaussians
from threedgen.ops.native.hash_grid import hash_grid_encode
from threedgen.ops.native.marching import ray_jitter
from threedgen.ops.native.optimizer import adamw_step
from threedgen.ops.native.splats import splat
from threedgen.ops.plain import composed
from threedgen.ops.plain.marching import ray_box
from threedgen.ops.types import Composite, RaySamples


def require() -> ModuleType:
    """nerfacc. Raises ConfigError where it cannot be used."""
    try:
        import nerfacc
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigError(f"scene.backend=nerfacc: nerfacc cannot be imported ({error}); pip install nerfacc") from None
    if not torch.cuda.is_available():
        raise ConfigError("scene.backend=nerfacc needs a CUDA device; use scene.backend=native")
    return nerfacc


@torch.no_grad()
def march(
    origins: Tensor,
    directions: Tensor,
    occupancy: Tensor,
    radius: float,
    step_size: float,
    jitter: Tensor | None = None,
) -> RaySamples:
    """As `ops.plain.march`."""
    t_near, _ = ray_box(origins, directions, -radius, radius)
    # nerfacc's first interval begins at the near plane; ours lies around t_near + jitter * step_size
    shift = 0.0 if jitter is None else (jitter - 0.5) * step_size
    box = origins.new_tensor([[-radius] * 3 + [radius] * 3])
    intervals, samples, _ = require().traverse_grids(
        origins, directions, occupancy[None], box, near_planes=t_near + shift, step_size=step_size
    )
    t_starts, t_ends = intervals.vals[intervals.is_left], intervals.vals[intervals.is_right]
    offsets = pad(samples.packed_info[:, 1].long().cumsum(0), (1, 0))
    return RaySamples(t_starts, t_ends, samples.ray_indices.long(), offsets)


def composite(
    density: Tensor, rgb: Tensor, t_starts: Tensor, t_ends: Tensor, ray_indices: Tensor, offsets: Tensor
) -> Composite:
    """As `ops.plain.composite`, to about 1e-6."""
    nerfacc, num_rays = require(), len(offsets) - 1
    packed_info = torch.stack([offsets[:-1], offsets.diff()], -1)
    weights, _, _ = nerfacc.render_weight_from_density(t_starts, t_ends, density, packed_info=packed_info)
    t_mids = 0.5 * (t_starts + t_ends)
    along = partial(nerfacc.accumulate_along_rays, weights, ray_indices=ray_indices, n_rays=num_rays)
    return Composite(along(rgb), along(None)[:, 0], along(t_mids[:, None])[:, 0], weights)


PRIMITIVES = composed.Primitives(hash_grid_encode, composed.mlp, composite)

evaluate_field = partial(composed.evaluate_field, PRIMITIVES)
render_field = partial(composed.render_field, PRIMITIVES)
refresh_occupancy = partial(composed.refresh_occupancy, PRIMITIVES)

__all__ = [
    "adamw_step",
    "composite",
    "evaluate_field",
    "field_with_normals",
    "march",
    "ray_jitter",
    "refresh_occupancy",
    "render_field",
    "require",
    "splat",
    "sum_gaussians",
]
