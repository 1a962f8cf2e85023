"""A mesh as files of older formats: OBJ and PLY. Both have y up and the object's front along +z, as the GLB has."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from threedgen.core.files import write_bytes_atomically, write_text_atomically
from threedgen.imaging import save_png
from threedgen.mesh.gltf import to_y_up
from threedgen.mesh.types import ColoredMesh, Mesh, TexturedMesh


def write_obj(mesh: Mesh, path: str | Path) -> None:
    """`path` (.obj); with a texture also the material (.mtl) and the texture (.png) of the same name beside it.

    They are found by their names alone, so the three can be moved together. The texture and the material are written
    first, so an .obj that exists finds them. Without a texture the colours (sRGB, 0..1) follow the positions in the
    `v` lines, which Blender, MeshLab and others read.
    """
    path = Path(path)
    text = io.StringIO()
    vertices = to_y_up(mesh.vertices)
    corners = mesh.faces + 1
    match mesh:
        case TexturedMesh():
            material, texture = path.with_suffix(".mtl"), path.with_suffix(".png")
            save_png(mesh.texture, texture)
            lines = f"newmtl asset\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {texture.name}\n"
            write_text_atomically(material, lines)
            text.write(f"mtllib {material.name}\nusemtl asset\n")
            np.savetxt(text, vertices, fmt="v %.8g %.8g %.8g")
            np.savetxt(text, mesh.uvs, fmt="vt %.6g %.6g")
            face, repeats = "f %d/%d/%d %d/%d/%d %d/%d/%d", 3
        case ColoredMesh():
            np.savetxt(text, np.hstack([vertices, mesh.colors / 255.0]), fmt="v %.8g %.8g %.8g %.4f %.4f %.4f")
            face, repeats = "f %d//%d %d//%d %d//%d", 2
    np.savetxt(text, to_y_up(mesh.normals), fmt="vn %.4g %.4g %.4g")
    np.savetxt(text, np.repeat(corners, repeats, axis=1), fmt=face)
    write_text_atomically(path, text.getvalue())


def write_ply(mesh: ColoredMesh, path: str | Path) -> None:
    """A binary PLY with normals and the vertices' colours (uchar, sRGB)."""
    vertex = np.empty(len(mesh.vertices), [("xyz", "<f4", 3), ("normal", "<f4", 3), ("color", "u1", 3)])
    vertex["xyz"], vertex["normal"] = to_y_up(mesh.vertices), to_y_up(mesh.normals)
    vertex["color"] = mesh.colors
    face = np.empty(len(mesh.faces), [("count", "u1"), ("corners", "<i4", 3)])
    face["count"], face["corners"] = 3, mesh.faces
    floats = "".join(f"property float {name}\n" for name in ("x", "y", "z", "nx", "ny", "nz"))
    colors = "".join(f"property uchar {name}\n" for name in ("red", "green", "blue"))
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(vertex)}\n{floats}{colors}"
    header += f"element face {len(face)}\nproperty list uchar int vertex_indices\nend_header\n"
    write_bytes_atomically(path, header.encode("ascii") + vertex.tobytes() + face.tobytes())
