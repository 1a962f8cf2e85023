"""Many runs from one command: the prompts of a file, each with each of the seeds."""

from __future__ import annotations

import json
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from threedgen.config.schema import Config
from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.runs.progress import format_seconds

_PACKAGE = Path(__file__).resolve().parent.parent
_OF_THE_BATCH = ("prompts", "seeds", "output_root")  # settings that a line cannot have, nor any of batch.*
_MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Item:
    """A line of a file of prompts."""

    prompt: str
    settings: tuple[str, ...] = ()  # its own key=value words
    where: str = ""  # the file and the line, for messages


@dataclass(frozen=True)
class Job:
    """One run of a batch."""

    config: Config
    folder: Path
    settings: tuple[str, ...] = ()  # key=value words that its line has of its own

    def __str__(self) -> str:
        return self.config.prompt


@dataclass(frozen=True)
class Outcome:
    prompt: str
    seconds: float
    results: dict[str, Path] | None  # None: it failed
    error: str = ""


J = TypeVar("J")


def read_prompts(name: str) -> list[str]:
    """The prompts of a UTF-8 file, one a line, each exactly as it stands there.

    Blank lines and lines that start with `#` are skipped; a `#` further on belongs to the prompt. The file is looked
    up as given, then in `custom_prompts/`.

    Raises:
        ConfigError: there is no such file, it is no UTF-8 text, or it holds no prompt.
    """
    return [line for _, line in _lines(name, _find(name))]


def read_items(name: str) -> list[Item]:
    """The lines of a file of prompts as `read_prompts` finds it; of a `.jsonl` file each is an object of settings.

    Example:
        {"prompt": "a red cat", "seed": 3, "optimizer": {"grid_lr": 0.01}}

    Raises:
        ConfigError: as `read_prompts`, and for a line that is no such object.
    """
    path = _find(name)
    lines = [(f"{path}, line {number}", line) for number, line in _lines(name, path)]
    if path.suffix != ".jsonl":
        return [Item(line, where=where) for where, line in lines]
    return [_item(where, line) for where, line in lines]


def read_seeds(text: str, own: int) -> list[int]:
    """The seeds that `seeds=0..3` (both ends are in it) or `seeds=1,5,9` means; nothing: the config's own."""
    if not text:
        return [own]
    if found := re.fullmatch(r"(\d+)\.\.(\d+)", text.strip()):
        first, last = int(found[1]), int(found[2])
        if 0 <= last - first < _MOST_SEEDS:
            return list(range(first, last + 1))
    elif re.fullmatch(r"\d+(\s*,\s*\d+)*", text.strip()):
        return list(dict.fromkeys(int(word) for word in text.split(",")))
    raise ConfigError(f"seeds={text}: expected numbers such as 0..3 or 1,5,9, {_MOST_SEEDS} at most")


def _find(name: str) -> Path:
    roots = (Path(), _PACKAGE.parent, _PACKAGE)  # here, in a checkout, in an installed package
    folders = (Path(), *(root / "custom_prompts" for root in roots), *roots[1:])
    path = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if path is None:
        raise ConfigError(f"prompts={name}: no such file here or in custom_prompts/")
    return path


def _lines(name: str, path: Path) -> list[tuple[int, str]]:
    """Number, counted from 1, and text of the lines that hold something."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"prompts={name}: {path} is not UTF-8 text (byte {error.start})") from error
    # not splitlines(), which would also cut a prompt at characters such as U+2028
    lines = enumerate((line.removesuffix("\r") for line in text.split("\n")), start=1)
    found = [(number, line) for number, line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not found:
        raise ConfigError(f"prompts={name}: {path} holds no prompt, only blank lines and comments")
    return found


def _item(where: str, line: str) -> Item:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where}: is not JSON ({error})") from error
    if not isinstance(record, dict) or not isinstance(record.get("prompt"), str) or not record["prompt"].strip():
        raise ConfigError(f'{where}: expected an object with a prompt, such as {{"prompt": "a red cat", "seed": 1}}')
    settings = _words(record, "")
    for word in settings:
        key = word.partition("=")[0]
        if key in _OF_THE_BATCH or key.startswith("batch."):
            raise ConfigError(f"{where}: {key} is the whole batch's: set it on the command line")
    return Item(record["prompt"], tuple(word for word in settings if not word.startswith("prompt=")), where)


def _words(record: dict[str, object], prefix: str) -> list[str]:
    """The settings as key=value words of the command line; sections may be objects or dotted."""
    words = []
    for key, value in record.items():
        if isinstance(value, dict):
            words += _words(value, f"{prefix}{key}.")
        else:
            words.append(f"{prefix}{key}={value if isinstance(value, str) else json.dumps(value)}")
    return words


def run_batch(
    jobs: Sequence[J],
    run_one: Callable[[J], dict[str, Path]],
    ended: Callable[[int, Outcome], None] = lambda i, o: None,
) -> list[Outcome]:
    """Do every job in order; one that fails is reported at once and does not stop the rest.

    ended: told of the number, counted from 0, and the outcome of each.
    """
    outcomes = []
    for number, job in enumerate(jobs):
        print(f"[{number + 1}/{len(jobs)}] {job}", flush=True)
        started = time.monotonic()
        results, message = None, ""
        try:
            results = run_one(job)
        except ThreedgenError as error:
            message = str(error)
            print(f"error: {message}", file=sys.stderr, flush=True)
        except Exception as error:  # whatever went wrong with one prompt, the next one is tried
            message = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        outcomes.append(Outcome(str(job), time.monotonic() - started, results, message))
        ended(number, outcomes[-1])
    return outcomes


def summary(outcomes: Sequence[Outcome]) -> str:
    """A table: state, time, prompt, and the first result's path or the error's first line."""
    rows = []
    for outcome in outcomes:
        state = "failed" if outcome.results is None else "done"
        what = str(next(iter(outcome.results.values()), "")) if outcome.results else outcome.error.partition("\n")[0]
        prompt = outcome.prompt if len(outcome.prompt) <= 48 else outcome.prompt[:45] + "..."
        rows.append(f"{state:7}{format_seconds(outcome.seconds):>8}  {prompt:48}  {what}".rstrip())
    failed = sum(outcome.results is None for outcome in outcomes)
    rows.append(f"{len(outcomes) - failed} of {len(outcomes)} prompts done, {failed} failed")
    return "\n".join(rows)
