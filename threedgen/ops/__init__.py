"""Rendering primitives: pure functions on tensors that know no scene, no camera and no network.

R rays carry S packed samples: the samples of ray r are rows offsets[r] .. offsets[r + 1] - 1, in order along the ray.

    hash_grid_encode    positions -> features of a multi-resolution hash grid
    ray_box             where rays enter and leave the scene's cube
    ray_jitter          where in its step each ray's samples lie
    march               rays x occupancy -> packed samples
    composite           densities and colours of samples -> colour, opacity and depth of rays
    evaluate_field      positions -> density and colour of a radiance field
    render_field        evaluate_field and composite in one, leaving out what no light reaches
    field_with_normals  evaluate_field with normals that can be learned from
    refresh_occupancy   the decaying maximum behind the occupancy grid
    adamw_step          one step of the optimiser
    splat               3D Gaussians -> images

`plain` has each in plain torch, the definition; `native` has them by the compiled kernels of `cuda_ext/`;
`backends.select_backend` says which a scene uses. The names here are those that every back end shares.
"""

from threedgen.ops.grid import GridLevel, HashGrid
from threedgen.ops.plain.marching import ray_box
from threedgen.ops.splats import SplatImages
from threedgen.ops.types import Composite, FieldLayout, RaySamples

__all__ = ["Composite", "FieldLayout", "GridLevel", "HashGrid", "RaySamples", "SplatImages", "ray_box"]
