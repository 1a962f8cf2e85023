"""What a busy neighbour on one core costs a run: seconds of score distillation by the number of threads, as ratios.

    python benchmarks/shared_machine.py                # the cores must otherwise be idle
    python benchmarks/shared_machine.py --steps 200    # as long as a run of the recipe

The first steps of mvdream-mini.yaml, with one thread, with a thread on each core and with as many as are chosen
(`runtime.threads=0`), each alone and beside a process that computes without end. Every case begins anew, all of them in
one process; the ratios are to one thread alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets them, before torch is there
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from torch import Tensor

from threedgen.config.load import load_config
from threedgen.core.threads import most_threads
from threedgen.diffusion.joint import Mix
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.runs.directory import THREADS, open_run
from threedgen.tasks.generate import optimize
from threedgen.tasks.prompting import encode_prompts, load_prior

_PROMPT = "a red cat with a green face"


@contextmanager
def neighbour() -> Iterator[None]:
    """A process that keeps a core busy."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        time.sleep(0.5)
        try:
            yield
        finally:
            process.kill()


def seconds(
    threads: int, steps: int, prior: MultiViewPrior, text: tuple[Tensor, Tensor, Mix | None]
) -> tuple[float, list[str]]:
    """Of so many steps; and the choices that were made, as the run's folder has them."""
    settings = [f"prompt={_PROMPT}", f"runtime.threads={threads}", f"steps={steps}", "checkpoint_every=100000"]
    config = load_config("mvdream-mini.yaml", [*settings, "preview_every=100000", "refine.rounds=0"])
    torch.set_num_threads(threads or most_threads())
    with tempfile.TemporaryDirectory() as folder, open_run(folder, config) as run:
        started = time.perf_counter()
        optimize(config, run, prior, *text)
        spent, record = time.perf_counter() - started, run.checkpoints / THREADS
        return spent, record.read_text().splitlines() if record.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    given = parser.parse_args()
    if (most := most_threads()) < 2:
        raise SystemExit("there is one thread here: nothing to choose")
    config = load_config("mvdream-mini.yaml", [f"prompt={_PROMPT}"])
    prior = load_prior(config)
    text = encode_prompts(config, prior)
    seconds(1, 3, prior, text)  # compiles, and finds memory
    named = {"one thread": 1, f"{most} threads": most, "chosen": 0}
    alone = {name: seconds(threads, given.steps, prior, text) for name, threads in named.items()}
    with neighbour():
        beside = {name: seconds(threads, given.steps, prior, text) for name, threads in named.items()}
    one = alone["one thread"][0]
    print(f"{given.steps} steps, {most} cores; seconds, and times what one thread needs alone")
    print(f"{'':12}{'alone':>16}{'with a neighbour':>22}")
    for name in named:
        (a, _), (b, choices) = alone[name], beside[name]
        print(f"{name:12}{a:9.1f} ({a / one:4.2f}){b:15.1f} ({b / one:4.2f})  {' '.join(choices[:6])}")
    if given.json:
        found = {"steps": given.steps, "cores": most, "alone": alone, "with a neighbour": beside}
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
