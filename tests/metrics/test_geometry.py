import numpy as np
import pytest
import trimesh

from threedgen.metrics import chamfer_distance, normal_angle, sample_surface, sample_surface_with_normals


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
