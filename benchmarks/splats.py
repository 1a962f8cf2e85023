"""Times Gaussian splatting on the CPU: 10,000 and 20,000 splats of a textured ball's surface in four views.

    python benchmarks/splats.py            # a table
    python benchmarks/splats.py --json     # one object

Forward and backward to every input; the minimum of `--repeats` runs. `wall` is what the clock says, `cpu` the
processor time of all threads together, which other work on the machine disturbs less: with one thread it is what an
idle machine's clock would say.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from sys import path

import torch
from torch import Tensor

path.insert(0, str(Path(__file__).parent.parent))

from threedgen.cameras import Cameras, orbit
from threedgen.ops.native.splats import splat as native_splat
from threedgen.ops.plain.splats import splat as plain_splat

SETTINGS = [(10_000, 64), (20_000, 64), (20_000, 256)]  # splats, pixels


def surface(num_splats: int, num_coefficients: int) -> list[Tensor]:
    """The first five arguments of `splat`: a shell of radius 0.35, standard deviations around e^-4."""
    generator = torch.Generator().manual_seed(0)
    normal = [torch.randn(num_splats, k, generator=generator) for k in (3, 3, 4, 3)]
    means = 0.35 * torch.nn.functional.normalize(normal[0], dim=-1) + 0.02 * normal[1]
    scales = torch.exp(0.3 * normal[3] - 4.0)
    opacities = torch.sigmoid(torch.randn(num_splats, generator=generator))
    shape = (num_splats, num_coefficients, 3) if num_coefficients else (num_splats, 3)
    colors = torch.rand(shape, generator=generator)
    return [x.requires_grad_() for x in (means, normal[2], scales, opacities, colors)]


def fastest(repeats: int, prepare: Callable[[], Callable[[], object]]) -> dict[str, float]:
    """Milliseconds of what `prepare` returns."""
    wall, cpu = [], []
    for _ in range(repeats):
        run = prepare()
        start, start_cpu = time.perf_counter(), time.process_time()
        run()
        cpu.append(1e3 * (time.process_time() - start_cpu))
        wall.append(1e3 * (time.perf_counter() - start))
    return {"wall_ms": round(min(wall), 2), "cpu_ms": round(min(cpu), 2)}


def measure(splat: Callable, gaussians: list[Tensor], cameras: Cameras, repeats: int) -> dict[str, dict[str, float]]:
    def forward() -> tuple[Tensor, ...]:
        return tuple(splat(*gaussians, cameras.camera_to_world, cameras.fov_y, cameras.height, cameras.width))

    images = forward()
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(image.shape, generator=generator) for image in images]

    def backward() -> Callable[[], object]:
        images = forward()
        return lambda: torch.autograd.grad(images, gaussians, grads)

    return {"forward": fastest(repeats, lambda: forward), "backward": fastest(repeats, backward)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--plain", action="store_true", help="also plain torch: 2,000 splats, for its memory")
    options = parser.parse_args()
    rows = []
    cases = [("native", native_splat, n, size, k) for n, size in SETTINGS for k in (0, 16)]
    if options.plain:
        cases += [("plain", plain_splat, 2_000, 64, 0), ("native", native_splat, 2_000, 64, 0)]
    for name, splat, num_splats, size, num_coefficients in cases:
        cameras = orbit([0, 90, 180, 270], 15, 1.6, 45, height=size, num_views=4)
        gaussians = surface(num_splats, num_coefficients)
        for threads in options.threads:
            torch.set_num_threads(threads)
            times = measure(splat, gaussians, cameras, options.repeats)
            case = {"ops": name, "splats": num_splats, "pixels": size, "sh": num_coefficients, "threads": threads}
            rows.append({**case, **times})
    load = os.getloadavg()[0]
    if options.json:
        print(json.dumps({"views": 4, "load_average": load, "rows": rows}))
        return
    print(f"four views; milliseconds, minimum of {options.repeats}; load average {load:.1f}")
    print("ops        splats  pixels  SH  threads   forward wall/cpu   backward wall/cpu")
    for row in rows:
        times = [f"{row[way]['wall_ms']:8.1f} /{row[way]['cpu_ms']:7.1f}" for way in ("forward", "backward")]
        size = f"{row['pixels']}^2"
        print(f"{row['ops']:9} {row['splats']:7} {size:>7} {row['sh']:3} {row['threads']:8} {times[0]} {times[1]:>20}")


if __name__ == "__main__":
    main()
