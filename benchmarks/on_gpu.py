"""First contact with a GPU, in one command: what works, how fast, and what it makes, most valuable first.

    python benchmarks/on_gpu.py --minutes 8 --out DIR
    python benchmarks/on_gpu.py --device cpu --tiny --out DIR      # the same stages, small, without a GPU

Each stage is a process of its own with a limit to its time, and writes a result file of its own, `DIR/1-build.json`,
`DIR/2-tests.json`, ...: a stage that fails or hangs costs only itself. A file holds the stage's status (ok, failed,
timed out, left out), its seconds, its figures as far as it came, and the end of its log. `DIR/summary.txt` has a line
each. The last stage takes what the others left. See docs/howto/gpu.md.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOG_END = 30_000  # characters of a stage's log that its file keeps
LEFT_OUT = 77  # exit status of a stage that does not apply here; its log's last line says why
PREBUILT = ("nerfacc", "gsplat")  # compile themselves when they are first imported


@dataclass(frozen=True)
class Stage:
    title: str
    share: float  # of the minutes, at most; 1: what is left


STAGES = {
    "build": Stage("the device, and our kernels compiled for it", 0.15),
    "tests": Stage("tests/gpu", 0.35),
    "sanitize": Stage("compute-sanitizer on some of them", 0.2),
    "kernels": Stage("kernels against floors, nerfacc and gsplat", 0.25),
    "generate": Stage("text to 3D with the mini prior", 0.25),
    "distill": Stage("score distillation at full size", 0.25),
    "train": Stage("training of the mini prior", 1.0),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="of all stages together (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the result files")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the command")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="only these")
    given = parser.parse_args(arguments)
    if given.minutes <= 0:
        parser.error(f"--minutes {given.minutes:g}: give a positive number")
    given.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * given.minutes
    builds = _start_prebuilding(given)
    lines = []
    try:
        for number, (name, stage) in enumerate(STAGES.items(), 1):
            if name in given.stages:
                limit = min(60 * given.minutes * stage.share, end - time.monotonic())
                result = _run(name, stage, limit, given.out / f"{number}-{name}.json", given, _not_built(builds))
                lines.append(f"{name:9} {result['status']:9} {result['seconds']:6.1f} s  {result['says']}")
                print(lines[-1], flush=True)
                (given.out / "summary.txt").write_text("\n".join(lines) + "\n", "utf-8")
    finally:
        for process in builds.values():
            _end(process)
    return 0 if all(" failed " not in line and " timed out " not in line for line in lines) else 1


def _run(name: str, stage: Stage, limit: float, path: Path, given: argparse.Namespace, missing: list[str]) -> dict:
    """Run one stage in at most `limit` seconds; returns what its file says."""
    started, status, log_text = time.monotonic(), "left out", "no time is left for it"
    path.unlink(missing_ok=True)
    if limit > 0:
        command = [sys.executable, str(HERE / "gpu_stages.py"), name, "--device", given.device, "--out", str(path)]
        command += ["--seconds", f"{limit:.1f}", *(["--tiny"] if given.tiny else [])]
        command += ["--without", *missing] if missing else []
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
            process = _start(command, log)
            try:
                code = process.wait(limit)
                status = {0: "ok", LEFT_OUT: "left out"}.get(code, "failed")
            except subprocess.TimeoutExpired:
                status = "timed out"
            finally:
                _end(process)
            log.seek(0)
            log_text = log.read()
    figures = json.loads(path.read_text("utf-8")) if path.exists() else {}
    last = next((line for line in reversed(log_text.splitlines()) if line.strip()), "")
    result = {
        "stage": name,
        "title": stage.title,
        "status": status,
        "seconds": round(time.monotonic() - started, 1),
        "limit": round(limit, 1),
        "says": figures.pop("says", "") or ("" if status == "ok" else last[:300]),
        "figures": figures,
        "log": log_text[-LOG_END:],
    }
    path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return result


def _start(command: Sequence[str], log: object) -> subprocess.Popen:
    """A process that leads a group, so that what it starts can be ended with it."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join([str(HERE.parent), *_path()])}
    return subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
    )


def _path() -> list[str]:
    given = os.environ.get("PYTHONPATH")
    return [given] if given else []


def _end(process: subprocess.Popen) -> None:
    """End a process and everything that it started."""
    with contextlib.suppress(ProcessLookupError):  # nothing of it is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _start_prebuilding(given: argparse.Namespace) -> dict[str, subprocess.Popen]:
    """Have the packages that compile themselves do it while the first stages run."""
    if given.device != "cuda" or "kernels" not in given.stages:
        return {}
    found = [name for name in PREBUILT if importlib.util.find_spec(name)]
    command = [sys.executable, str(HERE / "gpu_stages.py"), "prebuild", "--device", "cuda", "--out"]
    return {name: _start([*command, name], subprocess.DEVNULL) for name in found}


def _not_built(builds: dict[str, subprocess.Popen]) -> list[str]:
    """The packages that are not ready, or failed to compile."""
    return [name for name, process in builds.items() if process.poll() != 0]


if __name__ == "__main__":
    sys.exit(main())
