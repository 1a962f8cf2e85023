"""Operations on a radiance field in plain torch: `ops.plain.composed` over this back end's primitives."""

from functools import partial

from threedgen.ops.plain import composed
from threedgen.ops.plain.compositing import composite
from threedgen.ops.plain.hash_grid import hash_grid_encode

PRIMITIVES = composed.Primitives(hash_grid_encode, composed.mlp, composite)

evaluate_field = partial(composed.evaluate_field, PRIMITIVES)
render_field = partial(composed.render_field, PRIMITIVES)
field_with_normals = composed.field_with_normals
refresh_occupancy = partial(composed.refresh_occupancy, PRIMITIVES)
