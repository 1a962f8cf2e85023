"""Compiles `cuda_ext/` into shared libraries: on installation, or at first use into a cache.

Needs a C++ compiler and ninja, for CUDA nvcc, but neither torch nor this package: `setup.py` loads this file by its
path, and `python threedgen/ops/native/build.py --check-cuda` compiles the CUDA kernels where there is no GPU.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

NATIVE = "native"  # the SIMD level of the machine that compiles
# the levels that an installed package holds side by side; the best that the machine can run is loaded
LEVELS = ("x86-64-v4", "x86-64-v3", "x86-64-v2") if platform.machine() in ("x86_64", "AMD64") else (NATIVE,)
_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-pthread"]
_FLAGS += ["-Wall", "-Wextra", "-Wno-psabi"]
_NVCC_FLAGS = ["-std=c++17", "-O3", "-Werror=all-warnings", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall"]
_CUDA_FOLDER = "/usr/local/cuda"  # where the toolkit is installed unless it says otherwise
_CPU_PARTS = ("include", "cpu")  # of the sources: what the libraries are made of
_CUDA_PARTS = ("include", "cuda", "emu", "cpu/api.h")
CHECKED_ARCHITECTURES = ("sm_80", "sm_90")  # A100, H100 and H200


class BuildError(Exception):
    """There is no compiler, or it refused; the message says which."""


def source_folder() -> Path:
    """`cuda_ext/`, at the top of the repository or inside an installed package."""
    here = Path(__file__).resolve()
    for folder in (here.parents[3] / "cuda_ext", here.parents[2] / "cuda_ext"):
        if folder.is_dir():
            return folder
    raise BuildError("the sources of the kernels (cuda_ext/) are not there")


def library_name(level: str) -> str:
    return f"libthreedgen-{level}.so"


def build_cpu_library(level: str, into: Path) -> Path:
    """Compile the CPU kernels for one SIMD level; takes seconds. Raises BuildError."""
    compiler = _cpp_compiler()
    command = [*compiler, *_FLAGS, f"-march={level}"]
    return _library(into / library_name(level), command, [*compiler, "-shared", "-pthread"], "cpu/*.cpp")


def build_cuda_library(architectures: Sequence[str], into: Path) -> Path:
    """Compile the CUDA kernels for GPUs of these architectures ("sm_90", ...). Raises BuildError."""
    targets = [f"-gencode=arch={name.replace('sm_', 'compute_')},code={name}" for name in architectures]
    name = library_name("-".join(["cuda", *architectures]))
    return _library(into / name, [nvcc(), *_NVCC_FLAGS, *targets], [nvcc(), "-shared", *targets], "cuda/*.cu")


def build_emulated_cuda_library(into: Path) -> Path:
    """Compile the CUDA kernels for their emulation on a CPU (`cuda_ext/emu`). Raises BuildError."""
    compiler = _cpp_compiler()
    command = [*compiler, *_FLAGS, "-O1", "-x", "c++"]  # compiled in a third of the time; nobody waits for the results
    return _library(into / library_name("cuda-emulated"), command, [*compiler, "-shared"], "cuda/*.cu")


def cached_cpu_library(level: str = NATIVE) -> Path:
    """The library for this machine from the user's cache, compiled if these very sources were not yet.

    Raises BuildError.
    """
    return _cached(_CPU_PARTS, library_name(level), lambda folder: build_cpu_library(level, folder))


def cached_cuda_library(architectures: Sequence[str]) -> Path:
    """The same for GPUs of these architectures."""
    name = library_name("-".join(["cuda", *architectures]))
    return _cached(_CUDA_PARTS, name, lambda folder: build_cuda_library(architectures, folder))


def cached_emulated_cuda_library() -> Path:
    """The same for the emulation."""
    return _cached(_CUDA_PARTS, library_name("cuda-emulated"), build_emulated_cuda_library)


def _cached(parts: Sequence[str], name: str, build: Callable[[Path], Path]) -> Path:
    try:
        library = _cache_folder(parts) / name
        return library if library.is_file() else build(library.parent)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder at all
        reason = getattr(error, "strerror", None) or "no home folder is known"
        raise BuildError(f"the kernels cannot be kept ({reason}): set XDG_CACHE_HOME to a folder for them") from error


def _cache_folder(parts: Sequence[str]) -> Path:
    """Of the user, for these parts of the sources as they are now.

    What is compiled for `native` belongs to this very processor. The CUDA library and its emulation run on any of the
    same kind, so a cache can be carried from the machine that compiled it to one that has a GPU.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "threedgen" / "kernels"
    compiled_for = f"{platform.machine()} {_cpu_model() if parts is _CPU_PARTS else ''}"
    return cache / _fingerprint([source_folder() / part for part in parts], compiled_for)


def _cpp_compiler() -> list[str]:
    """The command, which may have arguments of its own (CXX="ccache g++")."""
    compiler = shlex.split(os.environ.get("CXX", "")) or [shutil.which("g++") or shutil.which("clang++") or ""]
    if compiler == [""]:
        raise BuildError("no C++ compiler (g++ or clang++) is installed: install one, or a wheel that brings kernels")
    return compiler


def nvcc() -> str:
    """The CUDA compiler. Raises BuildError if there is none."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    for folder in [*homes, _CUDA_FOLDER]:
        if compiler := shutil.which("nvcc", path=os.path.join(folder, "bin")):
            return compiler
    if compiler := shutil.which("nvcc"):
        return compiler
    raise BuildError("nvcc is not installed")


def _library(target: Path, compile_command: list[str], link_command: list[str], pattern: str) -> Path:
    """Compile and link the sources that match `pattern`, in a folder that vanishes; only `target` stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        os.replace(_ninja(Path(folder), compile_command, link_command, pattern), target)  # nobody sees half a library
    return target


def _ninja(folder: Path, compile_command: list[str], link_command: list[str], pattern: str) -> Path:
    """Write a build.ninja for every source that matches `pattern` and run it; returns the library."""
    compile_command = [*compile_command, f"-I{source_folder() / 'include'}"]
    rules = [
        f"rule compile\n  command = {shlex.join(compile_command).replace('$', '$$')} -c $in -o $out",
        f"rule link\n  command = {shlex.join(link_command).replace('$', '$$')} $in -o $out",
    ]
    objects = []
    for source in sorted(source_folder().glob(pattern)):
        objects.append(f"{source.stem}.o")
        rules.append(f"build {objects[-1]}: compile {_escaped(source)}")
    rules.append(f"build library.so: link {' '.join(objects)}")
    (folder / "build.ninja").write_text("\n".join([*rules, ""]))
    run = subprocess.run([*_ninja_command(), "-C", str(folder)], capture_output=True, text=True)
    if run.returncode != 0:
        raise BuildError(f"{compile_command[0]} could not compile the kernels:\n{run.stdout}{run.stderr}")
    return folder / "library.so"


def _ninja_command() -> list[str]:
    if shutil.which("ninja"):
        return ["ninja"]
    if subprocess.run([sys.executable, "-c", "import ninja"], capture_output=True).returncode == 0:
        return [sys.executable, "-m", "ninja"]
    raise BuildError("ninja is not installed (pip install ninja)")


def _escaped(path: Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def _fingerprint(sources: Sequence[Path], compiled_for: str) -> str:
    """Changes with every byte of the sources, with this file, and with the processors that they are compiled for."""
    digest = hashlib.sha256(compiled_for.encode())
    files = [path for source in sources for path in (source, *sorted(source.rglob("*"))) if path.is_file()]
    for path in (Path(__file__), *files):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("flags")), platform.processor())


class KernelReport(NamedTuple):
    """What the compiler says of one CUDA kernel on one architecture."""

    file: str
    kernel: str  # with its template arguments
    architecture: str
    registers: int  # of each thread
    spilled: int  # bytes that did not fit into them, written and read back


def cuda_reports(architectures: Sequence[str] = CHECKED_ARCHITECTURES) -> list[KernelReport]:
    """Compile every CUDA kernel to machine code, which needs no GPU. Raises BuildError, with nvcc's words."""
    compiler = nvcc()
    sources = sorted(source_folder().glob("cuda/*.cu"))
    jobs = [(compiler, source, architecture) for source in sources for architecture in architectures]
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        outputs = list(pool.map(lambda job: _compile_to_cubin(*job), jobs))
    return _read_reports([(source.name, architecture) for _, source, architecture in jobs], outputs)


def _compile_to_cubin(compiler: str, source: Path, architecture: str) -> str:
    """What `ptxas -v` printed; kept in the cache, so that the same source is compiled once."""
    kept = _cache_folder(_CUDA_PARTS) / f"{source.stem}-{architecture}.txt"
    if kept.is_file():
        return kept.read_text()
    kept.parent.mkdir(parents=True, exist_ok=True)
    command = [compiler, *_NVCC_FLAGS, "-Xptxas=-v", f"-I{source_folder() / 'include'}"]
    command += ["-cubin", f"-arch={architecture}"]
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        run = subprocess.run([*command, "-o", f"{folder}/cubin", str(source)], capture_output=True, text=True)
        if run.returncode != 0:
            raise BuildError(f"{source.name} does not compile for {architecture}:\n{run.stdout}{run.stderr}")
        output = Path(folder) / "report"
        output.write_text(run.stdout + run.stderr)
        os.replace(output, kept)
    return kept.read_text()


def _read_reports(jobs: list[tuple[str, str]], outputs: list[str]) -> list[KernelReport]:
    spills = r"(\d+) bytes spill stores, (\d+) bytes spill loads"
    entry = re.compile(rf"Compiling entry function '(\w+)'.*?{spills}.*?Used (\d+) registers", re.DOTALL)
    found = [(job, entry.findall(output)) for job, output in zip(jobs, outputs, strict=True)]
    names = _plain_names([name for _, kernels in found for name, *_ in kernels])
    return [
        KernelReport(file, names[name], architecture, int(registers), int(stores) + int(loads))
        for (file, architecture), kernels in found
        for name, stores, loads, registers in kernels
    ]


def _plain_names(mangled: list[str]) -> dict[str, str]:
    """`encode<float, 2, false>` for a kernel's mangled name; the mangled name where c++filt is not installed."""
    if not shutil.which("c++filt"):
        return {name: name for name in mangled}
    run = subprocess.run(["c++filt"], input="\n".join(mangled), capture_output=True, text=True)
    plain = [line.removeprefix("void ").replace("(anonymous namespace)::", "") for line in run.stdout.splitlines()]
    return {name: line.partition("(")[0] for name, line in zip(mangled, plain, strict=True)}


def check_cuda() -> int:
    """Print registers and spills of every CUDA kernel; returns 0 if all compile without a spill, or nvcc is missing."""
    try:
        nvcc()
    except BuildError as error:
        print(f"skipped: {error}")
        return 0
    try:
        reports = cuda_reports()
    except BuildError as error:
        print(error)
        return 1
    print(f"{'file':14} {'kernel':40} " + " ".join(f"{name:>5}" for name in CHECKED_ARCHITECTURES) + "   (registers)")
    for file, kernel in dict.fromkeys((r.file, r.kernel) for r in reports):
        found = {r.architecture: r.registers for r in reports if (r.file, r.kernel) == (file, kernel)}
        print(f"{file:14} {kernel:40} " + " ".join(f"{found[name]:5}" for name in CHECKED_ARCHITECTURES))
    spills = [r for r in reports if r.spilled]
    for r in spills:
        print(f"error: {r.file}: {r.kernel} spills {r.spilled} bytes on {r.architecture}")
    return 1 if spills or not reports else 0


if __name__ == "__main__":
    if sys.argv[1:] != ["--check-cuda"]:
        sys.exit("usage: build.py --check-cuda")
    sys.exit(check_cuda())
