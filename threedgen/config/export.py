"""What becomes of a scene: a mesh, its files and its pictures."""

from dataclasses import dataclass
from enum import Enum

from threedgen.config.setting import setting

EXPORT_FORMATS = ("glb", "obj", "ply", "stl", "usdz")  # what an asset can be written as; usdz: with USD installed


class MeshColors(Enum):
    texture = "texture"
    vertex = "vertex"  # a colour at every vertex: no unwrapping, so faster and less sharp


class RasterizerName(Enum):
    auto = "auto"  # kaolin where it imports and torch finds a CUDA device, otherwise native
    native = "native"  # on the CPU: Embree rays for views
    kaolin = "kaolin"


@dataclass
class ExportConfig:
    resolution: int = setting(128, 8, 1024)  # cells of the isosurface grid along the longest edge of the object's box
    threshold: float = setting(0.0, 0)  # density of the surface; 0: chosen automatically
    faces: int = setting(20000, 0)  # about so many at most; 0: all that the isosurface has
    smooth: int = setting(0, 0, 1000)  # iterations of Taubin's filter
    colors: MeshColors = MeshColors.texture
    texture_size: int = setting(1024, 16, 16384)  # pixels, square
    formats: tuple[str, ...] = ("glb", "obj")  # some of EXPORT_FORMATS; ply: a colour at every vertex; stl: none
    ply: bool = False  # the same as ply among the formats
    on_floor: bool = False  # the asset's lowest point at height 0; otherwise where the scene has it
    rasterizer: RasterizerName = RasterizerName.auto
    turntable_frames: int = setting(120, 1, 10000)
    image_size: int = setting(256, 8, 8192)  # pixels of the turntable and of the contact sheet's tiles
