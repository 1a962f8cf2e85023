"""The command for a first contact with a GPU, tried without one: its stages, and what a stage that fails costs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def on_gpu(load_benchmark):
    return load_benchmark("on_gpu")


@pytest.fixture
def stage_files(on_gpu, monkeypatch, tmp_path):
    """A function that runs stages whose processes are a script given as text, and returns their result files."""

    def run(script, *arguments):
        (tmp_path / "gpu_stages.py").write_text(f"import json, pathlib, sys, time\nname = sys.argv[1]\n{script}\n")
        monkeypatch.setattr(on_gpu, "HERE", tmp_path)
        out = tmp_path / "out"
        status = on_gpu.main(["--device", "cpu", "--out", str(out), *arguments])
        return status, {path.stem: json.loads(path.read_text()) for path in sorted(out.glob("*.json"))}

    return run


@pytest.mark.slow
def test_every_stage_runs_without_a_gpu(tmp_path):
    command = [sys.executable, BENCHMARKS / "on_gpu.py", "--device", "cpu", "--tiny", "--minutes", "10"]
    run = subprocess.run([*command, "--out", tmp_path], capture_output=True, text=True)
    results = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]
    status = {result["stage"]: result["status"] for result in results}
    assert status == dict.fromkeys(status, "ok") | {"sanitize": "left out"}, [r["log"][-2000:] for r in results]
    assert run.returncode == 0 and len((tmp_path / "summary.txt").read_text().splitlines()) == len(status) == 7
    figures = {result["stage"]: result["figures"] for result in results}
    assert figures["tests"]["passed"] > 0 and not figures["tests"]["failures"]
    assert all(row["ms"] > 0 for row in figures["kernels"]["steps"] + figures["kernels"]["splats"])
    assert figures["generate"]["timing"]["optimize"] > 0 and figures["generate"]["scores"]
    for row in figures["distill"]["steps"]:
        assert {"render", "encode", "unet"} < row["seconds"].keys()
        assert min(row["seconds"].values()) > 0 and sum(row["seconds"].values()) <= row["step"]
    assert all(0 < row["relative_error"] < 0.1 for row in figures["distill"]["half_gradients"])
    assert figures["train"]["steps"][-1]["images_per_second"] > 0
    assert (tmp_path / "train-prior/unet").is_dir()


def test_a_stage_that_fails_or_hangs_costs_only_itself(stage_files, capsys):
    script = """
file = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
file.write_text(json.dumps({"seen": 1}))
if name == "tests":
    print("first line"); sys.exit("the device fell off the bus")
if name == "kernels":
    time.sleep(60)
if name == "sanitize":
    print("no tool"); sys.exit(77)
"""
    status, results = stage_files(script, "--minutes", "0.2")
    assert status == 1
    found = {result["stage"]: (result["status"], result["says"]) for result in results.values()}
    assert found == {
        "build": ("ok", ""),
        "tests": ("failed", "the device fell off the bus"),
        "sanitize": ("left out", "no tool"),
        "kernels": ("timed out", ""),
        "generate": ("ok", ""),
        "distill": ("ok", ""),
        "train": ("ok", ""),
    }
    assert all(result["figures"] == {"seen": 1} for result in results.values())
    assert "first line" in results["2-tests"]["log"]
    assert capsys.readouterr().out.count("\n") == 7


def test_what_has_no_time_left_is_left_out(stage_files):
    _, results = stage_files("time.sleep(60)", "--minutes", "0.02", "--stages", "train", "build")
    assert [result["status"] for result in results.values()] == ["timed out", "timed out"]
    _, results = stage_files("time.sleep(60)", "--minutes", "0.02", "--stages", "build", "generate", "distill",
                                  "kernels", "tests", "train")  # fmt: skip
    assert results["7-train"]["status"] == "left out" and results["7-train"]["says"] == "no time is left for it"


@pytest.fixture
def stages(load_benchmark, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)  # for the module beside it
    return load_benchmark("gpu_stages")


def test_failures_are_told_with_their_worst_differences(stages):
    message = "AssertionError: Tensor-likes are not close!\n\nGreatest absolute difference: 0.25 at index (0, 1)"
    message += "\nGreatest absolute difference: 0.5 at index (3,)\nGreatest relative difference: inf at index (0,)"
    ended = {"a.py::good": "passed", "a.py::left": "skipped", "a.py::bad": "failed", "a.py::now": "begun"}
    counted = stages.count_tests({test: {"outcome": outcome, "text": message} for test, outcome in ended.items()})
    assert (counted["passed"], counted["skipped"], counted["unfinished"]) == (1, 1, ["a.py::now"])
    (failure,) = counted["failures"]
    assert failure["test"] == "bad" and failure["absolute"] == 0.5 and failure["relative"] == float("inf")
    assert counted["says"] == "1 passed, 1 failed, 1 skipped, 1 unfinished"


TESTS = """
import os, pytest, torch
def test_good(): pass
def test_breaks_the_card():
    def fails():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    torch.cuda.is_initialized, torch.cuda.synchronize = lambda: True, fails
    assert False, "Greatest absolute difference: 0.25 at index 0"
def test_dies(): os._exit(3)
def test_left():
    assert not torch.cuda.is_initialized()
    pytest.skip("why")
def test_after(): pass
"""


@pytest.mark.slow
def test_what_ends_a_process_of_tests_costs_only_itself(stages, tmp_path):
    """An error that stays with the process, and a process that dies."""
    (tmp_path / "test_some.py").write_text(TESTS)
    figures = stages.Figures(tmp_path / "figures.json")
    with pytest.raises(SystemExit):
        stages.run_tests([str(tmp_path / "test_some.py")], 2, figures)
    found = json.loads((tmp_path / "figures.json").read_text())
    assert (found["passed"], found["skipped"]) == (2, 1)
    assert [(failure["test"], failure["absolute"]) for failure in found["failures"]] == [("test_breaks_the_card", 0.25)]
    assert [test.partition("::")[2] for test in found["unfinished"]] == ["test_dies"]


@pytest.mark.slow
def test_passing_tests_are_a_stage_that_passes(stages, tmp_path):
    (tmp_path / "test_some.py").write_text("def test_good(): pass")
    stages.run_tests([str(tmp_path / "test_some.py")], 1, stages.Figures(tmp_path / "figures.json"))
    (tmp_path / "test_some.py").write_text("import what_is_not_there")
    with pytest.raises(SystemExit):
        stages.run_tests([str(tmp_path / "test_some.py")], 1, stages.Figures(tmp_path / "figures.json"))


def test_what_a_sanitizer_says(stages):
    output = """========= COMPUTE-SANITIZER
.F [100%]
========= Invalid __global__ read of size 4 bytes
=========     at evaluate+0x10
1 failed, 2 passed, 340 deselected in 17.67s
========= ERROR SUMMARY: 3 errors
"""
    kinds = ["Invalid __global__ read of size 4 bytes"]
    assert stages.read_sanitizer(output) == {
        "errors": 3,
        "tests": ["2 passed, 340 deselected in 17.67s"],
        "kinds": kinds,
    }
    assert (
        stages.read_sanitizer("========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)")["errors"] == 2
    )


def test_the_longest_kernels_of_a_profile(stages):
    header = '"ID","Kernel Name","Grid Size","Metric Name","Metric Unit","Metric Value"'
    rows = ['"0","short","(1, 1, 1)","gpu__time_duration.sum","ns","1,500"']
    rows += ['"1","long","(9, 1, 1)","gpu__time_duration.sum","us","2,000.5"']
    rows += ['"1","long","(9, 1, 1)","lts__throughput.avg.pct_of_peak_sustained_elapsed","%","71.5"']
    first, second = stages.read_ncu("\n".join(["==PROF== Connected", header, *rows, "==PROF== Disconnected"]))
    assert (first["kernel"], first["ms"], first["l2 %"]) == ("long", 2.0005, 71.5)
    assert (second["kernel"], second["ms"]) == ("short", 0.0015)


@pytest.mark.parametrize("name", ["", "not channels-last"])
def test_without_channels_last_no_convolution_has_it(load_benchmark, monkeypatch, name):
    """Of those behind each other in the VAE's encoder."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    full_size = load_benchmark("full_size_gpu")
    prior, given = full_size.random_prior("small", "cpu", torch.float), []
    for layer in prior.vae.encoder.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(lambda _, x, out: given.append(x[0].is_contiguous()))
    with full_size.Variant(dtype=torch.float, channels_last=not name).of(prior):
        prior.encode_images(torch.rand(1, 3, 32, 32))
    assert len(given) > 5 and set(given) == {bool(name)}
