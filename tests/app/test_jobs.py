"""The queue of the app, with a small program in place of the command line."""

import sys
import time

import pytest

from threedgen.app import jobs as jobs_module
from threedgen.app.jobs import Jobs, State, devices

# works until the file RELEASE is there, writes down when, and where, it worked; SIGTERM makes it write a checkpoint
PROGRAM = """
import os, pathlib, signal, sys, time
folder, how = pathlib.Path(sys.argv[1]), sys.argv[2]
folder.mkdir(exist_ok=True)
def stop(*_):
    (folder / "checkpoint").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, signal.SIG_IGN if how == "deaf" else stop)
(folder / "began").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
if how == "wrong":
    print("some words")
    print("error: no cats today", file=sys.stderr)
    print("a last word", file=sys.stderr)
    sys.exit(2)
if how == "crash":
    print("optimise 120/200  60%  loss 1.5", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
while how != "quick" and not (folder / "release").exists():
    time.sleep(0.01)
(folder / "ended").touch()
"""


@pytest.fixture
def start(tmp_path):
    """start(devices) -> Jobs; all of them are closed in the end."""
    opened = []

    def make(*names):
        opened.append(Jobs(names or (None,), [sys.executable, "-S", "-c", PROGRAM]))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)


def test_one_at_a_time_in_the_order_of_coming(start, tmp_path):
    jobs = start()
    folders = [tmp_path / name for name in "abc"]
    one, two, three = (jobs.add(folder, [str(folder), "slow"]) for folder in folders)
    until((folders[0] / "began").exists)
    assert jobs.add(folders[0], ["never", "used"]) is one  # it runs already
    assert (one.state, two.state, three.state) == (State.running, State.waiting, State.waiting)
    assert [jobs.ahead_of(job) for job in (one, two, three)] == [0, 0, 1]
    time.sleep(0.1)
    assert not (folders[1] / "began").exists()
    for folder in folders:
        folder.mkdir(exist_ok=True)
        (folder / "release").touch()
    until(lambda: three.state is State.done)
    assert (one.state, two.state) == (State.done, State.done)
    began = [(folder / "began").stat().st_mtime_ns for folder in folders]
    ended = [(folder / "ended").stat().st_mtime_ns for folder in folders]
    assert began[0] <= ended[0] <= began[1] <= ended[1] <= began[2]


def test_each_device_has_one(start, tmp_path):
    jobs = start("0", "1")
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        jobs.add(folder, [str(folder), "slow"])
    until(lambda: all((folder / "began").exists() for folder in folders[:2]))
    assert {(folder / "began").read_text() for folder in folders[:2]} == {"0", "1"}
    assert not folders[2].exists()


def test_a_run_that_is_stopped_writes_its_checkpoint_and_can_go_on(start, tmp_path):
    jobs, folder = start(), tmp_path / "a"
    job = jobs.add(folder, [str(folder), "slow"])
    until((folder / "began").exists)
    jobs.stop(folder)
    until(lambda: job.state is State.stopped)
    assert (folder / "checkpoint").exists() and not (folder / "ended").exists() and job.error == ""
    again = jobs.add(folder, [str(folder), "quick"])
    until(lambda: again.state is State.done)
    assert jobs.of(folder) is again is not job


def test_one_that_waits_is_taken_out_of_the_line(start, tmp_path):
    jobs = start()
    jobs.add(tmp_path / "a", [str(tmp_path / "a"), "slow"])
    until((tmp_path / "a/began").exists)
    waiting, last = (jobs.add(tmp_path / name, [str(tmp_path / name), "quick"]) for name in "bc")
    jobs.stop(tmp_path / "b")
    assert waiting.state is State.stopped and jobs.ahead_of(last) == 0
    (tmp_path / "a/release").touch()
    until(lambda: last.state is State.done)
    assert not (tmp_path / "b").exists()


def test_one_that_does_not_listen_is_killed(start, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs_module, "_PATIENCE", 0.2)
    jobs = start()
    job = jobs.add(tmp_path / "a", [str(tmp_path / "a"), "deaf"])
    until((tmp_path / "a/began").exists)
    jobs.stop(tmp_path / "a")
    until(lambda: job.state is State.stopped)


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("wrong", "no cats today"),
        ("crash", "its process was ended by SIGSEGV"),
        ("no \0 word", "the run could not be started: embedded null byte"),
    ],
)
def test_a_failure_is_told_and_costs_one_run(start, tmp_path, how, error):
    jobs = start()
    bad = jobs.add(tmp_path / "a", [str(tmp_path / "a"), how])
    good = jobs.add(tmp_path / "b", [str(tmp_path / "b"), "quick"])
    until(lambda: good.state is State.done)
    assert (bad.state, bad.error) == (State.failed, error)


def test_closing_stops_everything(tmp_path):
    jobs = Jobs(program=[sys.executable, "-S", "-c", PROGRAM])
    running, waiting = (jobs.add(tmp_path / name, [str(tmp_path / name), "slow"]) for name in "ab")
    until((tmp_path / "a/began").exists)
    jobs.close()
    assert (running.state, waiting.state) == (State.stopped, State.stopped)
    assert (tmp_path / "a/checkpoint").exists() and not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("visible", "expected"), [("0, 3", ["0", "3"]), ("3,", [None]), ("1", [None]), ("", [None]), (None, ["0", "1"])]
)
def test_devices(monkeypatch, visible, expected):
    monkeypatch.setattr(jobs_module.Path, "glob", lambda folder, pattern: [folder / "one", folder / "other"])
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices() == expected
