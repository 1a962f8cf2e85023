"""What training says of itself: losses by mode and by quarter of the timesteps, pace, on the screen and on disk."""

import time
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from threedgen.config.training import TrainConfig
from threedgen.core.transfer import to_device
from threedgen.runs.directory import RunDirectory
from threedgen.runs.distributed import rank, sum_over_processes
from threedgen.runs.progress import REPORT_EVERY, ProgressLine, StepReport
from threedgen.runs.tensorboard import TensorBoard
from threedgen.tasks.training.batches import NUM_TIMESTEPS, Batch
from threedgen.training.loop import Losses

_MODES = ("2d", "multiview")
_QUARTERS = ("t0", "t250", "t500", "t750")


class TrainingLog:
    """Means over `log_every` steps and all processes, on the progress line, in events.jsonl and in `tensorboard/`.

    Only the first process writes. The progress line has every step on a CPU, and on a GPU every tenth: reading waits.
    """

    def __init__(self, run: RunDirectory, train: TrainConfig, images_per_step: int, device: torch.device) -> None:
        self._run, self._train, self._images_per_step = run, train, images_per_step
        self._writes = rank() == 0
        self._sums = torch.zeros(2, len(_MODES), len(_QUARTERS), dtype=torch.float64, device=device)  # of losses; count
        self._steps, self._since = 0, time.monotonic()
        self._report_every = 1 if device.type == "cpu" else REPORT_EVERY
        self._last: tuple[int, Tensor, Tensor, float] | None = None  # done, loss, gradient's norm, lr; not yet written

    def begin(self, start: int) -> Self:
        """start: steps done when this begins; what was counted before is forgotten, after a rollback it comes again."""
        if self._writes:
            self._progress = ProgressLine("prior")
            self._board = TensorBoard(self._run.folder / "tensorboard", start)
        self._sums.zero_()
        self._steps, self._since = 0, time.monotonic()
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writes:
            self._progress.close()
            self._board.close()

    def add(self, batch: Batch, losses: Losses) -> None:
        """Count the loss of each view of a part of a step."""
        loss = losses.others["views"]
        quarter = to_device(batch.timestep * len(_QUARTERS) // NUM_TIMESTEPS, loss.device)
        values = torch.stack([loss.detach().double(), torch.ones_like(loss, dtype=torch.float64)])
        is_multiview = batch.num_views > 1 or batch.cameras is not None  # also of videos without cameras
        self._sums[:, int(is_multiview)].index_add_(1, quarter, values)

    def step(self, done: int, loss: Tensor, grad_norm: Tensor, lr: float) -> None:
        """Report a step. done: steps done so far; loss: this process's mean, for the progress line."""
        self._steps += 1
        self._last = done, loss, grad_norm, lr
        if done % self._train.log_every == 0:
            self.finish()
        elif done % self._report_every == 0:
            self._report(*self._last)

    def finish(self) -> None:
        """Write down what the last steps gave and is not written yet."""
        if self._last is None:
            return
        done, others = self._last[0], self._report(*self._last)
        losses = self._losses()  # every process takes part in the sum
        if self._writes:
            self._run.events.write("step", step=done, **losses, **others)
            self._board.scalars(done, {f"loss/{name}": mean for name, mean in losses.items()} | others)
        self._sums.zero_()
        self._steps, self._since, self._last = 0, time.monotonic(), None

    def samples(self, step: int, sheet: Path, quality: float | None) -> None:
        """Tell of a sheet of sampled views. quality: its PSNR in dB, where there is a truth to compare with."""
        measured = {} if quality is None else {"psnr": quality}
        self._run.events.write("samples", step=step, path=sheet, **measured)
        self._board.picture(step, "samples", sheet)
        self._board.scalars(step, measured)
        if quality is not None:
            print(f"held-out views at step {step}: {quality:.2f} dB inside the silhouettes", flush=True)

    def _report(self, done: int, loss: Tensor, grad_norm: Tensor, lr: float) -> dict[str, float]:
        """Show a step; what is kept of it beside its losses."""
        norm = grad_norm.item()  # first: the pace is that of steps that are done
        pace = self._steps * self._images_per_step / max(1e-9, time.monotonic() - self._since)
        if self._writes:
            fields = {"grad_norm": norm, "images/s": pace}
            self._progress.update(StepReport(done, self._train.steps, loss.item(), fields))
        return {"grad_norm": norm, "lr": lr, "images_per_second": pace}

    def _losses(self) -> dict[str, float]:
        """The mean loss of everything, of each mode, and of each mode's quarters, those that there were."""
        sums, counts = sum_over_processes(self._sums.clone()).tolist()
        means = {"loss": _mean(sum(map(sum, sums)), sum(map(sum, counts)))}
        for mode, of_mode, counted in zip(_MODES, sums, counts, strict=True):
            means[mode] = _mean(sum(of_mode), sum(counted))
            means |= {f"{mode}_{q}": _mean(s, n) for q, s, n in zip(_QUARTERS, of_mode, counted, strict=True)}
        return {name: mean for name, mean in means.items() if mean is not None}


def _mean(total: float, count: float) -> float | None:
    return total / count if count else None
