"""The CUDA kernels against the ops in plain torch. Here they run on the CPU, by the emulation in cuda_ext/emu; the same
tests run on a GPU in tests/gpu."""

import itertools

import pytest
import torch
from torch.nn.functional import normalize

from threedgen.config.scene import GridConfig
from threedgen.core.errors import ConfigError
from threedgen.ops import plain
from threedgen.ops.grid import HashGrid
from threedgen.ops.native import build, cuda, cuda_field
from threedgen.ops.plain import composed
from threedgen.ops.plain.compositing import transmittance
from threedgen.ops.plain.hash_grid import interpolate
from threedgen.ops.types import FieldLayout, RaySamples

SIZES = [0, 1, 31, 32, 33, 257]
REALS = [torch.float32, torch.float64]
OPS = torch.ops.threedgen
pytestmark = pytest.mark.filterwarnings("ignore:Warning only once for all operators")


def random(*shape, seed=0, real=torch.float64, low=-1.0, high=1.0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=real) * (high - low) + low


def some_rays(count, real, seed=0):
    origins = random(count, 3, seed=seed, real=real, low=-2.5, high=2.5)
    origins[: count // 4] *= 0.2  # these start inside the cube
    return origins, normalize(random(count, 3, seed=seed + 1, real=real, low=-0.7, high=0.7) - origins, dim=-1)


def occupancy_of(fill, cells):
    return {
        "full": torch.ones(cells, cells, cells, dtype=torch.bool),
        "empty": torch.zeros(cells, cells, cells, dtype=torch.bool),
        "sparse": random(cells, cells, cells, low=0) < 0.15,
        "lonely": random(cells, cells, cells, low=0) < 0.004,  # blocks of 8^3 cells with one or two
    }[fill]


def samples_with(counts, real, seed=0):
    """Rays of so many samples each, with gaps between them."""
    counts = torch.tensor(counts, dtype=torch.long)
    total = int(counts.sum())
    ends = random(total, seed=seed, real=real, low=0.5, high=1.5).cumsum(0) * 0.01
    starts = ends - 0.01 * random(total, seed=seed + 1, real=real, low=0.2, high=0.5)
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return RaySamples(starts, ends, torch.repeat_interleave(counts), offsets)


def to(device, items):
    return [x.to(device) if isinstance(x, torch.Tensor) else x for x in items]


def close(actual, expected, real=torch.float64, scale=1.0):
    """Equal up to rounding: float32 kernels are compared with the float64 reference."""
    tolerance = {torch.float64: 1e-11, torch.float32: 1e-5}[real] * scale
    torch.testing.assert_close(actual.cpu().double(), expected.double(), atol=tolerance, rtol=tolerance)


# Marching


def steps_of(samples, origins, directions, jitter, radius, step_size):
    """{(ray, number of the step)} of samples."""
    t_near, _ = plain.ray_box(origins.double(), directions.double(), -radius, radius)
    ray = samples.ray_indices.cpu()
    step = (samples.t_mids.cpu().double() - t_near[ray]) / step_size - jitter.double()[ray]
    assert (step - step.round()).abs().max() < 0.01 if len(step) else True
    return set(zip(ray.tolist(), step.round().long().tolist(), strict=True))


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("num_rays", SIZES)
@pytest.mark.parametrize(("fill", "cells"), [("sparse", 10), ("sparse", 16), ("lonely", 24), ("full", 8), ("empty", 9)])
def test_march(device, poisoned, num_rays, fill, cells, real):
    rays, occupancy = some_rays(num_rays, real), occupancy_of(fill, cells)
    jitter = random(num_rays, seed=5, real=real, low=0)
    expected = plain.march(*(x.double() for x in rays), occupancy, 1.25, 0.04, jitter.double())
    found = RaySamples(*OPS.march(*to(device, [*rays, occupancy]), 1.25, 0.04, jitter.to(device)))
    steps = steps_of(found, *rays, jitter, 1.25, 0.04)
    wanted = steps_of(expected, *rays, jitter, 1.25, 0.04)
    assert len(steps) == len(found.t_starts)
    # float32 may decide otherwise for a sample on the face of a cell
    assert len(steps ^ wanted) <= (0 if real == torch.float64 else 1e-3 * len(wanted))
    assert torch.equal(found.ray_indices.cpu(), torch.repeat_interleave(found.offsets.diff().cpu()))
    close(found.t_ends - found.t_starts, torch.full_like(found.t_starts.cpu(), 0.04), real)
    if num_rays > 30 and fill != "empty":
        assert len(wanted) > (num_rays if fill != "lonely" else 5)


def test_march_along_a_ray_of_a_thousand_samples_and_past_the_cube(device):
    rays = torch.tensor([[-3.0, 0.1, 0.2], [-3.0, 2, 0]]), torch.tensor([[1.0, 0, 0], [1.0, 0, 0]])
    found = RaySamples(*OPS.march(*to(device, [*rays, occupancy_of("full", 8)]), 1.0, 0.002, None))
    assert found.offsets.tolist() == [0, 1000, 1000]
    torch.testing.assert_close(found.t_mids.cpu(), 2.001 + 0.002 * torch.arange(1000))


@pytest.mark.parametrize("spare", [-(10**6), -300, -1, 0, 1, 5000])  # more than there are threads
def test_march_within_a_capacity(device, poisoned, spare):
    rays, occupancy = some_rays(65, torch.float32), occupancy_of("sparse", 12)
    arguments = (*to(device, [*rays, occupancy]), 1.0, 0.02, None)
    every = RaySamples(*OPS.march(*arguments))
    total = len(every.t_starts)
    capacity = max(total + spare, 0)
    found, wanted = cuda.march_within(capacity, *arguments)
    kept = min(capacity, total)
    assert int(wanted) == total > 500
    assert torch.equal(found.offsets, every.offsets.clamp(max=capacity))
    for mine, theirs in zip(found[:3], every[:3], strict=True):
        assert len(mine) == capacity and torch.equal(mine[:kept], theirs[:kept])
    assert (found.t_starts[kept:] == 0).all() and (found.t_ends[kept:] == 0).all()
    assert (found.ray_indices[kept:] == 64).all()
    # what stands behind the last sample counts nowhere
    density = random(capacity, real=torch.float32, low=0, high=50).to(device).requires_grad_()
    rgb = random(capacity, 3, real=torch.float32).to(device).requires_grad_()
    seen = OPS.composite_reached(density, rgb, found.t_starts, found.t_ends, found.offsets, 0.0)
    sum(x.sum() for x in seen).backward()
    for tensor in (seen[3], density.grad, rgb.grad):
        assert tensor.isfinite().all() and not tensor[kept:].any()


def test_march_within_needs_rays(device):
    with pytest.raises(ValueError, match="no rays"):
        cuda.march_within(5, *to(device, [*some_rays(0, torch.float32), occupancy_of("full", 8)]), 1.0, 0.1)


# Compositing


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("min_transmittance", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("counts", [[], [0], [1], [31], [32], [33], [257, 0, 1], [0, 0, 5, 1000, 64, 0]])
def test_composite_with_gradients(device, poisoned, counts, min_transmittance, real):
    samples = samples_with(counts, torch.float64)
    total, num_rays = len(samples.t_starts), len(counts)
    inputs = random(total, low=0, high=100 if total < 500 else 1.5), random(total, 3, seed=1)
    grads = [random(num_rays, 3), random(num_rays, seed=3), random(num_rays, seed=4), random(total, seed=5)]

    density, rgb = (x.clone().requires_grad_() for x in inputs)
    dt = samples.t_ends - samples.t_starts
    reached = transmittance(inputs[0] * dt, samples.ray_indices, samples.offsets) >= min_transmittance
    expected = plain.composite(density * reached, rgb, *samples)
    sum((x * grad).sum() for x, grad in zip(expected, grads, strict=True)).backward()
    if min_transmittance and sum(counts) > 30:
        assert 0 < reached.sum() < total

    mine = [x.to(device, real).requires_grad_() for x in inputs]
    intervals = [x.to(device, real) for x in (samples.t_starts, samples.t_ends)]
    seen = OPS.composite_reached(*mine, *intervals, samples.offsets.to(device), min_transmittance)
    sum((x * grad.to(x)).sum() for x, grad in zip(seen, grads, strict=True)).backward()
    for found, wanted in zip(seen, expected, strict=True):
        close(found.detach(), wanted.detach(), real)
    close(mine[0].grad, density.grad, real)
    close(mine[1].grad, rgb.grad, real)
    if min_transmittance:
        for tensor in (seen[3], mine[0].grad, mine[1].grad):
            assert not tensor[~reached.to(device)].any()


def test_composite_is_the_op_without_a_limit(device):
    samples = samples_with([3, 0, 40], torch.float32)
    density, rgb = random(43, low=0, high=100, real=torch.float32), random(43, 3, real=torch.float32)
    rest = to(device, [density, rgb, samples.t_starts, samples.t_ends, samples.offsets])
    for one, other in zip(OPS.composite(*rest), OPS.composite_reached(*rest, 0.0), strict=True):
        assert torch.equal(one, other)


def test_composite_behind_a_wall_is_exactly_dark(device):
    """A hundred dense samples: what is left of the light becomes 0, not a nan or a denormal number."""
    samples = samples_with([100], torch.float32)
    density = torch.full((100,), 1e5)
    seen = OPS.composite(*to(device, [density, torch.ones(100, 3), samples.t_starts, samples.t_ends, samples.offsets]))
    assert seen[1].item() == pytest.approx(1) and not seen[3][2:].any()


# The hash grid

GRIDS = {
    "dense and hashed": GridConfig(3, 2, 9, base_resolution=4, max_resolution=24),
    "one dense level": GridConfig(1, 1, 12, base_resolution=8, max_resolution=8),
    "one hashed level": GridConfig(1, 4, 6, base_resolution=50, max_resolution=50),
    "four levels of 8": GridConfig(4, 8, 11, base_resolution=4, max_resolution=40),
    "more levels than warps": GridConfig(17, 2, 8, base_resolution=2, max_resolution=60),
    "odd": GridConfig(9, 3, 8, base_resolution=3, max_resolution=30),
    "wide": GridConfig(2, 64, 6, base_resolution=3, max_resolution=9),
}


def grid_inputs(name, count):
    """A grid, positions in and around the unit cube, on its faces too; a table, gradients, directions."""
    grid = HashGrid.from_config(GRIDS[name])
    positions = random(count, 3, low=-0.1, high=1.1)
    if count > 4:
        positions[:4] = torch.tensor([[0.0, 0, 0], [1, 1, 1], [0, 1, 0.5], [-3, 0.5, 7]])
        positions[5:15] = 0.4321  # rows with many readers
    return grid, positions, random(grid.num_rows, grid.num_features, seed=1), random(count, grid.num_outputs, seed=2)


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize(
    ("name", "count"), [*((name, 33) for name in GRIDS), *(("dense and hashed", n) for n in SIZES)]
)
def test_hash_grid(device, poisoned, name, count, real):
    grid, positions, table, grad = grid_inputs(name, count)
    at, rows = positions.clone().requires_grad_(), table.clone().requires_grad_()
    expected = plain.hash_grid_encode(at, rows, grid)
    (expected * grad).sum().backward()

    layout = grid.layout
    mine = [x.to(device, real) for x in (positions, table, grad)]
    close(OPS.hash_grid_encode(mine[0], mine[1], layout), expected.detach(), real)
    for deterministic in (False, True):
        found = cuda.grad_of_table(mine[2], mine[0], None, mine[1], layout, deterministic=deterministic)
        close(found, rows.grad, real, scale=4)
    # float32 may take a position on the face of a cell for one beside it, where the slope is another
    if real == torch.float64:
        close(OPS.hash_grid_grad_positions(mine[2], mine[0], mine[1], layout), at.grad, real, scale=10)


def test_hash_grid_backward_gives_what_is_asked_for(device):
    grid, positions, table, grad = grid_inputs("dense and hashed", 40)
    layout = grid.layout
    arguments = to(device, [grad, positions, table, layout])
    of_table, of_positions = OPS.hash_grid_encode_backward(*arguments, True)
    assert torch.equal(OPS.hash_grid_encode_backward(*arguments, False)[0], of_table) or device.type == "cuda"
    assert torch.equal(of_positions, OPS.hash_grid_grad_positions(*arguments))


@pytest.mark.parametrize("name", GRIDS)
def test_slopes_of_the_hash_grid(device, poisoned, name):
    """The derivative along a direction and its gradients, against automatic differentiation of the interpolation."""
    grid, positions, table, grad = grid_inputs(name, 40)
    positions[:5] = random(5, 3, low=0.1, high=0.9)  # on a face the derivative is not one number
    directions = random(40, 3, seed=7)
    rows = table.clone().requires_grad_()
    expected = torch.func.jvp(lambda p: interpolate(p, rows, grid), (positions,), (directions,))[1]
    (expected * grad).sum().backward()
    layout, mine = grid.layout, to(device, [positions, directions, table])
    close(OPS.hash_grid_slope(*mine, layout), expected.detach(), scale=100)
    for deterministic in (False, True):
        found = cuda.grad_of_table(grad.to(device), *mine, layout, deterministic=deterministic)
        close(found, rows.grad, scale=100)


def test_slopes_are_the_derivative_of_the_position_gradient(device):
    grid, positions, table, grad = grid_inputs("one hashed level", 6)
    positions = random(6, 3, low=0.05, high=0.95).to(device)
    inputs = [x.to(device).requires_grad_() for x in (grad, table)]
    layout = grid.layout
    assert torch.autograd.gradcheck(lambda g, t: OPS.hash_grid_grad_positions(g, positions, t, layout), inputs)


def test_a_table_that_begins_in_the_middle_of_another_tensor(device):
    """Rows are read 16 bytes at a time, which needs an address that is a multiple of 16."""
    grid, positions, table, _ = grid_inputs("four levels of 8", 33)
    shifted = torch.cat([torch.zeros(1), table.float().flatten()]).to(device)[1:].view(table.shape)
    assert shifted.data_ptr() % 16 != 0
    expected = plain.hash_grid_encode(positions.float(), table.float(), grid)
    close(OPS.hash_grid_encode(positions.float().to(device), shifted, grid.layout), expected, torch.float32)


def test_a_gradient_without_a_value_is_not_hidden(device):
    grid, positions, table, grad = grid_inputs("dense and hashed", 33)
    grad[3, 2] = torch.nan
    layout, mine = grid.layout, to(device, [grad, positions, None, table])
    assert cuda.grad_of_table(*mine, layout, deterministic=False).isnan().any()
    assert cuda.grad_of_table(*mine, layout, deterministic=True).isnan().all()


def test_deterministic_sums_are_chosen_by_torch(device):
    grid, positions, table, grad = grid_inputs("dense and hashed", 257)
    arguments = (*to(device, [x.float() for x in (grad, positions)]), None, table.float().to(device), grid.layout)
    expected = cuda.grad_of_table(*arguments, deterministic=True)
    assert not torch.equal(cuda.grad_of_table(*arguments), expected)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert torch.equal(cuda.grad_of_table(*arguments), expected)
    finally:
        torch.use_deterministic_algorithms(False)


def test_deterministic_sums_are_the_same_in_any_order(device):
    grid, positions, table, grad = grid_inputs("dense and hashed", 500)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    layout, rows = grid.layout, table.float().to(device)

    def gradient(order, deterministic):
        inputs = [x.float()[order].to(device) for x in (grad, positions)]
        return cuda.grad_of_table(*inputs, None, rows, layout, deterministic=deterministic)

    assert torch.equal(gradient(order, True), gradient(torch.arange(500), True))
    assert not torch.equal(gradient(order, False), gradient(torch.arange(500), False))


# The field

LAYOUT = FieldLayout(HashGrid.from_config(GridConfig(3, 4, 9, 4, 24)), 1.25, 5.0, 0.6, 3.0)


def field(num_hidden_layers=1):
    widths = [LAYOUT.grid.num_outputs, *[16] * num_hidden_layers, 4]
    weights = [random(o, i, seed=n, low=-0.7, high=0.7) for n, (i, o) in enumerate(itertools.pairwise(widths))]
    return random(LAYOUT.grid.num_rows, 4, seed=9), weights


def gradients(outputs, inputs, device=None):
    """Of a fixed random weighting of all the outputs."""
    loss = sum((x * random(*x.shape, seed=20 + i).to(x)).sum() for i, x in enumerate(outputs))
    return torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("count", SIZES)
def test_activations(device, poisoned, count, real):
    raw, positions = random(count, 4, low=-9, high=9), random(count, 3, seed=1, low=-1.25, high=1.25)
    if count > 2:
        raw[0], raw[1], positions[2] = 200.0, -200.0, 0.0
    outer = raw.clone().requires_grad_()
    expected = composed.activate(outer, positions, LAYOUT)
    mine = raw.to(device, real).requires_grad_()
    unit = ((positions + 1.25) / 2.5).to(device, real)
    found = OPS.activate_field(mine, unit, 1.25, 5.0, 0.6, 3.0)
    for one, other in zip(found, expected, strict=True):
        close(one.detach(), other.detach(), real, scale=2)
    (found_grad,), (expected_grad,) = gradients(found, [mine]), gradients(expected, [outer])
    close(found_grad, expected_grad, real, scale=2)


@pytest.mark.parametrize("num_hidden_layers", [0, 1, 2])
@pytest.mark.parametrize("op", ["evaluate_field", "field_with_normals"])
def test_field(device, poisoned, op, num_hidden_layers):
    table, weights = field(num_hidden_layers)
    positions = random(257, 3, low=-1.2, high=1.2)
    inputs = [x.requires_grad_() for x in (table, *weights)]
    expected = getattr(plain, op)(table, weights, LAYOUT, positions)
    mine = [x.detach().to(device).requires_grad_() for x in inputs]
    found = getattr(cuda_field, op)(mine[0], mine[1:], LAYOUT, positions.to(device))
    for one, other in zip(found, expected, strict=True):
        close(one.detach(), other.detach(), scale=10)
    for one, other in zip(gradients(found, mine), gradients(expected, inputs), strict=True):
        close(one, other, scale=1000)


def test_normals_without_gradients(device):
    table, weights = to(device, [field()[0]])[0], to(device, field()[1])
    positions = torch.cat([random(20, 3), torch.zeros(1, 3)])
    expected = plain.field_with_normals(*field(), LAYOUT, positions)
    found = cuda_field.field_with_normals(table, weights, LAYOUT, positions.to(device))
    for one, other in zip(found, expected, strict=True):
        assert not one.requires_grad
        close(one, other, scale=10)


@pytest.mark.parametrize("min_transmittance", [0.0, 0.05])
@pytest.mark.parametrize("num_rays", [0, 1, 33])
def test_render_field(device, poisoned, num_rays, min_transmittance):
    (table, weights), rays = field(), some_rays(num_rays, torch.float64)
    samples = plain.march(*rays, occupancy_of("full", 8), 1.25, 0.03)
    inputs = [x.requires_grad_() for x in (table, *weights)]
    expected = plain.render_field(table, weights, LAYOUT, *rays, samples, min_transmittance)
    mine = [x.detach().to(device).requires_grad_() for x in inputs]
    on_device = RaySamples(*to(device, samples))
    found = cuda_field.render_field(mine[0], mine[1:], LAYOUT, *to(device, rays), on_device, min_transmittance)
    for one, other in zip(found, expected, strict=True):
        close(one.detach(), other.detach(), scale=10)
    for one, other in zip(gradients(found, mine), gradients(expected, inputs), strict=True):
        close(one, other, scale=1000)
    if num_rays == 33 and min_transmittance:
        assert (expected.weights == 0).any()


@pytest.mark.parametrize("all_cells", [True, False])
@pytest.mark.parametrize("cells", [1, 5, 12])
def test_refresh_occupancy(device, poisoned, monkeypatch, cells, all_cells):
    monkeypatch.setattr(cuda_field, "_CELLS_AT_ONCE", 1000)  # so that 12^3 cells take two rounds
    opacity, occupied = random(cells, cells, cells, low=0), occupancy_of("sparse", cells)
    arguments = 2**40 + 17, 0.9, all_cells
    expected = plain.refresh_occupancy(*field(), LAYOUT, opacity, occupied, *arguments)
    table, weights = field()
    found = cuda_field.refresh_occupancy(
        table.to(device), to(device, weights), LAYOUT, *to(device, [opacity, occupied]), *arguments
    )
    close(found, expected, scale=10)
    if cells == 12 and not all_cells:
        assert 0 < (expected == opacity).sum() < opacity.numel()


@pytest.mark.parametrize("num_rays", SIZES)
def test_ray_jitter(device, poisoned, num_rays):
    assert torch.equal(cuda_field.ray_jitter(-5, num_rays, device).cpu(), plain.ray_jitter(-5, num_rays))


@pytest.mark.parametrize("count", SIZES)
def test_adamw(device, count):
    mine = [random(count, seed=seed, real=torch.float32).to(device) for seed in range(2)]
    theirs = [x.cpu().clone() for x in mine]
    states = [torch.zeros_like(x) for x in (mine[0], mine[0], theirs[0], theirs[0])]
    for step in range(1, 4):
        numbers = (step, 0.01, 0.9, 0.99, 1e-15, 0.1)
        OPS.adamw_step(*mine, *states[:2], *numbers)
        plain.adamw_step(*theirs, *states[2:], *numbers)
    close(mine[0], theirs[0], torch.float32)


# The registration


def test_every_op_has_a_cuda_kernel():
    for name in cuda.KERNELS:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"threedgen::{name}", "CUDA"), name
        assert hasattr(OPS, name), f"{name} is a kernel of no op"


@pytest.mark.parametrize("op", ["composite_reached", "hash_grid_grad_positions", "hash_grid_slope", "activate_field"])
def test_fake_kernels_and_derivatives_are_registered_right(device, op):
    samples = samples_with([3, 40], torch.float64)
    grid, positions, table, grad = grid_inputs("dense and hashed", 9)
    layout, packed = grid.layout, (samples.t_starts, samples.t_ends, samples.offsets)
    arguments = {
        "composite_reached": (random(43, low=0), random(43, 3), *packed, 0.1),
        "hash_grid_grad_positions": (grad, positions, table, layout),
        "hash_grid_slope": (positions, random(9, 3), table, layout),
        "activate_field": (random(9, 4), random(9, 3), 1.0, 5.0, 0.5, 2.0),
    }[op]
    differentiable = {"composite_reached": 2, "activate_field": 1}.get(op, 0)
    arguments = [x.requires_grad_() if i < differentiable else x for i, x in enumerate(to(device, arguments))]
    torch.library.opcheck(getattr(OPS, op).default, arguments)


def test_mixed_kinds_of_numbers_are_refused(device):
    grid, positions, table, _ = grid_inputs("dense and hashed", 9)
    with pytest.raises(TypeError, match=r"float64 among numbers of torch\.float32"):
        OPS.hash_grid_encode(positions.to(device), table.float().to(device), grid.layout)
    with pytest.raises(TypeError, match="only float32 and float64"):
        OPS.hash_grid_encode(positions.half().to(device), table.half().to(device), grid.layout)


def test_sizes_and_devices_that_do_not_fit_are_refused(device):
    origins, directions = to(device, some_rays(5, torch.float32))
    full = occupancy_of("full", 8).to(device)
    with pytest.raises(ValueError, match=r"directions must be \[5, 3\], not \[4, 3\]"):
        OPS.march(origins, directions[:4], full, 1.0, 0.1, None)
    with pytest.raises(ValueError, match=r"jitter must be \[5\], not \[6\]"):
        OPS.march(origins, directions, full, 1.0, 0.1, torch.zeros(6, device=device))
    with pytest.raises(ValueError, match=r"occupancy must be \[8, 8, 8\], not \[8, 8, 7\]"):
        OPS.march(origins, directions, full[..., :7], 1.0, 0.1, None)
    with pytest.raises(TypeError, match=r"occupancy must be bool, not torch\.float32"):
        OPS.march(origins, directions, full.float(), 1.0, 0.1, None)
    with pytest.raises(ValueError, match="tensors on different devices"):
        cuda.march_cuda(origins, directions.to("meta"), full, 1.0, 0.1, None)
    samples = samples_with([3, 2], torch.float32)
    packed = to(device, [samples.t_starts, samples.t_ends, samples.offsets])
    with pytest.raises(ValueError, match=r"rgb must be \[5, 3\], not \[4, 3\]"):
        OPS.composite(torch.zeros(5, device=device), torch.zeros(4, 3, device=device), *packed)


def test_without_cuda_or_without_nvcc_there_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    load = cuda._load.__wrapped__
    assert load() == (None, "torch sees no CUDA device")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    for name in ("PATH", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(build, "_CUDA_FOLDER", "/nowhere")
    library, reason = load()
    assert library is None
    assert reason == "nvcc is not installed: install the CUDA toolkit or use scene.backend=plain"
    monkeypatch.setattr(cuda, "_load", lambda: (None, reason))
    with pytest.raises(ConfigError, match="nvcc is not installed"):
        cuda.call("tg_adamw", torch.float32)
