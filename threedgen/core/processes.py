"""The same for each of many things, in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

from threedgen.core.errors import ThreedgenError


@contextmanager
def mapping(workers: int, if_one_dies: str) -> Iterator[Callable[..., Iterator[Any]]]:
    """`map` that may be told a `chunksize`: in this process with one worker, otherwise in so many fresh ones.

    Results come in the order of what they are of. if_one_dies: what can be done then, such as "try fewer --workers".
    Raises ThreedgenError where a process is ended from outside.
    """
    if workers == 1:
        yield _map_here
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            yield pool.map
        except BrokenProcessPool as error:
            raise ThreedgenError(f"a process was ended from outside (out of memory?): {if_one_dies}") from error


def _map_here(function: Callable[..., Any], *arguments: Iterable[Any], chunksize: int = 1) -> Iterator[Any]:
    return map(function, *arguments)
