"""Times the kernels of the radiance field on the CPU against plain torch and against a counted floor.

    python benchmarks/kernels.py                  # tables
    python benchmarks/kernels.py --json FILE      # and one object

16,384 rays (four orbit views of 64 x 64) through a ball of occupied cells, with the step at which they have 524,288
samples. A step is march, render, backward and AdamW for all parameters. Native and plain torch take turns in one run,
two steps each: the first finds the caches and the system's memory as the other left them, as after a step of a guidance
network, the second ("again") as it left them itself. Each figure is the minimum of `--repeats`. `cpu` is the processor
time of all threads together: with one thread that is what an idle machine's clock would say up to shared caches and
memory, so that other work on the machine disturbs little.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from threedgen.cameras import orbit, rays_of
from threedgen.config.scene import GridConfig
from threedgen.core.memory import peak_gib
from threedgen.ops import FieldLayout, HashGrid, RaySamples, native, plain

RADIUS, OCCUPIED_RADIUS, CELLS, NUM_SAMPLES = 1.0, 0.8, 64, 524_288
STAGES = ("march", "forward", "backward", "adam")
BACKENDS = {"native": native, "plain": plain}


@dataclass(frozen=True)
class Setting:
    name: str
    grid: GridConfig
    hidden_width: int
    num_hidden_layers: int = 1


DEFAULT = Setting("default: 4 x 8, 2^15, 16..128, hidden 32", GridConfig(4, 8, 15, 16, 128), 32)
OTHERS = [
    Setting("small: 4 x 4, 2^15, 16..128, hidden 16", GridConfig(4, 4, 15, 16, 128), 16),
    Setting("paper: 16 x 2, 2^19, 16..2048, hidden 64", GridConfig(16, 2, 19, 16, 2048), 64),
]


class Scene:
    """Parameters of a field with their optimiser's state, rays and occupied cells."""

    def __init__(self, setting: Setting):
        generator = torch.Generator().manual_seed(0)
        self.setting, grid = setting, HashGrid.from_config(setting.grid)
        self.layout = FieldLayout(grid, RADIUS, blob_density=10.0, blob_radius=0.5, density_scale=1.0)
        self.table = torch.rand(grid.num_rows, grid.num_features, generator=generator).sub_(0.5).mul_(0.2)
        sizes = [grid.num_outputs, *[setting.hidden_width] * setting.num_hidden_layers, 4]
        self.weights = [
            torch.randn(outputs, inputs, generator=generator) * inputs**-0.5
            for inputs, outputs in itertools.pairwise(sizes)
        ]
        self.parameters = [x.requires_grad_() for x in (self.table, *self.weights)]
        self.moments = [(torch.zeros_like(x), torch.zeros_like(x)) for x in self.parameters]
        rays = rays_of(orbit([0, 90, 180, 270], 15, 3.2, 45, height=64, num_views=4))
        self.origins, self.directions = rays.origins.contiguous(), rays.directions.contiguous()
        centres = (torch.arange(CELLS) + 0.5) * (2 * RADIUS / CELLS) - RADIUS
        x, y, z = torch.meshgrid(centres, centres, centres, indexing="ij")
        self.occupied = x**2 + y**2 + z**2 < OCCUPIED_RADIUS**2
        self.step_size = 0.01
        for _ in range(4):
            self.step_size *= len(self.march(native).t_starts) / NUM_SAMPLES
        self.grads = torch.randn(len(rays.origins), 3, generator=generator) * 1e-3
        self.grad_opacity = torch.randn(len(rays.origins), generator=generator) * 1e-3

    def march(self, ops) -> RaySamples:
        return ops.march(self.origins, self.directions, self.occupied, RADIUS, self.step_size)

    def step(self, ops, number: int) -> dict[str, tuple[float, float]]:
        """One optimisation step; wall clock and processor milliseconds of each stage."""
        marks = [_clocks()]
        samples = self.march(ops)
        marks.append(_clocks())
        seen = ops.render_field(self.table, self.weights, self.layout, self.origins, self.directions, samples)
        marks.append(_clocks())
        loss = (seen.rgb * self.grads).sum() + (seen.opacity * self.grad_opacity).sum()
        gradients = torch.autograd.grad(loss, self.parameters)
        marks.append(_clocks())
        for param, gradient, (mean, square) in zip(self.parameters, gradients, self.moments, strict=True):
            ops.adamw_step(param.detach(), gradient, mean, square, number, 1e-4, 0.9, 0.99, 1e-15, 0.0)
        marks.append(_clocks())
        return {name: _between(a, b) for name, (a, b) in zip(STAGES, itertools.pairwise(marks), strict=True)}


def _clocks() -> tuple[float, float]:
    return 1e3 * time.perf_counter(), 1e3 * time.process_time()


def _sum(stages: dict[str, tuple[float, float]]) -> tuple[float, float]:
    return sum(wall for wall, _ in stages.values()), sum(cpu for _, cpu in stages.values())


def _between(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return b[0] - a[0], b[1] - a[1]


def take_turns(scene: Scene, cases: list[tuple[str, int]], repeats: int) -> dict[tuple[str, int], dict]:
    """(back end, threads) -> stage, "step" or "again" -> its smallest wall clock and processor milliseconds."""
    taken: dict = {case: [] for case in cases}
    for number in range(repeats):
        for name, threads in cases:
            torch.set_num_threads(threads)
            first, second = (scene.step(BACKENDS[name], 2 * number + k) for k in (1, 2))
            taken[name, threads].append({**first, "step": _sum(first), "again": _sum(second)})
    torch.set_num_threads(1)
    return {
        case: {
            stage: {clock: round(min(run[stage][k] for run in runs), 2) for k, clock in enumerate(("wall", "cpu"))}
            for stage in (*STAGES, "step", "again")
        }
        for case, runs in taken.items()
    }


class Rates:
    """What one thread can do at best, measured by `rates.cpp`."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "rates.so"
            command = ["-O3", "-march=native", "-shared", "-fPIC", str(Path(__file__).with_name("rates.cpp"))]
            subprocess.run([os.environ.get("CXX", "g++"), *command, "-o", str(library)], check=True)
            self.library = ctypes.CDLL(str(library))
        for name in ("multiply_adds_8", "multiply_adds_16", "read_pairs", "add_to_pairs", "copy"):
            getattr(self.library, name).restype = ctypes.c_double
        # operations a second by the width of the vectors in bits: a processor may do the widest no faster
        self.by_width = {
            32 * lanes: 2 * lanes / seconds
            for lanes in (8, 16)
            if (seconds := self._seconds(f"multiply_adds_{lanes}", 12_000_000)) > 0
        }
        self.floating_point = max(self.by_width.values())
        source, target = torch.zeros(2, 1 << 24)
        self.copied = 8 / self._seconds("copy", 1 << 24, source, target)  # bytes a second, read and written

    def of_pairs(self, function: str, num_features: int) -> float:
        """Pairs of rows a second, in a table of 16 KB: as if every row came from the nearest cache."""
        log2_rows = 12 - int(math.log2(num_features))
        table = torch.zeros((1 << log2_rows) + 1, num_features)
        return 1 / self._seconds(function, 4_000_000, num_features, table, log2_rows)

    def _seconds(self, function: str, count: int, *others: Tensor | int) -> float:
        """For one, by the best of several runs."""
        arguments = [ctypes.c_void_p(x.data_ptr()) if isinstance(x, Tensor) else ctypes.c_int64(x) for x in others]
        run = getattr(self.library, function)
        return min(run(ctypes.c_int64(count), *arguments) for _ in range(7)) / count

    def floor(self, scene: Scene, num_samples: int) -> dict[str, float]:
        """Milliseconds that one step takes at these rates: nothing is computed twice, nothing overlaps, no march."""
        grid = scene.layout.grid
        pairs = 4 * len(grid.levels) * num_samples
        products = 6 * num_samples * sum(w.numel() for w in scene.weights)  # forward, to inputs, to weights
        count = sum(x.numel() for x in scene.parameters)
        parts = {
            "encode": pairs / self.of_pairs("read_pairs", grid.num_features),
            "network": products / self.floating_point,
            "scatter": pairs / self.of_pairs("add_to_pairs", grid.num_features),
            "adam": 28 * count / self.copied,  # reads 4 numbers and writes 3 for each parameter
        }
        milliseconds = {name: round(1e3 * seconds, 2) for name, seconds in parts.items()}
        return {**milliseconds, "step": round(sum(milliseconds.values()), 2)}


def single_ops(scene: Scene, repeats: int) -> dict[str, dict[str, dict[str, float]]]:
    """Processor milliseconds of one op at a time, forward and backward, one thread."""
    samples = scene.march(native)
    ray, grid = samples.ray_indices, scene.layout.grid
    positions = scene.origins[ray] + samples.t_mids[:, None] * scene.directions[ray]
    unit = (positions + RADIUS) / (2 * RADIUS)
    field = scene.table, scene.weights, scene.layout
    density, rgb = (x.detach().requires_grad_() for x in native.evaluate_field(*field, positions))
    few = positions[::8].contiguous()
    opacity = torch.zeros(CELLS, CELLS, CELLS)
    cases: dict[str, tuple[Callable, list[Tensor]]] = {
        "hash_grid_encode": (lambda ops: [ops.hash_grid_encode(unit, scene.table, grid)], [scene.table]),
        "composite": (lambda ops: ops.composite(density, rgb, *samples), [density, rgb]),
        "evaluate_field": (lambda ops: ops.evaluate_field(*field, positions), scene.parameters),
        "field_with_normals, N / 8": (lambda ops: ops.field_with_normals(*field, few), scene.parameters),
        "refresh_occupancy": (
            lambda ops: [ops.refresh_occupancy(*field, opacity, scene.occupied, 1, 0.95, True)],
            [],
        ),
    }
    table: dict = {}
    for name, (run, inputs) in cases.items():
        table[name] = {backend: {"forward": math.inf, "backward": math.inf} for backend in BACKENDS}
        for _ in range(repeats + 1):
            for backend, ops in BACKENDS.items():
                best = table[name][backend]
                start = _clocks()
                outputs = run(ops)
                best["forward"] = min(best["forward"], round(_between(start, _clocks())[1], 2))
                if inputs:
                    grads = [torch.ones_like(x) for x in outputs]
                    start = _clocks()
                    torch.autograd.grad(outputs, inputs, grads)
                    best["backward"] = min(best["backward"], round(_between(start, _clocks())[1], 2))
    return table


def peak_memory(backend: str) -> float:
    """Megabytes that three steps of the default field add to a process of their own."""
    command = [sys.executable, __file__, "--memory-of", backend]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak_memory(backend: str) -> None:
    torch.set_num_threads(1)
    scene = Scene(DEFAULT)
    before = peak_gib()
    for number in range(3):
        scene.step(BACKENDS[backend], number + 1)
    print((peak_gib() - before) * 1024)


def report(setting: Setting, num_samples: int, times: dict, floor: dict[str, float]) -> None:
    print(f"\n{setting.name}: {num_samples:,} samples; wall / cpu ms")
    print("back end   threads " + "".join(f"{stage:>17}" for stage in (*STAGES, "step", "again")))
    for (name, threads), stages in times.items():
        row = "".join(f"{stages[s]['wall']:9.1f} /{stages[s]['cpu']:6.0f}" for s in (*STAGES, "step", "again"))
        print(f"{name:10} {threads:7} {row}")
    parts = ", ".join(f"{name} {ms:.1f}" for name, ms in floor.items() if name != "step")
    print(f"floor, one thread, without march: {floor['step']:.1f} ms ({parts})")


def ratios(times: dict, floor: dict[str, float]) -> dict[str, float]:
    """Of processor time where one thread runs, of the wall clock between one thread and two."""
    ours, theirs, two = times["native", 1], times["plain", 1], times["native", 2]
    without_march = ours["again"]["cpu"] - ours["march"]["cpu"]
    return {
        "speedup_vs_reference": round(theirs["step"]["cpu"] / ours["step"]["cpu"], 2),
        "speedup_again": round(theirs["again"]["cpu"] / ours["again"]["cpu"], 2),
        "ratio_to_floor": round(without_march / floor["step"], 2),
        "threads_2_over_1": round(ours["again"]["wall"] / two["again"]["wall"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only-default", action="store_true", help="the default field's step and nothing else")
    parser.add_argument("--memory-of", choices=BACKENDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        return print_peak_memory(options.memory_of)
    if not native.available("cpu"):
        raise SystemExit(f"the native kernels are not available: {native.why_not('cpu')}")
    torch.set_num_threads(1)
    rates = Rates()
    results: dict = {"load_average": os.getloadavg()[0], "repeats": options.repeats, "settings": []}
    print(f"minimum of {options.repeats}; load average {results['load_average']:.1f}")
    widths = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {width} bits" for width, rate in rates.by_width.items())
    print(f"one thread: {widths}, {rates.copied / 1e9:.0f} GB/s copied")
    for setting in [DEFAULT] if options.only_default else [DEFAULT, *OTHERS]:
        scene = Scene(setting)
        num_samples = len(scene.march(native).t_starts)
        times = take_turns(scene, [("native", 1), ("plain", 1), ("native", 2)], options.repeats)
        floor = rates.floor(scene, num_samples)
        report(setting, num_samples, times, floor)
        found = ratios(times, floor)
        print(", ".join(f"{name} {value}" for name, value in found.items()))
        named = {f"{name}, {threads} threads": stages for (name, threads), stages in times.items()}
        results["settings"].append(
            {"name": setting.name, "samples": num_samples, "times": named, "floor": floor, **found}
        )
        if setting is DEFAULT:
            results |= found
    if not options.only_default:
        results["ops"] = single_ops(Scene(DEFAULT), options.repeats)
        print("\ndefault field, one thread, cpu ms: forward + backward")
        for name, of_backend in results["ops"].items():
            cells = [f"{backend} {t['forward']:.1f} + {t['backward']:.1f}" for backend, t in of_backend.items()]
            print(f"{name:27}" + "".join(f"{cell:>32}" for cell in cells).replace(" + inf", ""))
        results["peak_memory_mb"] = {backend: round(peak_memory(backend)) for backend in BACKENDS}
        print("\npeak memory of three steps, MB:", results["peak_memory_mb"])
    if options.json:
        options.json.write_text(json.dumps(results, indent=1).replace("Infinity", "null") + "\n")


if __name__ == "__main__":
    main()
