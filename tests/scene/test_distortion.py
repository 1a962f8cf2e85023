"""The distortion loss against its double sum, and what it is for."""

import torch

from threedgen.ops import RaySamples
from threedgen.scene.distortion import distortion


def packed(counts, seed=0):
    """Samples of rays with these numbers of samples, lengths and gaps at random, and weights for them."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(counts)
    edges = torch.rand(2 * total, generator=generator, dtype=torch.float64) + 0.01
    offsets = torch.tensor([0, *counts]).cumsum(0)
    t = torch.cat([part.cumsum(0) for part in edges.split([2 * count for count in counts])])
    rays = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    weights = torch.rand(total, generator=generator, dtype=torch.float64)
    return weights, RaySamples(t[0::2], t[1::2], rays, offsets)


def double_sum(weights, samples):
    """Equation 15 as it stands."""
    losses = []
    for first, end in zip(samples.offsets[:-1].tolist(), samples.offsets[1:].tolist(), strict=True):
        loss = torch.zeros((), dtype=torch.float64)
        for i in range(first, end):
            loss = loss + weights[i] ** 2 * (samples.t_ends[i] - samples.t_starts[i]) / 3
            for j in range(first, end):
                loss = loss + weights[i] * weights[j] * (samples.t_mids[i] - samples.t_mids[j]).abs()
        losses.append(loss)
    return torch.stack(losses)


def test_running_sums_give_the_double_sum():
    weights, samples = packed([5, 0, 1, 7, 0, 3])
    torch.testing.assert_close(distortion(weights, samples), double_sum(weights, samples))
    single = distortion(weights.float(), RaySamples(samples.t_starts.float(), samples.t_ends.float(), *samples[2:]))
    torch.testing.assert_close(single, double_sum(weights, samples).float(), rtol=1e-5, atol=1e-6)


def test_its_gradient_is_that_of_the_double_sum():
    weights, samples = packed([4, 0, 6])
    weights.requires_grad_()
    (ours,) = torch.autograd.grad(distortion(weights, samples).square().sum(), weights)
    (theirs,) = torch.autograd.grad(double_sum(weights, samples).square().sum(), weights)
    torch.testing.assert_close(ours, theirs)


def test_no_samples_cost_nothing():
    weights, samples = packed([0, 0])
    assert distortion(weights, samples).tolist() == [0.0, 0.0]
