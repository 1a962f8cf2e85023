"""How a run ends when it is told to: after the step that it is in, with a checkpoint, and at once when told twice.

SIGTERM is what schedulers, `docker stop` and `timeout` send, SIGINT is Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from threedgen.runs.distributed import any_process, rank

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# seconds in which a second signal is an echo of the first: `timeout` and torchrun send theirs to a process and a group
_ECHO = 0.5
_NOTE = b"\nstopping after this step; once more stops at once\n"


class Terminated(BaseException):
    """SIGTERM, as KeyboardInterrupt is Ctrl-C: the way out for whatever must be put away, not to be caught on it."""

    exit_status = 75  # EX_TEMPFAIL of sysexits.h: not done, but nothing is wrong; the same command goes on


class Stop:
    """What a loop asks at the end of each of its steps. Made by `stopping`."""

    def __init__(self, shared: bool) -> None:
        self._shared = shared
        self._signal: int | None = None
        self._since = 0.0

    def is_asked(self) -> bool:
        """Whether the loop is to end here. Of several processes that share it all get the same answer."""
        asked = self._signal is not None
        return any_process(asked) if self._shared else asked

    def leave(self) -> None:
        """End as the signal would have: raises KeyboardInterrupt or Terminated."""
        raise KeyboardInterrupt if self._signal == signal.SIGINT else Terminated

    def hear(self, number: int, frame: FrameType | None = None) -> None:
        """A signal has come."""
        now = time.monotonic()
        if self._signal is None:
            self._signal, self._since = number, now
            os.write(2, _NOTE if rank() == 0 else b"")  # print() may be what was interrupted
        elif now - self._since > _ECHO:
            os._exit(128 + number)  # the way out of a step may be long; what is half-written has a temporary name


@contextmanager
def stopping(shared: bool = False) -> Iterator[Stop]:
    """While the block runs a first signal waits until the loop asks for it, and a second one ends the process at once.

    In a thread that is not the main one signals are left to whom they belong. shared: all processes run this loop
    together.

    Example:
        with stopping() as stop:
            for step in range(steps):
                ...
                if stop.is_asked():
                    save()
                    stop.leave()
    """
    stop = Stop(shared)
    with _handled_by(stop.hear, _SIGNALS):
        yield stop


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM raises Terminated in the block, wherever it is, unless a loop in it uses `stopping`."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise Terminated

    with _handled_by(leave, (signal.SIGTERM,)):
        yield


@contextmanager
def _handled_by(handler: signal._HANDLER, signals: tuple[int, ...]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)  # None: set by what is not Python
