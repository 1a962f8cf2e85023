"""How many threads a step takes on a CPU: as many as make it fastest, measured on the steps themselves.

Threads that share a layer wait for each other, and a neighbour on one core makes all of them wait: two threads then
need several times as long as one alone. So counts are tried in turn now and then, and at once when steps have become
slow. When that happens is counted in steps, so that two runs on a quiet machine decide at the same ones.

torch's results differ in their last bits by the number of threads (our own kernels' do not). Which step was taken with
how many is kept with the run's checkpoints, and a run that goes on takes the steps that it took before as it did then.
"""

from __future__ import annotations

import itertools
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import torch
from torch import nn

from threedgen.core.threads import most_threads
from threedgen.runs.directory import THREADS
from threedgen.runs.distributed import world_size
from threedgen.runs.events import drop_unfinished_line
from threedgen.runs.progress import REPORT_EVERY

_TRIALS = 3  # steps with each count, of which the median is taken
_HOPELESS = 2.5  # times the fastest step: a count that is slower than this in one trial is not tried again
_AS_GOOD = 1.05  # times the fastest count: fewer threads that are as fast leave more to others
_FIRST_STAY, _LONGEST_STAY = 40, 640  # steps until counts are tried again; doubled when the choice was the same
_SLOW, _WINDOW = 1.5, 5  # times the usual; the median of so many steps is compared


def choices(most: int) -> list[int]:
    """The counts that are compared, ascending: halves of `most`, and one less than it for a single busy neighbour."""
    return sorted({max(1, most >> k) for k in range(most.bit_length())} | {max(1, most - 1)})


def choose(most: int, begin: int) -> Generator[int, float, None]:
    """Yields how many threads the next step is to take, and is sent how many seconds it took; without end.

    begin: the count to try first.
    """
    counts, warm, steps = choices(most), set[int](), _FIRST_STAY
    chosen = min(counts, key=lambda count: abs(count - begin))
    while True:
        best, seconds = yield from _look(counts, chosen, warm)
        steps = steps if best == chosen else _FIRST_STAY
        chosen = best
        was_steady = yield from _stay(chosen, seconds, steps)
        steps = min(2 * steps, _LONGEST_STAY) if was_steady else _FIRST_STAY


def _look(counts: list[int], begin: int, warm: set[int]) -> Generator[int, float, tuple[int, float]]:
    """The best count and its seconds: `begin` and the counts next to it are compared, until the best has no better one
    beside it. warm: counts that steps were taken with before; the first step of the others is not judged."""
    seconds: dict[int, float] = {}
    best = begin
    while True:
        place = counts.index(best)
        new = [count for count in counts[max(0, place - 1) : place + 2] if count not in seconds]
        if not new:
            return best, seconds[best]
        taken: dict[int, list[float]] = {count: [] for count in new}
        for _ in range(_TRIALS):
            for count in new:
                fastest = min([*seconds.values(), *(min(some) for some in taken.values() if some)], default=0.0)
                if taken[count] and min(taken[count]) > _HOPELESS * fastest:
                    continue
                if count not in warm:
                    warm.add(count)
                    yield count
                taken[count].append((yield count))
        seconds |= {count: median(some) for count, some in taken.items()}
        fastest = min(seconds.values())
        best = min(count for count, some in seconds.items() if some <= _AS_GOOD * fastest)


def _stay(count: int, usual: float, steps: int) -> Generator[int, float, bool]:
    """Take so many steps with the count, fewer if they become slow; returns whether they did not."""
    recent = deque[float](maxlen=_WINDOW)
    for _ in range(steps):
        recent.append((yield count))
        if len(recent) == _WINDOW:
            now = median(recent)
            if now > _SLOW * usual:
                return False
            usual = min(usual, now)
    return True


class Threads:
    """Sets torch's number of threads, which our own kernels follow, before each step of an optimisation.

    Example:
        threads = Threads(run.checkpoints, config.runtime.threads, scene.device)
        threads.resume(start)
        for step in range(start, steps):
            with threads.step(step):
                ...
    """

    def __init__(
        self, folder: Path | None, fixed: int, device: torch.device, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """folder: where the record is kept; None: nowhere, for what begins anew where it is stopped. fixed: the
        config's number of threads, 0: the best.

        Nothing is measured or kept where it is fixed, where there is one core, on a GPU, whose steps need none, and of
        several processes that wait for each other.
        """
        self._most = most_threads() if fixed == 0 and device.type == "cpu" and world_size() == 1 else 1
        self._path, self._clock = folder / THREADS if folder else None, clock
        self._record = _read(self._path) if self._path and self._most > 1 else []
        self._chooser: Generator[int, float, None] | None = None
        self._next = 0  # that the chooser asks for

    def resume(self, start: int) -> None:
        """Take up the count that was in force when `start` steps were done; what is computed next takes it too."""
        self._chooser = None
        if self._record:
            torch.set_num_threads(self._in_force(start - 1))

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """The block is step `number`: 0, 1, ..., or again from an earlier one on."""
        if self._most == 1:
            yield
            return
        if self._record and number <= self._record[-1][0]:
            torch.set_num_threads(self._in_force(number))
            yield
            return
        if self._chooser is None:
            self._chooser = choose(self._most, torch.get_num_threads())
            self._next = next(self._chooser)
        self._keep(number, self._next)
        torch.set_num_threads(self._next)
        began = self._clock()
        yield
        self._next = self._chooser.send(self._clock() - began)

    @contextmanager
    def calls_of(self, module: nn.Module) -> Iterator[None]:
        """Each of the module's calls in the block is a step."""
        calls, inside = itertools.count(), ExitStack()

        def enter(*_: object) -> None:
            inside.enter_context(self.step(next(calls)))

        def leave(*_: object) -> None:
            inside.close()

        with inside:
            hooks = module.register_forward_pre_hook(enter), module.register_forward_hook(leave)
            try:
                yield
            finally:
                for hook in hooks:
                    hook.remove()

    def _in_force(self, number: int) -> int:
        """By the record, at step `number`."""
        place = bisect_right(self._record, number, key=lambda line: line[0])
        return self._record[max(0, place - 1)][1]

    def _keep(self, number: int, count: int) -> None:
        # also as often as steps are reported: what was reported is repeated
        is_new = not self._record or self._record[-1][1] != count or (number + 1) % REPORT_EVERY == 0
        if self._path is None or not is_new:
            return
        self._record.append((number, count))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a", encoding="ascii") as file:
            file.write(f"{number} {count}\n")


def _read(path: Path) -> list[tuple[int, int]]:
    """(step, threads from it on), ascending."""
    if not path.exists():
        return []
    drop_unfinished_line(path)
    return [(int(step), int(count)) for step, count in (line.split() for line in path.read_text("ascii").splitlines())]
