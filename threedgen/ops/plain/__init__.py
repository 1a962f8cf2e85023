"""Every op in plain torch: the definition that faster back ends are tested against, and the fallback without them."""

from threedgen.ops.plain.compositing import composite
from threedgen.ops.plain.field import evaluate_field, field_with_normals, refresh_occupancy, render_field
from threedgen.ops.plain.gaussian_field import sum_gaussians
from threedgen.ops.plain.hash_grid import hash_grid_encode
from threedgen.ops.plain.marching import march, ray_box
from threedgen.ops.plain.optimizer import adamw_step
from threedgen.ops.plain.random import ray_jitter
from threedgen.ops.plain.splats import splat

__all__ = [
    "adamw_step",
    "composite",
    "evaluate_field",
    "field_with_normals",
    "hash_grid_encode",
    "march",
    "ray_box",
    "ray_jitter",
    "refresh_occupancy",
    "render_field",
    "splat",
    "sum_gaussians",
]
