"""Work that is begun before it is asked for, so that whoever asks waits less."""

from __future__ import annotations

import threading
from collections.abc import Callable

KERNELS = "kernels"  # the CPU's, compiled where they are not there yet
_begun: dict[str, threading.Thread] = {}


def begin(name: str, work: Callable[[], object]) -> None:
    """Begin `work` in a thread of its own, unless that was begun before. What it raises must be told by who asks."""
    if name not in _begun:
        _begun[name] = threading.Thread(target=work, name=name, daemon=True)
        _begun[name].start()


def wait(name: str) -> None:
    """Return when the work of that name is done, at once if none was begun."""
    if name in _begun:
        _begun[name].join()
