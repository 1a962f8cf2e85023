"""Work beside the work: held to a share of wall time, over any stretch of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Throttle:
    """Time to spend is earned while other work is done and never hoarded: a second of it lets `share / (1 - share)`
    seconds be spent, up to what the next piece is expected to take. What a piece took beyond that is earned later.

    So in a stretch of time T no more than share * T is spent, and the excess of one piece over what was expected.
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = share / (1.0 - share)
        self._clock = clock
        self._since = clock()  # up to where it is earned
        self._credit = 0.0  # seconds
        self.spent = 0.0  # seconds, in all

    def allows(self, expected: float) -> bool:
        """Whether a piece that is expected to take so many seconds may begin now."""
        now = self._clock()
        self._credit = min(self._credit + (now - self._since) * self._rate, expected)
        self._since = now
        return self._credit >= expected

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Around a piece of work."""
        begun = self._clock()
        try:
            yield
        finally:
            self._since = self._clock()
            self._credit -= self._since - begun
            self.spent += self._since - begun
