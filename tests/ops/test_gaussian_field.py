"""Sums of Gaussians over lists: plain torch, the CPU's kernel and the GPU's against numpy, one pair after the other."""

import numpy as np
import pytest
import torch

from threedgen.ops import native

REACH = 2.0
REALS = [torch.float32, torch.float64]
pytestmark = pytest.mark.filterwarnings("ignore:Warning only once for all operators")


def scene(count, real=torch.float64):
    """Positions, Gaussians and lists of 0 to 7 of them; runs of positions with one list are 0 to 20 long."""
    rng = np.random.default_rng(count)
    factors = rng.normal(size=(12, 3, 3))
    precision = factors @ factors.transpose(0, 2, 1) + np.eye(3)
    row, column = np.triu_indices(3)
    gaussians = np.concatenate([rng.normal(0, 0.4, (12, 3)), precision[:, row, column], rng.random((12, 4))], 1)
    lengths = rng.integers(0, 8, 9)
    lengths[:2] = 0, 7
    starts = np.concatenate([[0], lengths.cumsum()])
    members = np.concatenate([rng.permutation(12)[:length] for length in lengths])
    of = np.sort(rng.integers(0, 9, count))
    arrays = rng.normal(0, 0.5, (count, 3)), gaussians, members, starts[of], starts[of + 1]
    return [torch.from_numpy(x).to(real if x.dtype == np.float64 else torch.int64) for x in arrays]


def expected_of(positions, gaussians, members, first, last):
    sums = np.zeros((len(positions), 4))
    for i in range(len(positions)):
        for g in gaussians[members[first[i] : last[i]]].double().numpy():
            away, form = positions[i].double().numpy() - g[:3], np.zeros((3, 3))
            form[np.triu_indices(3)] = g[3:9]
            square = away @ (form + np.triu(form, 1).T) @ away
            sums[i] += g[9:] * np.exp(-square / 2) * (square < REACH**2)
    return sums


def check(sum_gaussians, count, real, device="cpu"):
    arguments = scene(count, real)
    expected = expected_of(*arguments)
    assert count < 50 or 0.2 < (expected == 0).mean() < 0.9
    found = sum_gaussians(*(x.to(device) for x in arguments), REACH)
    assert found.dtype == real and found.shape == (count, 4)
    np.testing.assert_allclose(found.cpu().numpy(), expected, rtol=0, atol=1e-12 if real == torch.float64 else 2e-6)


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_equals_the_sum_of_pairs(ops, count, real):
    check(ops.sum_gaussians, count, real)


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("count", [0, 1, 300])
def test_on_a_gpu_too(device, poisoned, count, real):
    check(native.sum_gaussians, count, real, device)


def test_the_number_of_threads_changes_no_bit(threads):
    found = []
    for number in (1, 2):
        threads(number)
        found.append(native.sum_gaussians(*scene(5000, torch.float32), REACH))
    assert torch.equal(*found)
