"""Times a NeRF's optimisation step on a GPU: march, field, compositing, backward and AdamW.

    python benchmarks/gpu.py --out DIR      # a table; numbers go to DIR/<device>.json
    python benchmarks/gpu.py --kernels      # a table of the kernels that a step of each grid spends its time in
    python benchmarks/gpu.py --splats       # only Gaussian splats
    python benchmarks/gpu.py --count        # an estimate, without a GPU

Four views of 64 x 64 and of 256 x 256 pixels look at a ball; steps are so long that a ray has 32 samples on average.
Every back end that is there takes the same step; `native, graph` is the native one as one CUDA graph. So do our kernels
with the field not in one kernel (`unfused`) and with no level's gradients gathered in shared memory (`no gathering`),
and nerfacc with tiny-cuda-nn's encoding and network where both are there (`gpu_peers.py`). Beside it 20,000
splats are drawn by our kernels and by gsplat, where it is installed; how far their images and gradients are from those
of the CPU's kernels is said with the time. Times are medians over CUDA events. `--device cpu --tiny` takes smaller
steps on a CPU, to try the script. `--count` needs no GPU either: it counts what the fused kernels ask of an H100.

The floor counts what no implementation can avoid, phase after phase: reads and atomic additions of the hash grid's rows
in 32-byte sectors of the L2 cache, the products of the network, the optimiser's memory traffic. The rates of memory,
matrices and L2 cache are measured in the same run. On an H200 (4.3 TB/s, 790 TF/s; of the L2 cache 5.5 TB/s and 168 G
sectors/s were assumed) the floors of the paper's grid with a network 32-64-64-16 are 0.62 ms and 8.5 ms.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from threedgen.cameras import Cameras, orbit, rays_of
from threedgen.config.scene import BackendName, GridConfig
from threedgen.core.errors import ConfigError
from threedgen.core.files import write_text_atomically
from threedgen.ops.backends import Backend, select_backend
from threedgen.ops.grid import HashGrid
from threedgen.ops.native import build, cuda, cuda_field
from threedgen.ops.splats import SplatImages
from threedgen.ops.types import FieldLayout, RaySamples

RESULTS = Path(__file__).parent / "results"
VIEWS, SIZES, SAMPLES_PER_RAY = 4, (64, 256), 32
TINY_SIZES = (8,)
GRIDS = {  # and the hidden width of the network
    "paper, 16 x 2, 2^19": (GridConfig(), 64),
    "small, 4 x 8, 2^15": (GridConfig(4, 8, 15, 16, 128), 32),
}
# that take a step; the last one needs tens of gigabytes for the larger pictures
FIELDS = (BackendName.native, BackendName.nerfacc, BackendName.tinycudann, BackendName.plain)
VARIANTS = {  # of our kernels: what is set in `cuda_field`
    "": {"GATHERED_BYTES": cuda_field.GATHERED_BYTES},
    ", no gathering": {"GATHERED_BYTES": 0},
    ", unfused": {"is_fused": lambda *_: False},
}
SPLATS = 20_000
LOG2_SECTORS = 19  # of the table that the L2 cache's rates are measured on: 16 MiB
ADAMW = (10, 1e-2, 0.9, 0.99, 1e-15, 1e-2)  # step, lr, beta1, beta2, eps, weight decay


@dataclass(frozen=True)
class Rates:
    """What a GPU can do in a second."""

    memory_bytes: float  # device memory, read and written
    matrix_flops: float  # in half precision
    l2_bytes: float
    l2_atomics: float  # sectors of 32 bytes that numbers are added to


H100 = Rates(2.95e12, 734e12, 4.35e12, 90e9)  # measured by this script, see docs/performance.md


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
    lines = [f"{'grid':20} {'pixels':>7} {'ops':30} {'ms':>9} {'M samples/s':>12} {'floor ms':>9} {'ratio':>6}"]
    for row in rows:
        ms, floor, rate = row["ms"], row["floor_ms"], row["samples"] / row["ms"] / 1e3
        case = f"{row['grid']:20} {VIEWS}x{row['pixels']}^2".ljust(28)
        lines.append(f"{case} {row['ops']:30} {ms:9.3f} {rate:12.0f} {floor:9.3f} {ms / floor:6.1f}")
    return "\n".join(lines)


def median_ms(run: Callable[[], object], device: str = "cuda", repeats: int = 30) -> float:
    timed = _milliseconds_of_gpu if device == "cuda" else _milliseconds_of_cpu
    for _ in range(min(5, repeats)):
        run()
    return statistics.median(timed(run) for _ in range(repeats))


def _milliseconds_of_gpu(run: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def _milliseconds_of_cpu(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def measured_rates(device: str, tiny: bool) -> Rates:
    """On a CPU the memory's rate stands for the L2 cache's: the script is only tried there."""
    source = torch.rand(1 << (20 if tiny else 28), device=device)
    target, size = torch.empty_like(source), 256 if tiny else 8192
    copy = 2 * source.nbytes / median_ms(lambda: target.copy_(source), device) * 1e3
    matrix = torch.randn(size, size, device=device, dtype=torch.half if device == "cuda" else torch.float)
    products = 2 * size**3 / median_ms(lambda: matrix @ matrix, device) * 1e3
    l2_bytes, l2_atomics = _cache_rates() if device == "cuda" else (copy, copy / 32)
    return Rates(copy, products, l2_bytes, l2_atomics)


def _cache_rates() -> tuple[float, float]:
    """Bytes read, and sectors added to, a second, at random places of 16 MiB; `gpu_rates.cu` is compiled for that."""
    blocks, repeats = 8192, 64
    table, out = torch.zeros(8 << LOG2_SECTORS, device="cuda"), torch.zeros(1, device="cuda")
    torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        architecture = "-arch=sm_{}{}".format(*torch.cuda.get_device_capability())
        command = [build.nvcc(), "-std=c++17", "-O3", architecture, "-shared", "-Xcompiler=-fPIC"]
        source = Path(__file__).parent / "gpu_rates.cu"
        subprocess.run([*command, str(source), "-o", f"{folder}/rates.so"], check=True)
        library = ctypes.CDLL(f"{folder}/rates.so")
    library.sectors_read.restype = library.sectors_added_to.restype = ctypes.c_float
    pointers = [ctypes.c_void_p(x.data_ptr()) for x in (table, out)]
    sizes = [ctypes.c_int64(x) for x in (LOG2_SECTORS, blocks, repeats)]
    read_ms = library.sectors_read(pointers[0], *sizes, pointers[1])
    add_ms = library.sectors_added_to(pointers[0], *sizes)
    if min(read_ms, add_ms) <= 0:
        raise RuntimeError(f"the cache's rates could not be measured: CUDA errors {read_ms:.0f}, {add_ms:.0f}")
    sectors = blocks * 256 * repeats
    return 32 * sectors / read_ms * 1e3, sectors / add_ms * 1e3


class Step:
    """One optimisation step of a field on the rays of four views."""

    def __init__(self, grid: GridConfig, hidden_width: int, size: int, ops: Backend, device: str = "cuda"):
        self.ops, self.layout = ops, FieldLayout(HashGrid.from_config(grid), 1.0, 10.0, 0.5, 1.0)
        self.widths = [self.layout.grid.num_outputs, hidden_width, 4]
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
        return len(self.ops.march(*self.marching).t_starts)

    def learn(self, samples: RaySamples, ops: Backend) -> None:
        rays = self.rays.origins, self.rays.directions
        seen = ops.render_field(self.params[0], self.params[1:], self.layout, *rays, samples)
        loss = (seen.rgb - self.target).square().mean() + 1e-2 * seen.opacity.mean()
        for param, grad, state in zip(self.params, torch.autograd.grad(loss, self.params), self.state, strict=True):
            ops.adamw_step(param, grad, *state, *ADAMW)

    def positions(self) -> torch.Tensor:
        """[N, 3] of the samples, in the unit cube."""
        samples = self.ops.march(*self.marching)
        origins, directions = (x[samples.ray_indices] for x in (self.rays.origins, self.rays.directions))
        return (origins + samples.t_mids[:, None] * directions + 1.0) / 2.0

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


def there(
    names: Sequence[BackendName], given: argparse.Namespace, notes: dict[str, None]
) -> Iterator[tuple[BackendName, Backend]]:
    """Those back ends that are wanted and can be used; a note says of each other one why not."""
    for name in names:
        if name.value in given.without:
            notes[f"{name.value}, as --without says"] = None
            continue
        try:
            ops = select_backend(name, given.device)
        except ConfigError as error:
            notes[str(error)] = None
            continue
        yield name, ops


def splat_rows(given: argparse.Namespace, notes: dict[str, None]) -> Iterator[dict]:
    """Milliseconds forward, and forward and backward; largest differences from the CPU's kernels (`compare_splats`)."""
    from splats import surface  # benchmarks/splats.py

    num_splats, sizes, repeats = (50, TINY_SIZES, 3) if given.tiny else (SPLATS, SIZES, 30)
    for size, num_coefficients in product(sizes, (0, 16)):
        cameras = orbit([0, 90, 180, 270], 15, 1.6, 45, size)
        gaussians = surface(num_splats, num_coefficients)
        expected = draw_splats(select_backend(BackendName.native, "cpu"), gaussians, cameras)
        case = {"pixels": size, "splats": num_splats, "sh": num_coefficients}
        for name, ops in there((BackendName.native, BackendName.gsplat), given, notes):
            inputs = [x.detach().to(given.device).requires_grad_() for x in gaussians], cameras.to(given.device)
            differences = compare_splats(draw_splats(ops, *inputs), expected)
            draw = partial(draw_splats, ops, *inputs)
            forward_ms = median_ms(partial(draw, gradients=False), given.device, repeats)
            times = {"forward_ms": forward_ms, "ms": median_ms(draw, given.device, repeats)}
            yield {**case, "ops": name.value, **times, **differences}


def draw_splats(
    ops: Backend, gaussians: Sequence[Tensor], cameras: Cameras, gradients: bool = True
) -> tuple[SplatImages, tuple[Tensor, ...]]:
    """The three images, and the gradients of the sum of their squares."""
    images = ops.splat(*gaussians, cameras.camera_to_world, cameras.fov_y, cameras.height, cameras.width)
    grads = torch.autograd.grad(sum(image.square().sum() for image in images), gaussians) if gradients else ()
    return SplatImages(*(image.detach() for image in images)), grads


def compare_splats(
    found: tuple[Sequence[Tensor], Sequence[Tensor]], expected: tuple[Sequence[Tensor], Sequence[Tensor]]
) -> dict[str, float]:
    """`images`: the largest difference of a pixel's colour, opacity or depth; `gradients`: that of the gradients to
    means, quaternions, scales, opacities or colours, over the norm of what is expected."""
    images = [float((a.cpu() - b).abs().max()) for a, b in zip(found[0], expected[0], strict=True)]
    gradients = [float((a.cpu() - b).norm() / b.norm()) for a, b in zip(found[1], expected[1], strict=True)]
    return {"images": max(images), "gradients": max(gradients)}


def splat_line(row: dict) -> str:
    harmonics = f"SH {row['sh']}" if row["sh"] else "colours"
    case = f"splats, {row['ops']}: {row['splats']} with {harmonics}, {VIEWS}x{row['pixels']}^2"
    times = f"forward {row['forward_ms']:.3f} ms, and backward {row['ms']:.3f} ms"
    return f"{case}: {times}; off the CPU's by {row['images']:.1e}, gradients {row['gradients']:.1e}"


def cases(tiny: bool) -> list[tuple[tuple[str, tuple[GridConfig, int]], int]]:
    """((grid, (its config, the network's hidden width)), pixels)"""
    grids = list(GRIDS.items())
    return list(product(grids[1:], TINY_SIZES) if tiny else product(grids, SIZES))


def step_rows(rates: Rates, given: argparse.Namespace, notes: dict[str, None]) -> Iterator[dict]:
    native, repeats = select_backend(BackendName.native, given.device), 3 if given.tiny else 30
    for (grid, (config, hidden)), size in cases(given.tiny):
        step = Step(config, hidden, size, native, given.device)
        floor = floor_ms(rates, step.layout.grid, step.widths, step.num_samples)
        case = {"grid": grid, "pixels": size, "samples": step.num_samples, "floor": floor, "floor_ms": floor["total"]}
        for name, ops in there(FIELDS if size <= 64 else FIELDS[:-1], given, notes):
            take = partial(lambda step, ops: step.learn(ops.march(*step.marching), ops), step, ops)
            if name is BackendName.native and given.device == "cuda":
                yield from ({**case, **row} for row in native_rows(step, ops, take))
            else:
                yield {**case, "ops": name.value, "ms": median_ms(take, given.device, repeats)}
        yield from ({**case, **row} for row in peer_rows(step, given, notes))


def native_rows(step: Step, ops: Backend, take: Callable[[], None]) -> Iterator[dict]:
    """The variants of our kernels, each as it is and as a CUDA graph."""
    for variant, settings in VARIANTS.items():
        with mock.patch.multiple(cuda_field, **settings):
            yield {"ops": f"native{variant}", "ms": median_ms(take)}
            yield {"ops": f"native{variant}, graph", "ms": median_ms(step.as_graph(ops))}


def peer_rows(step: Step, given: argparse.Namespace, notes: dict[str, None]) -> list[dict]:
    """nerfacc with tiny-cuda-nn, if both are there."""
    from gpu_peers import Peer

    if {"nerfacc", "tinycudann"} & set(given.without):
        notes["nerfacc + tinycudann, as --without says"] = None
        return []
    try:
        peer = Peer(step.layout, step.widths[1], step.marching, step.target)
    except ConfigError as error:
        notes[str(error)] = None
        return []
    return [{"ops": "nerfacc + tinycudann", "ms": median_ms(peer.learn, given.device)}]


def longest_kernels(given: argparse.Namespace) -> list[dict]:
    """The kernels that a native step spends most of its time in, as torch's profiler sees them."""
    activity = getattr(torch.profiler.ProfilerActivity, given.device.upper())
    native, rows = select_backend(BackendName.native, given.device), []
    for (grid, (config, hidden)), size in cases(given.tiny):
        step = Step(config, hidden, size, native, given.device)
        step.learn(native.march(*step.marching), native)
        with torch.profiler.profile(activities=[activity]) as profile:
            step.learn(native.march(*step.marching), native)
            if given.device == "cuda":
                torch.cuda.synchronize()
        attribute = f"self_{'device' if given.device == 'cuda' else 'cpu'}_time_total"
        events = sorted(profile.key_averages(), key=lambda event: -getattr(event, attribute))
        times = [(event.key, event.count, getattr(event, attribute) / 1e3) for event in events]
        case = {"grid": grid, "pixels": size, "launches": sum(count for _, count, _ in times)}
        rows += [{**case, "kernel": name, "count": n, "ms": ms} for name, n, ms in times[:10] if ms > 0]
    return rows


def profile_once(given: argparse.Namespace) -> None:
    """One native step of the paper's grid at each size, which alone a profiler from outside is told to watch."""
    native, (config, hidden) = select_backend(BackendName.native, given.device), next(iter(GRIDS.values()))
    for size in TINY_SIZES if given.tiny else SIZES:
        step = Step(config, hidden, size, native, given.device)
        step.learn(native.march(*step.marching), native)
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStart()
        step.learn(native.march(*step.marching), native)
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStop()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the numbers (default: %(default)s)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small steps, to try the script")
    parser.add_argument("--without", nargs="*", default=[], help="back ends to leave out, and gsplat")
    parser.add_argument("--kernels", action="store_true", help="only the table of kernels")
    parser.add_argument("--splats", action="store_true", help="only splats")
    parser.add_argument("--once", action="store_true", help="only a step, for `ncu --profile-from-start off`")
    parser.add_argument("--count", action="store_true", help="only what the fused kernels ask of an H100, counted")
    given = parser.parse_args(arguments)
    if given.count:
        from gpu_peers import counted

        for (grid, (config, hidden)), size in cases(given.tiny):
            step = Step(config, hidden, size, select_backend(BackendName.auto), "cpu")
            phases = counted(step.layout.grid, step.positions(), H100)
            print(f"{grid:20} {VIEWS}x{size}^2 {step.num_samples / 1e6:.2f} M samples:", end=" ")
            print(", ".join(f"{name} {ms:.2f}" for name, ms in phases.items()), "ms")
        return 0
    if given.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a GPU: torch sees no CUDA device", file=sys.stderr)
        return 3
    if given.once:
        profile_once(given)
        return 0
    device, notes = torch.cuda.get_device_name() if given.device == "cuda" else "CPU", {}
    result: dict[str, object] = {"device": device, "torch": torch.__version__, "cuda": torch.version.cuda}
    name = "kernels" if given.kernels else "splats" if given.splats else re.sub("[^A-Za-z0-9]+", "-", device).strip("-")
    given.out.mkdir(exist_ok=True, parents=True)
    path = given.out / f"{name}.json"

    def write(part: str, rows: Iterable[dict]) -> list[dict]:
        """Row after row, as they come: a measurement that is cut off leaves what it had."""
        result[part] = found = []
        for row in rows:
            found.append(row)
            write_text_atomically(path, json.dumps(result, indent=1) + "\n")
            print(f"{part}: {row.get('ops', row.get('kernel'))}, {row['pixels']} px: {row['ms']:.3f} ms", flush=True)
        return found

    if given.kernels:
        for row in write("kernels", longest_kernels(given)):
            case = f"{row['grid']:20} {VIEWS}x{row['pixels']}^2".ljust(28)
            print(f"{case} {row['ms']:9.3f} ms {row['count']:4} x {row['kernel'][:90]}")
    elif given.splats:
        print("\n".join(map(splat_line, write("splats", splat_rows(given, notes)))))
    else:
        rates = measured_rates(given.device, given.tiny)
        result["rates"] = asdict(rates)
        steps, splats = write("steps", step_rows(rates, given, notes)), write("splats", splat_rows(given, notes))
        print(f"{device}: {rates.memory_bytes / 1e12:.2f} TB/s, {rates.matrix_flops / 1e12:.0f} TF/s, ", end="")
        print(f"L2 {rates.l2_bytes / 1e12:.2f} TB/s and {rates.l2_atomics / 1e9:.0f} G atomic sectors/s, measured")
        print("\n".join([table(steps), *map(splat_line, splats)]))
    for note in notes:
        print(f"left out: {note}")
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
