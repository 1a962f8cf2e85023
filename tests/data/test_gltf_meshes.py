"""What glTF 2.0 says of coordinates and colours, in files written by hand, against what is then seen."""

import base64
import json
import math
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from tests.data.test_mesh_views import QUARTERS, middle, seen
from threedgen.core.errors import ThreedgenError
from threedgen.data.meshes.files import read_mesh


def gltf_square(path: Path, uvs, *, normalized=False, picture=None, attributes=(), **textured):
    """A glTF file of the square of `picture_quad`, with these TEXCOORD_0 [4, 2], v downwards; more attributes; and what
    the material says of its picture besides."""
    kinds = {"float32": 5126, "uint8": 5121, "uint16": 5123, "int16": 5122}
    corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], np.float32)
    given = {"POSITION": (corners, False), "TEXCOORD_0": (uvs, normalized), **dict(attributes)}
    given["indices"] = np.array([0, 1, 2, 0, 2, 3], np.uint8), False
    buffer, views, accessors = b"", [], []
    for values, is_normalized in given.values():
        row = (
            values.tobytes() if values.ndim == 1 else b"".join(x.tobytes().ljust(-(-x.nbytes // 4) * 4) for x in values)
        )
        views.append({"buffer": 0, "byteOffset": len(buffer), "byteLength": len(row)})
        if values.ndim > 1:
            views[-1]["byteStride"] = len(row) // len(values)
        accessors.append(
            {"bufferView": len(views) - 1, "componentType": kinds[str(values.dtype)], "count": len(values)}
        )
        accessors[-1]["type"] = "SCALAR" if values.ndim == 1 else f"VEC{values.shape[1]}"
        accessors[-1] |= {"normalized": True} if is_normalized else {}
        buffer += row + bytes(-len(row) % 4)
    number = {name: i for i, name in enumerate(given)}
    primitive = {"indices": number.pop("indices"), "attributes": number}
    content = {"asset": {"version": "2.0"}, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}], "scene": 0}
    if picture is not None:
        primitive["material"] = 0
        content["materials"] = [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0, **textured}}}]
        content |= {"textures": [{"source": 0}], "images": [{"uri": "picture.png"}]}
        Image.fromarray(picture).resize((64, 64), Image.Resampling.NEAREST).save(path.with_name("picture.png"))
    content |= {"accessors": accessors, "bufferViews": views, "meshes": [{"primitives": [primitive]}]}
    content["buffers"] = [{"byteLength": len(buffer), "uri": f"data:;base64,{base64.b64encode(buffer).decode()}"}]
    path.write_text(json.dumps(content))


DOWNWARDS = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)  # of the square's corners: the picture upright


def quarters(path):
    """What is seen in the quarters of a square, row by row."""
    image = seen(read_mesh(path)[0], 0, size=32)
    return image[[[12, 12], [19, 19]], [[12, 19], [12, 19]], :3].tolist()


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_texture_coordinates_in_whole_numbers_of_gltf(tmp_path, kind):
    whole = (DOWNWARDS * np.iinfo(kind).max).astype(kind)
    gltf_square(tmp_path / "square.gltf", whole, normalized=True, picture=QUARTERS)
    assert quarters(tmp_path / "square.gltf") == QUARTERS.tolist()


def test_a_picture_takes_the_texture_coordinates_that_it_names(tmp_path):
    others = {"TEXCOORD_1": (DOWNWARDS, False)}
    gltf_square(tmp_path / "square.gltf", 0 * DOWNWARDS, picture=QUARTERS, attributes=others, texCoord=1)
    assert quarters(tmp_path / "square.gltf") == QUARTERS.tolist()


@pytest.mark.parametrize(
    "moved, expected",
    [
        ({"offset": [0.5, 0.0]}, QUARTERS[:, ::-1]),
        ({"scale": [0.5, 0.5], "offset": [0.0, 0.5]}, QUARTERS[[[1, 1], [1, 1]], 0]),  # its lower left quarter alone
        ({"rotation": math.pi / 2}, np.rot90(QUARTERS, -1)),  # "a similar rotation of the image clockwise"
        # u' = v and v' = 1/4 - 2 u: of u and v about a quarter and three quarters
        ({"rotation": math.pi / 2, "scale": [2.0, 1.0], "offset": [0.0, 0.25]}, QUARTERS[1, [[0, 0], [1, 1]]]),
    ],
)
def test_gltfs_pictures_are_moved(tmp_path, moved, expected):
    """By the words of KHR_texture_transform, and, all three together, by its order: scaled, turned, shifted."""
    extensions = {"KHR_texture_transform": moved}
    gltf_square(tmp_path / "square.gltf", DOWNWARDS, picture=QUARTERS, extensions=extensions)
    assert quarters(tmp_path / "square.gltf") == expected.tolist()


def test_files_are_named_as_uris(tmp_path):
    """As Blender writes them: a buffer and a picture with spaces in their names."""
    gltf_square(tmp_path / "square.gltf", DOWNWARDS, picture=QUARTERS)
    content = json.loads((tmp_path / "square.gltf").read_text())
    (tmp_path / "my square é.bin").write_bytes(base64.b64decode(content["buffers"][0]["uri"].partition(",")[2]))
    (tmp_path / "picture.png").rename(tmp_path / "a 100% picture.png")
    content["buffers"][0]["uri"], content["images"][0]["uri"] = "my%20square%20%C3%A9.bin", "a%20100%25%20picture.png"
    (tmp_path / "square.gltf").write_text(json.dumps(content))
    assert read_mesh(tmp_path / "square.gltf")[1] == []
    assert quarters(tmp_path / "square.gltf") == QUARTERS.tolist()


def test_positions_in_whole_numbers_of_gltf(tmp_path):
    """KHR_mesh_quantization: parts of the largest number, which the node's matrix then puts into place."""
    corners = np.array([[-32767, -32767, 0], [32767, -32767, 0], [32767, 32767, 0], [-32768, 32767, 0]], np.int16)
    gltf_square(tmp_path / "square.gltf", DOWNWARDS, attributes={"POSITION": (corners, True)})
    expected = [[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]
    assert read_mesh(tmp_path / "square.gltf")[0].vertices.tolist() == expected


def test_colours_of_vertices_in_sixteen_bits_without_a_material(tmp_path):
    light = np.full((4, 4), round(65535 * 0.21404), np.uint16)  # of sRGB 0.5
    gltf_square(tmp_path / "square.gltf", DOWNWARDS, attributes={"COLOR_0": (light, True)})
    mesh, remarks = read_mesh(tmp_path / "square.gltf")
    assert middle(seen(mesh, 0)) == (127, 127, 127) or middle(seen(mesh, 0)) == (128, 128, 128)
    assert remarks == []


def test_a_glb_is_retold_as_its_gltf_is(tmp_path):
    """The same square, packed by another program: a picture in the buffer, coordinates moved."""
    gltf_square(tmp_path / "square.gltf", DOWNWARDS, picture=QUARTERS)
    scene = trimesh.load_scene(tmp_path / "square.gltf", process=False)
    moved = {"KHR_texture_transform": {"offset": [0.5, 0.0]}}

    def told(header):
        header["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]["extensions"] = moved

    (tmp_path / "square.glb").write_bytes(trimesh.exchange.gltf.export_glb(scene, tree_postprocessor=told))
    assert quarters(tmp_path / "square.glb") == QUARTERS[:, ::-1].tolist()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda content: content["accessors"][0].update(sparse={"count": 1}), "sparse accessors"),
        (lambda content: content["meshes"][0]["primitives"].append({"mode": 6, "attributes": {"POSITION": 0}}), "fans"),
    ],
)
def test_what_the_reader_would_leave_out_is_refused(tmp_path, spoil, told):
    gltf_square(tmp_path / "square.gltf", DOWNWARDS)
    content = json.loads((tmp_path / "square.gltf").read_text())
    spoil(content)
    (tmp_path / "square.gltf").write_text(json.dumps(content))
    with pytest.raises(ThreedgenError, match=told):
        read_mesh(tmp_path / "square.gltf")
