"""A mesh as files of older formats. OBJ and PLY have y up and the object's front along +z, as the GLB has.

STL, which is for printing, has z up, as programs for that expect.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from threedgen.core.files import write_bytes_atomically, write_text_atomically
from threedgen.mesh.gltf import to_y_up
from threedgen.mesh.types import Array, ColoredMesh, Mesh, Surface, TexturedMesh

_ROWS_AT_ONCE = 1 << 14  # of a table as text; bounds the memory


def write_obj(mesh: Mesh, path: str | Path) -> None:
    """`path` (.obj); with a texture also the material (.mtl) and the texture (.png) of the same name beside it.

    They are found by their names alone, so the three can be moved together. The texture and the material are written
    first, so an .obj that exists finds them. Without a texture the colours (sRGB, 0..1) follow the positions in the
    `v` lines, which Blender, MeshLab and others read.
    """
    path = Path(path)
    vertices = to_y_up(mesh.vertices)
    corners = mesh.faces + 1
    match mesh:
        case TexturedMesh():
            material, texture = path.with_suffix(".mtl"), path.with_suffix(".png")
            write_bytes_atomically(texture, mesh.png)
            lines = f"newmtl asset\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {texture.name}\n"
            write_text_atomically(material, lines)
            text = f"mtllib {material.name}\nusemtl asset\n"
            text += _lines("v %.8g %.8g %.8g", vertices) + _lines("vt %.6g %.6g", mesh.uvs)
            face, repeats = "f %d/%d/%d %d/%d/%d %d/%d/%d", 3
        case ColoredMesh():
            text = _lines("v %.8g %.8g %.8g %.4f %.4f %.4f", np.hstack([vertices, mesh.colors / 255.0]))
            face, repeats = "f %d//%d %d//%d %d//%d", 2
    text += _lines("vn %.4g %.4g %.4g", to_y_up(mesh.normals)) + _lines(face, np.repeat(corners, repeats, axis=1))
    write_text_atomically(path, text)


def _lines(form: str, table: Array) -> str:
    """A line for each row, as `numpy.savetxt` writes them: many at once, which takes a third of the time."""
    pieces = (table[start : start + _ROWS_AT_ONCE] for start in range(0, len(table), _ROWS_AT_ONCE))
    return "".join(f"{form}\n" * len(piece) % tuple(piece.ravel().tolist()) for piece in pieces)


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


def write_stl(mesh: Surface, path: str | Path) -> None:
    """A binary STL: the shape alone, in world axes (z up, front along +x), a normal for each face."""
    face = np.zeros(len(mesh.faces), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    corners = face["corners"] = mesh.vertices[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    face["normal"] = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    write_bytes_atomically(path, b"threedgen".ljust(80) + np.uint32(len(face)).tobytes() + face.tobytes())
