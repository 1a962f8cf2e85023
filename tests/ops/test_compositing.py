import math

import pytest
import torch

from threedgen.ops import plain


def pack(*rays):
    """Rays given as lists of (t_start, t_end) -> keyword arguments of `composite`."""
    counts = torch.tensor([len(ray) for ray in rays])
    intervals = torch.tensor([interval for ray in rays for interval in ray], dtype=torch.float64).view(-1, 2)
    return {
        "t_starts": intervals[:, 0],
        "t_ends": intervals[:, 1],
        "ray_indices": torch.repeat_interleave(counts),
        "offsets": torch.nn.functional.pad(counts.cumsum(0), (1, 0)),
    }


def test_five_samples_by_hand(ops):
    """Two rays, of three and of two samples, and an empty one between. Densities make alphas of 1/2, 1/4 and 1."""
    half, quarter, wall = math.log(2), math.log(4 / 3), 1e3
    packed = pack([(0, 1), (1, 2), (3, 4)], [], [(0, 2), (2, 4)])
    density = torch.tensor([half, quarter, wall, quarter / 2, half / 2], dtype=torch.float64)
    red, green, blue = torch.eye(3, dtype=torch.float64)
    result = ops.composite(density, torch.stack([red, green, blue, green, green]), **packed)
    as_list = pytest.approx
    assert result.weights.tolist() == as_list([1 / 2, 1 / 8, 3 / 8, 1 / 4, 3 / 8])
    assert result.rgb.flatten().tolist() == as_list([1 / 2, 1 / 8, 3 / 8, 0, 0, 0, 0, 5 / 8, 0])
    assert result.opacity.tolist() == as_list([1, 0, 5 / 8])
    assert result.depth.tolist() == as_list([1 / 2 * 0.5 + 1 / 8 * 1.5 + 3 / 8 * 3.5, 0, 1 / 4 * 1 + 3 / 8 * 3])


def test_constant_density_has_the_closed_form(ops):
    """Opacity 1 - exp(-s L); expected depth of the exponential distribution cut at L."""
    s, length, count = 2.5, 1.7, 4000
    edges = torch.linspace(0, length, count + 1, dtype=torch.float64)
    packed = pack(torch.stack([edges[:-1], edges[1:]], -1).tolist())
    density, rgb = torch.full((count,), s, dtype=torch.float64), torch.rand(count, 3, dtype=torch.float64)
    result = ops.composite(density, rgb, **packed)
    gone = math.exp(-s * length)
    assert result.opacity.item() == pytest.approx(1 - gone, abs=1e-12)
    assert result.depth.item() == pytest.approx(1 / s - gone * (length + 1 / s), abs=1e-6)


def test_does_not_depend_on_how_an_interval_is_cut(ops):
    one = ops.composite(torch.tensor([3.0]).double(), torch.ones(1, 3).double(), **pack([(1, 2)]))
    cut = ops.composite(torch.full((2,), 3.0).double(), torch.ones(2, 3).double(), **pack([(1, 1.3), (1.3, 2)]))
    torch.testing.assert_close(one.rgb, cut.rgb)


def test_float32_stays_exact_behind_many_dense_rays(ops):
    """A single running sum in float32 would have no digits left for the last ray."""
    rays, per_ray = 2000, 50
    packed = {
        "t_starts": torch.zeros(rays * per_ray),
        "t_ends": torch.full((rays * per_ray,), 0.01),
        "ray_indices": torch.arange(rays).repeat_interleave(per_ray),
        "offsets": torch.arange(rays + 1) * per_ray,
    }
    density = torch.full((rays * per_ray,), 1e4)
    density[-per_ray:] = 0.1
    result = ops.composite(density, torch.ones(rays * per_ray, 3), **packed)
    assert result.opacity[-1].item() == pytest.approx(1 - math.exp(-0.1 * 0.01 * per_ray), rel=1e-5)
    assert result.opacity[:-1].min() > 1 - 1e-6


def test_gradients_including_losses_on_single_samples(ops):
    packed = pack([(0, 0.2), (0.2, 0.5), (0.7, 0.9)], [], [(0, 0.4)], [(0.1, 0.2), (0.2, 0.3)])
    generator = torch.Generator().manual_seed(0)
    density = (torch.rand(6, dtype=torch.float64, generator=generator) * 5).requires_grad_()
    rgb = torch.rand(6, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d, c: tuple(ops.composite(d, c, **packed)), (density, rgb))
    if ops is plain:  # the kernels are differentiable once
        assert torch.autograd.gradgradcheck(lambda d, c: tuple(ops.composite(d, c, **packed)), (density, rgb))


def test_colors_that_are_rows_of_channels_in_memory_have_gradients(ops):
    density, channels = torch.tensor([0.5, 2.0, 1.0]), torch.rand(3, 3, generator=torch.Generator().manual_seed(0))
    packed = {name: x.float() if "t_" in name else x for name, x in pack([(0, 0.2), (0.2, 0.5)], [(0, 0.4)]).items()}
    rgb = channels.t().requires_grad_()
    result = ops.composite(density, rgb, **packed)
    result.rgb.sum().backward()
    torch.testing.assert_close(rgb.grad, result.weights[:, None].expand(3, 3))


def test_no_samples(ops):
    density, rgb = torch.zeros(0, requires_grad=True), torch.zeros(0, 3, requires_grad=True)
    packed = {name: value.float() if "t_" in name else value for name, value in pack([], []).items()}
    result = ops.composite(density, rgb, **packed)
    assert result.rgb.shape == (2, 3) and not result.opacity.any()
    result.rgb.sum().backward()
