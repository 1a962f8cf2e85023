"""The compiled hash grid against its twin, and what only it can get wrong: tails of tiles, runs of samples, threads."""

import pytest
import torch

from threedgen.config.scene import GridConfig
from threedgen.ops import HashGrid, native, plain

pytestmark = pytest.mark.skipif(not native.available("cpu"), reason=f"no native kernels: {native.why_not('cpu')}")

TAILS = [*range(98), 191, 192, 193]


def grid_of(num_levels, num_features, log2_table_size=9):
    return HashGrid.from_config(GridConfig(num_levels, num_features, log2_table_size, 4, 24 if num_levels > 1 else 4))


def inputs(grid, count, dtype=torch.float32, seed=0, spread=1.2):
    """Positions of which some lie outside of the unit cube, a table, and gradients of features."""
    generator = torch.Generator().manual_seed(seed)
    positions = (torch.rand(count, 3, dtype=dtype, generator=generator) - 0.5) * spread + 0.5
    table = torch.randn(grid.num_rows, grid.num_features, dtype=dtype, generator=generator)
    weights = torch.randn(count, grid.num_outputs, dtype=dtype, generator=generator)
    return positions.requires_grad_(), table.requires_grad_(), weights


def gradients(ops, grid, positions, table, weights):
    features = ops.hash_grid_encode(positions, table, grid)
    return features, *torch.autograd.grad((features * weights).sum(), (positions, table))


def in_double(*tensors):
    return [x.detach().double().requires_grad_(x.requires_grad) for x in tensors]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("num_features", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("num_levels", [1, 4, 16])
def test_equals_its_twin_in_float64(num_levels, num_features, dtype, tolerance):
    grid = grid_of(num_levels, num_features)
    tensors = inputs(grid, 257, dtype)
    ours = gradients(native, grid, *tensors)
    theirs = gradients(plain, grid, *in_double(*tensors))
    for name, a, b in zip(["features", "grad positions", "grad table"], ours, theirs, strict=True):
        assert a.dtype == dtype
        error = (a.double() - b).abs().max() / b.abs().max()
        assert error < tolerance, f"{name}: {error:.1e}"


@pytest.mark.parametrize("num_features", [2, 3, 4, 8])
def test_gradcheck(num_features):
    grid = grid_of(2, num_features, log2_table_size=6)
    positions, table, _ = inputs(grid, 6, torch.float64, spread=0.9)
    assert torch.autograd.gradcheck(lambda p, t: native.hash_grid_encode(p, t, grid), (positions, table))


@pytest.mark.parametrize("num_features", [1, 2, 4, 8])
def test_samples_in_one_cell_and_rows_that_collide(num_features):
    """Runs of samples are summed before they are added to the table; in a table of 4 slots most pairs share rows."""
    grid = grid_of(4, num_features, log2_table_size=2)
    for spread in (1e-4, 0.05, 1.0):
        tensors = inputs(grid, 500, spread=spread)
        ours, theirs = gradients(native, grid, *tensors), gradients(plain, grid, *in_double(*tensors))
        torch.testing.assert_close(ours[2].double(), theirs[2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_features", [1, 2, 4, 8])
def test_every_tail_of_a_tile(num_features, threads):
    grid = grid_of(2, num_features)
    positions, table, weights = inputs(grid, 200)
    features, grad_positions, _ = gradients(native, grid, positions, table, weights)
    exact = in_double(positions, table, weights)
    for n in TAILS:
        part = [x[:n].detach().requires_grad_() for x in (positions, weights)]
        results = []
        for num_threads in (1, 2):
            threads(num_threads)
            results.append(gradients(native, grid, part[0], table, part[1]))
        threads(1)
        ours = results[0]
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
        assert torch.equal(ours[0], features[:n]) and torch.equal(ours[1], grad_positions[:n])
        theirs = gradients(plain, grid, exact[0][:n], exact[1], exact[2][:n])
        torch.testing.assert_close(ours[2].double(), theirs[2], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("num_features", [2, 8])
def test_is_bitwise_equal_for_every_number_of_threads(num_features, threads):
    grid = grid_of(4, num_features)
    tensors = inputs(grid, 10_000)
    results = []
    for count in (1, 2, 3, 2):
        threads(count)
        results.append(gradients(native, grid, *tensors))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_is_registered_as_torch_wants_it(dtype):
    grid = grid_of(2, 4)
    for count in (0, 1, 97):
        positions, table, _ = inputs(grid, count, dtype)
        torch.library.opcheck(torch.ops.threedgen.hash_grid_encode, (positions, table, grid.layout))


def test_reads_tensors_that_are_not_contiguous():
    grid = grid_of(2, 4)
    positions, table, weights = inputs(grid, 100)
    strided = [x.detach().t().contiguous().t().requires_grad_() for x in (positions, table)]
    assert not strided[0].is_contiguous() and not strided[1].is_contiguous()
    ours, theirs = gradients(native, grid, *strided, weights), gradients(native, grid, positions, table, weights)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_says_what_does_not_fit():
    grid = grid_of(2, 4)
    positions, table, _ = inputs(grid, 5)
    with pytest.raises(ValueError, match=r"positions must be \[N, 3\], not \[5, 2\]"):
        native.hash_grid_encode(positions[:, :2], table, grid)
    with pytest.raises(ValueError, match="table must be"):
        native.hash_grid_encode(positions, table[:-1], grid)
    with pytest.raises(TypeError, match="both must be the same"):
        native.hash_grid_encode(positions.double(), table, grid)
    with pytest.raises(TypeError, match="only float32 and float64"):
        native.hash_grid_encode(positions.half(), table.half(), grid)
