"""The jobs of a batch, several at once, each a process of its own: what happens to one happens to no other."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from threedgen.runs.batch import Job, Outcome
from threedgen.runs.directory import finished_results
from threedgen.runs.progress import format_seconds
from threedgen.runs.stopping import stopping

_PACKAGE_PARENT = Path(__file__).resolve().parent.parent.parent
_GRACE = 60.0  # seconds in which a process that is told to stop must have written its checkpoint
_LOOK_EVERY = 0.05  # seconds
_SET_PARENT_DEATH_SIGNAL = 1  # of Linux's prctl


@dataclass
class _Running:
    number: int
    process: subprocess.Popen[bytes]
    log: Path
    since: float
    told_at: float | None = None  # to stop
    is_late: bool = False

    def tell(self, number: int) -> None:
        """Send a signal to the process and to whatever it has started."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            self.process.poll()  # it has just ended

    def stop(self) -> None:
        """Ask it to stop; once it has been asked for too long, kill it."""
        if self.told_at is None:
            self.told_at = time.monotonic()
            self.tell(signal.SIGTERM)
        elif time.monotonic() - self.told_at > _GRACE:
            self.tell(signal.SIGKILL)


def run_in_processes(
    jobs: Sequence[Job],
    words_of: Callable[[Job], Sequence[str]],
    logs: Path,
    workers: int,
    timeout: float,
    fresh: bool,
    ended: Callable[[int, Outcome], None] = lambda number, outcome: None,
) -> list[Outcome]:
    """Do the jobs, `workers` at a time; what one prints goes to `logs/0001.log`, ...

    A job whose run is finished needs no process unless `fresh`. When this process is told to stop, the others are, and
    the same command goes on with all of them.

    words_of: the command line of a job alone; timeout: seconds after which one is ended, 0: none; ended: told of the
    number, counted from 0, and the outcome of each.
    """
    outcomes: dict[int, Outcome] = {}
    waiting, running = list(range(len(jobs)))[::-1], list[_Running]()
    logs.mkdir(parents=True, exist_ok=True)

    def end(number: int, outcome: Outcome) -> None:
        outcomes[number] = outcome
        state = f"done {format_seconds(outcome.seconds)}" if outcome.results is not None else f"FAILED {outcome.error}"
        print(f"[{number + 1}/{len(jobs)}] {jobs[number]}: {state}", flush=True)
        ended(number, outcome)

    with stopping() as stop:
        while waiting or running:
            while waiting and len(running) < workers and not stop.is_asked():
                number = waiting.pop()
                there = None if fresh else finished_results(jobs[number].folder)
                if there is not None:
                    end(number, Outcome(str(jobs[number]), 0.0, there))
                else:
                    print(f"[{number + 1}/{len(jobs)}] {jobs[number]}", flush=True)
                    running.append(_start(number, words_of(jobs[number]), logs / f"{number + 1:04d}.log"))
            for one in running[:]:
                if one.process.poll() is not None:
                    running.remove(one)
                    if not (one.told_at and not one.is_late):  # stopped with all: it is not the job's own fault
                        end(one.number, _outcome(one, jobs[one.number], timeout))
                    continue
                one.is_late = one.is_late or 0 < timeout < time.monotonic() - one.since
                if one.is_late or stop.is_asked():
                    one.stop()
            if stop.is_asked() and not running:
                stop.leave()
            time.sleep(_LOOK_EVERY)
    return [outcomes[number] for number in range(len(jobs))]


def _start(number: int, words: Sequence[str], log: Path) -> _Running:
    libc = ctypes.CDLL(None)

    def ends_with_its_parent() -> None:  # or a killed dispatcher's runs would be in the way of the next one's
        if sys.platform == "linux":
            libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)

    path = os.pathsep.join(filter(None, [str(_PACKAGE_PARENT), os.environ.get("PYTHONPATH")]))
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "threedgen", *words],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": path},
            start_new_session=True,  # a terminal's Ctrl-C is for the dispatcher, which passes it on
            preexec_fn=ends_with_its_parent,  # safe, for there are no threads here
        )
    return _Running(number, process, log, time.monotonic())


def _outcome(one: _Running, job: Job, timeout: float) -> Outcome:
    seconds, status = time.monotonic() - one.since, one.process.returncode
    results = finished_results(job.folder) if status == 0 else None
    if results is not None:
        return Outcome(str(job), seconds, results)
    if one.is_late:
        error = f"not done within {format_seconds(timeout)} (batch.timeout); the same command goes on with it"
    elif status < 0:
        hint = " (out of memory?)" if -status == signal.SIGKILL else ""
        error = f"its process was ended by {signal.Signals(-status).name}{hint}"
    else:
        error = _last_error(one.log) or f"exit status {status}"
    return Outcome(str(job), seconds, None, f"{error}; see {one.log}" if one.is_late or status < 0 else error)


def _last_error(log: Path) -> str:
    """The line that tells why: the last `error: ...`, or the last line that there is."""
    lines = [
        line.strip() for line in log.read_text("utf-8", "replace").replace("\r", "\n").splitlines() if line.strip()
    ]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (told or lines or [""])[-1]
