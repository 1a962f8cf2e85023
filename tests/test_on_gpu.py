"""The command for a first contact with a GPU, tried without one: its stages, and what a stage that fails costs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_failures_are_told_with_their_worst_differences(load_benchmark):
    stages = load_benchmark("gpu_stages")
    message = "AssertionError: Tensor-likes are not close!\n\nGreatest absolute difference: 0.25 at index (0, 1)"
    xml = f"""<testsuites><testsuite><testcase name="good"/><testcase name="left"><skipped message="why"/></testcase>
    <testcase name="bad"><failure message="{message}">Greatest absolute difference: 0.5 at index (3,)
    Greatest relative difference: inf at index (0,)</failure></testcase></testsuite></testsuites>"""
    counted = stages.read_report(xml)
    assert (counted["passed"], counted["skipped"]) == (1, 1)
    (failure,) = counted["failures"]
    assert failure["test"] == "bad" and failure["absolute"] == 0.5 and failure["relative"] == float("inf")


def test_the_longest_kernels_of_a_profile(load_benchmark):
    stages = load_benchmark("gpu_stages")
    header = '"ID","Kernel Name","Grid Size","Metric Name","Metric Unit","Metric Value"'
    rows = ['"0","short","(1, 1, 1)","gpu__time_duration.sum","ns","1,500"']
    rows += ['"1","long","(9, 1, 1)","gpu__time_duration.sum","us","2,000.5"']
    rows += ['"1","long","(9, 1, 1)","lts__throughput.avg.pct_of_peak_sustained_elapsed","%","71.5"']
    first, second = stages.read_ncu("\n".join(["==PROF== Connected", header, *rows, "==PROF== Disconnected"]))
    assert (first["kernel"], first["ms"], first["l2 %"]) == ("long", 2.0005, 71.5)
    assert (second["kernel"], second["ms"]) == ("short", 0.0015)
