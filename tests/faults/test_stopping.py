"""SIGTERM and Ctrl-C end a run after the step that it is in, with a checkpoint; a second one ends it at once."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from threedgen import cli
from threedgen.runs.checkpoint import load_latest_checkpoint
from threedgen.runs.stopping import Terminated
from threedgen.training.loop import Losses, Pace, Training, states, train

ROOT = Path(__file__).parent.parent.parent


def told(*signals):
    """An event of the toy: the signals come in the middle of its step."""

    def happen(scene, loss):
        for number in signals:
            os.kill(os.getpid(), number)
        return loss

    return happen


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_in_a_step_lets_it_end_and_keeps_it(toy, tmp_path, number, error, capfd):
    straight = toy("straight")
    with pytest.raises(error):
        toy("stopped", {6: told(number)})
    assert load_latest_checkpoint(tmp_path / "stopped/checkpoints").step == 7
    assert "stopping after this step" in capfd.readouterr().err
    resumed = toy("stopped")
    assert resumed.seen == list(range(7, 30))
    assert toy.same(resumed, straight)


def test_an_echo_is_no_second_signal_and_a_second_one_ends_at_once(toy, tmp_path, monkeypatch):
    with pytest.raises(Terminated):  # as `timeout` sends it: to the process, then to its group
        toy("echo", {6: told(signal.SIGTERM, signal.SIGTERM)})
    assert load_latest_checkpoint(tmp_path / "echo/checkpoints").step == 7

    class Ended(BaseException):
        pass

    def end(status):
        raise Ended(status)

    def impatient(scene, loss):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.6)
        os.kill(os.getpid(), signal.SIGINT)
        return loss

    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(Ended) as caught:
        toy("twice", {16: impatient})
    assert caught.value.args == (128 + signal.SIGINT,)
    assert load_latest_checkpoint(tmp_path / "twice/checkpoints").step == 10


def test_in_a_thread_signals_are_left_alone(toy):
    before, found = signal.getsignal(signal.SIGTERM), []

    def look(scene, loss):
        found.append(signal.getsignal(signal.SIGTERM))
        return loss

    thread = threading.Thread(target=toy, args=("thread", {1: look}))
    thread.start()
    thread.join()
    assert found == [before]


def test_a_training_keeps_the_step_that_it_was_told_in(tmp_path):
    def job(stop_at=None):
        module = nn.Linear(1, 1, bias=False)
        nn.init.constant_(module.weight, 0.5)

        def objective(target):
            if target == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return Losses(0.5 * (module.weight[0, 0] - target).square(), {})

        optimizer = torch.optim.AdamW(module.parameters())
        batches = lambda start: (float(step) for step in range(start, 9))  # noqa: E731
        return module, Training(objective, batches, list(module.parameters()), optimizer, states({"line": module}))

    class Log:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def add(self, batch, losses):
            pass

        def step(self, done, loss, grad_norm, lr):
            pass

        def finish(self):
            pass

    straight, whole = job()
    train(whole, Pace(9, lr=0.1), tmp_path / "straight", lambda start: Log())
    with pytest.raises(Terminated):
        train(job(stop_at=4.0)[1], Pace(9, lr=0.1), tmp_path / "stopped", lambda start: Log())
    assert load_latest_checkpoint(tmp_path / "stopped").step == 5
    resumed, rest = job()
    train(rest, Pace(9, lr=0.1), tmp_path / "stopped", lambda start: Log())
    assert torch.equal(resumed.weight, straight.weight)


def test_the_command_ends_with_75_wherever_it_is_told(tmp_path, monkeypatch, capsys):
    def drawing(config, run):
        os.kill(os.getpid(), signal.SIGTERM)
        signal.sigtimedwait([], 0)  # a call after which Python looks for signals
        raise AssertionError("went on")

    monkeypatch.setattr(cli, "_task", lambda config: drawing)
    assert cli.main([f"output_root={tmp_path}", "prompt=a red cat"]) == 75
    assert capsys.readouterr().err == "stopped by SIGTERM; the same command goes on from the last checkpoint\n"


UNREAD = """
import os, signal, sys, time
from threedgen import cli
from threedgen.runs.stopping import stopping

def task(config, run):
    with stopping() as stop:
        print("begun", flush=True)
        while not stop.is_asked():
            time.sleep(0.02)
        print("step 7", file=sys.stderr, flush=True)  # as a line of progress may come before the checkpoint
        run.path("kept").touch()
        print("unflushed")
        stop.leave()

cli._task = lambda config: task
sys.exit(cli.main())
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_run_keeps_its_step_though_the_signal_has_ended_who_reads_its_output(tmp_path, number, status):
    """`launch.py ... 2>&1 | tee log`, and Ctrl-C, which ends `tee` at once."""
    command = [sys.executable, "-c", UNREAD, "prompt=a red cat", f"output_root={tmp_path}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while b"begun" not in process.stdout.readline():
        pass
    process.stdout.close()
    process.send_signal(number)
    assert process.wait(60) == status
    assert list(tmp_path.rglob("kept"))


TWO = """
import os, signal, sys
from pathlib import Path
import torch, torch.distributed
from torch import nn
torch.set_num_threads(1)
from threedgen.config.runtime import RuntimeConfig
from threedgen.runs.distributed import process_group, rank
from threedgen.runs.stopping import Terminated
from threedgen.training.loop import Losses, Pace, Training, states, train

class Log:
    def __enter__(self): return self
    def __exit__(self, *error): pass
    def add(self, batch, losses): pass
    def step(self, done, loss, grad_norm, lr): print(rank(), done, flush=True)
    def finish(self): pass

with process_group(RuntimeConfig()):
    module = nn.Linear(1, 1)
    shared = nn.parallel.DistributedDataParallel(module)
    def objective(step):
        if step == 3 and rank() == 1:  # only one of them is told
            os.kill(os.getpid(), signal.SIGTERM)
        return Losses(shared(torch.ones(1, 1)).sum(), {})
    optimizer = torch.optim.AdamW(module.parameters())
    saved = states({"line": module})
    job = Training(objective, lambda start: (i for i in range(start, 50)), list(module.parameters()), optimizer, saved)
    try:
        train(job, Pace(50, lr=0.1), Path(sys.argv[1]), lambda start: Log())
    except Terminated:
        print(rank(), "stopped", flush=True)
"""


@pytest.mark.slow
def test_two_processes_stop_at_one_step(tmp_path):
    (tmp_path / "two.py").write_text(TWO)
    environment = os.environ | {
        **{"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20000 + os.getpid() % 20000)},
        **{"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    }
    command = [sys.executable, str(tmp_path / "two.py"), str(tmp_path / "checkpoints")]
    processes = [
        subprocess.Popen(command, env=environment | {"RANK": str(i)}, stdout=subprocess.PIPE, text=True) for i in (0, 1)
    ]
    for number, process in enumerate(processes):
        lines = process.communicate(timeout=170)[0].splitlines()
        assert lines == [f"{number} {done}" for done in (1, 2, 3, 4)] + [f"{number} stopped"]
    assert load_latest_checkpoint(tmp_path / "checkpoints").step == 4
