import numpy as np
import pytest
import torch

from threedgen.metrics.consistency import unexplained
from threedgen.metrics.perceptual import feature_distance


def plain(*color):
    return np.broadcast_to(np.array(color, np.float32), (2, 4, 6, 3))


def test_angles_between_features_count_and_lengths_do_not():
    same = feature_distance(plain(0.2, 0.1, 0.1), plain(0.8, 0.4, 0.4), lambda images: images)
    across = feature_distance(plain(1, 0, 0), plain(0, 0.3, 0), lambda images: images)
    against = feature_distance(
        plain(0.9, 0.5, 0.5), torch.tensor(plain(0.1, 0.5, 0.5).copy()), lambda images: images - 0.5
    )
    assert [same, across, against] == pytest.approx([0, 2, 4], abs=1e-6)


def test_against_loops():
    random = np.random.default_rng(0)
    a, b = random.random((2, 3, 4, 5, 3))
    weight = random.normal(size=(8, 3)).astype(np.float32)

    def features(images):  # [B, 3, H, W] -> [B, 8, H, W]
        return torch.einsum("kc,bchw->bkhw", torch.from_numpy(weight), images)

    expected = []
    for x, y in zip(a.reshape(-1, 3), b.reshape(-1, 3), strict=True):
        u, v = weight @ x, weight @ y
        expected.append(2 - 2 * (u @ v) / np.linalg.norm(u) / np.linalg.norm(v))  # of unit vectors
    assert feature_distance(a, b, features) == pytest.approx(np.mean(expected), rel=1e-5)


def test_what_is_unexplained():
    assert unexplained(plain(0.1, 0.2, 0.3), torch.tensor(plain(0.2, 0.0, 0.3).copy())) == pytest.approx(0.1)
