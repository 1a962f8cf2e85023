"""What only the compiled kernels can get wrong: threads, pieces, types, registration."""

import multiprocessing

import pytest
import torch
from torch.nn.functional import normalize

from threedgen.ops import native, plain

pytestmark = pytest.mark.skipif(not native.available("cpu"), reason=f"no native kernels: {native.why_not('cpu')}")


def scene(num_rays, resolution=19, seed=0, dtype=torch.float32):
    """Rays from all sides, some from inside, through a sparse grid whose edge is no multiple of a block's 8 cells."""
    generator = torch.Generator().manual_seed(seed)
    origins = torch.randn(num_rays, 3, generator=generator, dtype=dtype) * 2
    directions = normalize(torch.randn(num_rays, 3, generator=generator, dtype=dtype) * 0.3 - origins, dim=-1)
    occupancy = torch.rand(resolution, resolution, resolution, generator=generator) < 0.15
    return origins, directions, occupancy


def samples_of(num_rays, dtype=torch.float32, **options):
    origins, directions, occupancy = scene(num_rays, dtype=dtype, **options)
    jitter = plain.ray_jitter(5, num_rays).to(dtype)
    return native.march(origins, directions, occupancy, 1.0, 0.02, jitter)


@pytest.mark.parametrize("num_rays", [0, 1, 255, 256, 257, 1000])
@pytest.mark.parametrize("resolution", [1, 8, 19, 64])
def test_march_equals_its_twin(num_rays, resolution):
    origins, directions, occupancy = scene(num_rays, resolution, dtype=torch.float64)
    jitter = plain.ray_jitter(1, num_rays).double()
    ours = native.march(origins, directions, occupancy, 1.0, 0.013, jitter)
    theirs = plain.march(origins, directions, occupancy, 1.0, 0.013, jitter)
    assert torch.equal(ours.offsets, theirs.offsets) and torch.equal(ours.ray_indices, theirs.ray_indices)
    torch.testing.assert_close(ours.t_starts, theirs.t_starts, atol=1e-12, rtol=0)
    torch.testing.assert_close(ours.t_ends, theirs.t_ends, atol=1e-12, rtol=0)


def test_a_ray_along_the_cubes_diagonal_has_all_its_steps():
    corner = torch.full((1, 3), -3.0)
    direction = normalize(torch.ones(1, 3), dim=-1)
    full = torch.ones(4, 4, 4, dtype=torch.bool)
    for steps in (63, 64, 65, 128, 500):
        length = 2 * 3**0.5 / steps
        for jitter in (0.0, 0.5, 0.999):
            found = len(native.march(corner, direction, full, 1.0, length, torch.tensor([jitter])).t_starts)
            assert abs(found - steps) <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_rays", [0, 1, 300])
def test_composite_equals_its_twin_in_float64(num_rays, dtype):
    samples = samples_of(num_rays, dtype=dtype)
    generator = torch.Generator().manual_seed(2)
    count = len(samples.t_starts)
    density = (torch.rand(count, generator=generator) * 30).to(dtype).requires_grad_()
    rgb = torch.rand(count, 3, generator=generator).to(dtype).requires_grad_()
    exact = [x.detach().double().requires_grad_() for x in (density, rgb)]
    intervals = [x.double() for x in samples[:2]]
    ours = native.composite(density, rgb, *samples)
    theirs = plain.composite(*exact, *intervals, *samples[2:])
    tolerance = {"atol": 2e-6, "rtol": 2e-5} if dtype is torch.float32 else {"atol": 1e-10, "rtol": 1e-8}
    arriving = [torch.rand(x.shape, generator=generator, dtype=torch.float64) for x in theirs]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.double(), b, **tolerance)
    ours = torch.autograd.grad(ours, (density, rgb), [g.to(dtype) for g in arriving])
    theirs = torch.autograd.grad(theirs, exact, arriving)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.double(), b, **tolerance)


def test_nothing_slow_or_wrong_behind_a_wall():
    """A thousand dense samples: what is behind gets weight 0, no nan, and no gradient."""
    t = torch.linspace(0, 10, 1001)
    packed = (t[:-1], t[1:], torch.zeros(1000, dtype=torch.int64), torch.tensor([0, 1000]))
    density = torch.full((1000,), 1e4, requires_grad=True)
    seen = native.composite(density, torch.rand(1000, 3), *packed)
    assert seen.opacity.item() == 1 and not seen.weights[1:].any()
    (gradient,) = torch.autograd.grad(seen.rgb.sum(), density)
    assert gradient.isfinite().all() and not gradient[5:].any()


def test_bitwise_equal_for_every_number_of_threads(threads):
    results = []
    for number in (1, 2, 3, 7):
        threads(number)
        samples = samples_of(5000)
        density = torch.rand(len(samples.t_starts), generator=torch.Generator().manual_seed(0)).requires_grad_()
        seen = native.composite(density, density[:, None].expand(-1, 3), *samples)
        gradient = torch.autograd.grad(seen.rgb.square().sum() + seen.weights[::3].sum(), density)
        results.append([*samples, *seen, *gradient])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def _count_samples(_):
    torch.set_num_threads(2)
    return len(samples_of(3000).t_starts)


def test_a_forked_process_has_threads_of_its_own(threads):
    threads(2)
    expected = _count_samples(0)  # the parent's threads exist before the fork
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map_async(_count_samples, [0]).get(timeout=60) == [expected]


def test_registration():
    """torch's own checks: schemas, fake kernels with sizes that depend on data, autograd."""
    origins, directions, occupancy = scene(20)
    torch.library.opcheck(torch.ops.threedgen.march, (origins, directions, occupancy, 1.0, 0.1, None))
    samples = samples_of(20)
    density = torch.rand(len(samples.t_starts), requires_grad=True)
    rgb = torch.rand(len(density), 3, requires_grad=True)
    arguments = (density, rgb, samples.t_starts, samples.t_ends, samples.offsets)
    torch.library.opcheck(torch.ops.threedgen.composite, arguments)


def test_unsupported_types_are_refused():
    half = torch.zeros(1, dtype=torch.float16)
    with pytest.raises(TypeError, match="float16"):
        native.composite(half, half[:, None].expand(1, 3), half, half, torch.zeros(1).long(), torch.tensor([0, 1]))
