"""Random fields, and the field in float64 from the very features that the kernels round to half precision."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from threedgen.config.scene import GridConfig
from threedgen.ops import FieldLayout, HashGrid, native
from threedgen.ops.plain import composed
from threedgen.ops.plain.hash_grid import interpolate


def pytest_collection_modifyitems(items):
    if not native.available("cpu"):
        skip = pytest.mark.skip(reason=f"no native kernels: {native.why_not('cpu')}")
        for item in items:
            if "native_field" in str(item.path):
                item.add_marker(skip)


@dataclass
class Field:
    table: Tensor
    weights: list[Tensor]
    layout: FieldLayout

    @property
    def parameters(self) -> list[Tensor]:
        return [self.table, *self.weights]

    @property
    def arguments(self) -> tuple[Tensor, list[Tensor], FieldLayout]:
        return self.table, self.weights, self.layout

    def double(self) -> "Field":
        table, *weights = (x.detach().double().requires_grad_() for x in self.parameters)
        return Field(table, weights, self.layout)

    def gradients(self, outputs, arriving) -> list[Tensor]:
        loss = sum((x * g.to(x.dtype)).sum() for x, g in zip(outputs, arriving, strict=True))
        return list(torch.autograd.grad(loss, self.parameters))

    def points(self, count, seed=0, spread=1.0) -> Tensor:
        """[count, 3] in the field's cube, times `spread`."""
        generator = torch.Generator().manual_seed(seed)
        return (torch.rand(count, 3, generator=generator) * 2 - 1) * self.layout.radius * spread

    def exact(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Density, rgb and normals in float64: the kernels' rounded features, with the gradients of exact ones."""
        radius, at = self.layout.radius, positions.double().requires_grad_()
        unit = (positions + radius) * (torch.tensor(0.5) / torch.tensor(radius))
        rounded = native.hash_grid_encode(unit, self.table.detach().float(), self.layout.grid).half().double()
        features = interpolate((at + radius) / (2 * radius), self.table, self.layout.grid)
        features = features + (rounded - features).detach()
        raw = composed.mlp(features, self.weights)
        logit = (raw[:, 0] + composed.blob(at, self.layout)).sum()
        (gradient,) = torch.autograd.grad(logit, at, create_graph=True)
        density, rgb = composed.activate(raw, positions.double(), self.layout)
        return density, rgb, -torch.nn.functional.normalize(gradient, dim=-1)


@pytest.fixture
def make_field():
    def make(num_levels=4, num_features=8, hidden=(32,), seed=0) -> Field:
        generator = torch.Generator().manual_seed(seed)
        grid = HashGrid.from_config(GridConfig(num_levels, num_features, 10, 6, 24 if num_levels > 1 else 6))
        table = torch.randn(grid.num_rows, num_features, generator=generator).requires_grad_()
        sizes = [grid.num_outputs, *hidden, 4]
        weights = [
            (torch.randn(outputs, inputs, generator=generator) * inputs**-0.5).requires_grad_()
            for inputs, outputs in pairwise(sizes)
        ]
        return Field(table, weights, FieldLayout(grid, 1.25, 3.0, 0.6, 2.0))

    return make


@pytest.fixture
def assert_near():
    """Norm of the difference over norm, of each tensor; a ReLU decided otherwise than in float64 costs 1e-4."""

    def check(ours, theirs, tolerance):
        for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            error = ((a.double() - b).norm() / b.norm().clamp(min=1e-12)).item()
            assert a.shape == b.shape and error < tolerance, f"tensor {index}: {error:.1e}"

    return check
