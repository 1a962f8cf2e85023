"""Distances of sets against closed forms and against loops."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from threedgen.metrics import set_distance

RANDOM = np.random.default_rng(0)


def flat(rows):
    """Pictures [N, 2, 2, 3] of one colour each, so that a picture's mean is its colour."""
    return np.broadcast_to(rows[:, None, None], (len(rows), 2, 2, 3)).astype(np.float32)


def test_against_the_formulas():
    a, b = RANDOM.random((40, 3)), 0.3 + 0.5 * RANDOM.random((50, 3)) @ RANDOM.random((3, 3))
    found = set_distance(flat(a), torch.from_numpy(flat(b).copy()), lambda images: images)
    (m1, m2), (c1, c2) = (a.mean(0), b.mean(0)), (np.cov(a.T), np.cov(b.T))
    assert found.frechet == pytest.approx(
        ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real), rel=1e-4
    )

    def mean_kernel(x, y, same):
        values = [(u @ v / 3 + 1) ** 3 for i, u in enumerate(x) for j, v in enumerate(y) if not (same and i == j)]
        return np.mean(values)

    a, b = a[:40], b[:40]  # as many of each
    expected = mean_kernel(a, a, True) + mean_kernel(b, b, True) - 2 * mean_kernel(a, b, False)
    assert set_distance(flat(a), flat(b), lambda images: images).kernel == pytest.approx(expected, rel=1e-4)


def test_halves_of_one_set_are_near_and_a_shift_is_its_square():
    rows = RANDOM.random((400, 3))
    halves = set_distance(flat(rows[::2]), flat(rows[1::2]), lambda images: images)
    assert halves.frechet < 0.01 and abs(halves.kernel) < 0.02
    moved = set_distance(flat(rows + 0.5), flat(rows), lambda images: images)
    assert moved.frechet == pytest.approx(3 * 0.5**2, rel=1e-3)  # equal covariances: the distance of the means


def test_as_few_pictures_as_features_are_refused():
    with pytest.raises(ValueError, match="3 features need more than 3 pictures in each set, got 3"):
        set_distance(flat(RANDOM.random((3, 3))), flat(RANDOM.random((9, 3))), lambda images: images)
