"""Which rasterizer there is for a mesh."""

from __future__ import annotations

import torch

from threedgen.config.export import RasterizerName
from threedgen.core.errors import ConfigError
from threedgen.mesh.kaolin_rasterizer import KaolinRasterizer
from threedgen.mesh.rasterize import NativeRasterizer, Rasterizer


def make_rasterizer(name: RasterizerName) -> Rasterizer:
    """`native` is the CPU; `kaolin` needs a CUDA device; `auto` takes kaolin where it can.

    Raises:
        ConfigError: kaolin was asked for and cannot be used.
    """
    if name is RasterizerName.native or (name is RasterizerName.auto and not torch.cuda.is_available()):
        return NativeRasterizer()
    try:  # the package of that name on PyPI is an empty one: only importing it tells
        from kaolin.render.mesh import rasterize
    except (ImportError, OSError, RuntimeError) as error:
        if name is RasterizerName.auto:
            return NativeRasterizer()
        reason = " ".join(str(error).split())
        raise ConfigError(f"export.rasterizer=kaolin: kaolin cannot be imported ({reason}); use native") from error
    if not torch.cuda.is_available():
        raise ConfigError("export.rasterizer=kaolin needs a CUDA device, and torch finds none; use native")
    return KaolinRasterizer(rasterize, "cuda")
