"""The stages of `on_gpu.py`, each a process of its own that writes its figures as it goes.

python benchmarks/gpu_stages.py NAME --device cuda --out FILE.json --seconds 60
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gpu_report  # beside this file

from threedgen.core.files import write_text_atomically
from threedgen.ops.native import build, cuda

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LEFT_OUT = 77  # as in on_gpu.py
TO_BEGIN_AND_END = 50.0  # seconds: imports and the networks; samples and weights in the end
TEST_PROCESSES = 4  # a test waits for a processor more than for the card
SANITIZERS = ("memcheck", "racecheck", "initcheck")
# one size of each kernel: the tools slow everything down a hundredfold
SANITIZED = "(test_march or test_hash_grid or activation or jitter or adamw or test_forward or test_gradients"
SANITIZED += " or equal_plain or render_field) and 33 or composite_with and counts6 or slopes and odd or refresh and 12"
SANITIZED += " or group_norm_with and (chunks or across)"
METRICS = {
    "ms": "gpu__time_duration.sum",
    "dram %": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "l2 %": "lts__throughput.avg.pct_of_peak_sustained_elapsed",
    "l1 %": "l1tex__throughput.avg.pct_of_peak_sustained_elapsed",
    "sm %": "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "warps %": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "registers": "launch__registers_per_thread",
}


class Figures:
    """What a stage found so far, in its file after every addition."""

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, {}

    def add(self, **figures: Any) -> None:
        self.found |= figures
        write_text_atomically(self.path, json.dumps(self.found, indent=1) + "\n")


def leave_out(why: str) -> None:
    print(why, flush=True)
    sys.exit(LEFT_OUT)


def run(command: Sequence[str | Path], seen: Callable[[], None] = lambda: None) -> str:
    """Run a command, its output on ours and returned; raises CalledProcessError when it fails.

    seen: called after each line and at the end, to take in what the command has written so far.
    """
    print("$", *command, flush=True)
    lines = []
    process = subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=ROOT,
    )
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
        seen()
    output, code = "".join(lines), process.wait()
    seen()
    if code:
        raise subprocess.CalledProcessError(code, [str(word) for word in command], output)
    return output


# build


def build_stage(given: argparse.Namespace, figures: Figures) -> None:
    """Facts of the device and its software; our kernels compiled for it, then found again."""
    figures.add(python=platform.python_version(), torch=torch.__version__, cpus=os.cpu_count(), cuda=torch.version.cuda)
    figures.add(packages={name: _version(name) for name in ("diffusers", "transformers", "numpy", "nerfacc", "gsplat")})
    if given.device == "cuda":
        facts = torch.cuda.get_device_properties(0)
        names = ("name", "major", "minor", "total_memory", "multi_processor_count", "L2_cache_size")
        figures.add(gpu={name: getattr(facts, name) for name in names})
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,clocks.max.mem,power.limit", "--format=csv"]
        figures.add(nvidia_smi=run(query).splitlines()[-1] if shutil.which("nvidia-smi") else "not installed")
        figures.add(nvcc=run([build.nvcc(), "--version"]).splitlines()[-1])
        architecture = f"sm_{facts.major}{facts.minor}"
        compile_library = [build.cached_cuda_library, [architecture]]
        was_there = (build._cache_folder(build._CUDA_PARTS) / build.library_name(f"cuda-{architecture}")).exists()
    else:
        compile_library, was_there = [build.cached_cpu_library], False
    seconds = []
    for _ in range(2):
        started = time.monotonic()
        library = compile_library[0](*compile_library[1:])
        seconds.append(time.monotonic() - started)
    figures.add(library=library.name, carried=was_there, build_seconds=seconds[0], found_seconds=seconds[1])
    if given.device == "cuda":
        started = time.monotonic()
        build.cached_cpu_library()  # now, and not in each of the processes that the next stage begins
        figures.add(cpu_build_seconds=time.monotonic() - started, why_not=cuda.why_not())
        assert not cuda.why_not(), cuda.why_not()
    name = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    figures.add(says=f"{name}, torch {torch.__version__}; kernels compiled in {seconds[0]:.1f} s")


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


# tests


def tests_stage(given: argparse.Namespace, figures: Figures) -> None:
    """Every test of the kernels, and of each failure the worst difference of its tensors."""
    if given.device == "cuda":
        run_tests(["tests/gpu"], TEST_PROCESSES, figures)
    else:
        few = ["-k", "(jitter or adamw) and 33"] if given.tiny else []
        run_tests(["tests/ops/test_cuda_emulation.py", *few], 1, figures)


def run_tests(chosen: Sequence[str], processes: int, figures: Figures) -> None:
    """Share tests among so many processes; what came of them is told while they run. Exits with 1 unless all passed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
    command += ["-p", "gpu_report", *chosen]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(processes) as pool:
        files = [Path(folder) / f"{number}.jsonl" for number in range(processes)]
        shares = [[f"--told={file}", "--share", str(n), str(processes)] for n, file in enumerate(files)]
        working = [pool.submit(_run_share, [*command, *share], file) for share, file in zip(shares, files, strict=True)]
        is_over = False
        while not is_over:
            is_over = not wait(working, timeout=1.0).not_done
            counted = count_tests(gpu_report.outcomes(files))
            figures.add(**counted)
    if not counted["passed"] or counted["unfinished"] or any(share.result() not in (0, 5) for share in working):
        sys.exit(1)


def _run_share(command: Sequence[str], file: Path) -> int:
    """One process after another, while each leaves tests that it could not run; returns the last one's status."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    while True:
        before = len(gpu_report.outcomes([file]))
        ended = subprocess.run(command, **output, cwd=ROOT, env=environment)
        print(ended.stdout[-5000:], flush=True)
        # 0, 1: it ran all of them; 5: there was none left
        if ended.returncode in (0, 1, 5) or len(gpu_report.outcomes([file])) == before:
            return ended.returncode


def count_tests(outcomes: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Counts, failures, and the tests that have begun and not ended: they run, or their process died of them."""
    tests: dict[str, list[str]] = {outcome: [] for outcome in ("passed", "failed", "skipped", "begun")}
    for test, found in outcomes.items():
        tests[found["outcome"]].append(test)
    failures = []
    for test in tests["failed"]:
        text = outcomes[test]["text"]
        worst = {kind: _worst(kind, text) for kind in ("absolute", "relative")}
        failures.append({"test": test.partition("::")[2], **worst, "message": text[-1500:]})
    counts = {outcome: len(tests[outcome]) for outcome in ("passed", "skipped")}
    says = f"{counts['passed']} passed, {len(failures)} failed, {counts['skipped']} skipped"
    says += f", {len(tests['begun'])} unfinished" if tests["begun"] else ""
    return {**counts, "failures": failures, "unfinished": tests["begun"], "says": says}


def _worst(kind: str, text: str) -> float | None:
    """The largest "absolute" or "relative" difference that torch.testing tells of."""
    return max(map(float, re.findall(rf"Greatest {kind} difference: ([\d.e+-]+|inf|nan)", text)), default=None)


# sanitize


def sanitize_stage(given: argparse.Namespace, figures: Figures) -> None:
    """Some tests under compute-sanitizer's tools, all at once."""
    if given.device != "cuda":
        leave_out("compute-sanitizer needs a GPU")
    if not shutil.which("compute-sanitizer"):
        leave_out("compute-sanitizer is not installed (it comes with the CUDA toolkit)")
    chosen = SANITIZED if not given.tiny else "jitter and 33"
    script = ["bash", str(ROOT / "tests/gpu/sanitize.sh"), chosen]
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        running = {}
        for tool in SANITIZERS:  # into files: one that waits for its pipe to be read would not end
            environment = {**os.environ, "PYTHON": sys.executable, "TOOLS": tool}
            with (Path(folder) / tool).open("w") as log:
                running[tool] = subprocess.Popen(script, stdout=log, stderr=subprocess.STDOUT, env=environment)
        while running:
            time.sleep(0.2)
            for tool in [tool for tool, process in running.items() if process.poll() is not None]:
                output = (Path(folder) / tool).read_text("utf-8", "replace")
                print(output[-6000:], flush=True)
                found[tool] = read_sanitizer(output) | {"status": running.pop(tool).returncode}
                figures.add(**found)
    figures.add(says=", ".join(f"{tool}: {one['errors']} errors" for tool, one in found.items()))
    if any(one["status"] for one in found.values()):
        sys.exit(1)


def read_sanitizer(output: str) -> dict[str, Any]:
    """What one of compute-sanitizer's tools has found."""
    errors = sum(map(int, re.findall(r"ERROR SUMMARY: (\d+) error", output)))
    errors += sum(map(int, re.findall(r"RACECHECK SUMMARY: (\d+) hazard", output)))
    tests = re.findall(r"(\d+ passed[^\n]*)", output)
    kinds = sorted(set(re.findall(r"========= ((?:Invalid|Uninitialized|Error|Warning|Race)[^\n]{0,100})", output)))
    return {"errors": errors, "tests": tests[-1:], "kinds": kinds[:10]}


# kernels


def kernels_stage(given: argparse.Namespace, figures: Figures) -> None:
    """Milliseconds against floors, the longest kernels, and what limits them."""
    options = ["--device", given.device, *(["--tiny"] if given.tiny else [])]
    with tempfile.TemporaryDirectory() as folder:

        def take_in() -> None:
            for path in Path(folder).glob("*.json"):
                measured = json.loads(path.read_text("utf-8"))
                figures.add(**measured, says=say_kernels({**figures.found, **measured}))

        without = ["--without", *given.without] if given.without else []
        run([sys.executable, HERE / "gpu.py", "--out", folder, *options, *without], take_in)
        run([sys.executable, HERE / "gpu.py", "--kernels", "--out", folder, *options], take_in)
    if given.device != "cuda" or not shutil.which("ncu"):
        print("ncu is not here: what limits the kernels is left out")
        return
    command = ["ncu", "--clock-control", "none", "--profile-from-start", "off", "--csv", "--target-processes", "all"]
    command += ["--metrics", ",".join(METRICS.values()), sys.executable, HERE / "gpu.py", "--once", *options]
    figures.add(limits=read_ncu(run(command))[:8])


def say_kernels(measured: dict[str, Any]) -> str:
    """The times that matter most, of as many as there are."""
    told = ("native", "native, graph", "native, unfused, graph", "nerfacc + tinycudann")
    rows = [row for row in measured.get("steps", []) if row["ops"] in told]
    says = [f"{row['grid'].split(',')[0]} {row['pixels']} px {row['ops']} {row['ms']:.2f} ms" for row in rows]
    splats = [row for row in measured.get("splats", []) if row["sh"] == 0]
    return "; ".join([*says, *(f"{row['ops']} splats {row['pixels']} px {row['ms']:.2f} ms" for row in splats)])


def read_ncu(output: str) -> list[dict[str, Any]]:
    """The kernels of ncu's table, longest first: milliseconds of all launches, the other metrics of the longest one."""
    lines = [line for line in output.splitlines() if line.startswith('"')]
    launches: dict[str, dict[str, Any]] = {}
    names = {metric: name for name, metric in METRICS.items()}
    for row in csv.DictReader(io.StringIO("\n".join(lines))):
        launch = launches.setdefault(row["ID"], {"kernel": row["Kernel Name"][:120], "grid": row["Grid Size"]})
        if row["Metric Name"] in names:
            value = float(row["Metric Value"].replace(",", ""))
            scale = {"ns": 1e-6, "nsecond": 1e-6, "us": 1e-3, "usecond": 1e-3}.get(row["Metric Unit"], 1.0)
            launch[names[row["Metric Name"]]] = value * scale
    return sorted(launches.values(), key=lambda launch: -launch.get("ms", 0.0))


# generate


def generate_stage(given: argparse.Namespace, figures: Figures) -> None:
    """The main job with the bundled prior, and its quality on held-out captions against the truth."""
    device = f"runtime.device={given.device}"
    small = ["steps=2", "camera.resolution=16", "camera.coarse_resolution=16", "views.num_inference_steps=2"]
    small += ["refine.sets=1", "refine.num_inference_steps=2", "refine.steps=2"]
    small += ["export.resolution=16", "export.texture_size=64", "export.turntable_frames=2", "export.image_size=32"]
    with tempfile.TemporaryDirectory() as folder:
        common = [f"output_root={folder}", device, *(small if given.tiny else [])]
        started = time.monotonic()
        recipe = ["--config", "mvdream-mini.yaml", "prompt=a red cat with a green face"]
        run([sys.executable, ROOT / "launch.py", *recipe, *common])
        seconds = time.monotonic() - started
        events = [json.loads(line) for path in Path(folder).rglob("events.jsonl") for line in path.open()]
        timing = next(event for event in events if event.get("kind", event.get("event")) == "timing")
        figures.add(command_seconds=seconds, timing=timing)
        first = f"{seconds:.0f} s from the command to files"
        figures.add(says=first)

        def take_in() -> None:
            files = sorted(Path(folder).rglob("score.json"))
            if len(files) > len(figures.found.get("scores", [])):
                scores = [json.loads(path.read_text("utf-8")) for path in files]
                means = {
                    key: sum(one[key] for one in scores) / len(scores) for key in ("psnr", "ssim", "iou", "seconds")
                }
                says = f"{first}; {len(scores)} captions: {means['psnr']:.2f} dB, IoU {means['iou']:.3f}"
                figures.add(scores=scores, means=means, says=says)

        recipe = ["--config", "eval-mini.yaml", "eval.views=[4]", f"eval.prompts={1 if given.tiny else 12}"]
        recipe += ["eval.image_size=16"] if given.tiny else ["eval.workers=6", "runtime.threads=2"]
        run([sys.executable, ROOT / "launch.py", *recipe, *common], take_in)


# distill


def distill_stage(given: argparse.Namespace, figures: Figures) -> None:
    """Score distillation with random weights of the real shapes, see `full_size_gpu.py`."""
    import full_size_gpu

    full_size_gpu.measure(given.device, given.tiny, figures.add)


# train


def train_stage(given: argparse.Namespace, figures: Figures) -> None:
    """The mini prior, trained on from its bundled weights until the time is up; the weights stay beside the figures.

    First without a step: miniworld's pictures are drawn, the fewer the less time there is, and kept for the training.
    """
    started = time.monotonic()
    pictures = 2 if given.tiny else min(12000, int(20 * given.seconds))
    settings = ["train.start_from=mini", f"runtime.device={given.device}", f"train.render_workers={os.cpu_count()}"]
    settings += [f"train.num_objects={pictures}", f"train.num_patterned_images={pictures}"]
    if given.tiny:
        settings += ["train.batch_objects=1", "views.num_inference_steps=2"]
    else:
        settings += ["train.precision=bfloat16", "train.sample_every=100000"]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            ROOT / "launch.py",
            "--config",
            "train-mini.yaml",
            f"output_root={folder}",
            *settings,
        ]
        run([*command, "train.steps=0"])
        seconds = time.monotonic() - started
        figures.add(pictures=2 * pictures, begin_seconds=seconds)
        shutil.rmtree(Path(folder) / "train-mini")
        # the training begins as the command before it did, but for the pictures
        left = 1.2 if given.tiny else given.seconds - seconds - TO_BEGIN_AND_END
        if left <= 0:
            leave_out(f"drawing pictures took {seconds:.0f} of {given.seconds:.0f} s: there is no time left to train")

        def take_in() -> None:
            lines = [line for path in Path(folder).rglob("events.jsonl") for line in path.open() if line.endswith("\n")]
            steps = [event for event in map(json.loads, lines) if event["event"] == "step"]
            if steps:
                figures.add(steps=steps[-20:], says=f"{steps[-1]['images_per_second']:.0f} pictures/s")

        run([*command, f"train.minutes={left / 60:.3f}"], take_in)
        (prior,) = Path(folder).glob("train-mini/*/prior")
        kept = given.out.parent / "train-prior"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(prior, kept)
        for sheet in Path(folder).rglob("samples/final.png"):
            shutil.copy(sheet, kept.with_name("train-samples.png"))


def prebuild_stage(given: argparse.Namespace, figures: Figures) -> None:
    """Import a package that compiles itself; its name stands where the result file's would."""
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "{}.{}".format(*torch.cuda.get_device_capability()))
    os.environ.setdefault("MAX_JOBS", str(max(1, (os.cpu_count() or 2) // 2)))
    __import__(f"{given.out}.cuda._backend")


STAGES = {
    "build": build_stage,
    "tests": tests_stage,
    "sanitize": sanitize_stage,
    "kernels": kernels_stage,
    "generate": generate_stage,
    "distill": distill_stage,
    "train": train_stage,
    "prebuild": prebuild_stage,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--without", nargs="*", default=[])
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("torch sees no CUDA device; try the stages with --device cpu --tiny", flush=True)
        sys.exit(3)
    try:
        STAGES[given.stage](given, Figures(given.out))
    except subprocess.CalledProcessError as error:
        last = next((line for line in reversed((error.output or "").splitlines()) if line.strip()), "")
        print(f"{Path(error.cmd[1]).name} ended with status {error.returncode}: {last}", flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
