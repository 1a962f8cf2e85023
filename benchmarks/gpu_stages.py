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
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from threedgen.core.files import write_text_atomically
from threedgen.ops.native import build, cuda

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LEFT_OUT = 77  # as in on_gpu.py
SANITIZERS = ("memcheck", "racecheck", "initcheck")
# one size of each kernel: the tools slow everything down a hundredfold
SANITIZED = "(test_march or composite_with or test_hash_grid or slopes or activation or refresh or jitter or adamw"
SANITIZED += " or test_forward or test_gradients)"
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


def run(command: Sequence[str | Path], **environment: str) -> str:
    """Run a command, its output on ours and returned; raises CalledProcessError when it fails."""
    print("$", *command, flush=True)
    lines = []
    process = subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    output = "".join(lines)
    if code := process.wait():
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
        figures.add(why_not=cuda.why_not())
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
    chosen = ["tests/gpu"] if given.device == "cuda" else ["tests/ops/test_cuda_emulation.py"]
    if given.tiny:
        chosen += ["-k", "(jitter or adamw) and 33"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *chosen]
        failed = False
        try:
            run(command)
        except subprocess.CalledProcessError:
            failed = True
        if not report.exists():
            raise RuntimeError("pytest wrote no report")
        counted = read_report(report.read_text("utf-8"))
    figures.add(**counted)
    figures.add(says=f"{counted['passed']} passed, {len(counted['failures'])} failed, {counted['skipped']} skipped")
    if failed:
        sys.exit(1)


def read_report(xml: str) -> dict[str, Any]:
    """Counts and failures of pytest's JUnit report."""
    passed, skipped, failures = 0, 0, []
    for case in ElementTree.fromstring(xml).iter("testcase"):
        problem = next((child for child in case if child.tag in ("failure", "error")), None)
        if problem is not None:
            text = f"{problem.get('message') or ''}\n{problem.text or ''}"
            worst = {kind: _worst(kind, text) for kind in ("absolute", "relative")}
            failures.append({"test": case.get("name"), **worst, "message": (problem.get("message") or "")[:500]})
        elif any(child.tag == "skipped" for child in case):
            skipped += 1
        else:
            passed += 1
    return {"passed": passed, "skipped": skipped, "failures": failures}


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
    chosen = f"{SANITIZED} and 33" if not given.tiny else "jitter and 33"
    environment = {**os.environ, "PYTHON": sys.executable}
    running = {
        tool: subprocess.Popen(
            ["bash", str(ROOT / "tests/gpu/sanitize.sh"), chosen],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**environment, "TOOLS": tool},
        )
        for tool in SANITIZERS
    }
    found = {}
    for tool, process in running.items():
        output = process.communicate()[0]
        print(output[-6000:], flush=True)
        errors = sum(map(int, re.findall(r"ERROR SUMMARY: (\d+) error", output)))
        errors += sum(map(int, re.findall(r"RACECHECK SUMMARY: (\d+) hazard", output)))
        tests = re.findall(r"(\d+ passed[^\n]*)", output)
        kinds = sorted(set(re.findall(r"========= ((?:Invalid|Uninitialized|Error|Warning|Race)[^\n]{0,100})", output)))
        found[tool] = {"errors": errors, "status": process.returncode, "tests": tests[-1:], "kinds": kinds[:10]}
        figures.add(**found)
    figures.add(says=", ".join(f"{tool}: {one['errors']} errors" for tool, one in found.items()))
    if any(one["status"] for one in found.values()):
        sys.exit(1)


# kernels


def kernels_stage(given: argparse.Namespace, figures: Figures) -> None:
    """Milliseconds against floors, the longest kernels, and what limits them."""
    options = ["--device", given.device, *(["--tiny"] if given.tiny else [])]
    with tempfile.TemporaryDirectory() as folder:
        without = ["--without", *given.without] if given.without else []
        run([sys.executable, HERE / "gpu.py", "--out", folder, *options, *without])
        (result,) = Path(folder).glob("*.json")
        measured = json.loads(result.read_text("utf-8"))
        figures.add(**measured)
        told = ("native", "native, graph", "native, unfused, graph", "nerfacc + tinycudann")
        rows = [row for row in measured["steps"] if row["ops"] in told]
        says = [f"{row['grid'].split(',')[0]} {row['pixels']} px {row['ops']} {row['ms']:.2f} ms" for row in rows]
        splats = [row for row in measured["splats"] if row["sh"] == 0]
        says += [f"{row['ops']} splats {row['pixels']} px {row['ms']:.2f} ms" for row in splats]
        figures.add(says="; ".join(says))
        result.unlink()
        run([sys.executable, HERE / "gpu.py", "--kernels", "--out", folder, *options])
        figures.add(kernels=json.loads((Path(folder) / "kernels.json").read_text("utf-8"))["kernels"])
    if given.device != "cuda" or not shutil.which("ncu"):
        print("ncu is not here: what limits the kernels is left out")
        return
    command = ["ncu", "--clock-control", "none", "--profile-from-start", "off", "--csv", "--target-processes", "all"]
    command += ["--metrics", ",".join(METRICS.values()), sys.executable, HERE / "gpu.py", "--once", *options]
    figures.add(limits=read_ncu(run(command))[:8])


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
        figures.add(says=f"{seconds:.0f} s from the command to files")
        recipe = ["--config", "eval-mini.yaml", "eval.views=[4]", f"eval.prompts={1 if given.tiny else 12}"]
        recipe += ["eval.image_size=16"] if given.tiny else ["eval.workers=6", "num_threads=2"]
        run([sys.executable, ROOT / "launch.py", *recipe, *common])
        scores = [json.loads(path.read_text("utf-8")) for path in sorted(Path(folder).rglob("score.json"))]
    means = {key: sum(score[key] for score in scores) / len(scores) for key in ("psnr", "ssim", "iou", "seconds")}
    figures.add(scores=scores, means=means)
    figures.add(
        says=f"{seconds:.0f} s from the command to files; {len(scores)} captions: {means['psnr']:.2f} dB, "
        f"IoU {means['iou']:.3f}"
    )


# distill


def distill_stage(given: argparse.Namespace, figures: Figures) -> None:
    """Score distillation with random weights of the real shapes, see `full_size_gpu.py`."""
    import full_size_gpu

    full_size_gpu.measure(given.device, given.tiny, figures.add)


# train


def train_stage(given: argparse.Namespace, figures: Figures) -> None:
    """The mini prior, trained on from its bundled weights until the time is up; the weights stay beside the figures."""
    minutes = max(0.02, (given.seconds - 60) / 60) if not given.tiny else 0.02
    settings = ["train.start_from=mini", f"train.minutes={minutes:.3f}", f"runtime.device={given.device}"]
    settings += [f"train.render_workers={os.cpu_count()}"]
    if given.tiny:
        settings += ["train.num_objects=2", "train.num_patterned_images=2", "train.batch_objects=1"]
        settings += ["views.num_inference_steps=2"]
    else:
        settings += ["train.precision=bfloat16", "train.sample_every=100000"]
    with tempfile.TemporaryDirectory() as folder:
        run(
            [sys.executable, ROOT / "launch.py", "--config", "train-mini.yaml", f"output_root={folder}", *settings],
        )
        events = [json.loads(line) for path in Path(folder).rglob("events.jsonl") for line in path.open()]
        steps = [event for event in events if event.get("kind", event.get("event")) == "step"]
        figures.add(steps=steps[-20:], says=f"{steps[-1]['images_per_second']:.0f} pictures/s")
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
