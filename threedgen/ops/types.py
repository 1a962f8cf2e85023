"""What the ops exchange, whatever computes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import pad

from threedgen.ops.grid import HashGrid


class RaySamples(NamedTuple):
    """S samples of R rays, packed ray after ray, front to back."""

    t_starts: Tensor  # [S] world units along the ray
    t_ends: Tensor  # [S]
    ray_indices: Tensor  # [S] int64, ascending
    offsets: Tensor  # [R + 1] int64: the samples of ray r are offsets[r] .. offsets[r + 1] - 1

    @property
    def t_mids(self) -> Tensor:
        return 0.5 * (self.t_starts + self.t_ends)

    def select(self, kept: Tensor) -> RaySamples:
        """The samples where `kept` [S] bool is true."""
        index = kept.nonzero()[:, 0]
        offsets = pad(kept.cumsum(0), (1, 0))[self.offsets]
        return RaySamples(self.t_starts[index], self.t_ends[index], self.ray_indices[index], offsets)


class Composite(NamedTuple):
    """What R rays see, before any background."""

    rgb: Tensor  # [R, 3], already weighted: add (1 - opacity) * background
    opacity: Tensor  # [R] in 0..1
    depth: Tensor  # [R] sum of weight * t, world units; divide by the opacity for the mean depth
    weights: Tensor  # [S] each sample's share of its ray


@dataclass(frozen=True)
class FieldLayout:
    """What a radiance field is besides its learned numbers (a table and the weights of an MLP).

    raw = MLP(hash_grid_encode((p + radius) / (2 radius))), four numbers;
    density = density_scale * softplus(raw[0] + blob_density * (1 - |p| / blob_radius)), rgb = sigmoid(raw[1:]).
    The MLP is a sequence of weights [outputs, inputs] without biases, with ReLU between them.
    """

    grid: HashGrid
    radius: float  # the cube [-radius, radius]^3 is the grid's unit cube
    blob_density: float
    blob_radius: float
    density_scale: float

    @property
    def numbers(self) -> list[float]:
        """As the kernels take them."""
        return [self.radius, self.blob_density, self.blob_radius, self.density_scale]
