"""What tables are measured by: jobs, several at once, which keep figures and a picture of each caption."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from threedgen.config.schema import Config
from threedgen.core.processes import mapping
from threedgen.data.miniworld import Spec
from threedgen.runs.directory import slug
from threedgen.tasks.evaluation.tables import Figures, Measured

SCORE, PICTURE = "score.json", "views.png"
PICTURE_AZIMUTHS = (30.0, 210.0)  # three-quarter, from the front and from behind
PICTURE_ELEVATION = 15.0
J = TypeVar("J")
R = TypeVar("R")
T = TypeVar("T")


class Sample(NamedTuple):
    """A caption, and the folder of its score and picture."""

    spec: Spec
    folder: Path

    @property
    def is_there(self) -> bool:
        return (self.folder / SCORE).exists()


@dataclass(frozen=True)
class Job:
    """What one process does for a condition of a table; `config` is the whole setting of it, seed included."""

    condition: str
    config: Config
    folder: Path
    samples: tuple[Sample, ...]

    @property
    def is_done(self) -> bool:
        return all(sample.is_there for sample in self.samples)

    def __str__(self) -> str:
        return f"{self.condition}: {self.config.prompt}" if self.config.prompt else self.condition


@dataclass(frozen=True)
class Outcome(Generic[J, R]):
    """A job and what came of it: a result, or the message of its error."""

    job: J
    result: R | None
    error: str = ""


def folder_name(caption: str) -> str:
    return slug(caption, max_length=80)


def sample_name(index: int, caption: str) -> str:
    return f"{index:03d}-{folder_name(caption)}"


def with_settings(config: T, settings: Mapping[str, Any]) -> T:
    """The config dataclass with {dotted key: value} changed."""
    for key, value in settings.items():
        name, _, rest = key.partition(".")
        changed = with_settings(getattr(config, name), {rest: value}) if rest else value
        config = replace(config, **{name: changed})  # type: ignore[type-var]
    return config


def measured(
    name: str,
    jobs: Sequence[Job],
    work: Callable[[Job], str],
    config: Config,
    what: str,
    *,
    chunk: int = 1,
    beside: Sequence[Job] = (),
) -> Measured:
    """Do the jobs of table `name` that are not done yet, and read what all of them have found.

    work: leaves the scores and pictures of a job's samples, and says in a line what it found; what: is to be done,
    such as "scenes to optimise"; chunk: as `outcomes` has it; beside: jobs of other tables, done in the same go.
    """
    everything = [*jobs, *(job for job in beside if job not in jobs)]
    todo = [job for job in everything if not job.is_done]
    print(f"{name}: {len(todo)} {what}, {len(everything) - len(todo)} there", flush=True)
    failures = []
    for outcome in outcomes(work, todo, config, chunk):
        line = f"{name}: {outcome.job}: {outcome.error or outcome.result}"
        print(line, flush=True)
        if outcome.error and outcome.job in jobs:
            failures.append(line)
    scores: dict[str, dict[str, Figures]] = {}
    pictures: dict[str, dict[str, Path]] = {}
    for job in jobs:
        for sample in job.samples:
            if sample.is_there:
                score = json.loads((sample.folder / SCORE).read_text("utf-8"))
                scores.setdefault(job.condition, {})[sample.spec.caption] = score
                pictures.setdefault(job.condition, {})[sample.spec.caption] = sample.folder / PICTURE
    return Measured(scores, pictures, tuple(failures))


def outcomes(function: Callable[[J], R], jobs: Sequence[J], config: Config, chunk: int = 1) -> Iterator[Outcome[J, R]]:
    """Do the jobs, `eval.workers` at a time in processes of their own, `chunk` after one another in the same one.

    In the order of the jobs; one that fails takes no other with it. With one worker they run in this process.
    Raises ThreedgenError where a process dies.
    """
    workers = config.eval.workers if len(jobs) > 1 else 1
    do = partial(_attempt, function, config.runtime.threads)
    attempt = do if workers == 1 else partial(_with_threads, config.runtime.threads or 1, do)  # they share the cores
    with mapping(workers, "try fewer eval.workers; what is done is kept") as map_jobs:
        yield from map_jobs(attempt, jobs, chunksize=chunk)


def _with_threads(count: int, do: Callable[[Any], Any], job: Any) -> Any:
    """In a process of its own."""
    os.environ["OMP_NUM_THREADS"] = str(count)  # `most_threads` of what a job optimises
    torch.set_num_threads(count)
    return do(job)


def _attempt(function: Callable[[Any], Any], threads: int, job: Any) -> Outcome[Any, Any]:
    if threads > 0:
        torch.set_num_threads(threads)
    try:
        return Outcome(job, function(job))
    except Exception as error:  # whatever it is, the other jobs are independent of it; the caller reports it
        return Outcome(job, None, f"{type(error).__name__}: {error}")
