"""The jobs of a batch, several at once, each apart from the others: what happens to one happens to no other."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from threedgen.runs.batch import Job, Outcome
from threedgen.runs.directory import finished_results
from threedgen.runs.progress import format_seconds
from threedgen.runs.stopping import stopping

PACKAGE_PARENT = Path(__file__).resolve().parent.parent.parent
GRACE = 60.0  # seconds in which a process that is told to stop must have written its checkpoint
LOOK_EVERY = 0.05  # seconds
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
_SET_PARENT_DEATH_SIGNAL = 1  # of Linux's prctl


class Running(Protocol):
    """A job in work."""

    def is_over(self) -> bool: ...

    def stop(self) -> None:
        """Ask it to stop; once it has been asked for too long, kill it. May be said again and again."""

    def outcome(self) -> Outcome | None:
        """What came of it, once it is over. None: it was stopped with all, which is no fault of its own."""


def run_apart(
    jobs: Sequence[Job],
    start: Callable[[Job, Path, int], Running],
    logs: Path,
    workers: int,
    fresh: bool,
    ended: Callable[[int, Outcome], None],
) -> list[Outcome]:
    """Do the jobs, `workers` at a time; what one prints goes to `logs/0001.log`, ...

    A job whose run is finished is not started unless `fresh`. When this process is told to stop, the others are, and
    the same command goes on with all of them.

    start: sets a job to work, with the file of its log and the place that it has, 0 .. workers - 1; ended: told of the
    number, counted from 0, and the outcome of each.
    """
    outcomes: dict[int, Outcome] = {}
    waiting, running = list(range(len(jobs)))[::-1], dict[int, Running]()
    places = dict[int, int]()  # of the jobs in work, by their numbers
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
                    log = logs / f"{number + 1:04d}.log"
                    log.write_bytes(b"")
                    place = min(set(range(workers)) - {places[one] for one in running})
                    try:
                        running[number], places[number] = start(jobs[number], log, place), place
                    except (OSError, ValueError) as error:  # a prompt with a NUL, or longer than a process can be told
                        reason = f"its process could not be started: {error}"
                        end(number, Outcome(str(jobs[number]), 0.0, None, reason))
            for number, one in list(running.items()):
                if one.is_over():
                    del running[number]
                    if (outcome := one.outcome()) is not None:
                        end(number, outcome)
                elif stop.is_asked():
                    one.stop()
            if stop.is_asked() and not running:
                stop.leave()
            time.sleep(LOOK_EVERY)
    return [outcomes[number] for number in range(len(jobs))]


@dataclass
class Process:
    """A job in a process of its own on this machine. Made by `start_process`."""

    job: Job
    process: subprocess.Popen[bytes]
    log: Path
    timeout: float
    since: float
    told_at: float | None = None  # to stop
    is_late: bool = False

    @property
    def is_crashed(self) -> bool:
        """Once it is over: whether a signal has ended it that is not ours."""
        return self.process.returncode < 0 and self.told_at is None

    def is_over(self) -> bool:
        """Whether it has ended; one that is late is told to stop."""
        if self.process.poll() is not None:
            return True
        self.is_late = self.is_late or 0 < self.timeout < time.monotonic() - self.since
        if self.is_late:
            self.stop()
        return False

    def stop(self) -> None:
        if self.told_at is None:
            self.told_at = time.monotonic()
            self._tell(signal.SIGTERM)
        elif time.monotonic() - self.told_at > GRACE:
            self._tell(signal.SIGKILL)

    def outcome(self) -> Outcome | None:
        if self.told_at is not None and not self.is_late:
            return None
        seconds, status = time.monotonic() - self.since, self.process.returncode
        results = finished_results(self.job.folder) if status == 0 else None
        if results is not None:
            return Outcome(str(self.job), seconds, results)
        if self.is_late:
            error = f"not done within {format_seconds(self.timeout)} (batch.timeout); the same command goes on with it"
        elif status < 0:
            error = ended_by(-status)
        else:
            error = _last_error(self.log) or f"exit status {status}"
        see_log = f"; see {self.log}" if self.is_late or status < 0 else ""
        return Outcome(str(self.job), seconds, None, error + see_log)

    def _tell(self, number: int) -> None:
        """Send a signal to the process and to whatever it has started."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            self.process.poll()  # it has just ended


def ended_by(number: int) -> str:
    """What to say of a process that a signal has ended."""
    hint = " (out of memory?)" if number == signal.SIGKILL else ""
    return f"its process was ended by {signal.Signals(number).name}{hint}"


def processes(words_of: Callable[[Job], Sequence[str]], timeout: float) -> Callable[[Job, Path, int], Process]:
    """What sets a job to work on this machine, for `run_apart`. The arguments are those of `ray_cluster`.

    Of several GPUs each sees one: the places take them in turn.
    """
    gpus = visible_gpus(os.environ)

    def start(job: Job, log: Path, place: int) -> Process:
        one_gpu = {VISIBLE_GPUS: gpus[place % len(gpus)]} if len(gpus) > 1 else {}
        return start_process(job, words_of(job), log, timeout, PACKAGE_PARENT, one_gpu)

    return start


def visible_gpus(environment: Mapping[str, str], devices: Path = Path("/dev")) -> list[str]:
    """What CUDA calls the GPUs that a process with this environment sees; found without asking CUDA.

    devices: the folder where the driver has a file for each.
    """
    if (named := environment.get(VISIBLE_GPUS)) is not None:
        return [word.strip() for word in named.split(",") if word.strip()]
    return [f"{number}" for number, _ in enumerate(devices.glob("nvidia[0-9]*"))]


def start_process(
    job: Job,
    words: Sequence[str],
    log: Path,
    timeout: float,
    package_parent: Path,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Process:
    """Set a job to work.

    words: its command line; log: a file that is added to; timeout: seconds after which it is ended, 0: none;
    package_parent: the folder that the package is in; environment: what it has besides this process's own.
    """
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def ends_with_its_parent() -> None:  # or a killed dispatcher's runs would be in the way of the next one's
        if prctl:
            prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)

    path = os.pathsep.join(filter(None, [str(package_parent), os.environ.get("PYTHONPATH")]))
    with open(log, "ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "threedgen", *words],  # -P: what lies in the current folder is no module
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | environment | {"PYTHONPATH": path},
            start_new_session=True,  # a terminal's Ctrl-C is for the dispatcher, which passes it on
            preexec_fn=ends_with_its_parent,  # safe beside the threads of a Ray worker too: one call, looked up before
        )
    return Process(job, process, log, timeout, time.monotonic())


def _last_error(log: Path) -> str:
    """The line that tells why: the last `error: ...`, or the last line that there is."""
    lines = [
        line.strip() for line in log.read_text("utf-8", "replace").replace("\r", "\n").splitlines() if line.strip()
    ]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (told or lines or [""])[-1]
