"""What `gpu.py` compares our fused field with: nerfacc with tiny-cuda-nn, and what counting says."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from threedgen.ops import nerfacc_backend, tinycudann_backend
from threedgen.ops.grid import HashGrid
from threedgen.ops.plain import composed
from threedgen.ops.types import FieldLayout

TILE = 16  # samples that the backward kernel takes at once: kTile in cuda_ext/cuda/evaluate_backward.cu


class Peer:
    """A step of a field by two libraries: nerfacc marches and composites, tiny-cuda-nn encodes and multiplies, with
    parameters of its own, which torch's fused AdamW updates."""

    def __init__(self, layout: FieldLayout, hidden_width: int, marching: list[Any], target: Tensor) -> None:
        """Raises ConfigError where one of the libraries is missing."""
        nerfacc_backend.require()
        levels = layout.grid.levels
        steps = max(len(levels) - 1, 1)
        encoding = {
            "otype": "HashGrid",
            "n_levels": len(levels),
            "n_features_per_level": layout.grid.num_features,
            "log2_hashmap_size": layout.grid.log2_table_size,
            "base_resolution": levels[0].resolution,
            "per_level_scale": (levels[-1].resolution / levels[0].resolution) ** (1 / steps),
        }
        network = {
            "otype": "FullyFusedMLP",
            "activation": "ReLU",
            "output_activation": "None",
            "n_neurons": hidden_width,
            "n_hidden_layers": 1,
        }
        library = tinycudann_backend.require()
        self.layout, self.marching, self.target = layout, marching, target
        self.field = library.NetworkWithInputEncoding(3, 4, encoding, network).to(target.device)
        self.optimizer = torch.optim.AdamW(
            self.field.parameters(), lr=1e-2, betas=(0.9, 0.99), eps=1e-15, fused=target.device.type == "cuda"
        )

    def learn(self) -> None:
        """As `Step.learn` in gpu.py, marching included."""
        origins, directions, *_ = self.marching
        samples = nerfacc_backend.march(*self.marching)
        positions = origins[samples.ray_indices] + samples.t_mids[:, None] * directions[samples.ray_indices]
        unit = composed.in_unit_cube(positions, self.layout)
        density, rgb = composed.activate(self.field(unit).float(), positions, self.layout)
        seen = nerfacc_backend.composite(density, rgb, *samples)
        loss = (seen.rgb - self.target).square().mean() + 1e-2 * seen.opacity.mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def runs(cells: Tensor) -> int:
    """How often a warp of the backward kernel leaves a cell: cells [N] of samples, in tiles of 16."""
    new = torch.ones(len(cells), dtype=torch.bool)
    new[1:] = cells[1:] != cells[:-1]
    new[::TILE] = True
    return int(new.sum())


def counted(grid: HashGrid, positions: Tensor, rates: Any) -> dict[str, float]:
    """Milliseconds that the fused kernels need at these `Rates` of gpu.py for samples [N, 3] in the unit cube.

    Reading: 4 pairs of rows in half precision a level, which lie in 1 + F / 16 sectors on average. Adding: 4 pairs of
    rows of floats (1 + F / 8 sectors) each time that a tile of 16 samples goes on to another cell. Memory: the numbers
    of a sample that pass through it, 228 bytes with 32 features: those saved, positions, outputs and their gradients, a
    table of half precision made of the float one, and AdamW.
    """
    reads = adds = 0.0
    for level in grid.levels:
        corner = (positions * (level.resolution - 1)).long().clamp(0, level.resolution - 2)
        cells = (corner[:, 0] * level.resolution + corner[:, 1]) * level.resolution + corner[:, 2]
        reads += len(positions) * 4 * (1 + grid.num_features / 16)
        adds += runs(cells) * 4 * (1 + grid.num_features / 8)
    per_sample = 2 * 2 * grid.num_outputs + 3 * 12 + 2 * 16 + 2 * 16
    table = grid.num_rows * grid.num_features
    phases = {
        "read": reads * 32 / rates.l2_bytes,
        "add": adds / rates.l2_atomics,
        "pass through memory": per_sample * len(positions) / rates.memory_bytes,
        "table and AdamW": (6 + 32) * table / rates.memory_bytes,
    }
    return {name: 1e3 * seconds for name, seconds in {**phases, "together": sum(phases.values())}.items()}
