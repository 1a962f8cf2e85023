import io
import json
import math
import re
import struct

import numpy as np
import pytest
import torch
import trimesh

from threedgen.cameras import orbit, rays_of
from threedgen.config.export import ExportConfig, MeshColors
from threedgen.mesh import (
    ColoredMesh,
    TexturedMesh,
    describe_mesh,
    render_mesh,
    write,
    write_glb,
    write_obj,
    write_ply,
    write_stl,
)
from threedgen.mesh.rasterize import NativeRasterizer
from threedgen.mesh.types import sample_texture
from threedgen.metrics import chamfer_distance, psnr, sample_surface, silhouette_iou


@pytest.fixture(scope="module")
def cameras():
    return orbit([0, 70, 180, 290], [15, -30, 40, 5], 2.0, 40, 96)


@pytest.fixture(scope="module")
def truth(analytic, cameras):
    """The ball of radius 0.4, cast ray by ray: rgb [B, H, W, 3] on grey, hit [B, H, W, 1]."""
    rays = rays_of(cameras)
    along = -(rays.origins * rays.directions).sum(-1)
    depth = along.square() - rays.origins.square().sum(-1) + 0.4**2
    hit = depth > 0
    points = rays.origins + (along - depth.clamp_min(0).sqrt())[:, None] * rays.directions
    rgb = torch.where(hit[:, None], analytic.color_at(points), torch.tensor(0.5))
    return rgb.view(4, 96, 96, 3), hit.view(4, 96, 96, 1).float()


def reloaded(path):
    """The mesh of a file as TexturedMesh in world axes."""
    (mesh,) = trimesh.load_scene(path, process=False).geometry.values()
    material = mesh.visual.material
    image = getattr(material, "baseColorTexture", None) or material.image
    back = [2, 0, 1]  # y up -> z up
    return TexturedMesh(
        np.asarray(mesh.vertices)[:, back].astype(np.float32),
        np.asarray(mesh.faces, np.int64),
        np.asarray(mesh.vertex_normals)[:, back].astype(np.float32),
        np.asarray(mesh.visual.uv, np.float32),
        np.asarray(image.convert("RGB")),
    )


def test_the_mesh_is_the_ball(ball_mesh):
    assert len(ball_mesh.faces) <= 8_000
    merged = trimesh.Trimesh(ball_mesh.vertices, ball_mesh.faces, process=True, merge_tex=True, merge_norm=True)
    assert merged.is_watertight
    assert merged.volume == pytest.approx(4 / 3 * math.pi * 0.4**3, rel=0.02)
    outward = ball_mesh.vertices / np.linalg.norm(ball_mesh.vertices, axis=1, keepdims=True)
    assert (ball_mesh.normals * outward).sum(1).min() > 0.9
    random = np.random.default_rng(0).normal(size=(20_000, 3))
    on_sphere = 0.4 * random / np.linalg.norm(random, axis=1, keepdims=True)
    ours = sample_surface(ball_mesh.vertices, ball_mesh.faces, 20_000, seed=1)
    same = sample_surface(ball_mesh.vertices, ball_mesh.faces, 20_000, seed=2)
    assert chamfer_distance(ours, on_sphere) < chamfer_distance(ours, same) + 0.001


def test_its_pictures_are_the_true_ones(ball_mesh, cameras, truth):
    rgb, opacity = render_mesh(ball_mesh, cameras)
    assert rgb.shape == (4, 96, 96, 3) and opacity.shape == (4, 96, 96, 1) and rgb.dtype == np.float32
    assert silhouette_iou(opacity, truth[1]) > 0.98
    inside = (opacity[..., 0] == 1) & (truth[1][..., 0].numpy() == 1)
    assert np.abs(rgb - truth[0].numpy())[inside].mean() < 0.006
    assert psnr(rgb, truth[0]) > 32


@pytest.mark.parametrize("name", ["asset.glb", "asset.obj"])
def test_files_come_back_as_they_were(ball_mesh, cameras, truth, tmp_path, name):
    (write_glb if name.endswith("glb") else write_obj)(ball_mesh, tmp_path / name)
    mesh = reloaded(tmp_path / name)
    assert len(mesh.faces) == len(ball_mesh.faces) and len(mesh.vertices) == len(ball_mesh.vertices)
    assert np.array_equal(mesh.texture, ball_mesh.texture)
    assert mesh.uvs.min() >= 0 and mesh.uvs.max() <= 1
    assert np.abs(mesh.vertices[mesh.faces] - ball_mesh.vertices[ball_mesh.faces]).max() < 1e-5
    assert np.abs(mesh.normals[mesh.faces] - ball_mesh.normals[ball_mesh.faces]).max() < 2e-3
    rgb, _ = render_mesh(mesh, cameras)
    assert psnr(rgb, truth[0]) > 32


def test_the_front_looks_along_gltf_z_with_y_up(tmp_path):
    """Front +x, left +y, up +z of the world are z, x, y of glTF: a viewer that looks along -z sees the face."""
    corners = np.array([[3, 0, 0], [0, 2, 0], [0, 0, 1]], np.float32)
    normal = np.full((3, 3), 1 / math.sqrt(3), np.float32)
    mesh = TexturedMesh(corners, np.array([[0, 1, 2]]), normal, corners[:, :2] / 3, np.zeros((4, 4, 3), np.uint8))
    write_glb(mesh, tmp_path / "a.glb")
    write_obj(mesh, tmp_path / "a.obj")
    for name in ("a.glb", "a.obj"):
        loaded = trimesh.load(tmp_path / name, process=False, force="mesh")
        assert np.array_equal(loaded.vertices[loaded.faces[0]], [[0, 0, 3], [2, 0, 0], [0, 1, 0]])


def test_the_glb_says_what_it_is(ball_mesh, tmp_path):
    write_glb(ball_mesh, tmp_path / "asset.glb")
    data = (tmp_path / "asset.glb").read_bytes()
    magic, version, length, json_length = struct.unpack("<4sIII", data[:16])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    content = json.loads(data[20 : 20 + json_length])
    (material,) = content["materials"]
    assert material["name"] == "asset" and not material.get("doubleSided", False)
    surface = material["pbrMetallicRoughness"]
    assert surface["metallicFactor"] == 0 and surface["roughnessFactor"] == 1 and "baseColorTexture" in surface
    (primitive,) = content["meshes"][0]["primitives"]
    assert {"POSITION", "NORMAL", "TEXCOORD_0"} <= set(primitive["attributes"])
    assert "uri" not in content["images"][0]  # the texture is inside


def test_the_validator_finds_nothing(ball_mesh, analytic, glb_issues, tmp_path):
    field = analytic.Field(analytic.ball())
    write_glb(ball_mesh, tmp_path / "texture.glb")
    write_glb(
        analytic.extract_mesh(field, ExportConfig(resolution=24, colors=MeshColors.vertex)), tmp_path / "vertex.glb"
    )
    odd = ExportConfig(resolution=8, texture_size=16, faces=0)
    write_glb(analytic.extract_mesh(field, odd), tmp_path / "odd.glb")
    assert glb_issues(*sorted(tmp_path.glob("*.glb"))) == []
    broken = bytearray((tmp_path / "odd.glb").read_bytes())
    broken[-20:] = b"\xff" * 20  # indices that no vertex has
    (tmp_path / "broken.glb").write_bytes(broken)
    assert glb_issues(tmp_path / "broken.glb")


def test_vertex_colors_are_linear_in_the_glb_and_srgb_elsewhere(tmp_path):
    """A hand-made triangle in mid grey, black and a red: the numbers of the three conventions."""
    corners, normals = np.eye(3, dtype=np.float32), np.full((3, 3), 3**-0.5, np.float32)
    colors = np.array([[128, 128, 128], [0, 0, 0], [255, 10, 0]], np.uint8)
    mesh = ColoredMesh(corners, np.array([[0, 1, 2]]), normals, colors)
    write_glb(mesh, tmp_path / "a.glb")
    write_obj(mesh, tmp_path / "a.obj")
    write_ply(mesh, tmp_path / "a.ply")
    data = (tmp_path / "a.glb").read_bytes()
    json_length = struct.unpack("<I", data[12:16])[0]
    content, binary = json.loads(data[20 : 20 + json_length]), data[28 + json_length :]
    accessor = content["accessors"][content["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]]
    assert accessor["normalized"] and accessor["componentType"] == 5123
    start = content["bufferViews"][accessor["bufferView"]]["byteOffset"]
    linear = np.frombuffer(binary, "<u2", 12, start).reshape(3, 4) / 65535
    assert linear[0] == pytest.approx([0.2158605, 0.2158605, 0.2158605, 1], abs=1e-4)  # sRGB 128
    assert linear[1:, :3] == pytest.approx(np.array([[0, 0, 0], [1, 0.003035, 0]]), abs=1e-4)
    lines = [line.split()[1:] for line in (tmp_path / "a.obj").read_text().splitlines() if line.startswith("v ")]
    assert np.array(lines, float)[:, 3:] == pytest.approx(colors / 255, abs=1e-4)
    assert [f.name for f in sorted(tmp_path.iterdir())] == ["a.glb", "a.obj", "a.ply"]  # no material, no texture
    ply = trimesh.load(tmp_path / "a.ply", process=False)
    assert np.array_equal(ply.visual.vertex_colors[:, :3], colors)
    assert np.array_equal(ply.vertices, corners[:, [1, 2, 0]]) and np.array_equal(ply.faces, [[0, 1, 2]])


def test_a_mesh_with_vertex_colors_looks_like_the_truth(analytic, cameras, truth):
    mesh = analytic.extract_mesh(analytic.Field(analytic.ball()), ExportConfig(resolution=66, colors=MeshColors.vertex))
    assert psnr(render_mesh(mesh, cameras)[0], truth[0]) > 32


def test_the_report_of_known_shapes(ball_mesh):
    report = describe_mesh(ball_mesh, NativeRasterizer())
    assert report["watertight"] and report["components"] == 1 and report["euler_number"] == 2
    assert report["faces"] == len(ball_mesh.faces) and report["vertices"] == len(ball_mesh.vertices)
    assert report["positions"] == report["faces"] // 2 + 2
    assert report["volume"] == pytest.approx(4 / 3 * math.pi * 0.4**3, rel=0.02)
    assert np.array(report["bounds"]) == pytest.approx(np.array([[-0.4] * 3, [0.4] * 3]), abs=0.01)
    assert report["texture_size"] == 256 and 0.3 < report["texture_coverage"] < 0.9
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_the_report_of_a_torus_beside_a_broken_box():
    torus, box = trimesh.creation.torus(1.0, 0.25), trimesh.creation.box()
    faces = np.concatenate([torus.faces, box.faces[1:] + len(torus.vertices), [[0, 0, 1]]])
    vertices = np.concatenate([torus.vertices, box.vertices + 5]).astype(np.float32)
    mesh = ColoredMesh(vertices, faces, vertices, np.zeros((len(vertices), 3), np.uint8))
    report = describe_mesh(mesh, NativeRasterizer())
    assert not report["watertight"] and report["components"] == 2 and report["degenerate_faces"] == 1
    assert report["texture_size"] is None and report["texture_coverage"] is None
    whole = ColoredMesh(vertices, torus.faces, vertices, mesh.colors)
    assert describe_mesh(whole, NativeRasterizer())["watertight"]


def test_the_obj_names_its_neighbours_without_a_folder(ball_mesh, tmp_path):
    write_obj(ball_mesh, tmp_path / "thing.obj")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["thing.mtl", "thing.obj", "thing.png"]
    assert re.findall(r"^mtllib (.+)$", (tmp_path / "thing.obj").read_text(), re.M) == ["thing.mtl"]
    material = (tmp_path / "thing.mtl").read_text()
    assert re.findall(r"^map_Kd (.+)$", material, re.M) == ["thing.png"]
    assert "Kd 1 1 1" in material  # anything else would darken the texture


def test_the_normals_of_an_stl_are_unit_and_outward(ball_mesh, tmp_path):
    """Read as the format has it: 80 bytes, the number of faces, and of each a normal, three corners and two bytes."""
    write_stl(ball_mesh, tmp_path / "a.stl")
    data = (tmp_path / "a.stl").read_bytes()
    (count,) = struct.unpack("<I", data[80:84])
    rows = np.frombuffer(data[84:], [("vectors", "<f4", (4, 3)), ("attribute", "<u2")])["vectors"]
    assert len(rows) == count == len(ball_mesh.faces)
    assert np.linalg.norm(rows[:, 0], axis=1) == pytest.approx(1, abs=1e-5)
    centers = rows[:, 1:].mean(1)
    outward = (rows[:, 0] * centers).sum(1) / np.linalg.norm(centers, axis=1)
    assert outward.mean() > 0.97 and (outward > 0).mean() > 0.99


def test_an_obj_holds_the_tables_that_numpy_writes(ball_mesh, tmp_path, monkeypatch):
    """A row after the other, in pieces and whole."""
    y_up = [1, 2, 0]
    tables = [("v %.8g %.8g %.8g", ball_mesh.vertices[:, y_up]), ("vt %.6g %.6g", ball_mesh.uvs)]
    tables += [("vn %.4g %.4g %.4g", ball_mesh.normals[:, y_up])]
    tables += [("f %d/%d/%d %d/%d/%d %d/%d/%d", np.repeat(ball_mesh.faces + 1, 3, axis=1))]
    written = io.StringIO("mtllib asset.mtl\nusemtl asset\n")
    written.seek(0, io.SEEK_END)
    for form, table in tables:
        np.savetxt(written, table, fmt=form)
    for rows in (1 << 30, 999):
        monkeypatch.setattr(write, "_ROWS_AT_ONCE", rows)
        write_obj(ball_mesh, tmp_path / "asset.obj")
        assert (tmp_path / "asset.obj").read_text() == written.getvalue()


def test_textures_are_read_between_the_centres_of_texels():
    texture = np.zeros((2, 4, 3), np.uint8)
    texture[0] = [[0, 0, 0], [100, 0, 0], [200, 0, 0], [40, 0, 0]]  # top row
    texture[1, :, 1] = 80
    uvs = np.array([[0.125, 0.75], [0.25, 0.75], [0.375, 0.75], [0.375, 0.5], [0.875, 0.25], [0, 1], [1, 0]])
    expected = [[0, 0], [50, 0], [100, 0], [50, 40], [0, 80], [0, 0], [0, 80]]
    assert sample_texture(texture, uvs)[:, :2] * 255 == pytest.approx(np.array(expected), abs=1e-3)


def test_a_texture_lies_on_a_large_triangle_as_its_corners_say():
    """Red grows along u and green along v; the triangle fills the view from the front, u to its right, v up."""
    ramp = (np.arange(64) + 0.5) / 64
    texture = np.zeros((64, 64, 3), np.uint8)
    texture[..., 0], texture[..., 1] = np.rint(ramp * 255)[None, :], np.rint(ramp[::-1] * 255)[:, None]
    uvs = np.array([[0, 0], [1, 0], [0, 1]], np.float32)
    corners = np.stack([np.zeros(3), 4 * uvs[:, 0] - 1, 4 * uvs[:, 1] - 1], -1)  # y is to the right, seen from +x
    normals = np.tile([1.0, 0, 0], (3, 1))
    mesh = TexturedMesh(corners.astype(np.float32), np.array([[0, 1, 2]]), normals, uvs, texture)
    rgb, opacity = render_mesh(mesh, orbit(0, 0, 2.0, 2 * math.degrees(math.atan(0.5)), 16))  # sees y, z in -1..1
    seen = (np.arange(16) + 0.5) / 16 * 2 - 1
    assert opacity.min() == 1
    assert rgb[0, ..., 0] == pytest.approx(np.tile((seen + 1) / 4, (16, 1)), abs=0.005)
    assert rgb[0, ..., 1] == pytest.approx(np.tile((seen[::-1, None] + 1) / 4, (1, 16)), abs=0.005)


def test_pixels_at_the_edge_are_covered_in_part(ball_mesh):
    camera = orbit(0, 0, 2.0, 40, 33)
    _, opacity = render_mesh(ball_mesh, camera, supersample=4)
    assert set(np.unique(opacity * 16)) <= set(range(17)) and len(np.unique(opacity)) > 5
    rgb, _ = render_mesh(ball_mesh, camera, background=(1.0, 0.0, 0.25))
    assert rgb[0, 0, 0].tolist() == [1.0, 0.0, 0.25]
