"""Every op in plain torch: the definition that faster back ends are tested against, and the fallback without them."""

from threedgen.ops.reference.compositing import composite
from threedgen.ops.reference.field import evaluate_field, field_with_normals, refresh_occupancy, render_field
from threedgen.ops.reference.hash_grid import hash_grid_encode
from threedgen.ops.reference.marching import march, ray_box
from threedgen.ops.reference.optimizer import adamw_step
from threedgen.ops.reference.random import ray_jitter
from threedgen.ops.reference.splats import splat

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
]
