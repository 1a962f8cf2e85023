from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from threedgen.mesh.bake import bake_texture, color_vertices, surface_colors
from threedgen.mesh.rasterize import NativeRasterizer
from threedgen.mesh.types import Surface
from threedgen.mesh.unwrap import unwrap


def test_unwrapping_keeps_every_face_and_overlaps_nowhere():
    mesh = trimesh.creation.icosphere(3)
    source, faces, uvs = unwrap(mesh.vertices, mesh.faces, 512)
    assert np.array_equal(source[faces], mesh.faces)
    assert uvs.min() >= 0 and uvs.max() <= 1
    a, b, c = uvs[faces].transpose(1, 0, 2).astype(float)
    area = np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).sum() / 2
    covered = len(NativeRasterizer().charts(uvs, faces, 512).faces) / 512**2
    assert covered == pytest.approx(area, rel=0.02)  # an overlap would cover less than the triangles' areas
    assert covered > 0.4


def test_only_covered_texels_are_asked_and_the_rest_repeats_the_nearest(analytic, monkeypatch):
    """A triangle laid out by hand, on an opaque floor: the first sample in it decides."""
    uvs = np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75]], np.float32)
    monkeypatch.setattr("threedgen.mesh.bake.unwrap", lambda *_: (np.arange(3), np.array([[0, 1, 2]]), uvs))
    asked = []
    scene = analytic.Field(lambda p: 1e6 * (p[:, 2] < 0))
    evaluate = scene.field
    scene.field = lambda p: (asked.append(len(p)), evaluate(p))[1]
    vertices = np.array([[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0]], np.float32)
    normals = np.tile(np.array([0, 0, 1], np.float32), (3, 1))
    mesh = bake_texture(scene, Surface(vertices, np.array([[0, 1, 2]]), normals), 64, NativeRasterizer())
    texture = mesh.texture
    assert max(asked) == pytest.approx(32 * 32 / 2, rel=0.05)
    assert len(asked) == 5  # four samples above the floor, and none after the first below it
    truth = analytic.color_at(torch.tensor([[0.0, 0.0, 0.0], [0.5, 0, 0], [0, 0.5, 0]])).numpy() * 255
    assert texture[47, 16] == pytest.approx(truth[0], abs=4)  # lower left corner of the triangle
    assert texture[47, 47] == pytest.approx(truth[1], abs=4)  # lower right
    assert texture[16, 16] == pytest.approx(truth[2], abs=4)  # upper left
    assert np.array_equal(texture[63, 16:46], texture[47, 16:46])  # below the triangle: its lowest row
    assert np.array_equal(texture[:10, :10], np.broadcast_to(texture[16, 16], (10, 10, 3)))


def test_colors_are_those_of_a_ray_into_the_surface():
    """Half-clear layers under a plane, seen from above: the integral of the emission in closed form."""
    rate, size = 60.0, 0.5

    class Layers:
        radius = 1.0

        def field(self, p):
            below = p[:, 2] < 0
            return rate * below, torch.stack([1 - (-p[:, 2] / size).clamp(0, 1), below.float(), ~below * 1.0], -1)

    points = np.array([[0.1, 0.2, 0.0], [-0.3, 0.0, 0.0]])
    rgb = surface_colors(Layers(), points, np.tile([0.0, 0.0, 2.0], (2, 1)))
    expected = 1 - (1 / rate) / size  # 1 - mean depth / size, of an exponential distribution
    assert rgb[:, 0] == pytest.approx(expected, abs=0.01)
    assert rgb[:, 1] == pytest.approx(1.0, abs=1e-5)
    assert rgb[:, 2] == pytest.approx(0.0, abs=1e-5)  # the air has a colour too, which nobody sees


def test_texels_between_the_charts_repeat_them_so_that_a_smaller_version_shows_no_seam(ball_mesh):
    covered = np.zeros(ball_mesh.texture.shape[:2], bool)
    texels = NativeRasterizer().charts(ball_mesh.uvs, ball_mesh.faces, len(covered))
    covered[texels.rows, texels.columns] = True

    def largest_change(texture):
        """Of the colour anywhere on the mesh, with the texture at half its size instead of whole."""
        half = texture.astype(float).reshape(128, 2, 128, 2, 3).mean((1, 3))
        faces, corners = np.arange(len(ball_mesh.faces)), np.array([[1.0, 0, 0]] * len(ball_mesh.faces))
        colors = replace(ball_mesh, texture=np.rint(half).astype(np.uint8)).color_at(faces, corners)
        return np.abs(colors - ball_mesh.color_at(faces, corners)).max()

    assert largest_change(ball_mesh.texture) < 0.15
    assert largest_change(np.where(covered[..., None], ball_mesh.texture, 0)) > 0.3


def test_vertex_colors_are_the_fields(analytic):
    sphere = trimesh.creation.icosphere(3, radius=0.4)
    surface = Surface(sphere.vertices.astype(np.float32), sphere.faces, sphere.vertex_normals.astype(np.float32))
    mesh = color_vertices(analytic.Field(analytic.ball()), surface)
    truth = analytic.color_at(torch.from_numpy(np.array(sphere.vertices)).float()).numpy()
    assert np.abs(mesh.colors / 255 - truth).max() < 0.02
