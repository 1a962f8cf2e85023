import math

import torch

from threedgen.config.scene import GridConfig, SceneConfig
from threedgen.ops import FieldLayout, HashGrid
from threedgen.ops.plain import composed
from threedgen.scene.nerf import NeRF
from threedgen.scene.occupancy import MAX_THRESHOLD, OccupancyGrid

TINY = GridConfig(num_levels=2, num_features=2, log2_table_size=10, base_resolution=4, max_resolution=8)


def refresh(grid, density, seed, all_cells, decay=0.8):
    """Refreshes a grid from any density: a field whose encoding is the position and whose network is its logit."""
    layout = FieldLayout(HashGrid.from_config(TINY), grid.radius, 0.0, 1.0, 1.0)
    field = composed.Primitives(
        hash_grid_encode=lambda unit, table, layout: (unit * 2 - 1) * grid.radius,
        mlp=lambda at, weights: density(at).expm1().log()[:, None].expand(-1, 4),
        composite=None,
    )
    grid.update(
        composed.refresh_occupancy(field, None, None, layout, grid.opacity, grid.occupied, seed, decay, all_cells)
    )


def ball(positions):
    return 20.0 * (positions.norm(dim=-1) < 0.55)


def cells_inside(resolution):
    """Cells whose eight corners all lie in the ball."""
    edges = torch.linspace(-1, 1, resolution + 1)
    corners = torch.cartesian_prod(edges, edges, edges).view(*[resolution + 1] * 3, 3)
    held = ball(corners) > 0
    return held.unfold(0, 2, 1).unfold(1, 2, 1).unfold(2, 2, 1).flatten(-3).all(-1)


def test_keeps_every_cell_that_holds_density_and_drops_the_others():
    grid = OccupancyGrid(16, 1.0)
    grid.start_from(lambda positions: torch.full((len(positions),), 1.0))
    assert grid.occupied.all()  # an even fog is kept
    inside = cells_inside(16)
    for step in range(40):
        refresh(grid, ball, step, all_cells=step < 20)
        assert grid.occupied[inside].all()
    edges = torch.linspace(-1, 1, 17)
    nearest = torch.zeros(16).clamp(edges[:-1], edges[1:])
    touched = ball(torch.cartesian_prod(nearest, nearest, nearest)).view(16, 16, 16) > 0
    assert not grid.occupied[~touched].any()


def test_finds_density_that_appears_in_an_empty_cell():
    grid = OccupancyGrid(8, 1.0)
    corner, other = torch.tensor([1.0, 1.0, -1.0]), torch.tensor([-1.0, 1.0, 1.0])
    refresh(grid, lambda positions: 50.0 * (positions * corner > 0.5).all(-1), 0, all_cells=True)
    before = grid.occupied.clone()
    for step in range(12):  # a random half of the empty cells each time: 1 in 4096 is missed twelve times
        refresh(grid, lambda positions: 50.0 * (positions * other > 0.5).all(-1), step + 1, all_cells=False)
    assert before[-2:, -2:, :2].all() and before.sum() == 8 and grid.occupied[:2, -2:, -2:].all()


def test_forgets_slowly():
    """Density met once decays from refresh to refresh: 1 - exp(-20/4) times 0.8^n passes 0.001 at n = 31."""
    grid = OccupancyGrid(8, 1.0)
    refresh(grid, lambda positions: torch.full((len(positions),), 20.0), 0, all_cells=True)
    occupied = []
    for step in range(31):
        refresh(grid, lambda positions: torch.zeros(len(positions)), step + 1, all_cells=True)
        torch.testing.assert_close(grid.opacity, torch.full_like(grid.opacity, (1 - math.exp(-5)) * 0.8 ** (step + 1)))
        occupied.append(bool(grid.occupied.any()))
    assert occupied == [True] * 30 + [False]


def test_starts_as_the_ball_of_the_density_blob():
    config = SceneConfig(grid=TINY)
    grid = NeRF(config, seed=0).occupancy
    threshold = min(MAX_THRESHOLD, 0.5 * grid.opacity.mean().item())
    density = -math.log1p(-threshold) / grid.cell_width
    radius = config.blob_radius * (1 - math.log(math.expm1(density)) / config.blob_density)  # where the blob has it
    edges = torch.linspace(-1, 1, 33)
    nearest = torch.zeros(32).clamp(edges[:-1], edges[1:])
    distance = torch.cartesian_prod(nearest, nearest, nearest).norm(dim=-1).view(32, 32, 32)
    assert torch.equal(grid.occupied, distance < radius)
    assert config.blob_radius < radius < 0.7


def test_light_lost_in_a_pruned_cell_is_bounded():
    grid = OccupancyGrid(16, 1.0)
    refresh(grid, lambda positions: 3.0 * positions[:, 0].clamp(min=0), 0, all_cells=True)
    assert grid.opacity[~grid.occupied].max() <= MAX_THRESHOLD and grid.occupied.any() and not grid.occupied.all()


def test_half_of_the_points_lie_in_occupied_cells_all_of_them_alike():
    grid = OccupancyGrid(4, 2.0)
    full = torch.tensor([[0, 0, 0], [1, 3, 2], [3, 3, 3]])
    grid.occupied[tuple(full.T)] = True
    points = grid.draw_points(6000, 0.1, torch.Generator().manual_seed(0))
    assert points.shape == (6000, 3) and points.abs().max() <= 1.9
    chosen, anywhere = ((points / 1.9 + 1) * 2).long().clamp(max=3).split(3000)
    counts = (chosen[:, None] == full).all(-1).sum(0)
    assert counts.sum() == 3000 and counts.min() > 900
    assert len(anywhere.unique(dim=0)) == 64
    again = grid.draw_points(6000, 0.1, torch.Generator().manual_seed(0))
    assert torch.equal(points, again)


def test_points_of_an_empty_grid_are_in_the_cube():
    points = OccupancyGrid(4, 1.0).draw_points(10, 0.0, torch.Generator().manual_seed(0))
    assert points.abs().max() <= 1.0
