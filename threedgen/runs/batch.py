"""Many prompts from a text file, one run each."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.runs.progress import format_seconds

_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Outcome:
    prompt: str
    seconds: float
    results: dict[str, Path] | None  # None: it failed
    error: str = ""


def read_prompts(name: str) -> list[str]:
    """The prompts of a UTF-8 file, one a line, each exactly as it stands there.

    Blank lines and lines that start with `#` are skipped; a `#` further on belongs to the prompt. The file is looked
    up as given, then in `custom_prompts/`.

    Raises:
        ConfigError: there is no such file, it is no UTF-8 text, or it holds no prompt.
    """
    roots = (Path(), _PACKAGE.parent, _PACKAGE)  # here, in a checkout, in an installed package
    folders = (Path(), *(root / "custom_prompts" for root in roots), *roots[1:])
    path = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if path is None:
        raise ConfigError(f"prompts={name}: no such file here or in custom_prompts/")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"prompts={name}: {path} is not UTF-8 text (byte {error.start})") from error
    # not splitlines(), which would also cut a prompt at characters such as U+2028
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    prompts = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not prompts:
        raise ConfigError(f"prompts={name}: {path} holds no prompt, only blank lines and comments")
    return prompts


def run_batch(prompts: Sequence[str], run_one: Callable[[str], dict[str, Path]]) -> list[Outcome]:
    """Run every prompt in order; one that fails is reported at once and does not stop the rest."""
    outcomes = []
    for number, prompt in enumerate(prompts, start=1):
        print(f"[{number}/{len(prompts)}] {prompt}", flush=True)
        started = time.monotonic()
        results, message = None, ""
        try:
            results = run_one(prompt)
        except ThreedgenError as error:
            message = str(error)
            print(f"error: {message}", file=sys.stderr, flush=True)
        except Exception as error:  # whatever went wrong with one prompt, the next one is tried
            message = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        outcomes.append(Outcome(prompt, time.monotonic() - started, results, message))
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
