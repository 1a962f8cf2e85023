import sys
from types import ModuleType

import numpy as np
import pytest
import torch
import trimesh

from threedgen.cameras import orbit, rays_of
from threedgen.config.export import ExportConfig, RasterizerName
from threedgen.core.errors import ConfigError
from threedgen.mesh import make_rasterizer, render_mesh
from threedgen.mesh.kaolin_rasterizer import KaolinRasterizer
from threedgen.mesh.rasterize import NativeRasterizer
from threedgen.mesh.unwrap import unwrap


def kaolin_rasterize(
    height,
    width,
    face_vertices_z,
    face_vertices_image,
    face_features,
    valid_faces=None,
    multiplier=None,
    eps=None,
    backend="cuda",
):
    """What kaolin's documentation says of kaolin.render.mesh.rasterize, pixel by pixel and face by face.

    Pixel centres in -1..1 with y upwards, the largest z wins, z and features are linear in the image.
    """
    num_faces = face_vertices_z.shape[1]
    assert face_vertices_z.shape == (1, num_faces, 3) and face_vertices_image.shape == (1, num_faces, 3, 2)
    assert face_features.shape[:3] == (1, num_faces, 3) and backend == "cuda" and valid_faces is None
    assert all(t.dtype == torch.float32 and t.is_contiguous() for t in (face_vertices_z, face_vertices_image))
    x = (torch.arange(width) + 0.5) / width * 2 - 1
    y = 1 - (torch.arange(height) + 0.5) / height * 2
    pixels = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)  # [H, W, 2]
    features = torch.zeros(height, width, face_features.shape[-1])
    index, nearest = torch.full((height, width), -1), torch.full((height, width), -torch.inf)
    for face in range(num_faces):
        a, b, c = face_vertices_image[0, face]
        weights = []
        for p, q in ((b, c), (c, a), (a, b)):
            to_p, to_q = p - pixels, q - pixels
            weights.append(to_p[..., 0] * to_q[..., 1] - to_p[..., 1] * to_q[..., 0])
        weights = torch.stack(weights, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        z = (weights * face_vertices_z[0, face]).sum(-1)
        front = (weights >= 0).all(-1) & (z > nearest)
        nearest[front], index[front] = z[front], face
        features[front] = (weights @ face_features[0, face])[front]
    return features[None], index[None]


KAOLIN = KaolinRasterizer(kaolin_rasterize, "cpu")


@pytest.fixture
def kaolin_installed(monkeypatch):
    package, render, mesh = ModuleType("kaolin"), ModuleType("kaolin.render"), ModuleType("kaolin.render.mesh")
    mesh.rasterize = kaolin_rasterize
    for module in (package, render, mesh):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def first_hits(vertices, faces, cameras):
    """Face and weights under every pixel's ray, each ray against each face (Moeller & Trumbore 1997)."""
    rays = rays_of(cameras)
    origins, directions = rays.origins.numpy().astype(float), rays.directions.numpy().astype(float)
    best, found, weights = np.full(len(origins), np.inf), np.full(len(origins), -1), np.zeros((len(origins), 3))
    for i, (a, b, c) in enumerate(vertices[faces].astype(float)):
        h = np.cross(directions, c - a)
        det = h @ (b - a)
        u = ((origins - a) * h).sum(1) / det
        q = np.cross(origins - a, b - a)
        v = (directions * q).sum(1) / det
        t = q @ (c - a) / det
        hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0) & (t < best)
        best[hit], found[hit], weights[hit] = t[hit], i, np.stack([1 - u - v, u, v], -1)[hit]
    return found, weights


@pytest.mark.parametrize("rasterizer", [NativeRasterizer(), KAOLIN], ids=["native", "kaolin"])
def test_cameras_see_the_nearest_face_and_where_on_it(rasterizer):
    """Random triangles, some of which are far longer than their distance: perspective must be exact."""
    random = np.random.default_rng(3)
    centers = random.normal(scale=0.4, size=(20, 1, 3))
    vertices = (centers + random.normal(scale=0.35, size=(20, 3, 3))).reshape(-1, 3).astype(np.float32)
    faces = np.arange(60).reshape(20, 3)
    cameras = orbit([20, 200], [10, -40], 2.2, 50, 24, 32)
    views = list(rasterizer.views(vertices, faces, cameras))
    found, weights = first_hits(vertices, faces, cameras)
    assert 0.2 < (found >= 0).mean() < 0.95
    for seen, face, where in zip(views, found.reshape(2, 24, 32), weights.reshape(2, 24, 32, 3), strict=True):
        image = np.full((24, 32), -1)
        image[seen.rows, seen.columns] = seen.faces
        assert (image != face).sum() <= 2  # rays along an edge
        agree = face[seen.rows, seen.columns] == seen.faces
        assert np.abs(seen.barycentric - where[seen.rows, seen.columns])[agree].max() < 1e-3


@pytest.mark.parametrize(
    ("distance", "fov_y", "about"),
    [(6.0, 40, "small and within"), (1.6, 30, "over the edges"), (0.9, 70, "partly behind the camera")],
)
def test_only_the_part_of_the_picture_that_a_mesh_can_cover_is_looked_at(distance, fov_y, about, monkeypatch):
    """The same faces as all rays give, each against each face, wherever the mesh is; whatever the number of threads,
    and with fewer vertices than pixels as with more."""
    random = np.random.default_rng(5)
    vertices = random.uniform(-1, 1, (30, 3)).astype(np.float32) * [0.9, 0.5, 0.7] + np.array([0.1, 0.2, -0.1])
    vertices = vertices.astype(np.float32)
    faces = np.arange(30).reshape(10, 3)
    cameras = orbit([0, 35, 130], [5, -30, 60], distance, fov_y, 30, 22)
    found, _ = first_hits(vertices, faces, cameras)
    pictures = []
    for number, times in ((1, 1), (3, 1), (1, 30)):
        monkeypatch.setattr(torch, "get_num_threads", lambda number=number: number)
        image = np.full((3, 30, 22), -1)
        for i, seen in enumerate(NativeRasterizer().views(np.tile(vertices, (times, 1)), faces, cameras)):
            image[i, seen.rows, seen.columns] = seen.faces
        pictures.append(image)
    assert (pictures[0] == pictures[1]).all() and (pictures[0] == pictures[2]).all()
    assert (found >= 0).any() and (pictures[0].reshape(-1) != found).sum() <= 2  # rays along an edge


def test_a_mesh_without_faces_covers_nothing():
    (seen,) = NativeRasterizer().views(np.zeros((0, 3), np.float32), np.zeros((0, 3), int), orbit(0, 0, 2.0, 50, 16))
    assert not len(seen.faces)


def test_kaolin_leaves_out_faces_that_reach_behind_the_camera():
    vertices = np.array(
        [[0, 0.1, 0], [0, -0.1, 0], [9, 0, 0.5], [0, 0.5, 0.5], [0, -0.5, 0.5], [0, 0, -0.5]], np.float32
    )
    (seen,) = KAOLIN.views(vertices, np.arange(6).reshape(2, 3), orbit(0, 0, 2.0, 50, 16))
    assert set(seen.faces) == {1}


def test_a_mesh_is_the_same_on_kaolin(analytic, ball_mesh):
    config = ExportConfig(resolution=10, texture_size=32)
    field = analytic.Field(analytic.ball())
    native, ours = (
        analytic.extract_mesh(field, config, NativeRasterizer()),
        analytic.extract_mesh(field, config, KAOLIN),
    )
    assert np.mean(np.abs(native.texture.astype(int) - ours.texture)) < 1
    camera = orbit(30, 20, 2.0, 40, 24)
    rgb = [render_mesh(mesh, camera, rasterizer=r)[0] for mesh, r in ((native, NativeRasterizer()), (ours, KAOLIN))]
    assert np.abs(rgb[0] - rgb[1]).mean() < 0.002


def test_auto_takes_kaolin_where_it_imports_and_there_is_a_gpu(kaolin_installed, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert isinstance(make_rasterizer(RasterizerName.auto), NativeRasterizer)
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        make_rasterizer(RasterizerName.kaolin)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert isinstance(make_rasterizer(RasterizerName.auto), KaolinRasterizer)
    assert isinstance(make_rasterizer(RasterizerName.kaolin), KaolinRasterizer)
    assert isinstance(make_rasterizer(RasterizerName.native), NativeRasterizer)


@pytest.mark.parametrize(
    "error", [ImportError("a placeholder\nwith two lines"), OSError("no libcuda"), RuntimeError("x")]
)
def test_kaolin_that_does_not_import_is_told_in_one_line(error, monkeypatch):
    """The placeholder on the package index can be found and not imported; a broken build may raise OSError."""

    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "kaolin":
                raise error

    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert isinstance(make_rasterizer(RasterizerName.auto), NativeRasterizer)
    with pytest.raises(ConfigError, match="cannot be imported") as caught:
        make_rasterizer(RasterizerName.kaolin)
    assert "\n" not in str(caught.value) and caught.value.exit_status == 2


@pytest.mark.parametrize("rasterizer", [NativeRasterizer(), KAOLIN], ids=["native", "kaolin"])
def test_charts_find_the_triangle_over_each_texel(rasterizer):
    """Against a test of every texel against every triangle; where two overlap, either may win."""
    random = np.random.default_rng(1)
    uvs = (random.random((12, 1, 2)) + random.normal(scale=0.15, size=(12, 3, 2))).clip(0, 1)
    uvs[3] = uvs[3, 0]  # without area
    faces, size = np.arange(36).reshape(12, 3), 32
    texels = rasterizer.charts(uvs.reshape(-1, 2), faces, size)
    found = np.full((size, size), -1)
    found[texels.rows, texels.columns] = texels.faces
    for row in range(size):
        for column in range(size):
            center = np.array([(column + 0.5) / size, 1 - (row + 0.5) / size])
            over = set()
            for i, (a, b, c) in enumerate(uvs):
                edges = ((a, b), (b, c), (c, a))
                sides = [np.linalg.det(np.stack([q - p, center - p])) for p, q in edges]
                if i != 3 and (min(sides) > 0 or max(sides) < 0):
                    over.add(i)
            assert found[row, column] in (over or {-1})
    points = np.einsum("kc,kcd->kd", texels.barycentric, uvs[texels.faces])
    assert points[:, 0] == pytest.approx((texels.columns + 0.5) / size, abs=1e-5)
    assert points[:, 1] == pytest.approx(1 - (texels.rows + 0.5) / size, abs=1e-5)


def test_many_triangles_are_rasterised_in_pieces_alike(monkeypatch):
    mesh = trimesh.creation.icosphere(2)
    _, faces, uvs = unwrap(mesh.vertices, mesh.faces, 128)
    at_once = NativeRasterizer().charts(uvs, faces, 128)
    monkeypatch.setattr("threedgen.mesh.rasterize._CANDIDATES_AT_ONCE", 300)
    for one, other in zip(at_once, NativeRasterizer().charts(uvs, faces, 128), strict=True):
        assert np.array_equal(one, other)
