"""Times a NeRF's optimisation step on a GPU: march, field, compositing, backward and AdamW.

    python benchmarks/gpu.py            # a table; numbers go to benchmarks/results/<device>.json

Four views of 64 x 64 and of 256 x 256 pixels look at a ball; steps are so long that a ray has 32 samples on average.
Every back end that is there takes the same step; `native, graph` is the native one as one CUDA graph. gsplat, where it
is installed, draws 20,000 splats beside it. Times are medians over CUDA events.

The floor counts what no implementation can avoid, phase after phase: reads and atomic additions of the hash grid's rows
in 32-byte sectors of the L2 cache, the products of the network, the optimiser's memory traffic. The rates of memory and
matrices are measured in the same run; those of the L2 cache are assumptions for H100-class GPUs. On an H200 (4.3 TB/s,
790 TF/s) the floors of the paper's grid with a network 32-64-64-16 are 0.62 ms and 8.5 ms.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise, product
from pathlib import Path

import torch

from threedgen.cameras import orbit, rays_of
from threedgen.config.schema import BackendName, GridConfig
from threedgen.core.errors import ConfigError
from threedgen.core.files import write_text_atomically
from threedgen.ops import gsplat_backend
from threedgen.ops.backends import Backend, select_backend
from threedgen.ops.grid import HashGrid
from threedgen.ops.native import cuda
from threedgen.ops.types import FieldLayout, RaySamples

RESULTS = Path(__file__).parent / "results"
VIEWS, SIZES, SAMPLES_PER_RAY, HIDDEN_WIDTH = 4, (64, 256), 32, 64
GRIDS = {"paper, 16 x 2, 2^19": GridConfig(), "small, 4 x 8, 2^15": GridConfig(4, 8, 15, 16, 128)}
SPLATS = 20_000
ADAMW = (10, 1e-2, 0.9, 0.99, 1e-15, 1e-2)  # step, lr, beta1, beta2, eps, weight decay


@dataclass(frozen=True)
class Rates:
    """What a GPU can do in a second."""

    memory_bytes: float  # device memory, read and written
    matrix_flops: float  # in half precision
    l2_bytes: float = 5.5e12
    l2_atomics: float = 168e9  # sectors of 32 bytes that numbers are added to


def floor_ms(rates: Rates, grid: HashGrid, widths: Sequence[int], num_samples: int) -> dict[str, float]:
    """Milliseconds of forward, backward and AdamW, by phase, and their `total`."""
    # the two rows of a pair lie side by side but begin anywhere: 1 + F / 8 sectors on average for rows of 4 F bytes
    sectors = num_samples * len(grid.levels) * 4 * (1 + grid.num_features / 8)
    products = sum(inputs * outputs for inputs, outputs in pairwise(widths))
    num_parameters = grid.num_rows * grid.num_features + products
    phases = {
        "encode": sectors * 32 / rates.l2_bytes,
        "network": 3 * 2 * num_samples * products / rates.matrix_flops,  # forward, and backward to inputs and weights
        "scatter": sectors / rates.l2_atomics,
        "adamw": 32 * num_parameters / rates.memory_bytes,  # 4 numbers read, 3 written, the gradient set to 0
    }
    return {name: 1e3 * seconds for name, seconds in {**phases, "total": sum(phases.values())}.items()}


def table(rows: list[dict]) -> str:
    """The rows of the results as text."""
    lines = [f"{'grid':20} {'pixels':>7} {'ops':14} {'ms':>9} {'M samples/s':>12} {'floor ms':>9} {'ratio':>6}"]
    for row in rows:
        ms, floor, rate = row["ms"], row["floor_ms"], row["samples"] / row["ms"] / 1e3
        case = f"{row['grid']:20} {VIEWS}x{row['pixels']}^2".ljust(28)
        lines.append(f"{case} {row['ops']:14} {ms:9.3f} {rate:12.0f} {floor:9.3f} {ms / floor:6.1f}")
    return "\n".join(lines)


def median_ms(run: Callable[[], object], repeats: int = 30) -> float:
    for _ in range(5):
        run()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def measured_rates() -> Rates:
    source = torch.rand(1 << 28, device="cuda")
    target = torch.empty_like(source)
    copy = 2 * source.nbytes / median_ms(lambda: target.copy_(source)) * 1e3
    matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.half)
    return Rates(copy, 2 * 8192**3 / median_ms(lambda: matrix @ matrix) * 1e3)


class Step:
    """One optimisation step of a field on the rays of four views."""

    def __init__(self, grid: GridConfig, size: int, device: str = "cuda"):
        self.layout = FieldLayout(HashGrid.from_config(grid), 1.0, 10.0, 0.5, 1.0)
        self.widths = [self.layout.grid.num_outputs, HIDDEN_WIDTH, 4]
        shapes = [(self.layout.grid.num_rows, grid.num_features), *((o, i) for i, o in pairwise(self.widths))]
        generator = torch.Generator().manual_seed(0)
        self.params = [(torch.randn(s, generator=generator) * 0.3).to(device).requires_grad_() for s in shapes]
        self.state = [(torch.zeros_like(p), torch.zeros_like(p)) for p in self.params]
        self.rays = rays_of(orbit([0, 90, 180, 270], 15, 3.0, 40, size).to(device))
        self.target = torch.rand(len(self.rays.origins), 3, generator=generator).to(device)
        centres = (torch.arange(64) + 0.5) / 32 - 1
        ball = torch.cartesian_prod(centres, centres, centres).norm(dim=-1) < 0.8
        self.marching = [self.rays.origins, self.rays.directions, ball.view(64, 64, 64).to(device), 1.0, 0.05]
        self.marching[-1] *= self.count() / (SAMPLES_PER_RAY * len(self.target))
        self.num_samples = self.count()

    def count(self) -> int:
        return int(cuda.march_within(1, *self.marching)[1])

    def learn(self, samples: RaySamples, ops: Backend) -> None:
        rays = self.rays.origins, self.rays.directions
        seen = ops.render_field(self.params[0], self.params[1:], self.layout, *rays, samples)
        loss = (seen.rgb - self.target).square().mean() + 1e-2 * seen.opacity.mean()
        for param, grad, state in zip(self.params, torch.autograd.grad(loss, self.params), self.state, strict=True):
            ops.adamw_step(param, grad, *state, *ADAMW)

    def as_graph(self, ops: Backend) -> Callable[[], None]:
        """The native step, with room for just its samples; the optimiser's step number stays what it was."""

        def run() -> None:
            self.learn(cuda.march_within(self.num_samples, *self.marching)[0], ops)

        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph.replay


def splat_rows(notes: dict[str, None]) -> list[dict]:
    """gsplat alone, forward and backward."""
    from splats import surface  # benchmarks/splats.py

    try:
        gsplat_backend.require()
    except ConfigError as error:
        notes[str(error)] = None
        return []
    rows = []
    for size in SIZES:
        cameras = orbit([0, 90, 180, 270], 15, 1.6, 45, size).to("cuda")
        inputs = [x.detach().cuda().requires_grad_() for x in surface(SPLATS, 0)]
        draw = partial(gsplat_backend.splat, *inputs, cameras.camera_to_world, cameras.fov_y, size, size)
        ms = median_ms(lambda draw=draw: sum(image.sum() for image in draw()).backward())
        rows.append({"pixels": size, "splats": SPLATS, "ms": ms})
    return rows


def step_rows(rates: Rates, notes: dict[str, None]) -> list[dict]:
    rows = []
    for (grid, config), size in product(GRIDS.items(), SIZES):
        step = Step(config, size)
        floor = floor_ms(rates, step.layout.grid, step.widths, step.num_samples)
        case = {"grid": grid, "pixels": size, "samples": step.num_samples, "floor": floor, "floor_ms": floor["total"]}
        for name in (BackendName.native, BackendName.nerfacc, BackendName.tinycudann, BackendName.reference):
            if name is BackendName.reference and size > 64:
                continue  # tens of gigabytes
            try:
                ops = select_backend(name, "cuda")
            except ConfigError as error:
                notes[str(error)] = None
                continue
            eager = median_ms(lambda step=step, ops=ops: step.learn(ops.march(*step.marching), ops))
            rows.append({**case, "ops": name.value, "ms": eager})
            if name is BackendName.native:
                rows.append({**case, "ops": "native, graph", "ms": median_ms(step.as_graph(ops))})
    return rows


def main() -> int:
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a GPU: torch sees no CUDA device", file=sys.stderr)
        return 3
    device, notes = torch.cuda.get_device_name(), {}
    rates = measured_rates()
    result = {"device": device, "torch": torch.__version__, "cuda": torch.version.cuda, "rates": asdict(rates)}
    result["steps"], result["splats"] = step_rows(rates, notes), splat_rows(notes)
    print(f"{device}: {rates.memory_bytes / 1e12:.2f} TB/s and {rates.matrix_flops / 1e12:.0f} TF/s measured,")
    print(f"L2 {rates.l2_bytes / 1e12} TB/s and {rates.l2_atomics / 1e9:.0f} G atomic sectors/s assumed")
    print(table(result["steps"]))
    for row in result["splats"]:
        print(f"gsplat, {row['splats']} splats, {VIEWS}x{row['pixels']}^2: {row['ms']:.3f} ms")
    for note in notes:
        print(f"left out: {note}")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{re.sub('[^A-Za-z0-9]+', '-', device).strip('-')}.json"
    write_text_atomically(path, json.dumps(result, indent=1) + "\n")
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
