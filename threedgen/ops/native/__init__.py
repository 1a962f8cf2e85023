"""Every op by the kernels of `cuda_ext/`; the names, arguments and results are those of `ops.plain`."""

from threedgen.ops.native.availability import available, why_not
from threedgen.ops.native.compositing import composite
from threedgen.ops.native.cuda import march_within
from threedgen.ops.native.field import evaluate_field, field_with_normals, refresh_occupancy, render_field
from threedgen.ops.native.gaussian_field import sum_gaussians
from threedgen.ops.native.hash_grid import hash_grid_encode
from threedgen.ops.native.marching import march, ray_jitter
from threedgen.ops.native.optimizer import adamw_step
from threedgen.ops.native.splats import splat
from threedgen.ops.plain.marching import ray_box

__all__ = [
    "adamw_step",
    "available",
    "composite",
    "evaluate_field",
    "field_with_normals",
    "hash_grid_encode",
    "march",
    "march_within",
    "ray_box",
    "ray_jitter",
    "refresh_occupancy",
    "render_field",
    "splat",
    "sum_gaussians",
    "why_not",
]
