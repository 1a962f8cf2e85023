"""`launch.py export RUN [export.*=...]`: the files of a run once more, with other export settings if wanted."""

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from threedgen.config.load import load_config
from threedgen.config.schema import Config
from threedgen.core.arguments import program
from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.core.files import TEMPORARY_PREFIX
from threedgen.runs.checkpoint import Checkpoint, load_latest_checkpoint
from threedgen.runs.device import select_device
from threedgen.runs.directory import open_run
from threedgen.scene.make import make_scene
from threedgen.scene.protocol import RayScene
from threedgen.tasks.export import check_export, write_assets
from threedgen.tasks.scene_optimizer import SCENE

USAGE = "usage: {} export RUN [export.KEY=VALUE ...]   (RUN: the folder of a run, finished or not)"


def main(arguments: Sequence[str]) -> int:
    """Export a run's latest checkpoint again; prints what was written.

    A run that nobody works on gets the files in its own folder, in place of the old ones. While it is being
    optimised they go to `RUN/exports/step-000200/`, and the run is not disturbed: its checkpoint is read from a copy.
    """
    if any(word in ("-h", "--help") for word in arguments):
        print(f"{USAGE.format(program())}\n\n{main.__doc__}")
        return 0
    folder, config = _read(arguments)
    check_export(config.export)
    if config.runtime.threads > 0:
        torch.set_num_threads(config.runtime.threads)
    for name, path in export_run(folder, config).items():
        print(f"{name:10} {path}")
    return 0


def export_run(folder: Path, config: Config) -> dict[str, Path]:
    """Write the assets of the run in `folder`; name -> path. `config`: the run's own, but for the export settings.

    Raises:
        ConfigError: the run has no checkpoint yet, or none of a scene.
        EmptyMeshError: the scene has no surface.
    """
    with ExitStack() as stack:
        try:
            run = stack.enter_context(open_run(folder, load_config((folder / "config.yaml").resolve())))
        except ThreedgenError as error:
            if not isinstance(error.__cause__, BlockingIOError):  # what the lock raises while another holds it
                raise
            copy = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            copy_newest_checkpoint(folder / "checkpoints", copy)
            checkpoint = load_newest(copy, folder)
            target = folder / "exports" / f"step-{checkpoint.step:06d}"
            target.mkdir(parents=True, exist_ok=True)
            return write_assets(scene_of(checkpoint, config, folder), config, folder, target, checkpoint.step)
        checkpoint = load_newest(run.checkpoints, folder)
        was_finished = run.finished_results() is not None
        results = write_assets(scene_of(checkpoint, config, folder), config, folder, folder, checkpoint.step)
        run.events.write("exported", step=checkpoint.step)
        if was_finished:
            run.finish(results)
        return results


def _read(arguments: Sequence[str]) -> tuple[Path, Config]:
    """The run's folder, and its config with the export settings given."""
    if not arguments or arguments[0].startswith("-"):
        raise ConfigError(USAGE.format(program()))
    folder, settings = Path(arguments[0]), arguments[1:]
    saved = folder / "config.yaml"
    if not saved.is_file():
        raise ConfigError(f"export {folder}: there is no run in that folder ({saved} is missing)")
    config = load_config(saved.resolve(), settings)
    for word in settings:
        if not word.startswith("export."):
            raise ConfigError(f"export changes only export.* settings: {word} needs a run of its own")
    return folder, config


def copy_newest_checkpoint(checkpoints: Path, target: Path) -> None:
    """Loading in place would clean up after the writer that is at work there. Not finding any is not an error here."""
    for _ in range(3):  # the newest may be gone before it is copied, when the run has saved two more meanwhile
        whole = [path for path in checkpoints.glob("step-*") if not path.name.startswith(TEMPORARY_PREFIX)]
        if not whole:
            return
        newest = max(whole, key=lambda path: (len(path.name), path.name))
        try:
            shutil.copytree(newest, target / newest.name, dirs_exist_ok=True)
            return
        except (FileNotFoundError, shutil.Error):
            shutil.rmtree(target / newest.name, ignore_errors=True)


def load_newest(checkpoints: Path, folder: Path) -> Checkpoint:
    """The newest of the run in `folder`. Raises ConfigError if it has none."""
    checkpoint = load_latest_checkpoint(checkpoints)
    if checkpoint is None:
        raise ConfigError(f"{folder}: the run has no checkpoint yet")
    return checkpoint


def scene_of(checkpoint: Checkpoint, config: Config, folder: Path) -> RayScene:
    """The scene that a checkpoint holds. Raises ConfigError if it holds none."""
    tensors = {k.removeprefix(SCENE): v for k, v in checkpoint.tensors.items() if k.startswith(SCENE)}
    if not tensors:
        raise ConfigError(f"{folder}: the run's checkpoints hold no scene (its task is {config.task.name})")
    scene = make_scene(config, select_device(config.runtime))
    scene.load_state_dict(tensors)
    return scene
