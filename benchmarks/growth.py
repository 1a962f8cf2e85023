"""How cost grows: a step of score distillation, an export, a training, each against what makes it larger.

    python benchmarks/growth.py growth.json --plot docs/images/growth.svg   # all, some minutes: tables and a plot
    python benchmarks/growth.py growth.json --only steps                    # what the file has of the others stays

A step is one of mvdream-mini.yaml for a fresh scene, in which nothing is pruned yet: render, guidance by the mini prior
at 64 pixels, backward, AdamW; one thing at a time is changed. Seconds are the least of three steps; memory is the peak
above what the process holds before the scene is made (Linux). An export is of a fresh scene, which is a ball, on all
cores. A training is a few steps of train-mini.yaml from the bundled weights in bfloat16, by torchrun where there are
two processes.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets them, before torch is there
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from torch import Tensor

from threedgen.cameras import CameraSampler
from threedgen.config.load import load_config
from threedgen.core.memory import peak_gib
from threedgen.core.randomness import generator
from threedgen.core.threads import most_threads
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.denoising import Guided
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.guidance.sds import ScoreDistillation
from threedgen.ops.native import memory
from threedgen.runs.events import read_events
from threedgen.scene.make import make_scene
from threedgen.tasks.export import write_assets
from threedgen.tasks.prompting import encode_prompts, load_prior
from threedgen.tasks.scene_optimizer import SceneOptimizer

ROOT = Path(__file__).resolve().parent.parent
_BASE = ["prompt=a red cat", "camera.coarse_fraction=0"]
# what is changed -> its values, as settings of the recipe
_STEPS: dict[str, dict[int, str]] = {
    "resolution": {n: f"camera.resolution={n}" for n in (32, 64, 128, 256)},
    "samples a ray": {n: f"scene.samples_per_ray={n}" for n in (32, 64, 96, 192)},
    "log2 of the table": {n: f"scene.grid.log2_table_size={n}" for n in (13, 15, 17, 19)},
    "threads": {n: f"runtime.threads={n}" for n in range(1, most_threads() + 1)},
}
_EXPORTS = (32, 64, 128, 256)
_EXPORT = ["export.turntable_frames=8"]  # the others' time is the same at every resolution
_TRAININGS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes, 1 thread": (2, 1)}
Row = dict[str, float]


def steps() -> dict[str, dict[int, Row]]:
    """What is changed -> value -> seconds and MiB of a step."""
    prior = load_prior(load_config("mvdream-mini.yaml", _BASE))
    text, negative, _ = encode_prompts(load_config("mvdream-mini.yaml", _BASE), prior)
    step([], prior, text, negative)  # compiles
    return {name: {n: step([word], prior, text, negative) for n, word in of.items()} for name, of in _STEPS.items()}


def step(settings: list[str], prior: MultiViewPrior, text: Tensor, negative: Tensor) -> Row:
    """The least of three steps after a first one."""
    config = load_config("mvdream-mini.yaml", [*_BASE, *settings])
    torch.set_num_threads(config.runtime.threads or 1)
    before = _reset_peak()
    scene, sampler = make_scene(config, prior.device), CameraSampler(config.camera, 0)
    optimizer, guidance = SceneOptimizer(scene, config), ScoreDistillation(prior, config.guidance, 0)
    taken = []
    for _ in range(4):
        started = time.perf_counter()
        cameras = sampler.sample(0, config.steps)
        seen = scene.render(cameras, generator=generator(0, 0, "render"))
        denoiser = Guided(prior, Conditions(text, cameras, cameras.num_views), negative, config.guidance.guidance_scale)
        optimizer.step(guidance(seen.rgb, denoiser, 0, config.steps).loss, 1)  # a step without a refreshed grid
        taken.append(time.perf_counter() - started)
        del seen, denoiser
    return {"seconds": min(taken[1:]), "MiB": (peak_gib() - before) * 1024}


def exports() -> dict[int, Row]:
    """Resolution -> seconds and MiB of an export of a fresh scene on all cores."""
    torch.set_num_threads(most_threads())
    rows = {}
    for resolution in _EXPORTS:
        config = load_config("mvdream-mini.yaml", [*_BASE, *_EXPORT, f"export.resolution={resolution}"])
        before, scene = _reset_peak(), make_scene(config, torch.device("cpu"))
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            write_assets(scene, config, Path(folder), Path(folder), 0)
            rows[resolution] = {"seconds": time.perf_counter() - started, "MiB": (peak_gib() - before) * 1024}
    return rows


def trainings() -> dict[str, Row]:
    """Processes and threads -> pictures a second, by the median of the steps' reports."""
    settings = ["train.start_from=mini", "train.precision=bfloat16", "train.steps=14", "train.num_objects=64"]
    settings += ["train.num_patterned_images=64", "train.log_every=1", "train.sample_every=1000"]
    settings += ["train.checkpoint_every=1000"]
    rows = {}
    for name, (processes, threads) in _TRAININGS.items():
        with tempfile.TemporaryDirectory() as folder:
            torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
            own = [f"runtime.threads={threads}", f"output_root={folder}"]
            command = [sys.executable, *torchrun, "launch.py", "--config", "train-mini.yaml", *settings, *own]
            environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
            subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
            (events,) = Path(folder).rglob("events.jsonl")
            paces = [float(str(e["images_per_second"])) for e in read_events(events) if "images_per_second" in e]
            rows[name] = {"pictures a second": statistics.median(paces[2:])}
    return rows


def _reset_peak() -> float:
    """Give free memory back and forget the peak; GiB that are held then."""
    memory._kept.clear()  # large buffers of the case before
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return peak_gib()


def table(head: str, rows: Mapping[object, Row]) -> str:
    columns = list(next(iter(rows.values())))
    lines = [f"| {head} | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for value, row in rows.items():
        lines.append(f"| {value} | {' | '.join(f'{row[c]:.3g}' for c in columns)} |")
    return "\n".join([*lines, ""])


def plot(found: dict) -> str:
    """Seconds of a step and of an export as small log-log panels side by side, in SVG."""
    panels = {f"step: {name}": rows for name, rows in found["steps"].items() if len(rows) > 2}
    panels["export: resolution"] = found["exports"]
    parts, width, height = [], 210, 190
    for place, (title, rows) in enumerate(panels.items()):
        points = [(float(n), row["seconds"]) for n, row in rows.items()]
        ticks = _decades([y for _, y in points])
        xs = [x if "log2" in title else _log2(x) for x, _ in points]

        def at_x(x: float, xs: list[float] = xs) -> float:
            return 45 + 150 * (x - xs[0]) / (xs[-1] - xs[0])

        def at_y(y: float, ticks: list[float] = ticks) -> float:
            return 150 - 120 * (_log2(y) - _log2(ticks[0])) / (_log2(ticks[-1]) - _log2(ticks[0]))

        line = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, (_, y) in zip(xs, points, strict=True))
        parts.append(f'<g transform="translate({place * width} 0)"><text x="45" y="16">{title}, s</text>')
        for y in ticks:
            parts.append(f'<path d="M45 {at_y(y):.1f}h150" stroke="#ccc"/>')
            parts.append(f'<text x="41" y="{at_y(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
        for x, (value, _) in zip(xs, points, strict=True):
            parts.append(f'<text x="{at_x(x):.1f}" y="168" text-anchor="middle">{value:g}</text>')
        parts.append(f'<polyline points="{line}" fill="none" stroke="#27c" stroke-width="2"/>')
        parts += [
            f'<circle cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3" fill="#27c"/>'
            for x, (_, y) in zip(xs, points, strict=True)
        ]
        parts.append("</g>")
    size = f'width="{width * len(panels)}" height="{height}"'
    style = 'font-family="sans-serif" font-size="11" fill="#444"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n<rect {size} fill="#fff"/>\n' + (
        "\n".join(parts) + "\n</svg>\n"
    )


def _log2(x: float) -> float:
    return float(torch.tensor(x, dtype=torch.float64).log2())


def _decades(values: list[float]) -> list[float]:
    """1, 2 and 5 times powers of ten around the values."""
    ladder = [m * 10.0**k for k in range(-4, 5) for m in (1, 2, 5)]
    first = max(i for i, tick in enumerate(ladder) if tick <= min(values))
    last = min(i for i, tick in enumerate(ladder) if tick >= max(values))
    return ladder[first : max(last, first + 1) + 1]


_PARTS: dict[str, Callable[[], dict]] = {"steps": steps, "exports": exports, "trainings": trainings}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path, help="the figures, read first if it is there")
    parser.add_argument("--only", nargs="*", choices=_PARTS, default=list(_PARTS), help="none: what the file has")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    given = parser.parse_args()
    found: dict = json.loads(given.json.read_text()) if given.json.exists() else {}
    for name in given.only:
        found[name] = json.loads(json.dumps(_PARTS[name]()))  # keys as they come from the file
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    for name, rows in found.get("steps", {}).items():
        print(table(f"step: {name}", rows))
    for name in ("exports", "trainings"):
        if name in found:
            print(table({"exports": "export.resolution", "trainings": "training"}[name], found[name]))
    if given.plot:
        given.plot.write_text(plot(found))


if __name__ == "__main__":
    main()
