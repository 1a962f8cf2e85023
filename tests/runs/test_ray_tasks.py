"""A batch as tasks of a Ray cluster on this machine, with workers killed in the middle."""

import csv
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from threedgen import cli
from threedgen.runs import dispatch

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))  # as if it were installed on the nodes
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        sizes = {"num_cpus": 2, "num_gpus": 2, "object_store_memory": 80 << 20}  # whatever this machine has
        ray.init("local", **sizes, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield ray
        ray.shutdown()


def batch(lines, *words):
    Path("list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    command = ["--config", "tiny", "prompts=list.jsonl", "allow_unknown_words=true", "batch.executor=ray"]
    return cli.main([*command, "batch.workers=2", *words])


def prompts(*names):
    return [{"prompt": name} for name in names]


def table():
    (path,) = Path("outputs/tiny/batches").glob("*/summary.csv")
    return list(csv.DictReader(path.read_text("utf-8").splitlines()))


def calls():
    return sorted(Path("calls").read_text().splitlines())


def when_begun(monkeypatch, do):
    """Call `do` with the parent of the run that goes slowly, once, as soon as there is one."""
    wait, done = dispatch.time.sleep, []

    def look(seconds):
        begun = [path.read_text() for path in Path("outputs").rglob("begun")]
        if begun and begun[0] and not done:
            done.append(do(int(begun[0])))
        wait(seconds)

    monkeypatch.setattr(dispatch.time, "sleep", look)


def test_the_run_of_a_killed_worker_goes_on_and_one_that_failed_is_not_tried_again(cluster, stand_in, monkeypatch):
    when_begun(monkeypatch, lambda worker: os.kill(worker, signal.SIGKILL))
    assert batch(prompts("a slower", "a good", "a bug", "a crash")) == 1
    rows = {row["prompt"]: row for row in table()}
    assert [row["state"] for row in rows.values()] == ["done", "done", "failed", "failed"]
    assert rows["a bug"]["error"] == "ZeroDivisionError: oops"
    assert "ended by SIGABRT" in rows["a crash"]["error"] and "(3 tries)" in rows["a crash"]["error"]
    assert calls() == ["a bug"] + 3 * ["a crash"] + ["a good"] + 2 * ["a slower"]
    assert list(Path("outputs").rglob("kept"))  # the second try went on with what the first had kept
    (log,) = Path("outputs").rglob("logs/0001.log")
    assert log.read_text().count("run        ") == 2


def test_one_that_hangs_is_ended_and_not_tried_again(cluster, stand_in):
    assert batch(prompts("a hang"), "batch.timeout=0.05") == 1
    assert "not done within 0:03 (batch.timeout)" in table()[0]["error"]
    assert calls() == ["a hang"]


def test_a_stopped_batch_stops_its_tasks_and_goes_on_with_them(cluster, stand_in, monkeypatch):
    when_begun(monkeypatch, lambda worker: os.kill(os.getpid(), signal.SIGTERM))
    assert batch(prompts("a slower", "a good", "b good")) == 75
    assert list(Path("outputs").rglob("kept"))
    assert batch(prompts("a slower", "a good", "b good")) == 0
    assert [row["state"] for row in table()] == ["done"] * 3
    assert calls().count("a slower") == 2


def test_a_run_has_a_gpu_for_itself_unless_it_is_on_the_cpu(cluster, stand_in):
    on_cpu = {"prompt": "c", "runtime": {"device": "cpu"}}
    assert batch([*prompts("a", "b"), on_cpu]) == 0
    seen = [(Path("outputs/tiny/batches/x") / row["folder"] / "devices").resolve().read_text() for row in table()]
    assert seen[0] in ("0", "1") and seen[1] in ("0", "1") and seen[2] == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "error: batch.executor=ray needs Ray: pip install 'threedgen[ray]'"),
        (("batch.workers=0",), "error: batch.executor=ray needs the number of tasks at once: add batch.workers=2"),
    ],
)
def test_what_is_missing_is_told_before_anything_is_made(stand_in, monkeypatch, capsys, words, message):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert batch(prompts("a"), *words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not Path("outputs").exists()
