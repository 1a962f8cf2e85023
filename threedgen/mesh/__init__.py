"""From a radiance field to a textured mesh, its files and its pictures.

extract_mesh    isosurface -> simplify -> unwrap -> bake
write_glb, write_obj
render_mesh
"""

from threedgen.mesh.extract import extract_mesh
from threedgen.mesh.render import render_mesh
from threedgen.mesh.types import RadianceField, TexturedMesh
from threedgen.mesh.write import write_glb, write_obj

__all__ = ["RadianceField", "TexturedMesh", "extract_mesh", "render_mesh", "write_glb", "write_obj"]
