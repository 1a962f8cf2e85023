"""One line that tells how far a run is and when it will be done."""

from __future__ import annotations

import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO

REPORT_EVERY = 10  # steps: reading the numbers makes a GPU wait


@dataclass(frozen=True)
class StepReport:
    """What an optimisation loop says after a step; the same object feeds the progress line and events.jsonl."""

    step: int  # steps done so far, 1 .. num_steps
    num_steps: int
    loss: float
    fields: dict[str, float] = field(default_factory=dict)  # further numbers, shown in this order


class ProgressLine:
    """Redrawn in place on a terminal, with as many of the numbers as fit into its width; elsewhere (a log file) a new
    line every `interval` seconds.

    The remaining time is judged by the last 50 reports, because steps grow slower as a run's resolution grows.

    Example:
        with ProgressLine("optimise") as progress:
            progress.update(StepReport(step=10, num_steps=500, loss=0.25))
    """

    def __init__(
        self,
        label: str,
        stream: TextIO | None = None,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label = label
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock
        self._on_terminal = self._stream.isatty()
        self._interval = 0.1 if self._on_terminal else interval
        self._history: deque[tuple[float, int]] = deque(maxlen=50)  # (time, step)
        self._shown_at: float | None = None
        self._width = 0

    def update(self, report: StepReport) -> None:
        """Take a report; show it if the last one shown is old enough or if it is the last step."""
        now = self._clock()
        self._history.append((now, report.step))
        is_due = self._shown_at is None or now - self._shown_at >= self._interval
        if not is_due and report.step < report.num_steps:
            return
        self._shown_at = now
        line = self._line(report)
        if self._on_terminal:
            self._stream.write("\r" + line.ljust(self._width))  # blanks wipe what a longer line left
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def close(self) -> None:
        """End the line, so that what follows starts on its own."""
        if self._on_terminal and self._width:
            self._stream.write("\n")
            self._stream.flush()
            self._width = 0

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def remaining_seconds(self, report: StepReport) -> float | None:
        """Seconds to the last step at the recent pace; None before there is a pace."""
        (first_time, first_step), (last_time, last_step) = self._history[0], self._history[-1]
        if last_step <= first_step:
            return None
        return (report.num_steps - report.step) * (last_time - first_time) / (last_step - first_step)

    def _line(self, report: StepReport) -> str:
        percent = 100 * report.step // report.num_steps
        head = [f"{self._label} {report.step}/{report.num_steps} {percent:3d}%", f"loss {report.loss:.4g}"]
        fields = [f"{name} {value:.4g}" for name, value in report.fields.items()]
        remaining = self.remaining_seconds(report)
        tail = [] if remaining is None else [f"ETA {format_seconds(remaining)}"]
        line = "  ".join([*head, *fields, *tail])
        if not self._on_terminal:
            return line
        fitting = shutil.get_terminal_size().columns - 1  # what is wrapped cannot be redrawn in place
        while fields and len(line) > fitting:
            fields.pop()
            line = "  ".join([*head, *fields, *tail])
        return line[:fitting]


def format_seconds(seconds: float) -> str:
    """`0:07`, `4:31` or `2:05:09`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
