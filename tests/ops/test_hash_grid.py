import math

import pytest
import torch

from threedgen.config.scene import GridConfig
from threedgen.ops import HashGrid, plain
from threedgen.ops.plain.hash_grid import interpolate

SMALL = HashGrid.from_config(
    GridConfig(num_levels=3, num_features=2, log2_table_size=9, base_resolution=4, max_resolution=24)
)


def slow_encode(position, table, grid):
    """One position in pure Python: eight corners, each with its row and its product of weights."""
    features = []
    for level in grid.levels:
        lattice = [min(max(p, 0.0), 1.0) * (level.resolution - 1) for p in position]
        corner = [min(math.floor(p), level.resolution - 2) for p in lattice]
        fraction = [p - c for p, c in zip(lattice, corner, strict=True)]
        total = [0.0] * grid.num_features
        for bits in range(8):
            up = [bits & 1, bits >> 1 & 1, bits >> 2 & 1]
            weight = math.prod(f if u else 1 - f for f, u in zip(fraction, up, strict=True))
            x, y, z = (c + u for c, u in zip(corner, up, strict=True))
            if level.hashed:
                # The slot of the lower x corner wraps around the table; its neighbour is simply the next row.
                slot = (((y * 2654435761) ^ (z * 805459861)) + corner[0]) % 2**grid.log2_table_size + up[0]
            else:
                slot = x + level.resolution * y + level.resolution**2 * z
            row = table[level.first_row + slot]
            total = [t + weight * r for t, r in zip(total, row, strict=True)]
        features += total
    return features


def test_layout():
    grid = HashGrid.from_config(GridConfig())  # the paper's
    assert [grid.levels[0].resolution, grid.levels[-1].resolution] == [16, 4096]
    assert [level.hashed for level in grid.levels] == [level.resolution**3 > 2**19 for level in grid.levels]
    assert grid.num_outputs == 32
    assert grid.num_rows == sum(level.num_rows for level in grid.levels)
    assert [level.hashed for level in SMALL.levels] == [False, True, True]


def test_equals_the_slow_loop(ops):
    positions = torch.rand(60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
    positions = torch.cat([positions, torch.tensor([[0.0, 0, 0], [1, 1, 1], [0, 1, 0.5]], dtype=torch.float64)])
    table = torch.randn(SMALL.num_rows, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.tensor([slow_encode(p, table.tolist(), SMALL) for p in positions.tolist()], dtype=torch.float64)
    torch.testing.assert_close(ops.hash_grid_encode(positions, table, SMALL), expected, atol=1e-12, rtol=0)


def test_interpolation_by_indexing_is_the_same_and_twice_differentiable():
    generator = torch.Generator().manual_seed(0)
    positions = torch.rand(20, 3, dtype=torch.float64, generator=generator)
    table = torch.randn(SMALL.num_rows, 2, dtype=torch.float64, generator=generator)
    expected = plain.hash_grid_encode(positions, table, SMALL)
    torch.testing.assert_close(interpolate(positions, table, SMALL), expected, atol=1e-12, rtol=0)
    tiny = HashGrid.from_config(GridConfig(2, 2, 6, base_resolution=4, max_resolution=9))
    table = torch.randn(tiny.num_rows, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    inputs = (positions[:3].requires_grad_(), table)
    assert torch.autograd.gradgradcheck(lambda p, t: interpolate(p, t, tiny), inputs)


def test_a_linear_function_on_a_dense_level_is_reproduced(ops):
    grid = HashGrid.from_config(GridConfig(1, 3, 12, base_resolution=16, max_resolution=16))
    ticks = torch.linspace(0, 1, 16, dtype=torch.float64)
    z, y, x = torch.meshgrid(ticks, ticks, ticks, indexing="ij")  # x fastest
    vertices = torch.stack([x, y, z], -1).reshape(-1, 3)
    linear = torch.tensor([[1.0, 2, -3], [0.5, 0, 4], [-1, 1, 1]], dtype=torch.float64)
    positions = torch.rand(100, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ops.hash_grid_encode(positions, vertices @ linear, grid), positions @ linear)


def test_gradients_to_table_and_positions(ops):
    grid = HashGrid.from_config(GridConfig(2, 2, 6, base_resolution=4, max_resolution=9))
    assert [level.hashed for level in grid.levels] == [False, True]
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(grid.num_rows, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    positions = torch.rand(6, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p, t: ops.hash_grid_encode(p, t, grid), (positions, table))


def test_table_gradient_of_many_samples_equals_index_add(ops):
    """Rows read by many samples, and rows read by none."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(SMALL.num_rows, 2, generator=generator, requires_grad=True)
    positions = torch.rand(5000, 3, generator=generator) * 0.3
    weights = torch.randn(5000, SMALL.num_outputs, generator=generator)
    (gradient,) = torch.autograd.grad((ops.hash_grid_encode(positions, table, SMALL) * weights).sum(), table)
    # The encoding is linear in the table, so the gradient against any direction is a plain evaluation.
    for seed in range(3):
        direction = torch.randn(table.shape, generator=torch.Generator().manual_seed(seed))
        expected = (ops.hash_grid_encode(positions, direction, SMALL).double() * weights).sum()
        torch.testing.assert_close((gradient.double() * direction).sum(), expected, rtol=1e-5, atol=1e-3)
    assert (gradient == 0).all(-1).any()


def test_gradient_is_bitwise_equal_for_every_number_of_threads(ops, threads):
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(SMALL.num_rows, 2, generator=generator, requires_grad=True)
    positions = torch.rand(20000, 3, generator=generator)
    gradients = []
    for number in (1, 2, 3):
        threads(number)
        features = ops.hash_grid_encode(positions, table, SMALL)
        gradients.append(torch.autograd.grad(features.square().sum(), table)[0])
    assert torch.equal(gradients[0], gradients[1]) and torch.equal(gradients[0], gradients[2])


@pytest.mark.parametrize("count", [0, 1])
def test_small_batches(ops, count):
    table = torch.randn(SMALL.num_rows, 2, requires_grad=True)
    features = ops.hash_grid_encode(torch.rand(count, 3), table, SMALL)
    assert features.shape == (count, SMALL.num_outputs)
    features.sum().backward()
    assert table.grad.shape == table.shape and (count > 0) == bool(table.grad.any())
