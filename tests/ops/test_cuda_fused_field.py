"""The field in one CUDA kernel each way: against automatic differentiation of the same field in float64 that rounds
where the kernels do, and against the plain field within half precision. By emulation; tests/gpu takes the device."""

import ctypes
from dataclasses import replace

import pytest
import torch

from threedgen.config.scene import GridConfig
from threedgen.ops import plain
from threedgen.ops.grid import HashGrid
from threedgen.ops.native import cuda_field
from threedgen.ops.native.hash_grid import grid_arguments
from threedgen.ops.plain import composed
from threedgen.ops.plain.hash_grid import interpolate
from threedgen.ops.types import FieldLayout

pytestmark = pytest.mark.filterwarnings("ignore:Warning only once for all operators")

# levels, features, rows, coarsest and finest resolution; the network's hidden width
SHAPES = {
    "the paper's 16 x 2": (GridConfig(16, 2, 9, 3, 60), 64),
    "4 x 8": (GridConfig(4, 8, 9, 4, 24), 32),
    "5 x 8": (GridConfig(5, 8, 9, 4, 32), 32),
    "odd sizes, 3 x 4": (GridConfig(3, 4, 8, 4, 9), 20),
    "few, 3 x 2": (GridConfig(3, 2, 9, 4, 16), 40),
}


def random(*shape, seed=0, low=-1.0, high=1.0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * (high - low) + low


def field(name):
    """layout, table, weights in float32"""
    config, hidden = SHAPES[name]
    layout = FieldLayout(HashGrid.from_config(config), 1.25, 5.0, 0.6, 3.0)
    inputs = layout.grid.num_outputs
    weights = [random(hidden, inputs, seed=1), random(4, hidden, seed=2)]
    return layout, random(layout.grid.num_rows, config.num_features, seed=3), weights


class ToHalf(torch.autograd.Function):
    """Rounded to half precision; the gradient as if it were not."""

    @staticmethod
    def forward(ctx, x):
        return x.half().to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad


def rounded_field(table, weights, layout, positions):
    """As `plain.evaluate_field` of table, features, weights and hidden numbers in half precision."""
    halves = ToHalf.apply
    unit = (positions + layout.radius) / (2 * layout.radius)
    features = halves(interpolate(unit, halves(table), layout.grid))
    hidden = torch.relu(features @ halves(weights[0]).T)
    return composed.activate(halves(hidden) @ halves(weights[1]).T, positions, layout)


def gradients_of(evaluate, table, weights, layout, positions, grads):
    inputs = [x.detach().clone().requires_grad_() for x in (table, *weights)]
    outputs = evaluate(inputs[0], inputs[1:], layout, positions)
    return torch.autograd.grad(outputs, inputs, grads)


def fused(device, table, weights, layout, positions):
    """On the device and back."""
    on_device = table.to(device), [x.to(device) for x in weights], layout, positions.to(device)
    return [x.cpu() for x in cuda_field.evaluate_field(*on_device)]


def fused_gradients(device, table, weights, layout, positions, grads):
    return gradients_of(lambda *field: fused(device, *field), table, weights, layout, positions, grads)


def some_points(count, seed=4):
    """Some follow each other in one cell, some lie on the cube's faces and beyond them."""
    points = random(count, 3, seed=seed, low=-1.3, high=1.3)
    points[count // 4 : count // 2] = points[count // 4 : count // 4 + 1] + 0.01 * random(1, seed=5)
    points[: count // 8].clamp_(-1.25, 1.25)
    return points


def some_grads(count):
    """Of density and rgb; every third sample has none, and 16 in a row have none."""
    density, rgb = random(count, seed=6), random(count, 3, seed=7)
    density[::3], rgb[::3] = 0.0, 0.0
    density[16:32], rgb[16:32] = 0.0, 0.0
    return density, rgb


def double(tensors):
    return [x.double() for x in tensors]


def assert_close(found, expected, tolerance):
    """Relative to the largest number."""
    assert found.shape == expected.shape
    assert found.isfinite().all()
    assert (found.double() - expected).abs().max() <= tolerance * expected.abs().max() if expected.numel() else True


@pytest.mark.parametrize(("count", "backwards"), [(0, False), (1, False), (33, False), (33, True), (900, False)])
@pytest.mark.parametrize("name", SHAPES)
def test_forward(device, poisoned, name, count, backwards):
    """900 samples are more than the blocks take at once; `backwards` is the order in which threads run."""
    layout, table, weights = field(name)
    positions = some_points(count)
    found = fused(device, table, weights, layout, positions)
    exact = rounded_field(table.double(), double(weights), layout, positions.double())
    wanted = plain.evaluate_field(table.double(), double(weights), layout, positions.double())
    for one, same, other in zip(found, exact, wanted, strict=True):
        torch.testing.assert_close(one.double(), same, atol=1e-3, rtol=1e-3)  # a rounding may fall the other way
        torch.testing.assert_close(one.double(), other, atol=5e-3, rtol=5e-3)
        if count == 900:
            assert (one.double() - same).abs().mean() < 0.1 * (one.double() - other).abs().mean()


@pytest.mark.usefixtures("adding")
@pytest.mark.parametrize("count", [1, 33])
@pytest.mark.parametrize("name", SHAPES)
def test_gradients(device, name, count):
    layout, table, weights = field(name)
    positions, grads = some_points(count), some_grads(count)
    if count == 1:
        grads = tuple(torch.ones_like(x) for x in grads)
    found = fused_gradients(device, table, weights, layout, positions, grads)
    exact = [table.double(), double(weights), layout, positions.double(), double(grads)]
    for one, same, other in zip(
        found, gradients_of(rounded_field, *exact), gradients_of(plain.evaluate_field, *exact), strict=True
    ):
        assert_close(one, same, 2e-3)
        # a hidden number near 0 may be cut off by one and not by the other: some samples' gradients differ
        assert (one.double() - other).norm() <= 2e-2 * other.norm()


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("gathered", [0, 64 * 32, 1 << 15], ids=["nothing", "a level", "every dense level"])
def test_many_blocks_and_what_they_gather(device, monkeypatch, gathered, backwards):
    """More samples than the blocks take at once, and levels that are first added up in shared memory."""
    layout, table, weights = field("4 x 8")
    monkeypatch.setattr(cuda_field, "GATHERED_BYTES", gathered)
    positions, grads = some_points(300), some_grads(300)
    found = fused_gradients(device, table, weights, layout, positions, grads)
    exact = [table.double(), double(weights), layout, positions.double(), double(grads)]
    for one, same in zip(found, gradients_of(rounded_field, *exact), strict=True):
        assert_close(one, same, 2e-3)


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e25])
def test_gradients_of_any_size(device, size):
    """Half precision ends at 6e-8 and at 65,504; neighbours of other sizes do not matter to sixteen samples."""
    layout, table, weights = field("few, 3 x 2")
    positions, (density, rgb) = random(32, 3, seed=4), some_grads(32)
    density, rgb = density[:16].repeat(2), rgb[:16].repeat(2, 1)
    grads = torch.cat([density[:16], size * density[16:]]), torch.cat([rgb[:16], size * rgb[16:]])
    whole = fused_gradients(device, table, weights, layout, positions, grads)
    small = fused_gradients(device, table, weights, layout, positions[16:], [x[16:] for x in grads])
    exact = [table.double(), double(weights), layout, positions[16:].double(), [x[16:].double() for x in grads]]
    for all_of_it, one, same in zip(whole, small, gradients_of(rounded_field, *exact), strict=True):
        assert_close(one, same, 2e-3)
        assert all_of_it.isfinite().all()


def test_samples_without_gradients_touch_nothing(device):
    layout, table, weights = field("4 x 8")
    grads = torch.zeros(40), torch.zeros(40, 3)
    for one in fused_gradients(device, table, weights, layout, some_points(40), grads):
        assert not one.any()


def test_a_gradient_without_a_value_is_not_hidden_by_the_fused_field(device):
    layout, table, weights = field("4 x 8")
    density, rgb = torch.zeros(40), torch.zeros(40, 3)
    density[20] = torch.nan
    for one in fused_gradients(device, table, weights, layout, some_points(40), (density, rgb)):
        assert one.isnan().any()


def test_where_the_fused_kernels_are_taken():
    layout, table, weights = field("4 x 8")
    points = some_points(5)
    assert cuda_field.is_fused(table, weights, layout, points)
    table.requires_grad_()
    assert cuda_field.is_fused(table, weights, layout, points)
    assert not cuda_field.is_fused(table, weights, layout, points.clone().requires_grad_())
    assert not cuda_field.is_fused(table.double(), double(weights), layout, points.double())
    assert not cuda_field.is_fused(table, [*weights[:1], torch.zeros(32, 32), *weights[1:]], layout, points)
    assert not cuda_field.is_fused(table, [torch.zeros(65, 32), torch.zeros(4, 65)], layout, points)
    larger, rows, wide = field("5 x 8")
    assert cuda_field.is_fused(rows, wide, larger, points)
    assert not cuda_field.is_fused(rows, [torch.zeros(33, 40), torch.zeros(4, 33)], larger, points)
    for config in (GridConfig(4, 1, 9, 4, 24), GridConfig(7, 8, 9, 4, 24), GridConfig(2, 16, 9, 4, 24)):
        assert not cuda_field.is_fused(table, weights, replace(layout, grid=HashGrid.from_config(config)), points)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert not cuda_field.is_fused(table, weights, layout, points)
        with torch.no_grad():  # a forward pass has the same bits every time
            assert cuda_field.is_fused(table, weights, layout, points)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("capability", "fused"), [((7, 5), False), ((8, 0), True), ((10, 0), True)])
def test_old_cards_take_the_other_path(monkeypatch, capability, fused):
    class OnGpu(torch.Tensor):
        device = torch.device("cuda")

    layout, table, weights = field("4 x 8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert cuda_field.is_fused(table.as_subclass(OnGpu), weights, layout) is fused


def test_sizes_without_a_kernel_are_an_error(emulated_library):
    """Whoever calls the library past `is_fused` is told."""
    config = GridConfig(2, 16, 9, 4, 24)
    grid = grid_arguments(tuple(HashGrid.from_config(config).layout))
    nothing = [ctypes.c_void_p(0)] * 2
    numbers = [ctypes.c_float(1)] * 4
    rest = [ctypes.c_int64(8), *nothing]
    sizes = ctypes.c_int64(grid[0]), ctypes.c_int64(grid[1]), grid[2]
    code = emulated_library.tg_evaluate_field_f32(
        *sizes, nothing[0], rest[0], nothing[0], *numbers, *rest, *nothing, *nothing
    )
    assert code != 0
