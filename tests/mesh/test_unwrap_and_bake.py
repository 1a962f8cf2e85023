import numpy as np
import pytest
import torch
import trimesh

from threedgen.mesh.bake import bake_texture, rasterize_uvs
from threedgen.mesh.unwrap import is_closed, separate_sheets, simplify, unwrap


def lumpy_tori():
    """A closed surface of 30 000 faces with noise and 10 handles: simplifying it tears."""
    random = np.random.default_rng(0)
    tori = [trimesh.creation.torus(0.4, 0.01 + 0.004 * i, major_sections=60, minor_sections=25) for i in range(10)]
    for i, torus in enumerate(tori):
        torus.vertices += random.normal(scale=0.003, size=torus.vertices.shape) + np.array([0, 0, 0.3 * i])
    return trimesh.util.concatenate(tori)


def test_simplified_surfaces_stay_closed_and_in_place():
    mesh = lumpy_tori()
    assert is_closed(mesh.faces)
    for target in (4000, 8000):
        vertices, faces = simplify(mesh.vertices, mesh.faces, target)
        assert 0.9 * target < len(faces) < 1.8 * target
        assert trimesh.Trimesh(vertices, faces, process=True).is_watertight  # after merging by position
    assert trimesh.Trimesh(vertices, faces).volume == pytest.approx(mesh.volume, rel=0.04)
    assert simplify(vertices, faces, len(faces))[1] is faces


def test_sheets_that_touch_along_an_edge_are_pulled_apart():
    corners = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 0.5], [1, 1, 0.5], [-1, 0, 0.5], [-1, -1, 0.5]], float)
    one = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])  # two tetrahedra on the edge 0-1
    both = np.concatenate([one, np.where(one > 1, one + 2, one)])
    assert not is_closed(both)
    vertices, faces = separate_sheets(corners, both)
    assert is_closed(faces) and len(vertices) == 8
    merged = trimesh.Trimesh(vertices, faces, process=True)
    assert merged.is_watertight and merged.body_count == 2
    assert np.abs(vertices[faces] - corners[both]).max() < 2e-3


def test_unwrapping_keeps_every_face_and_overlaps_nowhere():
    mesh = trimesh.creation.icosphere(3)
    source, faces, uvs = unwrap(mesh.vertices, mesh.faces, 512)
    assert np.array_equal(source[faces], mesh.faces)
    assert uvs.min() >= 0 and uvs.max() <= 1
    a, b, c = uvs[faces].transpose(1, 0, 2).astype(float)
    area = np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).sum() / 2
    covered = len(rasterize_uvs(faces, uvs, 512).faces) / 512**2
    assert covered == pytest.approx(area, rel=0.02)  # an overlap would cover less than the triangles' areas
    assert covered > 0.4


def test_rasterising_finds_the_triangle_over_each_texel():
    """Against a test of every texel against every triangle."""
    random = np.random.default_rng(1)
    uvs = (random.random((12, 1, 2)) + random.normal(scale=0.15, size=(12, 3, 2))).clip(0, 1)
    uvs[3] = uvs[3, 0]  # without area
    faces, size = np.arange(36).reshape(12, 3), 32
    texels = rasterize_uvs(faces, uvs.reshape(-1, 2), size)
    found = np.full((size, size), -1)
    found[texels.rows, texels.columns] = texels.faces
    for row in range(size):
        for column in range(size):
            center = np.array([(column + 0.5) / size, 1 - (row + 0.5) / size])
            last = -1
            for i, (a, b, c) in enumerate(uvs):
                edges = ((a, b), (b, c), (c, a))
                sides = [np.linalg.det(np.stack([q - p, center - p])) for p, q in edges]
                if i != 3 and (min(sides) > 0 or max(sides) < 0):
                    last = i
            assert found[row, column] == last
    points = np.einsum("kc,kcd->kd", texels.barycentric, uvs[texels.faces])
    assert points[:, 0] == pytest.approx((texels.columns + 0.5) / size, abs=1e-5)
    assert points[:, 1] == pytest.approx(1 - (texels.rows + 0.5) / size, abs=1e-5)


def test_many_triangles_are_rasterised_in_pieces_alike(monkeypatch):
    mesh = trimesh.creation.icosphere(2)
    _, faces, uvs = unwrap(mesh.vertices, mesh.faces, 128)
    at_once = rasterize_uvs(faces, uvs, 128)
    monkeypatch.setattr("threedgen.mesh.bake._CANDIDATES_AT_ONCE", 300)
    for one, other in zip(at_once, rasterize_uvs(faces, uvs, 128), strict=True):
        assert np.array_equal(one, other)


def test_only_covered_texels_are_asked_and_the_rest_repeats_the_nearest(analytic):
    asked = []
    scene = analytic.Field(lambda p: torch.zeros(len(p)))
    evaluate = scene.field
    scene.field = lambda p: (asked.append(len(p)), evaluate(p))[1]
    vertices = np.array([[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0]])
    uvs = np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75]])
    texture = bake_texture(scene, vertices, np.array([[0, 1, 2]]), uvs, 64)
    assert sum(asked) == pytest.approx(32 * 32 / 2, rel=0.05)
    truth = analytic.color_at(torch.tensor([[0.0, 0.0, 0.0], [0.5, 0, 0], [0, 0.5, 0]])).numpy() * 255
    assert texture[47, 16] == pytest.approx(truth[0], abs=4)  # lower left corner of the triangle
    assert texture[47, 47] == pytest.approx(truth[1], abs=4)  # lower right
    assert texture[16, 16] == pytest.approx(truth[2], abs=4)  # upper left
    assert np.array_equal(texture[63, 16:46], texture[47, 16:46])  # below the triangle: its lowest row
    assert np.array_equal(texture[:10, :10], np.broadcast_to(texture[16, 16], (10, 10, 3)))
