"""Rendering primitives: pure functions on tensors that know no scene, no camera and no network.

R rays carry S packed samples: the samples of ray r are rows offsets[r] .. offsets[r + 1] - 1, in order along the ray.

    hash_grid_encode    positions -> features of a multi-resolution hash grid
    ray_box             where rays enter and leave the scene's cube
    march               rays x occupancy -> packed samples
    composite           densities and colours of samples -> colour, opacity and depth of rays

Plain torch (`ops.reference`) is the only back end.
"""

from threedgen.ops.grid import GridLevel, HashGrid
from threedgen.ops.reference.compositing import Composite, composite
from threedgen.ops.reference.hash_grid import hash_grid_encode
from threedgen.ops.reference.marching import RaySamples, march, ray_box

__all__ = [
    "Composite",
    "GridLevel",
    "HashGrid",
    "RaySamples",
    "composite",
    "hash_grid_encode",
    "march",
    "ray_box",
]
