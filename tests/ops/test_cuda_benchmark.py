"""The parts of benchmarks/gpu.py that need no GPU."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from threedgen.cameras import orbit
from threedgen.config.scene import BackendName, GridConfig
from threedgen.ops.backends import select_backend
from threedgen.ops.grid import HashGrid

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def benchmark(load_benchmark):
    return load_benchmark("gpu")


def test_floors_counted_by_hand(benchmark):
    """One level of one feature, 8 vertices, a network of 6 products, 1000 samples."""
    grid = HashGrid.from_config(GridConfig(1, 1, 4, 2, 2))
    rates = benchmark.Rates(memory_bytes=1e9, matrix_flops=1e9, l2_bytes=1e9, l2_atomics=1e9)
    found = benchmark.floor_ms(rates, grid, [1, 2, 2], 1000)
    sectors = 1000 * 4 * 1.125  # 4 pairs of 8 bytes, of which each eighth touches two sectors
    expected = {"encode": sectors * 32e-6, "network": 1000 * 6 * 6e-6, "scatter": sectors * 1e-6, "adamw": 32 * 14e-6}
    assert found == pytest.approx({**expected, "total": sum(expected.values())})


@pytest.mark.parametrize(("num_samples", "total"), [(524_288, 0.62), (8_388_608, 8.5)])
def test_floors_of_the_papers_grid_on_an_h200(benchmark, num_samples, total):
    """The study's own count for this GPU, which the script's text states."""
    grid = HashGrid.from_config(GridConfig())
    rates = benchmark.Rates(4.3e12, 790e12, l2_bytes=5.5e12, l2_atomics=168e9)
    assert benchmark.floor_ms(rates, grid, [32, 64, 64, 16], num_samples)["total"] == pytest.approx(total, rel=0.05)


def test_the_step_learns_from_32_samples_a_ray(benchmark):
    ops = select_backend(BackendName.plain)
    step = benchmark.Step(GridConfig(2, 2, 10, 4, 16), 16, 4, ops, "cpu")
    assert step.num_samples == pytest.approx(32 * 64, rel=0.05)
    before = [param.detach().clone() for param in step.params]
    step.learn(ops.march(*step.marching), ops)
    assert all(not torch.equal(param, old) for param, old in zip(step.params, before, strict=True))


def test_the_table(benchmark):
    row = {"grid": "paper", "pixels": 64, "ops": "native", "samples": 500_000, "ms": 2.0, "floor_ms": 0.5}
    header, line = benchmark.table([row]).splitlines()
    assert header.split() == ["grid", "pixels", "ops", "ms", "M", "samples/s", "floor", "ms", "ratio"]
    assert line.split() == ["paper", "4x64^2", "native", "2.000", "250", "0.500", "4.0"]


def test_each_variant_of_our_kernels_is_timed_alone_and_as_a_graph(benchmark, monkeypatch):
    """With stand-ins for a GPU's clock and for its graphs: what is timed is what the row says."""
    field = benchmark.cuda_field
    usual = field.GATHERED_BYTES, field.is_fused
    monkeypatch.setattr(benchmark, "median_ms", lambda run: run())
    settings = lambda: (field.GATHERED_BYTES, field.is_fused is usual[1])  # noqa: E731
    rows = benchmark.native_rows(SimpleNamespace(as_graph=lambda ops: settings), None, settings)
    found = {row["ops"]: row["ms"] for row in rows}
    alone = {"native": (usual[0], True), "native, no gathering": (0, True), "native, unfused": (usual[0], False)}
    assert found == alone | {f"{name}, graph": seen for name, seen in alone.items()}
    assert (field.GATHERED_BYTES, field.is_fused) == usual


def test_rows_are_written_as_they_come(benchmark, monkeypatch, tmp_path):
    def rows(*_):
        yield {"ops": "first", "pixels": 8, "ms": 1.0}
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "splat_rows", rows)
    with pytest.raises(KeyboardInterrupt):
        benchmark.main(["--device", "cpu", "--splats", "--out", str(tmp_path)])
    assert json.loads((tmp_path / "splats.json").read_text())["splats"][0]["ops"] == "first"


def test_splats_beside_the_cpus_own(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "median_ms", lambda run, device, repeats: 2.0)
    monkeypatch.syspath_prepend(SCRIPT.parent)
    notes = {}
    rows = list(benchmark.splat_rows(SimpleNamespace(tiny=True, device="cpu", without=[]), notes))
    assert [(row["ops"], row["sh"], row["ms"]) for row in rows] == [("native", 0, 2.0), ("native", 16, 2.0)]
    assert all(row["images"] == row["gradients"] == 0 for row in rows)
    assert next(iter(notes)).startswith("gsplat cannot be imported")
    assert "forward 2.000 ms, and backward 2.000 ms; off the CPU's by 0.0e+00" in benchmark.splat_line(rows[0])


def test_wrong_splats_are_told(benchmark):
    """Colours a tenth too bright: the loss is their square, so its gradients are a fifth off where colours count."""
    right = select_backend(BackendName.plain)
    wrong = replace(right, splat=lambda *given: (images := right.splat(*given))._replace(rgb=1.1 * images.rgb))
    numbers = torch.randn(5, 14, generator=torch.Generator().manual_seed(0))
    parts = numbers.split([3, 4, 3, 1, 3], 1)
    gaussians = [parts[0] * 0.1, parts[1], parts[2].exp() * 0.1, parts[3][:, 0].sigmoid(), parts[4].sigmoid()]
    arguments = [x.requires_grad_() for x in gaussians], orbit([0, 90], 15, 1.6, 45, 8)
    expected, found = benchmark.draw_splats(right, *arguments), benchmark.draw_splats(wrong, *arguments)
    differences = benchmark.compare_splats(found, expected)
    assert differences["images"] == pytest.approx(0.1 * float(expected[0].rgb.max()), rel=1e-4)
    assert differences["gradients"] == pytest.approx(0.21, rel=1e-3)  # those to colours


def test_what_the_fused_kernels_ask_for_counted_by_hand(load_benchmark, benchmark):
    """One level of two features; 20 samples, of which 12 follow each other in one cell, as far as a tile goes."""
    peers, grid = load_benchmark("gpu_peers"), HashGrid.from_config(GridConfig(1, 2, 9, 5, 5))
    positions = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)) * 0.2
    positions[:8] = torch.arange(8)[:, None] % 2 * 0.5 + 0.1  # another cell each time
    rates = benchmark.Rates(memory_bytes=1e9, matrix_flops=1e9, l2_bytes=1e9, l2_atomics=1e9)
    found = peers.counted(grid, positions, rates)
    left = 8 + 1 + 1  # the ninth sample's cell is not that of the eighth; a new tile begins with the seventeenth
    expected = {"read": 20 * 4 * 1.125 * 32e-6, "add": left * 4 * 1.25e-6, "pass through memory": 20 * 108e-6}
    expected["table and AdamW"] = 38 * 125 * 2 * 1e-6
    assert found == pytest.approx({**expected, "together": sum(expected.values())})


def test_the_peer_takes_the_step(load_benchmark, benchmark, monkeypatch):
    """With stand-ins for both libraries on a CPU: its configurations fit together, and its parameters learn."""
    peers, told = load_benchmark("gpu_peers"), []

    class Library:
        @staticmethod
        def NetworkWithInputEncoding(inputs, outputs, encoding, network):
            told.append((inputs, outputs, encoding, network))
            return torch.nn.Linear(inputs, outputs, dtype=torch.half).float()

    native = select_backend(BackendName.plain)
    monkeypatch.setattr(peers.nerfacc_backend, "require", lambda: None)
    monkeypatch.setattr(peers.nerfacc_backend, "march", native.march)
    monkeypatch.setattr(peers.nerfacc_backend, "composite", native.composite)
    monkeypatch.setattr(peers.tinycudann_backend, "require", lambda: Library)
    step = benchmark.Step(GridConfig(4, 8, 10, 4, 32), 16, 4, native, "cpu")
    peer = peers.Peer(step.layout, 16, step.marching, step.target)
    ((inputs, outputs, encoding, network),) = told
    assert (inputs, outputs, network["n_neurons"], encoding["n_levels"]) == (3, 4, 16, 4)
    assert encoding["base_resolution"] * encoding["per_level_scale"] ** 3 == pytest.approx(32)
    before = peer.field.weight.detach().clone()
    peer.learn()
    assert not torch.equal(before, peer.field.weight)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: the script would run")
def test_without_a_gpu_it_says_so_in_one_line():
    run = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True)
    assert run.returncode == 3
    assert run.stderr == "benchmarks/gpu.py needs a GPU: torch sees no CUDA device\n"
