"""The loop that fits every scene to what it is shown, its optimiser and its checkpoints.

A second loop beside `training/loop.py`: a scene's gradient is one set of pictures, never split or averaged, and its own
housekeeping (`after_step`) is part of the step.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from PIL.Image import Image
from torch import Tensor

from threedgen.cameras import Cameras
from threedgen.config.schedules import Schedule, value_at
from threedgen.config.schema import Config
from threedgen.core.memory import peak_gib
from threedgen.imaging import save_png
from threedgen.ops.optimizer import AdamW
from threedgen.runs.checkpoint import restore_training, save_training
from threedgen.runs.directory import RunDirectory
from threedgen.runs.progress import REPORT_EVERY, ProgressLine, StepReport
from threedgen.runs.stopping import stopping
from threedgen.scene.protocol import Scene
from threedgen.tasks.memory import within_memory
from threedgen.training.guard import NumberGuard, SceneGuard
from threedgen.training.threads import Threads
from threedgen.viewer.live import watching

SCENE = "scene."  # before the names of the scene's tensors in a checkpoint


class SceneStep(NamedTuple):
    """What a step is: loss [], to be minimised; told: the loss that is reported, and further figures; preview: a
    picture; opacity: the lowest of a pixel in which nothing is known to be, see `SceneGuard`, and the highest of any.
    These three are asked for when they are due. cameras: that what it is compared with is seen from."""

    loss: Tensor
    told: Callable[[], tuple[float, dict[str, float]]]
    preview: Callable[[], Image]
    opacity: Callable[[], tuple[float, float]]
    cameras: Cameras | None = None


@dataclass(frozen=True)
class Span:
    """Steps first .. last - 1 of a scene's life, and the learning rates' factor over them.

    While the span lasts, and after it, the checkpoint of its beginning is kept.
    """

    first: int
    last: int
    lr_scale: Schedule

    @staticmethod
    def of(config: Config) -> Span:
        """The config's own steps."""
        return Span(0, config.steps, config.optimizer.lr_scale)


class SceneOptimizer:
    """AdamW on a scene's parameter groups, with the config's learning rates and their schedule."""

    def __init__(self, scene: Scene, config: Config, span: Span | None = None) -> None:
        self.scene = scene
        self.span = span or Span.of(config)
        self.adamw = AdamW(
            scene.param_groups(config.optimizer),
            scene.ops,
            betas=config.optimizer.betas,
            eps=config.optimizer.eps,
            weight_decay=config.optimizer.weight_decay,
        )
        self.peak_lr = [group["lr"] for group in self.adamw.param_groups]

    def step(self, loss: Tensor, step: int, allows: Callable[[int, Tensor], bool] = lambda step, loss: True) -> None:
        """A step of the span: against the gradient of `loss`, where it is allowed; then the scene's own housekeeping.

        allows: (step, loss) -> bool, asked when the gradients are there.
        """
        self.backward(loss)
        self.update(loss, step, allows)

    def backward(self, loss: Tensor) -> None:
        """The first half of a step: the gradients."""
        self.adamw.zero_grad()
        loss.backward()

    def update(self, loss: Tensor, step: int, allows: Callable[[int, Tensor], bool]) -> None:
        """The second half, from the gradients on; see `step`."""
        scale = value_at(self.span.lr_scale, (step - self.span.first) / (self.span.last - self.span.first))
        for group, lr in zip(self.adamw.param_groups, self.peak_lr, strict=True):
            group["lr"] = lr * scale
        if allows(step, loss):
            self.adamw.step()
        self.scene.after_step(step, self.adamw)


def fit(
    scene: Scene,
    config: Config,
    run: RunDirectory,
    label: str,
    take: Callable[[int], SceneStep],
    span: Span | None = None,
    is_due: Callable[[int], bool] = lambda done: False,
    save: Callable[[], bool] = lambda: False,
) -> int:
    """Take the span's steps, from the run's latest checkpoint on if there is one, bit for bit as if never stopped.

    Returns how many steps the scene has behind it: those of the span, or more if a later span was begun before.

    label: of the progress line; take: a step as the scene is now; span: None: the config's own steps; is_due: whether a
    checkpoint is to be written besides, when so many steps are done; save: see `within_memory`.

    Raises DivergedError if it comes to nothing, ThreedgenError if a step does not fit into a GPU's memory, and what
    `stopping` raises.
    """
    span = span or Span.of(config)
    optimizer = SceneOptimizer(scene, config, span)
    saved = {f"{SCENE}{name}": value for name, value in scene.state_dict().items()}
    parameters = [parameter for group in optimizer.adamw.param_groups for parameter in group["params"]]

    def tell(text: str) -> None:
        print(f"warning: {text}", file=sys.stderr, flush=True)
        run.events.write("warning", message=text)

    def restore() -> int:
        start = restore_training(run.checkpoints, optimizer.adamw, saved)
        if start and start <= span.first:
            optimizer.adamw.state.clear()  # a span begins without memory of the one before
        elif start and not span.first:  # said once, whichever span it is in
            print(f"resumed    at step {start}")
        return start

    def learn(step: int) -> SceneStep:
        taken = take(step)
        optimizer.backward(taken.loss)
        return taken

    live = watching(config.viewer)
    guard = NumberGuard(parameters, saved, "optimizer.grid_lr, optimizer.network_lr", tell=tell)
    threads = Threads(run.checkpoints, config.runtime.threads, scene.device)
    with stopping() as stop:
        for start in guard.attempts(restore, run.checkpoints):
            scenes = SceneGuard()
            threads.resume(start)
            with guard, ProgressLine(label) as progress:
                for step in range(max(start, span.first), span.last):
                    with threads.step(step):
                        taken, done = within_memory(partial(learn, step), save, tell), step + 1
                        optimizer.update(taken.loss, step, guard.allows)
                    if live is not None:
                        live.after_step(scene, done, span.last, taken.told, taken.cameras, stop.is_asked)
                    asked = stop.is_asked()
                    is_kept = asked or done == span.last or is_due(done) or done % config.checkpoint_every == 0
                    is_kept |= guard.wants_checkpoint
                    guard.look(done, is_kept)
                    if done % REPORT_EVERY == 0 or done == span.last:
                        loss, fields = taken.told()
                        progress.update(StepReport(done, span.last, loss, fields))
                        run.events.write("step", step=done, loss=loss, **fields)
                        scenes.look((done - span.first) / (span.last - span.first), *taken.opacity())
                    if done % config.preview_every == 0:
                        save_png(taken.preview(), run.path(f"previews/step-{done:06d}.png"))
                    if is_kept:
                        save_training(run.checkpoints, done, optimizer.adamw, saved, keep=span.first)
                    if asked:
                        stop.leave()
    return max(start, span.last)


def tell_times(run: RunDirectory, started: float, optimized: float, exporting: float | None = None) -> None:
    """Print and note how long a run's two parts took, and the memory it needed. Times are `time.monotonic`'s.

    exporting: when the export began, if that was not at once.
    """
    began = optimized if exporting is None else exporting
    seconds = {"optimize": optimized - started, "export": time.monotonic() - began}
    most = peak_gib()
    run.events.write("timing", peak_memory_gib=most, **seconds)
    print(f"{seconds['optimize']:.0f} s to optimise, {seconds['export']:.0f} s to export, {most:.1f} GiB at most")
