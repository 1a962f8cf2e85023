"""From a radiance field to a coloured mesh, its files and its pictures.

extract_surface, paint          isosurface -> smooth -> simplify, then unwrap -> bake
write_glb, write_obj, write_ply, write_stl, write_usdz
render_mesh, render_views
describe_mesh                   what report.json says of it
"""

from threedgen.mesh.extract import extract_surface, paint
from threedgen.mesh.gltf import glb_bytes, write_glb
from threedgen.mesh.rasterize import Rasterizer
from threedgen.mesh.rasterizers import make_rasterizer
from threedgen.mesh.render import render_mesh, render_views
from threedgen.mesh.report import describe_mesh
from threedgen.mesh.types import ColoredMesh, Mesh, RadianceField, Surface, TexturedMesh, lifted
from threedgen.mesh.usdz import require_usd, write_usdz
from threedgen.mesh.write import write_obj, write_ply, write_stl

__all__ = [
    "ColoredMesh",
    "Mesh",
    "RadianceField",
    "Rasterizer",
    "Surface",
    "TexturedMesh",
    "describe_mesh",
    "extract_surface",
    "glb_bytes",
    "lifted",
    "make_rasterizer",
    "paint",
    "render_mesh",
    "render_views",
    "require_usd",
    "write_glb",
    "write_obj",
    "write_ply",
    "write_stl",
    "write_usdz",
]
