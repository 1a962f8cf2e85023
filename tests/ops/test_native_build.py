"""The kernels are compiled when they are needed, once for the same sources, and their absence is told."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from threedgen.config.scene import BackendName
from threedgen.core.errors import ConfigError
from threedgen.ops import backends, native
from threedgen.ops.native import build, library

ROOT = Path(__file__).resolve().parents[2]
needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler is installed")


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A copy of the kernels' folder reduced to one small file, and an empty cache."""
    folder = tmp_path / "cuda ext"  # with a space
    (folder / "cpu").mkdir(parents=True)
    shutil.copytree(build.source_folder() / "include", folder / "include")
    for name in ("adamw.cpp", "api.h", "parallel.h", "parallel.cpp"):
        shutil.copy(build.source_folder() / "cpu" / name, folder / "cpu")
    monkeypatch.setattr(build, "source_folder", lambda: folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@needs_compiler
def test_compiles_once_and_again_when_a_source_changes(sources):
    first = build.cached_cpu_library()
    assert ctypes.CDLL(str(first)).tg_adamw_f32
    written = first.stat().st_mtime_ns
    assert build.cached_cpu_library() == first and first.stat().st_mtime_ns == written
    header = sources / "include/threedgen/lane.h"
    header.write_text(header.read_text() + "// changed\n")
    second = build.cached_cpu_library()
    assert second != first and second.is_file()
    assert [p.name for p in first.parent.iterdir()] == [first.name]  # nothing half-made is left


def test_only_what_is_compiled_for_this_processor_stays_on_it(monkeypatch):
    """The CUDA library is found on another machine that its cache was carried to."""
    parts = build._CPU_PARTS, build._CUDA_PARTS
    here = [build._cache_folder(part) for part in parts]
    monkeypatch.setattr(build, "_cpu_model", lambda: "another processor")
    there = [build._cache_folder(part) for part in parts]
    assert here[0] != there[0] and here[1] == there[1]


@needs_compiler
def test_a_refusing_compiler_is_quoted_and_leaves_nothing(sources):
    (sources / "cpu/adamw.cpp").write_text("this is no C++\n")
    with pytest.raises(build.BuildError, match="no C\\+\\+"):
        build.cached_cpu_library()
    assert not list((sources.parent / "cache").rglob("*.so"))


def test_without_a_compiler(sources, monkeypatch):
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(build.BuildError, match="no C\\+\\+ compiler"):
        build.cached_cpu_library()


def test_without_a_folder_to_keep_them_in_it_is_said_what_to_do(sources, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in which no folder can be made")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(build.BuildError, match=r"cannot be kept \(Not a directory\): set XDG_CACHE_HOME"):
        build.cached_cpu_library()
    monkeypatch.delenv("XDG_CACHE_HOME")

    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(build.Path, "home", unknown)
    with pytest.raises(build.BuildError, match="no home folder is known"):
        build.cached_cpu_library()


def test_without_kernels_auto_says_so_and_native_refuses(monkeypatch, capsys):
    monkeypatch.setattr(library, "_load", lambda: (None, "no C++ compiler (g++ or clang++) is installed"))
    assert backends.select_backend(BackendName.auto).name == "plain"
    assert "note: rendering in plain torch" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"scene\.backend=native is not available: no C"):
        backends.select_backend(BackendName.native)
    with pytest.raises(ConfigError, match="no C"):
        native.march(*_one_ray())


def _one_ray():
    import torch

    return torch.zeros(1, 3), torch.eye(3)[:1], torch.ones(2, 2, 2, dtype=torch.bool), 1.0, 0.1


@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif(len(build.LEVELS) < 2, reason="one SIMD level on this kind of machine")
def test_the_package_brings_libraries_and_sources(tmp_path):
    """A wheel, of one platform and for every Python, holds the library of each SIMD level and what others compile."""
    command = [sys.executable, "setup.py", "-q", "build", "--build-base", str(tmp_path), "bdist_wheel"]
    command += ["--bdist-dir", str(tmp_path / "made"), "--dist-dir", str(tmp_path / "dist")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (wheel,) = (tmp_path / "dist").iterdir()
    assert re.fullmatch(r"threedgen-[\d.]+-py3-none-linux_\w+\.whl", wheel.name)
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    package = tmp_path / "installed/threedgen"
    libraries = {path.name: path for path in (package / "ops/native").glob("*.so")}
    assert set(libraries) == {build.library_name(level) for level in build.LEVELS}
    assert ctypes.CDLL(str(libraries[build.library_name("x86-64-v2")])).tg_adamw_f32
    assert (package / "cuda_ext/cpu/march.cpp").is_file()
    assert (package / "cuda_ext/include/threedgen/lane.h").is_file()
    assert (package / "configs/mvdream-mini.yaml").is_file() and (package / "custom_prompts/demo.txt").is_file()
    (about,) = tmp_path.glob("installed/*.dist-info/METADATA")
    assert "License: Apache-2.0" in about.read_text() and list(about.parent.rglob("LICENSE"))

    # installed, without a home: it says its own name, finds its prompt files, and uses the kernels that it brings
    program = "import sys; sys.argv[0] = '/usr/bin/threedgen'; from threedgen.runs.batch import read_prompts; "
    program += "from threedgen.ops.native import library; from threedgen import cli; cli.main(['--help']); "
    program += "print(len(read_prompts('custom_prompts/demo.txt')), 'prompts', repr(library.why_not()))"
    (tmp_path / "empty").mkdir()
    (tmp_path / "no-home").write_text("a file, in which no folder can be made")
    home = {"HOME": str(tmp_path / "no-home"), "PYTHONPATH": str(package.parent), "CXX": "/nowhere/g++"}
    environment = {k: v for k, v in os.environ.items() if k != "XDG_CACHE_HOME"} | home
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path / "empty", env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0 and run.stderr == "", run.stderr
    assert "usage: threedgen [--config" in run.stdout and "launch.py" not in run.stdout
    assert "mvdream-mini.yaml" in run.stdout and run.stdout.splitlines()[-1].endswith("prompts ''")
