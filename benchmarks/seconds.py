"""Where the seconds go from a command to its files: a start, four views, an asset, each part of it.

    python benchmarks/seconds.py                        # two threads, the mini recipes
    python benchmarks/seconds.py --threads 1 --only starts views
    python benchmarks/seconds.py --config mvdream-mini-quick.yaml runtime.precision=float32   # of the asset's run

Every row is a process of its own or a part of one. Where it is a process, its processor time is told too, which other
work on the machine moves much less; the last column is it over that of `import torch`, measured in the same run, or for
parts of a process their time over its. An export's turntable is drawn beside the parts after it. Starts are the best of
three. The kernels are compiled before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
PARTS = ("starts", "views", "asset", "export")
WHOLE = "**the whole export**"
PROMPT = "prompt=a red cat with a green face"
OURS = """
from threedgen.core import light_imports
light_imports.own_process()
with light_imports.imports():
    light_imports.import_diffusers()
    import threedgen.tasks.generate
"""
STARTS = {
    "`import torch`": ("-c", "import torch"),
    "`launch.py --help`": ("launch.py", "--help"),
    "imports of a generation": ("-c", OURS),
    "the same in a program that is not ours": ("-c", "import threedgen.tasks.generate"),
}
# how a line that a generation prints begins -> the part that ends with it; of a round's lines this is the first
ENDS = {
    "run ": "to the run's folder",
    "views ": "imports, weights, the prior's own four views",
    "optimise ": "steps of score distillation",
    "refine ": "drawing what refinement fits to, ten steps of each round",
    "prior ": "the fit to the prior",
    "mesh ": "mesh, texture, files, turntable, sheet, page",
    "end": "to the end of the process",
}
FITTING = "the rest of each round's steps"


class Spent(NamedTuple):
    """Seconds."""

    wall: float
    processor: float | None = None  # of all threads; None for a part of a process


def python(*words: str, threads: int) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    # progress is told on stderr
    together: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, *words], cwd=ROOT, env=environment, **together)


def lines_of(*words: str, threads: int) -> Iterator[tuple[float, str]]:
    """What a process prints, and when: seconds since it was started; at last its end, as "end"."""
    started = time.monotonic()
    with python(*words, threads=threads) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield time.monotonic() - started, line
    if process.returncode:
        sys.exit(f"{' '.join(words)} ended with {process.returncode}")
    yield time.monotonic() - started, "end"


def processor_seconds() -> float:
    """Of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def spent_by(*words: str, threads: int, times: int = 1) -> Spent:
    found = []
    for _ in range(times):
        before = processor_seconds()
        *_, (wall, _) = lines_of(*words, threads=threads)
        found.append(Spent(wall, processor_seconds() - before))
    return min(found, key=lambda spent: spent.processor or 0.0)


def asset_rows(recipe: str, settings: list[str], folder: Path, threads: int) -> dict[str, Spent]:
    words = ("launch.py", "--config", recipe, PROMPT, f"output_root={folder}", *settings)
    rows: dict[str, float] = {}
    last, before, begun = 0.0, processor_seconds(), set[str]()
    for moment, line in lines_of(*words, threads=threads):
        part = next((part for start, part in ENDS.items() if line.startswith(start)), None)
        if part is None:
            continue
        if line.startswith("refine "):
            number = line.split()[1]
            part = FITTING if number in begun else part
            begun.add(number)
        rows[part] = rows.get(part, 0.0) + moment - last
        last = moment
    parts = {part: Spent(seconds) for part, seconds in rows.items()}
    return parts | {"**all of it**": Spent(last, processor_seconds() - before)}


def export_rows(recipe: str, folder: Path, threads: int) -> dict[str, Spent]:
    """The parts of an export of the recipe's run that is in `folder`, done once more by a process of its own."""
    (run,) = folder.glob(f"{Path(recipe).stem}/*/")
    before = processor_seconds()
    *_, (_, told), _ = lines_of(str(Path(__file__)), "--export", str(run), threads=threads)
    used = processor_seconds() - before
    return {name: Spent(wall, used if name == WHOLE else None) for name, wall in json.loads(told).items()}


def time_export(run: str) -> None:
    """Print the seconds of an export's parts as JSON, in a line of its own."""
    from threedgen.tasks import export
    from threedgen.tasks.on_runs import export_run

    seconds: dict[str, float] = {}

    def timed(name: str, of: str) -> None:
        function: Callable[..., Any] = getattr(export, of)

        def call(*given: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started

        setattr(export, of, call)

    timed("the surface", "extract_surface")
    timed("texture: unwrapped and baked", "paint")
    timed("GLB, OBJ", "_write_formats")
    timed("turntable: 120 frames drawn and coded", "_write_turntable")
    timed("eight views of the mesh", "render_mesh")
    timed("eight views of the scene", "render_scene")
    started = time.perf_counter()
    export_run.main([run])
    print(json.dumps(seconds | {WHOLE: time.perf_counter() - started}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--config", default="mvdream-mini.yaml", help="the asset's recipe")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--export", help=argparse.SUPPRESS)
    parser.add_argument("settings", nargs="*")
    given = parser.parse_intermixed_args()
    if given.export:
        time_export(given.export)
        return
    if "export" in given.only and "asset" not in given.only:
        parser.error("the export that is timed is that of the asset: add asset to --only")
    spent_by("-c", "from threedgen.ops.native import why_not; why_not()", threads=given.threads)
    torch = spent_by(*STARTS["`import torch`"], threads=given.threads, times=3)
    tables: dict[str, dict[str, Spent]] = {}

    def tell(title: str, rows: dict[str, Spent]) -> None:
        tables[title] = rows
        print(f"\n| {title} | seconds | of a processor | over |\n|---|---|---|---|")
        *_, whole = rows.values()
        for name, (wall, used) in rows.items():
            over = used / torch.processor if used and torch.processor else wall / whole.wall
            print(f"| {name} | {wall:.2f} | {'' if used is None else f'{used:.2f}'} | {over:.2f} |", flush=True)

    with tempfile.TemporaryDirectory() as outputs:
        folder = Path(outputs)
        if "starts" in given.only:
            starts = {name: spent_by(*words, threads=given.threads, times=3) for name, words in STARTS.items()}
            tell("a start", starts | {"`import torch`": torch})
        if "views" in given.only:
            words = ("launch.py", "--config", "views-mini.yaml", PROMPT, f"output_root={folder}")
            tell("four views", {"`launch.py --config views-mini.yaml`": spent_by(*words, threads=given.threads)})
        if "asset" in given.only:
            tell("an asset", asset_rows(given.config, given.settings, folder, given.threads))
        if "export" in given.only:
            tell("its export", export_rows(given.config, folder, given.threads))
    if given.json:
        given.json.write_text(json.dumps({"threads": given.threads, "tables": tables}, indent=1) + "\n")


if __name__ == "__main__":
    main()
