"""Mesh files of every kind against what their numbers mean; views against geometry done by hand."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from PIL import Image

from threedgen.cameras import orbit
from threedgen.core.errors import ThreedgenError
from threedgen.data.meshes.files import PLAIN, read_mesh
from threedgen.data.meshes.views import ORBIT, SPHERE, Light, draw_cameras, normalize, prepare, render_rgba, write_views
from threedgen.mesh import ColoredMesh, TexturedMesh, write_glb, write_obj
from threedgen.mesh.rasterize import Fragments, NativeRasterizer

SIDES = {"+x": (255, 0, 0), "-x": (0, 255, 0), "+y": (0, 0, 255), "-y": (255, 255, 0), "+z": (0, 255, 255)}
SIDES["-z"] = (255, 0, 255)
PLY = b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
PLY += b"element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n"
QUARTERS = np.array([[[250, 10, 20], [30, 240, 50]], [[60, 70, 230], [220, 210, 40]]], np.uint8)  # image rows


def colored_box(size=(1.0, 1.0, 1.0)):
    """A box whose sides have the colours of SIDES, named by the file's own axes."""
    box = trimesh.creation.box(size)
    axis = np.abs(box.face_normals).argmax(1)
    names = [("+" if n[a] > 0 else "-") + "xyz"[a] for n, a in zip(box.face_normals, axis, strict=True)]
    box.visual.face_colors = [SIDES[name] for name in names]
    return box


def picture_quad():
    """A square facing +z whose texture has a colour in each quarter, seen upright from there."""
    corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], float)
    image = Image.fromarray(QUARTERS).resize((64, 64), Image.Resampling.NEAREST)
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=image)
    visual = trimesh.visual.TextureVisuals(uv=corners[:, :2] / 2 + 0.5, material=material)
    return trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], visual=visual, process=False)


def seen(mesh, azimuth, elevation=0.0, size=33, light=Light.off, supersample=1):
    """One RGBA view of a mesh file's content from a distance of 3."""
    settings = replace(ORBIT, size=size, light=light, supersample=supersample)
    normal, _ = normalize(mesh, "y")
    return next(render_rgba(prepare(normal, settings), orbit(azimuth, elevation, 3.0, 40, size), supersample))


def middle(image):
    return tuple(int(v) for v in image[image.shape[0] // 2, image.shape[1] // 2, :3])


def test_every_side_of_a_box_is_where_the_file_has_it(tmp_path):
    colored_box().export(tmp_path / "box.ply")
    mesh, remarks = read_mesh(tmp_path / "box.ply")
    assert remarks == []
    # y is up in the file and +z its front, which azimuth 0 looks at; its left side, +x, is at azimuth 90
    assert middle(seen(mesh, 0)) == SIDES["+z"] and middle(seen(mesh, 90)) == SIDES["+x"]
    assert middle(seen(mesh, 180)) == SIDES["-z"] and middle(seen(mesh, 270)) == SIDES["-x"]
    assert middle(seen(mesh, 0, 89.0)) == SIDES["+y"] and middle(seen(mesh, 0, -89.0)) == SIDES["-y"]


@pytest.mark.parametrize("suffix", ["glb", "obj"])
def test_a_texture_stands_upright(tmp_path, suffix):
    picture_quad().export(tmp_path / f"quad.{suffix}")
    image = seen(read_mesh(tmp_path / f"quad.{suffix}")[0], 0, size=32)
    for row in (0, 1):
        for column in (0, 1):
            assert np.abs(image[12 + 8 * row, 12 + 8 * column, :3].astype(int) - QUARTERS[row, column]).max() <= 1


@pytest.mark.parametrize("write, suffix", [(write_glb, "glb"), (write_obj, "obj")])
def test_our_own_files_come_back_with_their_colours(tmp_path, write, suffix):
    vertices = np.array([[0, -1, -1], [0, 1, -1], [0, 1, 1], [0, -1, 1]], np.float32)  # world axes, facing +x
    faces, normals = np.array([[0, 1, 2], [0, 2, 3]]), np.tile(np.float32([1, 0, 0]), (4, 1))
    colors = np.full((4, 3), (200, 90, 30), np.uint8)
    write(ColoredMesh(vertices, faces, normals, colors), tmp_path / f"colored.{suffix}")
    assert np.abs(np.subtract(middle(seen(read_mesh(tmp_path / f"colored.{suffix}")[0], 0)), (200, 90, 30))).max() <= 1
    uvs = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    picture = np.repeat(np.repeat(QUARTERS, 16, 0), 16, 1)
    write(TexturedMesh(vertices, faces, normals, uvs, picture), tmp_path / f"textured.{suffix}")
    image = seen(read_mesh(tmp_path / f"textured.{suffix}")[0], 0, size=32)
    assert tuple(image[12, 12, :3]) == tuple(QUARTERS[0, 0]) and tuple(image[20, 12, :3]) == tuple(QUARTERS[1, 0])


def test_plain_materials_vertex_colours_and_none(tmp_path):
    box = trimesh.creation.box()
    box.export(tmp_path / "none.stl")
    assert middle(seen(read_mesh(tmp_path / "none.stl")[0], 30)) == (round(255 * PLAIN),) * 3
    box.visual.vertex_colors = [10, 120, 240, 255]
    box.export(tmp_path / "vertex.ply")
    assert middle(seen(read_mesh(tmp_path / "vertex.ply")[0], 30)) == (10, 120, 240)
    (tmp_path / "two.mtl").write_text("newmtl a\nKd 1 0 0\nnewmtl b\nKd 0 0 1\n")
    quads = "v -1 -1 1\nv 1 -1 1\nv 1 1 1\nv -1 1 1\nv -1 -1 -1\nv 1 -1 -1\nv 1 1 -1\nv -1 1 -1\n"
    (tmp_path / "two.obj").write_text(f"mtllib two.mtl\n{quads}usemtl a\nf 1 2 3 4\nusemtl b\nf 8 7 6 5\n")
    mesh = read_mesh(tmp_path / "two.obj")[0]
    assert middle(seen(mesh, 0)) == (255, 0, 0) and middle(seen(mesh, 180)) == (0, 0, 255)


def test_gltf_factors_are_linear_light(tmp_path):
    """IEC 61966-2-1 by hand: 128/255 of the light is 188 of 255 on a display, and so much of 188's light is 137.6."""
    half = [128, 128, 128, 255]
    box = trimesh.creation.box()
    box.visual = trimesh.visual.TextureVisuals(material=trimesh.visual.material.PBRMaterial(baseColorFactor=half))
    box.export(tmp_path / "factor.glb")
    assert middle(seen(read_mesh(tmp_path / "factor.glb")[0], 0)) == (188, 188, 188)
    quad = picture_quad()
    grey = Image.new("RGB", (8, 8), (188, 188, 188))
    quad.visual.material = trimesh.visual.material.PBRMaterial(baseColorFactor=half, baseColorTexture=grey)
    quad.export(tmp_path / "both.glb")
    assert middle(seen(read_mesh(tmp_path / "both.glb")[0], 0)) == (138, 138, 138)


def test_parts_stand_where_the_scene_puts_them(tmp_path):
    """A red and a green cube beside each other, the green one mirrored, half as large, and 3 to the left (+x)."""
    scene = trimesh.Scene()
    for name, color in (("red", (255, 0, 0)), ("green", (0, 255, 0))):
        cube = trimesh.creation.box()
        cube.visual.face_colors = color
        placed = np.diag([-0.5, 0.5, 0.5, 1.0]) if name == "green" else np.eye(4)
        placed[0, 3] = 3.0 * (name == "green")
        scene.add_geometry(cube, node_name=name, transform=placed)
    scene.export(tmp_path / "two.glb")
    mesh = read_mesh(tmp_path / "two.glb")[0]
    np.testing.assert_allclose(mesh.vertices.min(0), [-0.5, -0.5, -0.5], atol=1e-6)
    np.testing.assert_allclose(mesh.vertices.max(0), [3.25, 0.5, 0.5], atol=1e-6)
    corners = mesh.vertices[mesh.faces].astype(float)
    volume = np.einsum("fi,fi->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    assert volume == pytest.approx(1.125)  # the mirrored one is not inside out
    assert middle(seen(mesh, 90)) == (0, 255, 0) and middle(seen(mesh, 270)) == (255, 0, 0)


def test_the_mesh_is_centred_and_its_longest_edge_is_one(tmp_path):
    box = colored_box((4.0, 2.0, 1.0))
    box.apply_translation((10, -3, 5))
    box.export(tmp_path / "box.ply")
    mesh = read_mesh(tmp_path / "box.ply")[0]
    for up, extent in (("y", [0.25, 1.0, 0.5]), ("z", [1.0, 0.5, 0.25])):
        normal, matrix = normalize(mesh, up)
        np.testing.assert_allclose(normal.vertices.min(0), -np.array(extent) / 2, atol=1e-6)
        np.testing.assert_allclose(normal.vertices.max(0), np.array(extent) / 2, atol=1e-6)
        moved = np.c_[mesh.vertices, np.ones(len(mesh.vertices))] @ matrix.T
        np.testing.assert_allclose(moved[:, :3], normal.vertices, atol=1e-6)
        assert np.linalg.det(matrix[:3, :3]) > 0


def test_edges_are_covered_in_part_and_keep_their_colour(tmp_path):
    ball = trimesh.creation.icosphere(5)
    ball.visual.vertex_colors = [10, 120, 240, 255]
    ball.export(tmp_path / "ball.ply")
    image = seen(read_mesh(tmp_path / "ball.ply")[0], 20, 10, size=64, supersample=4)
    alpha = image[..., 3] / 255
    # a ball of radius 1/2 at distance 3 is a disc of radius tan(asin(1/6)) at distance 1
    radius = math.tan(math.asin(0.5 / 3)) / math.tan(math.radians(20)) * 32
    assert alpha.sum() == pytest.approx(math.pi * radius**2, rel=0.01)
    partly = (alpha > 0) & (alpha < 1)
    assert partly.sum() > 50 and np.abs(image[alpha > 0][:, :3].astype(int) - (10, 120, 240)).max() <= 1
    assert not image[alpha == 0].any()


def test_a_fine_texture_does_not_glitter(tmp_path):
    """Black and white texels far smaller than a pixel are grey, also with a single ray a pixel."""
    quad = picture_quad()
    checks = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    quad.visual.material.baseColorTexture = Image.fromarray(checks)
    quad.export(tmp_path / "checks.glb")
    image = seen(read_mesh(tmp_path / "checks.glb")[0], 0, size=32)
    inside = image[image[..., 3] == 255][:, :3].astype(float)
    assert len(inside) > 100 and inside.std() < 2 and inside.mean() == pytest.approx(127.5, abs=2)


def test_light_falls_on_plain_meshes_and_on_no_others(tmp_path):
    trimesh.creation.box().export(tmp_path / "plain.ply")
    colored_box().export(tmp_path / "colored.ply")
    plain, colored = (read_mesh(tmp_path / f"{name}.ply")[0] for name in ("plain", "colored"))
    assert middle(seen(colored, 0, light=Light.auto)) == SIDES["+z"]
    top, below = middle(seen(plain, 0, 89, light=Light.auto)), middle(seen(plain, 0, -89, light=Light.auto))
    assert top[0] > below[0] + 20 and middle(seen(plain, 0, 89)) == middle(seen(plain, 0, -89))
    assert max(middle(seen(colored, 180, light=Light.soft))) < 255


def test_a_given_rasterizer_draws_the_pictures(tmp_path):
    class Nothing(NativeRasterizer):
        """Sees no face at all."""

        def views(self, vertices, faces, cameras):
            for seen in super().views(vertices, faces, cameras):
                yield Fragments(*(part[:0] for part in seen))

    colored_box().export(tmp_path / "box.ply")
    settings = replace(ORBIT, views=2, passes=1, size=8)
    for name, rasterizer, opaque in (("native", None, True), ("nothing", Nothing(), False)):
        write_views(tmp_path / "box.ply", tmp_path / name, "box", settings, rasterizer=rasterizer)
        assert np.asarray(Image.open(tmp_path / name / "000.png"))[..., 3].any() == opaque


def test_an_orbit_is_even_and_level():
    settings = replace(ORBIT, views=8, passes=3)
    cameras = draw_cameras(settings, "cup", 0.8)
    azimuth, elevation = (np.degrees(x.numpy()).reshape(3, 8) for x in (cameras.azimuth, cameras.elevation))
    np.testing.assert_allclose(azimuth % 360, np.tile(np.arange(8) * 45.0, (3, 1)), atol=1e-3)  # from 0
    assert (np.ptp(elevation, axis=1) < 1e-4).all() and len(np.unique(elevation.round(3))) == 3
    assert elevation.min() >= 0 and elevation.max() <= 30
    fov, distance = cameras.fov_y.numpy(), cameras.distance.numpy()
    assert np.degrees(fov).min() >= 15 and np.degrees(fov).max() <= 60
    relative = distance * np.tan(fov / 2) / 0.5
    assert relative.min() >= 0.9 and relative.max() <= 1.1
    # by projection: the point half an edge above the origin is seen at 1 / U(0.9, 1.1) of the upper half's height
    level = draw_cameras(replace(settings, elevation_deg=(0.0, 0.0)), "cup", 0.8)
    x, y, z, _ = np.linalg.inv(level.camera_to_world[0].double().numpy()) @ [0, 0, 0.5, 1]
    assert 1 / 1.1 <= y / -z / math.tan(float(level.fov_y[0]) / 2) <= 1 / 0.9 and abs(x) < 1e-6
    again, other = draw_cameras(settings, "cup", 0.8), draw_cameras(settings, "can", 0.8)
    assert np.array_equal(cameras.camera_to_world, again.camera_to_world)
    assert not np.array_equal(cameras.camera_to_world, other.camera_to_world)


def test_a_sphere_of_cameras_is_even_and_sees_everything(tmp_path):
    colored_box((1.0, 0.3, 2.0)).export(tmp_path / "box.ply")
    settings = replace(SPHERE, views=40, size=32, supersample=1)
    write_views(tmp_path / "box.ply", tmp_path / "views", "box", settings)
    described = json.loads((tmp_path / "views/cameras.json").read_text())
    assert len(described["views"]) == 40 and described["half_edge"] == 0.5
    directions = []
    for view in described["views"]:
        alpha = np.asarray(Image.open(tmp_path / "views" / view["file"]))[..., 3]
        assert alpha.any() and not (alpha[0].any() or alpha[-1].any() or alpha[:, 0].any() or alpha[:, -1].any())
        position = np.array(view["camera_to_world"])[:3, 3]
        directions.append(position / np.linalg.norm(position))
    assert np.linalg.norm(np.mean(directions, 0)) < 0.05
    nearest = np.sort(np.array(directions) @ np.array(directions).T, axis=1)[:, -2]
    assert np.degrees(np.arccos(nearest)).min() > 0.6 * math.degrees(math.sqrt(4 * math.pi / 40))


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.glb", b"glTF", "cannot be read as glb"),
        ("a.ply", b"ply\nformat ascii", "cannot be read as ply"),
        ("a.obj", b"v 0 0 0\nv 1 0 0\n", "no triangles"),
        ("a.obj", b"v 0 0 0\nv 1 0 0\nv nan 1 0\nf 1 2 3\n", "not finite"),
        ("a.obj", b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "without area"),
        ("a.ply", PLY + b"3 0 1 7\n", "a face of a vertex that it does not have"),
        ("a.ply", PLY + b"3 0 1 -1\n", "a face of a vertex that it does not have"),
    ],
)
def test_what_is_no_mesh_is_told_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ThreedgenError, match=message) as caught:
        read_mesh(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("odd", ["nan", "inf", "1e25"])
def test_texture_coordinates_that_are_no_numbers_spoil_their_own_faces_only(tmp_path, odd):
    picture_quad().export(tmp_path / "quad.obj")
    text = (tmp_path / "quad.obj").read_text()
    (tmp_path / "quad.obj").write_text(text + f"\nv 3 3 0\nv 3 2 0\nv 2 3 0\nvt {odd} {odd}\nf 5/5 6/5 7/5\n")
    mesh, remarks = read_mesh(tmp_path / "quad.obj")
    assert remarks == ["some of whose texture coordinates are no numbers, or too large: taken for 0"]
    image = seen(mesh, 0, size=64)  # the square is at the lower left of the object
    assert image[[[36, 36], [43, 43]], [[21, 28], [21, 28]], :3].tolist() == QUARTERS.tolist()


def test_a_mesh_far_from_its_origin_keeps_its_shape(tmp_path):
    """As surveyed: metres in a grid over the country, where single precision has steps of half a metre."""
    box = trimesh.creation.box((1, 1, 1))
    box.vertices += [500_000.1, 4_500_000.1, 0]
    box.export(tmp_path / "far.obj", digits=4)
    normal, matrix = normalize(read_mesh(tmp_path / "far.obj")[0], "z")
    assert np.abs(np.abs(normal.vertices) - 0.5).max() < 1e-4 and normal.vertices.dtype == np.float32
    assert np.allclose(matrix @ [500_000.6, 4_500_000.6, 0.5, 1], [0.5, 0.5, 0.5, 1], atol=1e-3)


def test_a_missing_texture_is_named(tmp_path):
    picture_quad().export(tmp_path / "quad.obj")
    (picture,) = [path for path in tmp_path.iterdir() if path.suffix in (".png", ".jpeg", ".jpg")]
    picture.unlink()
    assert f"without {picture.name}, which it names" in read_mesh(tmp_path / "quad.obj")[1]


def test_what_has_no_colour_is_lit_and_what_has_one_is_not(tmp_path):
    """A red box beside one whose material says nothing."""
    (tmp_path / "two.mtl").write_text("newmtl red\nKd 1 0 0\nnewmtl none\nNs 10\n")
    corners = trimesh.creation.box().vertices
    lines = [f"v {x + shift} {y} {z}" for shift in (0, 3) for x, y, z in corners]
    triangles = trimesh.creation.box().faces + 1
    faces = ["f " + " ".join(map(str, face + 8 * n)) for n in (0, 1) for face in triangles]
    lines += ["usemtl red", *faces[:12], "usemtl none", *faces[12:]]
    (tmp_path / "two.obj").write_text("mtllib two.mtl\n" + "\n".join(lines))
    mesh = read_mesh(tmp_path / "two.obj")[0]
    seen_from_above = seen(mesh, 0, 89, light=Light.auto), seen(mesh, 0, -89, light=Light.auto)
    red = [image[16, 11] for image in seen_from_above]  # +x, the second box, is to the right
    grey = [image[16, 22] for image in seen_from_above]
    if grey[0][1] == 0:
        red, grey = grey, red
    assert all(tuple(pixel) == (255, 0, 0, 255) for pixel in red)
    assert grey[0][0] > grey[1][0] + 20 and all(pixel[0] == pixel[1] == pixel[2] for pixel in grey)


def see_through(tmp_path, mode, alphas, cutoff=None, factor=(255, 255, 255, 255)):
    """A red square with these alphas of its texture's rows, from the top, before a blue opaque one; seen from ahead."""
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[..., 0], picture[..., 3] = 255, np.repeat(alphas, 64 // len(alphas))[:, None]
    front, back = picture_quad(), picture_quad()
    front.visual.material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=Image.fromarray(picture), alphaMode=mode, alphaCutoff=cutoff, baseColorFactor=list(factor)
    )
    back.apply_translation((0, 0, -0.5))
    back.visual.material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=Image.new("RGB", (4, 4), (0, 0, 255)), baseColorFactor=[255, 255, 255, 255]
    )
    scene = trimesh.Scene([front] if cutoff == "alone" else [front, back])
    scene.export(tmp_path / "two.glb")
    return seen(read_mesh(tmp_path / "two.glb")[0], 0, size=32, supersample=2)


def rows(image):
    """The colours in the middles of four rows of the square, from the top."""
    return [tuple(image[row, 16]) for row in (10, 14, 18, 22)]


RED, BLUE = (255, 0, 0, 255), (0, 0, 255, 255)


def test_alpha_masks_of_gltf_are_exact(tmp_path):
    """At the cutoff and above it a texel is opaque, below it what is behind shows; 0.5 where the file says none."""
    assert rows(see_through(tmp_path, "MASK", [0, 102, 103, 255], 102.5 / 255)) == [BLUE, BLUE, RED, RED]
    assert rows(see_through(tmp_path, "MASK", [0, 127, 128, 255])) == [BLUE, BLUE, RED, RED]
    assert rows(see_through(tmp_path, "MASK", [0, 127, 128, 255], factor=(255, 255, 255, 127))) == [BLUE] * 3 + [BLUE]
    assert rows(see_through(tmp_path, "OPAQUE", [0, 127, 128, 255])) == [RED] * 4


def test_blended_alpha_of_gltf_is_coverage(tmp_path):
    """By hand: a of the front's red, and of what it lets pass the opaque blue behind it."""
    for row, alpha in zip(rows(see_through(tmp_path, "BLEND", [0, 51, 153, 255])), (0, 51, 153, 255), strict=True):
        assert np.abs(np.subtract(row, (alpha, 0, 255 - alpha, 255), dtype=int)).max() <= 1
    # two of them in a row before nothing: 1 - (1 - a)^2 is covered
    quad = picture_quad()
    quad.visual.material = trimesh.visual.material.PBRMaterial(baseColorFactor=[255, 0, 0, 153], alphaMode="BLEND")
    behind = quad.copy()
    behind.apply_translation((0, 0, -0.5))
    trimesh.Scene([quad, behind]).export(tmp_path / "glass.glb")
    pixel = seen(read_mesh(tmp_path / "glass.glb")[0], 0, size=32)[16, 16]
    assert np.abs(pixel.astype(int) - (255, 0, 0, round(255 * (1 - 0.4**2)))).max() <= 1


def test_a_mask_has_no_smaller_copies(tmp_path):
    """Lone opaque texels, one in four, keep their share of the area however small they are seen.

    Interpolated alpha is above a half where (1 - |x|) (1 - |y|) > 1/2, 2 - 2 ln 2 texels around each; a mean of texels
    would be a quarter everywhere, so nothing would be left.
    """
    picture = np.full((512, 512, 4), 255, np.uint8)
    picture[::2, :, 3] = 0
    picture[:, ::2, 3] = 0  # three quarters of the texels are holes
    quad = picture_quad()
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(picture), alphaMode="MASK")
    quad.visual.material = material
    quad.export(tmp_path / "net.glb")
    image = seen(read_mesh(tmp_path / "net.glb")[0], 0, size=32, supersample=4)  # rays four texels apart
    inside = image[10:22, 10:22, 3] / 255
    assert inside.mean() == pytest.approx((1 - math.log(2)) / 2, abs=0.03)


@pytest.mark.parametrize(
    "line, remark",
    [
        ("map_Kd -s 1 1 1 -o 0 0 0 textures/Fish Skin.png", ""),
        ("map_Kd -clamp on -bm 0.5 textures\\Fish Skin.png", ""),
        ("map_Kd C:\\Users\\me\\fish skin.PNG", ""),
        ("map_Kd TEXTURES/FISH SKIN.PNG", ""),
        ("map_Kd -s 2 2 1 textures/fish skin.png", "without -s 2 2 1 of textures/fish skin.png"),
    ],
)
def test_pictures_are_found_however_they_are_named(tmp_path, line, remark):
    picture_quad().export(tmp_path / "quad.obj")
    (found,) = [path for path in tmp_path.iterdir() if path.suffix in (".png", ".jpeg", ".jpg")]
    is_beside = "Users" in line
    (tmp_path / "textures").mkdir()
    found.rename(tmp_path / ("Fish Skin.png" if is_beside else "textures/Fish Skin.png"))
    (material,) = tmp_path.glob("*.mtl")
    text = material.read_text()
    material.write_text("\n".join(line if row.startswith("map_Kd") else row for row in text.splitlines()))
    mesh, remarks = read_mesh(tmp_path / "quad.obj")
    assert remarks == ([remark] if remark else [])
    image = seen(mesh, 0, size=32)
    assert np.abs(image[12, 12, :3].astype(int) - QUARTERS[0, 0]).max() <= 1


def test_nothing_outside_the_meshs_folder_is_read(tmp_path):
    (tmp_path / "inside").mkdir()
    picture_quad().export(tmp_path / "inside/quad.obj")
    (found,) = [path for path in (tmp_path / "inside").iterdir() if path.suffix in (".png", ".jpeg", ".jpg")]
    found.rename(tmp_path / "secret.png")
    (material,) = (tmp_path / "inside").glob("*.mtl")
    for name in ("../secret.png", "%2E%2E/secret.png", f"{tmp_path}/secret.png"):
        text = "\n".join(r for r in material.read_text().splitlines() if not r.startswith("map_Kd"))
        material.write_text(f"{text}\nmap_Kd {name}\n")
        assert f"without {name}, which it names" in read_mesh(tmp_path / "inside/quad.obj")[1]
