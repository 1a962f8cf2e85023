"""Runs that wait for a device or run on one, each the command line in a process of its own.

So a crash costs one run, and to stop one is to send it SIGTERM: the same command, or `--resume`, goes on with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import threedgen
from threedgen.runs.dispatch import ended_by, visible_gpus

_ROOT = Path(threedgen.__file__).parent.parent
_PATIENCE = 30.0  # seconds that a run has to write its checkpoint after it was asked to stop
_KEPT_LINES = 100  # of what a run prints, for the reason of a failure
_ERROR = "error: "  # how the command line begins the one line that says what went wrong


class State(Enum):
    waiting = "waiting"
    running = "running"
    done = "done"
    stopped = "stopped"  # by the user; it can go on
    failed = "failed"


@dataclass
class Job:
    """A run on its way. folder: the run's, which names it; words: of the command line."""

    folder: Path
    words: tuple[str, ...]
    state: State = State.waiting
    error: str = ""  # one line, of a failed one
    is_unwanted: bool = False  # the user stopped it
    process: subprocess.Popen[str] | None = None
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_LINES))


class Jobs:
    """First come, first served: one job at a time on each device.

    devices: what CUDA_VISIBLE_DEVICES is for each of them, None: left as it is; program: what the words are given to.
    """

    def __init__(self, devices: Sequence[str | None] = (None,), program: Sequence[str] | None = None) -> None:
        self._program = list(
            program or (sys.executable, "-P", "-c", "from threedgen.cli import main; raise SystemExit(main())")
        )
        self._jobs: dict[Path, Job] = {}  # the latest of each folder
        self._line: deque[Job] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._workers = [threading.Thread(target=self._work, args=(device,), daemon=True) for device in devices]
        for worker in self._workers:
            worker.start()

    def add(self, folder: Path, words: Sequence[str]) -> Job:
        """Put a run at the end of the line; one that waits or runs already is given back as it is."""
        with self._changed:
            job = self._jobs.get(folder)
            if job is None or job.state not in (State.waiting, State.running):
                job = self._jobs[folder] = Job(folder, tuple(words))
                self._line.append(job)
                self._changed.notify()
            return job

    def of(self, folder: Path) -> Job | None:
        """The latest job of a run's folder."""
        return self._jobs.get(folder)

    def ahead_of(self, job: Job) -> int:
        """How many jobs wait in front of this one."""
        with self._changed:
            return self._line.index(job) if job in self._line else 0

    def stop(self, folder: Path) -> None:
        """Take a run out of the line, or ask it to stop; one that does not is killed in the end."""
        with self._changed:
            job = self._jobs.get(folder)
            if job is None or job.is_unwanted:
                return
            if job.state is State.waiting:
                self._line.remove(job)
                job.state, job.is_unwanted = State.stopped, True
            elif job.state is State.running:
                job.is_unwanted = True
                if job.process is not None:
                    _end(job.process)

    def close(self) -> None:
        """Stop everything and wait until it has."""
        with self._changed:
            self._is_closed = True
            folders = list(self._jobs)
            self._changed.notify_all()
        for folder in folders:
            self.stop(folder)
        for worker in self._workers:
            worker.join()

    def _work(self, device: str | None) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._line or self._is_closed)
                if self._is_closed:
                    return
                job = self._line.popleft()
                job.state = State.running
            self._run(job, device)

    def _run(self, job: Job, device: str | None) -> None:
        status, error = 1, ""
        try:
            with subprocess.Popen(
                [*self._program, *job.words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=_environment(device),
                start_new_session=True,  # Ctrl-C in the terminal is the app's, which then stops its runs itself
            ) as process:
                with self._changed:
                    job.process = process
                    if job.is_unwanted:  # stopped while it was being started
                        _end(process)
                assert process.stdout is not None
                for line in process.stdout:
                    job.lines.append(line.rstrip("\n"))
                status = process.wait()
        except (OSError, ValueError) as reason:  # ValueError: a word of the command that no process can be told
            error = f"the run could not be started: {getattr(reason, 'strerror', None) or reason}"
        with self._changed:
            job.process = None
            if status == 0:
                job.state = State.done
            elif job.is_unwanted:
                job.state = State.stopped
            else:
                job.error = error or _reason(job.lines, status)
                job.state = State.failed


def devices() -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of each device that can work by itself, without asking torch; [None] for a single one."""
    found = visible_gpus(os.environ)
    return [*found] if len(found) > 1 else [None]


def _environment(device: str | None) -> dict[str, str]:
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    return environment if device is None else environment | {"CUDA_VISIBLE_DEVICES": device}


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    last_resort = threading.Timer(_PATIENCE, process.kill)  # of a process that has ended meanwhile it does nothing
    last_resort.daemon = True
    last_resort.start()


def _reason(lines: deque[str], status: int) -> str:
    """What a run that failed said of it."""
    said = [line for line in lines if line.startswith(_ERROR)]
    if not said and status < 0:  # what it said last was of something else
        return ended_by(-status)
    said = said or [line for line in lines if line.strip()]
    return said[-1].removeprefix(_ERROR) if said else f"the run ended with status {status}"
