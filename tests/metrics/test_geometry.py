import numpy as np
import pytest

from threedgen.metrics import chamfer_distance, sample_surface


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
