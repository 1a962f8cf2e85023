"""The jobs of a batch as Ray tasks, on whatever nodes a cluster has that see the same files."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from threedgen.config.runtime import DeviceName
from threedgen.core.errors import ConfigError, StorageError, ThreedgenError
from threedgen.runs import dispatch
from threedgen.runs.batch import Job, Outcome
from threedgen.runs.directory import locked

_RETRIES = 2


class Crashed(Exception):
    """A job's process was ended by a signal. Its text is the outcome's error."""


@dataclass
class RayTask:
    """A job as a Ray task. Made by the function of `ray_cluster`."""

    job: Job
    ray: Any  # the module, which is in an extra
    task: Any  # ray.ObjectRef of an Outcome
    log: Path
    since: float
    told_at: float | None = None  # to stop
    is_forced: bool = False

    def is_over(self) -> bool:
        return bool(self.ray.wait([self.task], timeout=0)[0])

    def stop(self) -> None:
        if self.told_at is None:
            self.told_at = time.monotonic()
            self.ray.cancel(self.task)
        elif not self.is_forced and time.monotonic() - self.told_at > 2 * dispatch.GRACE:  # its worker's own is over
            self.is_forced = True
            self.ray.cancel(self.task, force=True)

    def outcome(self) -> Outcome | None:
        if self.told_at is not None:
            return None
        try:
            return replace(self.ray.get(self.task), seconds=time.monotonic() - self.since)
        except Crashed as error:
            message = f"{error.cause} ({1 + _RETRIES} tries)"  # type: ignore[attr-defined]  # Ray's addition
        except self.ray.exceptions.RayTaskError as error:
            message = f"{error.cause}"
        except self.ray.exceptions.RayError as error:
            message = (
                f"its Ray worker was lost in each of {1 + _RETRIES} tries ({type(error).__name__}); see {self.log}"
            )
        return Outcome(str(self.job), time.monotonic() - self.since, None, message)


@contextmanager
def ray_cluster(
    words_of: Callable[[Job], Sequence[str]], timeout: float
) -> Iterator[Callable[[Job, Path, int], RayTask]]:
    """What sets a job to work as a task of the cluster that RAY_ADDRESS names, that runs on this machine, or that is
    started here, in this order.

    A task is tried again when its process or worker was killed or its node is lost, not when the run has failed.

    words_of: the command line of a job alone; timeout: seconds after which a try is ended, 0: none. Where the cluster
    has GPUs, a job has one for itself unless its device is the CPU.

    Raises ConfigError where Ray is missing or the cluster cannot be reached.
    """
    ray = import_ray()
    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(ray)
    try:
        has_gpus = ray.cluster_resources().get("GPU", 0) >= 1
        task = ray.remote(
            max_retries=_RETRIES,
            retry_exceptions=[Crashed],
            max_calls=1,  # a worker that is left takes along whatever a cancelled job has started
            scheduling_strategy="SPREAD",
        )(_attend)

        def start(job: Job, log: Path, place: int) -> RayTask:  # Ray shares out the places
            num_gpus = 1 if has_gpus and job.config.runtime.device is not DeviceName.cpu else 0
            call = job, list(words_of(job)), log, timeout, Path.cwd(), dispatch.PACKAGE_PARENT
            return RayTask(job, ray, task.options(num_gpus=num_gpus).remote(*call), log, time.monotonic())

        yield start
    finally:
        if is_ours:
            ray.shutdown()


def import_ray() -> Any:
    """The module. Raises ConfigError where it is missing."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError("batch.executor=ray needs Ray: pip install 'threedgen[ray]' (or pip install ray)") from error
    return ray


def _connect(ray: Any) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to others unless one wants it
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"batch.executor=ray: no cluster: {' '.join(str(error).split())}") from error
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)  # Ray's own would leave without a word


def _attend(job: Job, words: list[str], log: Path, timeout: float, folder: Path, package_parent: Path) -> Outcome:
    """In a worker of Ray: do a job as on one machine, in a process of its own. Raises Crashed if that is killed.

    folder: where the command was given, for relative paths.
    """
    os.chdir(folder)
    _wait_until_free(job.folder)
    one = dispatch.start_process(job, words, log, timeout, package_parent)
    try:
        while not one.is_over():
            time.sleep(dispatch.LOOK_EVERY)
    except KeyboardInterrupt:  # ray.cancel
        while not one.is_over():
            one.stop()
            time.sleep(dispatch.LOOK_EVERY)
        raise
    outcome = one.outcome()
    assert outcome is not None  # only an interrupt stops it with all
    if one.is_crashed:
        raise Crashed(outcome.error)
    return outcome


def _wait_until_free(folder: Path) -> None:
    """Wait, not for ever, for the run of a killed worker: told by its death to stop, it still writes a checkpoint."""
    until = time.monotonic() + dispatch.GRACE
    while folder.exists() and time.monotonic() < until:
        try:
            with locked(folder):
                return
        except StorageError:
            return  # the run will say so
        except ThreedgenError:
            time.sleep(dispatch.LOOK_EVERY)
