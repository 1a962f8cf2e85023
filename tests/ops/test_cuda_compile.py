"""The CUDA kernels become machine code for the GPUs that are promised, without a GPU and without a spill."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from threedgen.ops.native import build

WIDE_IN_FLOAT64 = [("project_backward", ""), ("harmonics_backward", ", 16")]
SOURCES = sorted(path.name for path in build.source_folder().glob("cuda/*.cu"))


@pytest.fixture(scope="module")
def compiler():
    try:
        return build.nvcc()
    except build.BuildError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_every_kernel_compiles_without_spills(compiler):
    reports = build.cuda_reports()
    for architecture in build.CHECKED_ARCHITECTURES:
        kernels = {(r.file, r.kernel) for r in reports if r.architecture == architecture}
        assert {file for file, _ in kernels} == {name for name in SOURCES if name != "library.cu"}
        assert len(kernels) > 50
    assert [r for r in reports if r.spilled] == []
    # two blocks of 256 threads fit into the 65,536 registers of a multiprocessor; of 128 threads that keep the sums of
    # all weights three do; those of 128 threads that have still more only check gradients
    fused = [r for r in reports if r.file == "evaluate_backward.cu"]
    assert max(r.registers for r in fused) <= 168
    wide = {(r.file, r.kernel) for r in reports if r.registers > 128 and r not in fused}
    assert wide <= {("splats_project.cu", f"{k}<double{n}>") for k, n in WIDE_IN_FLOAT64}


def ptx_of(compiler, name, architecture, folder):
    source, include = build.source_folder() / "cuda" / f"{name}.cu", build.source_folder() / "include"
    target = folder / f"{name}.ptx"
    command = [compiler, "-std=c++17", f"-I{include}", "-ptx", f"-arch={architecture}", "-o", str(target), str(source)]
    subprocess.run(command, check=True)
    return target.read_text()


def test_table_gradients_use_vector_atomics_where_the_gpu_has_them(compiler, tmp_path):
    text = ptx_of(compiler, "hash_grid", "sm_90", tmp_path)
    assert set(re.findall(r"red\.relaxed\.gpu\.global\.add\.(v\d)\.f32", text)) == {"v2", "v4"}


@pytest.mark.slow
def test_the_fused_field_multiplies_on_tensor_cores(compiler, tmp_path):
    for name, architecture, adds in (("evaluate", "sm_80", set()), ("evaluate_backward", "sm_90", {"v2"})):
        text = ptx_of(compiler, name, architecture, tmp_path)
        assert "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32" in text
        assert set(re.findall(r"red\.relaxed\.gpu\.global\.add\.(v\d)\.f32", text)) == adds


SPILLING = """
__global__ void __launch_bounds__(1024, 2) spilling(float* x) {
    float kept[200];
    for (int i = 0; i < 200; ++i) kept[i] = x[i * 1024 + threadIdx.x];
    __syncthreads();
    for (int i = 0; i < 200; ++i) x[(199 - i) * 1024 + threadIdx.x] = kept[i] * kept[(i * 7) % 200];
}
"""


@pytest.mark.parametrize(
    ("source", "complaint"),
    [(SPILLING, "broken.cu: spilling spills"), ("int x = 1;\n#error out of order\n", "out of order"), ("", None)],
)
def test_the_check_fails_on_spills_and_errors(compiler, tmp_path, monkeypatch, capsys, source, complaint):
    """With a folder of sources of its own; an empty one is a failure too, for then nothing was checked."""
    (tmp_path / "cuda").mkdir()
    (tmp_path / "cuda" / "broken.cu").write_text(source)
    monkeypatch.setattr(build, "source_folder", lambda: tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert build.check_cuda() == 1
    assert complaint is None or complaint in capsys.readouterr().out


def test_without_nvcc_the_check_is_skipped_in_one_line(tmp_path):
    script = Path(build.__file__).read_text("utf-8").replace(build._CUDA_FOLDER, str(tmp_path))
    (tmp_path / "build.py").write_text(script)
    run = subprocess.run(
        [sys.executable, str(tmp_path / "build.py"), "--check-cuda"], env={"PATH": ""}, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "skipped: nvcc is not installed\n", "")
