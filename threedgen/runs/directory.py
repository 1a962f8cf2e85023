"""The folder of one run: `outputs/RECIPE/SLUG-HASH/`.

Its name follows from the settings, so the same command finds the same folder and goes on there.

    config.yaml      every setting; `launch.py --config .../config.yaml` is the same run
    events.jsonl     what happened, one JSON object a line
    checkpoints/     see checkpoint.py; beside them how many threads a step took, see training/threads.py
    result.json      written last: result's name -> path in this folder
    ...              whatever the task makes: previews, asset, turntable, report
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from threedgen.config.limits import INCIDENTAL, flatten
from threedgen.config.load import to_yaml
from threedgen.config.schema import Config
from threedgen.core.errors import StorageError, ThreedgenError
from threedgen.core.files import remove_temporaries, write_text_atomically
from threedgen.runs.distributed import barrier, rank
from threedgen.runs.events import EventLog

THREADS = "threads.txt"  # in the folder of checkpoints: lines of a step and the number of threads from it on
SAMPLED_VIEWS = "sampled_views.png"  # side by side, what the prior alone makes of the prompt
REFINED = "refined"  # the folder in a run's that `launch.py refine` works in
_LOCK = ".lock"


class RunDirectory:
    """An open run folder; this process holds its lock. Made by `open_run`."""

    def __init__(self, folder: Path, config: Config, events: EventLog) -> None:
        self.folder = folder
        self.config = config
        self.events = events

    @property
    def checkpoints(self) -> Path:
        """The folder for `save_checkpoint` and `load_latest_checkpoint`."""
        return self.folder / "checkpoints"

    def path(self, name: str) -> Path:
        """`folder/name`, for example path("previews/step-000100.png"); folders on the way are made."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def finish(self, results: Mapping[str, Path]) -> None:
        """Mark the run as finished. Every result (name -> path) is a file or folder inside the run's folder.

        Raises:
            FileNotFoundError: a result was not written.
        """
        if rank() > 0:
            return
        for path in results.values():
            path.stat()
        relative = {name: Path(os.path.relpath(path, self.folder)).as_posix() for name, path in results.items()}
        write_text_atomically(self.folder / "result.json", json.dumps(relative, indent=2) + "\n")
        self.events.write("finished", results=relative)

    def finished_results(self) -> dict[str, Path] | None:
        """The results (name -> path) if the run was finished and all of them are still there, otherwise None."""
        return finished_results(self.folder)


def finished_results(folder: Path) -> dict[str, Path] | None:
    """As `RunDirectory.finished_results`, of the run in `folder`, which may not be there."""
    try:
        relative = json.loads((folder / "result.json").read_text("utf-8"))
    except FileNotFoundError:
        return None
    results = {name: folder / path for name, path in relative.items()}
    return results if all(path.exists() for path in results.values()) else None


@contextmanager
def open_run(folder: str | Path, config: Config, *, fresh: bool = False) -> Iterator[RunDirectory]:
    """Make or reopen a run's folder and hold its lock until the `with` block ends.

    Of several processes the first does so; the others come in when it has, and what they report goes nowhere.

    Args:
        folder: usually `run_folder(config, name)`.
        fresh: first delete everything that the folder holds.

    Raises:
        ThreedgenError: another process is working in the folder.
        StorageError: it cannot be made or written.
    """
    folder = Path(folder)
    if rank() > 0:
        barrier()
        with EventLog(os.devnull) as events:
            yield RunDirectory(folder, config, events)
        return
    make_folder(folder, "the run's")
    with locked(folder):
        if fresh:
            _empty(folder)
        remove_temporaries(folder)
        write_text_atomically(folder / "config.yaml", to_yaml(config))
        with EventLog(folder / "events.jsonl") as events:
            barrier()
            yield RunDirectory(folder, config, events)


def make_folder(folder: Path, whose: str) -> None:
    """Make a folder, "the run's" or whose it is, unless it is there. Raises StorageError if that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {whose} folder {folder}: {error.strerror}") from error


def run_folder(config: Config, name: str) -> Path:
    """Where the run of this config belongs: `output_root/NAME/SLUG-HASH` (not made yet). `name`: the recipe's name."""
    subject = slug(config.prompt or Path(config.data).name) or config.task.name
    return Path(config.output_root) / name / f"{subject}-{config_hash(config, name)}"


def config_hash(config: Config, name: str) -> str:
    """Eight hexadecimal digits of every setting but the INCIDENTAL ones, and the recipe's name."""
    settings = {
        key: value.name if isinstance(value, Enum) else value
        for key, value in flatten(config).items()
        if key not in INCIDENTAL
    }
    text = json.dumps([name, settings], sort_keys=True)  # ASCII, floats by repr: the same on every machine
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:8]


def slug(prompt: str, max_length: int = 40) -> str:
    """A readable piece of folder name: a-z, 0-9 and single dashes; empty if the prompt has nothing to show in these.

    Example:
        >>> slug("A red cat, with a GREEN face!")
        'a-red-cat-with-a-green-face'
    """
    ascii_text = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode("ascii")
    return re.sub(r"[^a-z0-9]+", "-", ascii_text.lower()).strip("-")[:max_length].strip("-")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock. The system lets go of it when the process ends, however it ends.

    Raises ThreedgenError if another process holds it, StorageError if the folder cannot be written or locked.
    """
    try:
        file = open(folder / _LOCK, "w")  # noqa: SIM115 - closed below, after the lock's last use
    except OSError as error:
        raise StorageError(f"cannot write in the run's folder {folder}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ThreedgenError(f"another process is working in {folder}: wait for it or stop it first") from error
        except OSError as error:  # some file systems of clusters, as they are mounted
            reason = f"{folder} cannot be locked ({error.strerror})"
            raise StorageError(f"{reason}: set output_root to a folder on another file system") from error
        yield


def _empty(folder: Path) -> None:
    """Delete all that the folder holds but its lock; a link is removed, what it points to stays."""
    for entry in folder.iterdir():
        if entry.name == _LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
