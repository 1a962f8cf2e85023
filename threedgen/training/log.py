"""What a training says of itself on the progress line and in events.jsonl."""

from types import TracebackType
from typing import Any, Self

from torch import Tensor

from threedgen.runs.events import EventLog
from threedgen.runs.progress import REPORT_EVERY, ProgressLine, StepReport
from threedgen.training.loop import Losses


class StepLog:
    """The loss of a step, and whatever else its objective told of it: every ten steps, and after the last one."""

    def __init__(
        self, events: EventLog, label: str, num_steps: int, event: str = "step", every: int = REPORT_EVERY
    ) -> None:
        """label: of the progress line; event: its name in events.jsonl, which is written every `every` steps."""
        self._events, self._label, self._num_steps, self._event, self._every = events, label, num_steps, event, every
        self._others: dict[str, Tensor] = {}
        self._last: tuple[int, Tensor, Tensor] | None = None  # done, loss, gradient's norm; not yet written

    def __enter__(self) -> Self:
        self._progress = ProgressLine(self._label)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.close()

    def add(self, batch: Any, losses: Losses) -> None:
        self._others = {name: value.detach() for name, value in losses.others.items()}

    def step(self, done: int, loss: Tensor, grad_norm: Tensor, lr: float) -> None:
        self._last = done, loss, grad_norm
        if done % self._every == 0:
            self.finish()
        elif done % REPORT_EVERY == 0:
            self._progress.update(self._report(*self._last))

    def finish(self) -> None:
        """Tell of the last step if that was not done yet."""
        if self._last is None:
            return
        report = self._report(*self._last)
        self._progress.update(report)
        self._events.write(self._event, step=report.step, loss=report.loss, **report.fields)
        self._last = None

    def _report(self, done: int, loss: Tensor, grad_norm: Tensor) -> StepReport:
        fields = {name: value.item() for name, value in self._others.items()} | {"grad_norm": grad_norm.item()}
        return StepReport(done, self._num_steps, loss.item(), fields)
