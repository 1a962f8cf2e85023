import numpy as np
import pytest
import trimesh

from threedgen.metrics import (
    chamfer_distance,
    normal_angle,
    sample_surface,
    sample_surface_with_normals,
    volume_iou,
)
from threedgen.metrics.geometry import solid_cells


def test_chamfer_is_the_mean_of_both_directions():
    a = np.array([[0.0, 0, 0], [1, 0, 0]])
    b = np.array([[0.0, 0, 2]])
    forward, backward = (2 + np.sqrt(5)) / 2, 2
    assert chamfer_distance(a, b) == pytest.approx((forward + backward) / 2)
    assert chamfer_distance(b, a) == chamfer_distance(a, b)
    assert chamfer_distance(a, a) == 0


def test_chamfer_of_parallel_planes_is_their_distance():
    grid = np.stack(np.meshgrid(np.arange(20), np.arange(20), [0.0], indexing="ij"), -1).reshape(-1, 3)
    assert chamfer_distance(grid, grid + np.array([0, 0, 0.3])) == pytest.approx(0.3)


def test_samples_are_spread_by_area():
    """A unit square and one of twice the edge: 1 to 4; evenly within each."""
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)
    vertices = np.concatenate([square, 2 * square + [0, 0, 5]])
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    points = sample_surface(vertices, faces, 50_000, seed=3)
    small, large = points[points[:, 2] < 2.5], points[points[:, 2] > 2.5]
    assert points[:, 2] == pytest.approx(np.where(points[:, 2] > 2.5, 5, 0))
    assert len(small) / 50_000 == pytest.approx(0.2, abs=0.01)
    counts = np.histogram2d(large[:, 0], large[:, 1], bins=4, range=[[0, 2], [0, 2]])[0]
    assert counts / len(large) == pytest.approx(1 / 16, abs=0.006)


def test_the_seed_decides():
    vertices, faces = np.eye(3), np.array([[0, 1, 2]])
    assert np.array_equal(sample_surface(vertices, faces, 5, 1), sample_surface(vertices, faces, 5, 1))
    assert not np.array_equal(sample_surface(vertices, faces, 5, 1), sample_surface(vertices, faces, 5, 2))


def angle_between(mesh_a, mesh_b, n=20_000):
    drawn = (sample_surface_with_normals(m.vertices, m.faces, n, seed) for seed, m in enumerate((mesh_a, mesh_b)))
    return normal_angle(*(array for pair in drawn for array in pair))


def test_a_mesh_has_its_own_normals():
    sphere = trimesh.creation.icosphere(3)
    points, normals = sample_surface_with_normals(sphere.vertices, sphere.faces, 5000, seed=1)
    assert (points * normals).sum(1) == pytest.approx(1, abs=0.02)  # outward, of unit length
    assert normal_angle(points, normals, points, normals) == 0
    assert normal_angle(points, normals, points, -normals) == 0  # which side is out is not compared


@pytest.mark.parametrize("degrees", [3.0, 10.0])
def test_the_sides_of_a_turned_cube_are_off_by_its_turn(degrees):
    """Four sides of six; top and bottom turn within their planes. Edges, where the nearest side may be another, off."""
    points, normals = sample_surface_with_normals(*cube(), 100_000, seed=0)
    turned, turned_normals = (x @ rotation(degrees).T for x in (points, normals))
    inner = np.sort(np.abs(points), axis=1)[:, 1] < 0.7
    found = normal_angle(points[inner], normals[inner], turned[inner], turned_normals[inner])
    assert found == pytest.approx(degrees * 4 / 6, rel=0.01)


def test_facets_against_a_fine_sphere():
    """The mean angle between a facet and the sphere above it, integrated over the facets."""
    coarse, fine = trimesh.creation.icosphere(1), trimesh.creation.icosphere(5)
    points, normals = sample_surface_with_normals(coarse.vertices, coarse.faces, 50_000, seed=5)
    cosine = (points * normals).sum(1) / np.linalg.norm(points, axis=1)
    assert angle_between(coarse, fine, 50_000) == pytest.approx(np.degrees(np.arccos(cosine)).mean(), rel=0.03)


def test_unrelated_normals_are_one_radian_apart():
    random = np.random.default_rng(0)
    points = random.random((50_000, 3))
    normals = [n / np.linalg.norm(n, axis=1, keepdims=True) for n in random.normal(size=(2, 50_000, 3))]
    assert normal_angle(points, normals[0], points, normals[1]) == pytest.approx(np.degrees(1), rel=0.01)


def cube():
    box = trimesh.creation.box((2, 2, 2))
    return box.vertices, box.faces


def rotation(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def ball(radius, center=(0.0, 0.0, 0.0)):
    return lambda points: np.linalg.norm(points - np.array(center), axis=1) - radius


def sphere(radius, center=(0.0, 0.0, 0.0)):
    return trimesh.creation.icosphere(5, radius).apply_translation(center)


@pytest.mark.parametrize("moved", [0.0, 0.1, 0.3, 0.9])
def test_volume_iou_of_two_balls_is_that_of_their_lens(moved):
    """Of balls of one radius r, d apart, the lens has pi (4 r + d) (2 r - d)^2 / 12."""
    r = 0.4
    mesh = sphere(r, (0.05, moved, -0.02))
    lens = np.pi * (4 * r + moved) * max(2 * r - moved, 0) ** 2 / 12
    expected = lens / (2 * 4 / 3 * np.pi * r**3 - lens)
    found = volume_iou(mesh.vertices, mesh.faces, ball(r, (0.05, 0.0, -0.02)), radius=1.5, resolution=128)
    assert found == pytest.approx(expected, abs=0.012)


def test_a_solid_of_parts_that_overlap_is_their_union_and_a_hollow_one_is_hollow():
    parts = trimesh.util.concatenate([sphere(0.4, (0.1 * i, 0.0, 0.0)) for i in range(3)])
    union = lambda points: np.min([ball(0.4, (0.1 * i, 0.0, 0.0))(points) for i in range(3)], axis=0)  # noqa: E731
    assert volume_iou(parts.vertices, parts.faces, union, radius=0.8) > 0.98
    inner = sphere(0.3)
    inner.invert()
    hollow = trimesh.util.concatenate([sphere(0.4), inner])
    shell = lambda points: np.maximum(ball(0.4)(points), -ball(0.3)(points))  # noqa: E731
    assert volume_iou(hollow.vertices, hollow.faces, shell, radius=0.8) > 0.96


def test_cells_whose_centres_lie_under_edges_and_corners_are_solid_too():
    """A cube whose faces' diagonals pass through the centres of columns, and a face that lies on none."""
    cube = trimesh.creation.box((1.0, 1.0, 1.0))
    cells = solid_cells(cube.vertices, cube.faces, radius=1.0, resolution=8)
    expected = np.zeros((8, 8, 8), bool)
    expected[2:6, 2:6, 2:6] = True
    assert np.array_equal(cells, expected)
    beyond = trimesh.creation.box((3.0, 1.0, 3.0))  # what leaves the cube of cells is cut off there
    expected[:, 2:6, :] = True
    assert np.array_equal(solid_cells(beyond.vertices, beyond.faces, radius=1.0, resolution=8), expected)


def test_no_solid_is_like_none_and_unlike_any():
    nothing = np.zeros((0, 3)), np.zeros((0, 3), int)
    assert volume_iou(*nothing, lambda points: np.ones(len(points)), radius=1.0) == 1
    assert volume_iou(*nothing, ball(0.4), radius=1.0) == 0
