"""The layout of a multi-resolution hash grid's table, shared by every back end."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from threedgen.config.scene import GridConfig


@dataclass(frozen=True)
class GridLevel:
    """One lattice of `resolution`^3 vertices that spans the unit cube, corners included."""

    resolution: int  # vertices along an edge
    first_row: int  # of this level in the table
    num_rows: int
    hashed: bool


@dataclass(frozen=True)
class HashGrid:
    """Levels of growing resolution, each with its own rows of one table [num_rows, num_features] (Mueller et al. 2022).

    A vertex (x, y, z) of a dense level, one whose vertices fit into the table, has the row x + N*y + N*N*z.
    On a hashed level it is (hash(y, z) + x): unlike the paper's x ^ hash(y, z), both x corners of a cell are
    neighbours, so that a cell is 4 reads of 2 rows instead of 8 reads. A hashed level has one spare row for the
    neighbour of its last slot.

    Example:
        >>> grid = HashGrid.from_config(GridConfig(4, num_features=8, log2_table_size=15, max_resolution=128))
        >>> [(level.resolution, level.hashed) for level in grid.levels]
        [(16, False), (32, False), (64, True), (128, True)]
    """

    levels: tuple[GridLevel, ...]
    num_features: int  # per level
    log2_table_size: int  # slots of a hashed level

    @property
    def num_rows(self) -> int:
        return self.levels[-1].first_row + self.levels[-1].num_rows

    @property
    def num_outputs(self) -> int:
        return len(self.levels) * self.num_features

    @functools.cached_property
    def layout(self) -> list[int]:
        """As the kernels take it: number of levels, features per level; for each level its resolution, first row and
        number of slots - 1, or 0 for a dense one."""
        slot_mask = 2**self.log2_table_size - 1
        levels = [(level.resolution, level.first_row, slot_mask if level.hashed else 0) for level in self.levels]
        return [len(self.levels), self.num_features, *(number for level in levels for number in level)]

    @staticmethod
    def from_config(config: GridConfig) -> HashGrid:
        """Resolutions grow geometrically from `base_resolution` to `max_resolution` (the paper's equations 2 and 3)."""
        table_size = 2**config.log2_table_size
        ratio = config.max_resolution / config.base_resolution
        levels: list[GridLevel] = []
        first_row = 0
        for index in range(config.num_levels):
            resolution = round(config.base_resolution * math.pow(ratio, index / max(config.num_levels - 1, 1)))
            hashed = resolution**3 > table_size
            num_rows = table_size + 1 if hashed else resolution**3
            levels.append(GridLevel(resolution, first_row, num_rows, hashed))
            first_row += num_rows
        return HashGrid(tuple(levels), config.num_features, config.log2_table_size)
