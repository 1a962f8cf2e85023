"""A place in the texture for each face."""

from __future__ import annotations

import numpy as np
import xatlas

from threedgen.mesh.types import Array

_PADDING = 4  # texels between charts, of xatlas's atlas, which comes out finer than the texture: there fewer


def unwrap(vertices: Array, faces: Array, texture_size: int) -> tuple[Array, Array, Array]:
    """Charts without overlap, a few texels apart (xatlas; takes seconds for 20 000 faces).

    Returns:
        source: [V'] the vertex of the given mesh that each new vertex is a copy of: seams need several.
        faces: [F, 3] in new vertices, in the order given.
        uvs: [V', 2] float32 in 0..1.
    """
    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices.astype(np.float32), faces.astype(np.uint32))
    options = xatlas.PackOptions()
    options.resolution, options.padding, options.bilinear = texture_size, _PADDING, True
    atlas.generate(pack_options=options)
    source, new_faces, uvs = atlas[0]
    return source.astype(np.int64), new_faces.astype(np.int64), uvs.astype(np.float32)
