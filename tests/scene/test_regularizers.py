import math
from dataclasses import dataclass

import pytest
import torch

from threedgen.config.scene import BackendName, GridConfig, SceneConfig
from threedgen.scene import regularizers
from threedgen.scene.nerf import NeRF
from threedgen.scene.output import RenderOutput


def output_of(opacity):
    opacity = torch.tensor(opacity).view(1, 1, -1, 1)
    return RenderOutput(rgb=opacity.expand(-1, -1, -1, 3), opacity=opacity, depth=opacity)


def test_sparsity():
    assert regularizers.sparsity(output_of([0.0])).item() == pytest.approx(0.1)
    expected = (math.sqrt(0.25 + 0.01) + math.sqrt(1.01)) / 2
    assert regularizers.sparsity(output_of([0.5, 1.0])).item() == pytest.approx(expected)


def test_opaque():
    assert regularizers.opaque(output_of([0.5])).item() == pytest.approx(math.log(2))
    expected = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    assert regularizers.opaque(output_of([0.2])).item() == pytest.approx(expected, rel=1e-5)
    assert regularizers.opaque(output_of([0.0, 1.0])).item() < 0.01


def test_opaque_pushes_fog_apart_and_is_finite_at_the_ends():
    opacity = torch.tensor([0.0, 0.4, 0.6, 1.0], requires_grad=True)
    regularizers.opaque(RenderOutput(opacity, opacity, opacity)).backward()
    assert opacity.grad.isfinite().all()
    assert opacity.grad[1] > 0 > opacity.grad[2]  # descent lowers 0.4 and raises 0.6


CPU = torch.device("cpu")


@dataclass
class Halves:
    """Dense on one side of x = 0 as on the other or not; each side has a colour."""

    density: tuple[float, float]
    color: tuple[float, float]
    step_size: float = 0.05
    device: torch.device = CPU

    def draw_points(self, number, margin, generator):
        return (2 * torch.rand(number, 3, generator=generator) - 1) * (1 - margin)

    def field(self, positions):
        side = (positions[:, 0] > 0).long()
        return torch.tensor(self.density)[side], torch.tensor(self.color)[side][:, None].expand(-1, 3)


def smoothness(scene, count=60):
    losses = [regularizers.smoothness(scene, torch.Generator().manual_seed(i)).item() for i in range(count)]
    return sum(losses) / count


def test_smoothness_is_0_of_an_even_field_and_counts_pairs_across_an_edge():
    """A segment of length L in a random direction, its start even in -a..a, crosses x = 0 with chance L / (4 a)."""
    crossing = 0.05 / (4 * 0.95)
    assert smoothness(Halves((3.0, 3.0), (0.2, 0.2)), 2) == 0
    assert smoothness(Halves((0.0, 1e9), (0.2, 0.9))) == pytest.approx(crossing, rel=0.05)  # no colour of what is empty
    half = math.log(2) / 0.05  # of this density a sample hides half
    assert smoothness(Halves((0.0, half), (0.2, 0.2))) == pytest.approx(crossing / 4, rel=0.05)
    assert smoothness(Halves((half, half), (0.3, 0.9))) == pytest.approx(crossing * 0.5 * 3 * 0.6**2, rel=0.05)


def test_smoothness_flattens_a_grainy_field():
    """Its gradient: grains of density in empty space sink, the space around them does not drop below nothing."""
    grid = GridConfig(num_levels=2, num_features=2, log2_table_size=10, base_resolution=4, max_resolution=16)
    scene = NeRF(SceneConfig(BackendName.plain, grid=grid, hidden_width=16, density_scale=30.0), seed=0)
    torch.nn.init.normal_(scene.table, std=2.0, generator=torch.Generator().manual_seed(0))
    adamw = torch.optim.AdamW(scene.parameters(), lr=0.05)
    losses = []
    for step in range(30):
        loss = regularizers.smoothness(scene, torch.Generator().manual_seed(step))
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
