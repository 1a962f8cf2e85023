import numpy as np
import torch

from threedgen.ops.plain import ray_jitter
from threedgen.ops.plain.random import uniform


def pcg(value):
    """The published function in 32-bit arithmetic of another library."""
    with np.errstate(over="ignore"):
        state = np.uint32(value) * np.uint32(747796405) + np.uint32(2891336453)
        word = ((state >> ((state >> np.uint32(28)) + np.uint32(4))) ^ state) * np.uint32(277803737)
        return (word >> np.uint32(22)) ^ word


def test_equals_32_bit_arithmetic():
    for seed in (0, 1, 2**31 + 5, 2**32 - 1):
        counters = [0, 1, 77, 2**31, 2**32 - 1]
        expected = [float(pcg(np.uint32(c) ^ pcg(seed)) >> np.uint32(8)) / 2**24 for c in counters]
        assert uniform(seed, torch.tensor(counters)).tolist() == expected


def test_is_uniform_and_independent_of_its_neighbours():
    values = ray_jitter(3, 200_000)
    assert values.min() >= 0 and values.max() < 1
    counts = torch.histc(values, 20, 0, 1)
    assert ((counts - 10_000).abs() < 5 * 10_000**0.5).all()
    shifted = torch.stack([values[:-1], values[1:]])
    assert abs(torch.corrcoef(shifted)[0, 1]) < 0.01
    assert abs(torch.corrcoef(torch.stack([values, ray_jitter(4, 200_000)]))[0, 1]) < 0.01
