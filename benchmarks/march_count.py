"""What marching costs a GPU, counted without one: how often a warp goes round its loop for 32 rays beside each other.

    python benchmarks/march_count.py

Three ways to find the steps of a ray that lie in occupied cells, which give the same ones:

step by step   a thread a ray; empty cells and blocks are leapt over, each step in an occupied cell is looked at
cell by cell   a thread a ray, once for each cell and each empty block (`march` in cuda_ext/include/threedgen/rays.h)
warp a ray     32 steps at a time, a lane each, and past an empty block if all 32 found nothing

A thread a ray means that a warp goes on until the slowest of its 32 rays is done, a warp a ray that it does so for one
after the other. The first grid is that of `gpu.py`; the others are the recipe's (`mvdream-sd21.yaml`: a cube of radius
1, 512 steps across its diagonal, 32^3 cells), as it begins, of an object that has been found, and all full.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import max_pool3d, pad

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from threedgen.cameras import Cameras, CameraSampler, orbit, rays_of
from threedgen.config.load import load_config
from threedgen.ops import ray_box
from threedgen.scene.nerf import NeRF

WARP, BLOCK, RADIUS = 32, 8, 1.0  # lanes; cells along an edge of a block; of the cube
ROWS = 32  # of each picture's pixels, which are enough to count


class Rays:
    """Rays [R, 3] through occupied cells [G, G, G]; `at(k)` is what a step of each ray meets."""

    def __init__(self, origins: Tensor, directions: Tensor, occupied: Tensor, step_size: float) -> None:
        self.origins, self.directions, self.occupied, self.step_size = origins, directions, occupied, step_size
        cells, t_near = len(occupied), ray_box(origins, directions, -RADIUS, RADIUS)
        self.start, self.t_far = t_near[0] + 0.5 * step_size, t_near[1]
        edge = -(-cells // BLOCK) * BLOCK - cells
        self.blocks = max_pool3d(pad(occupied.float()[None, None], (0, edge) * 3), BLOCK)[0, 0].bool()

    def at(self, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For steps k [R]: whether it is inside the cube, and in an occupied cell; how many steps lead to the next one
        that lies in another cell, or past an empty block."""
        t, cells = self.start + k * self.step_size, len(self.occupied)
        scale = 0.5 * cells / RADIUS
        place = (self.origins + self.directions * t[:, None] + RADIUS) * scale
        cell = place.long().clamp(0, cells - 1)
        edge = torch.where(self.blocks[tuple((cell // BLOCK).T)], 1, BLOCK)[:, None]
        border = (cell // edge + (self.directions > 0)) * edge
        leap = ((border - place) / (self.directions * scale)).nan_to_num(math.inf).amin(1) / self.step_size
        return t < self.t_far, self.occupied[tuple(cell.T)], leap.ceil().clamp(min=1).long()


def thread_a_ray(rays: Rays, step_by_step: bool) -> Tensor:
    """Times round the loop of each ray [R], and of each warp [R / 32]."""
    k = torch.zeros(len(rays.origins), dtype=torch.long)
    times = torch.zeros_like(k)
    while True:
        inside, occupied, leap = rays.at(k)
        if not inside.any():
            return times
        times += inside
        k += torch.where(inside, torch.where(occupied & step_by_step, 1, leap), 0)


def warp_a_ray(rays: Rays) -> Tensor:
    """Times round the loop of each ray [R]."""
    k = torch.zeros(len(rays.origins), dtype=torch.long)
    times = torch.zeros_like(k)
    while (inside := rays.at(k)[0]).any():
        times += inside
        found, beyond = torch.zeros_like(inside), k
        for lane in range(WARP):
            here, occupied, leap = rays.at(k + lane)
            found |= here & occupied
            beyond = k + lane + leap
        k = torch.where(found, k + WARP, torch.maximum(k + WARP, beyond // WARP * WARP))
    return times


def counted(rays: Rays) -> dict[str, float]:
    """Times round the loop for 32 rays."""

    def slowest(times: Tensor) -> float:
        return float(times.view(-1, WARP).amax(1).float().mean())

    return {
        "step by step": slowest(thread_a_ray(rays, True)),
        "cell by cell": slowest(thread_a_ray(rays, False)),
        "warp a ray": WARP * float(warp_a_ray(rays).float().mean()),
    }


def ball(cells: int, radius: float) -> Tensor:
    centres = (torch.arange(cells) + 0.5) * 2 / cells - 1
    return (torch.cartesian_prod(centres, centres, centres).norm(dim=-1) < radius).view(cells, cells, cells)


def cases(fine: bool) -> dict[str, tuple[Cameras, Tensor, float]]:
    """Cameras, occupied cells, length of a step."""
    config = load_config("mvdream-sd21.yaml", ["prompt=a chair"])
    cameras = CameraSampler(config.camera, config.seed).sample(config.steps - 1 if fine else 0, config.steps)
    step = 2 * math.sqrt(3) * config.scene.radius / config.scene.samples_per_ray
    cells = config.scene.occupancy_resolution
    fresh = NeRF(config.scene, config.seed).occupancy.occupied
    return {
        "gpu.py": (orbit([0, 90, 180, 270], 15, 3.0, 40, cameras.height), ball(64, 0.8), 0.0149),
        "recipe, as it begins": (cameras, fresh, step),
        "recipe, an object": (cameras, ball(cells, 0.4), step),
        "recipe, full": (cameras, ball(cells, 2.0), step),
    }


def main() -> None:
    torch.set_num_threads(1)
    print("| rays and cells | pixels | step by step | cell by cell | warp a ray |\n|---|---|---|---|---|")
    for fine in (False, True):
        for name, (cameras, occupied, step_size) in cases(fine).items():
            shape = len(cameras), cameras.height, cameras.width, 3
            rays = rays_of(cameras)
            seen = [x.view(shape)[:, :: shape[1] // ROWS].reshape(-1, 3) for x in (rays.origins, rays.directions)]
            found = counted(Rays(*seen, occupied, step_size))
            numbers = " | ".join(f"{value:.0f}" for value in found.values())
            print(f"| {name} | {len(cameras)} x {cameras.height}^2 | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
