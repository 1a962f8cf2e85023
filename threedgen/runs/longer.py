"""A run that goes on with more steps than it was begun with: `--resume RUN steps=400`."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from threedgen.config.load import load_config, to_yaml
from threedgen.config.schedules import value_at
from threedgen.config.schema import Config, Task
from threedgen.core.errors import ConfigError
from threedgen.core.files import write_text_atomically
from threedgen.runs.directory import THREADS, RunDirectory

LENGTHENED = (Task.generate, Task.reconstruct)  # tasks whose `steps` may grow


def check_longer(folder: Path, before: Config, config: Config) -> None:
    """Raise ConfigError, before anything is touched, if the run in `folder` cannot go on to `config.steps`."""
    if config.steps < before.steps:
        raise ConfigError(f"--resume cannot go back: the run has steps={before.steps}, more than steps={config.steps}")
    saved = _saved(folder)
    if saved and min(saved) > before.steps:
        raise ConfigError(
            f"--resume {folder}: the scene as it was before its refinement is no longer kept, so it cannot go on to "
            f"steps={config.steps}: start another run with --config {folder / 'config.yaml'} steps={config.steps}"
        )


def lengthen(run: RunDirectory, before: Config, config: Config) -> str:
    """Make an open run one of `config.steps` steps; returns a line that says where it goes on and its schedules stand.

    It is no longer finished. What came after distilling, its refinement, is dropped: that is done anew at the new end.
    """
    (run.folder / "result.json").unlink(missing_ok=True)
    saved = _saved(run.folder)
    for step in saved:
        if step > before.steps:
            shutil.rmtree(saved[step])
    for picture in run.folder.glob("previews/step-*.png"):
        if int(picture.stem.removeprefix("step-")) > before.steps:
            picture.unlink()
    (run.checkpoints / THREADS).unlink(missing_ok=True)  # of other steps than those that come
    write_text_atomically(run.folder / "config.yaml", to_yaml(config))  # last: until then the run is the old one
    run.config = config
    done = max((step for step in saved if step <= before.steps), default=0)
    run.events.write("lengthened", steps=config.steps, before=before.steps, done=done)
    return f"longer     {before.steps} -> {config.steps} steps, on from {done}: {schedules_at(config, done)}"


def schedules_at(config: Config, done: int) -> str:
    """Where a run of so many steps stands when `done` of them are taken."""
    fraction = done / config.steps
    values = [f"learning rates times {value_at(config.optimizer.lr_scale, fraction):.2f}"]
    if config.task is Task.generate:
        low, high = (value_at(s, fraction) for s in (config.guidance.min_timestep, config.guidance.max_timestep))
        camera = config.camera
        size = camera.coarse_resolution if fraction < camera.coarse_fraction else camera.resolution
        values += [f"timesteps {low:.2f} to {high:.2f}", f"pictures of {size} pixels"]
    else:
        values.append(f"fog weighs {value_at(config.reconstruct.distortion, fraction):.3g}")
    return f"all schedules run over {config.steps} steps and stand at {fraction:.2f} again ({', '.join(values)})"


def as_it_went_on(config: Config, folder: Path) -> Config:
    """The config with the steps of the run in `folder`, if that was lengthened: the first command finds it as it is."""
    saved = folder / "config.yaml"
    if config.task not in LENGTHENED or not saved.is_file():
        return config
    steps = load_config(saved.resolve()).steps
    if steps <= config.steps:
        return config
    print(f"note: this run went on to steps={steps} (--fresh starts it anew with {config.steps})")
    return replace(config, steps=steps)


def _saved(folder: Path) -> dict[int, Path]:
    from threedgen.runs.checkpoint import saved_steps  # imports torch

    checkpoints = folder / "checkpoints"
    return saved_steps(checkpoints) if checkpoints.is_dir() else {}
