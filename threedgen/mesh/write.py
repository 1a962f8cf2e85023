"""A textured mesh as files that other programs open. All of them have y up and the object's front along +z."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual.material import PBRMaterial

from threedgen.core.files import write_bytes_atomically, write_text_atomically
from threedgen.imaging import save_png
from threedgen.mesh.types import Array, TexturedMesh


def to_y_up(vectors: Array) -> Array:
    """World axes (x front, y left, z up) -> glTF's (z front, x left, y up): a rotation. [N, 3] -> [N, 3]."""
    return vectors[:, [1, 2, 0]]


def write_glb(mesh: TexturedMesh, path: str | Path) -> None:
    """One binary glTF 2.0 file: geometry, normals, and the texture as a matt base colour; units are metres."""
    material = PBRMaterial(
        name="asset",
        baseColorTexture=Image.fromarray(mesh.texture),
        metallicFactor=0.0,
        roughnessFactor=1.0,
        doubleSided=False,
    )
    asset = trimesh.Trimesh(
        vertices=to_y_up(mesh.vertices),
        faces=mesh.faces,
        vertex_normals=to_y_up(mesh.normals),
        visual=trimesh.visual.TextureVisuals(uv=mesh.uvs, material=material),
        process=False,
    )
    scene = trimesh.Scene()
    scene.add_geometry(asset, node_name="asset", geom_name="asset")
    data = scene.export(file_type="glb", include_normals=True)
    assert isinstance(data, bytes)
    write_bytes_atomically(path, data)


def write_obj(mesh: TexturedMesh, path: str | Path) -> None:
    """`path` (.obj) and beside it the material (.mtl) and the texture (.png) of the same name, found by that name.

    The texture and the material come first, so an .obj that exists finds them.
    """
    path = Path(path)
    material, texture = path.with_suffix(".mtl"), path.with_suffix(".png")
    save_png(mesh.texture, texture)
    write_text_atomically(
        material,
        "newmtl asset\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 1\n" + f"map_Kd {texture.name}\n",
    )
    text = io.StringIO()
    text.write(f"mtllib {material.name}\nusemtl asset\n")
    np.savetxt(text, to_y_up(mesh.vertices), fmt="v %.6g %.6g %.6g")
    np.savetxt(text, mesh.uvs, fmt="vt %.6g %.6g")
    np.savetxt(text, to_y_up(mesh.normals), fmt="vn %.4g %.4g %.4g")
    np.savetxt(text, np.repeat(mesh.faces + 1, 3, axis=1), fmt="f %d/%d/%d %d/%d/%d %d/%d/%d")
    write_text_atomically(path, text.getvalue())
