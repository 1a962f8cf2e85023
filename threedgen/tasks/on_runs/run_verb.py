"""What the verbs on a run share: their head, and the scene of a run's newest checkpoint."""

import inspect
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from threedgen.config.schema import Config
from threedgen.core.arguments import program
from threedgen.core.errors import ConfigError
from threedgen.runs.checkpoint import Checkpoint, load_latest_checkpoint, saved_steps
from threedgen.runs.device import select_device
from threedgen.runs.directory import finished_results
from threedgen.scene.make import make_scene
from threedgen.scene.protocol import RayScene
from threedgen.tasks.export import check_export
from threedgen.tasks.scene_optimizer import SCENE


def run_verb(
    arguments: Sequence[str],
    usage: str,
    about: str | None,
    read: Callable[[Path, Sequence[str]], Config],
    work: Callable[[Path, Config], dict[str, Path]],
) -> int:
    """`VERB RUN [KEY=VALUE ...]`: help, or the files that `work` makes with the config that `read` makes of the words.

    read, work: are told the run's folder first. Raises ConfigError where there is no such run.
    """
    if any(word in ("-h", "--help") for word in arguments):
        print(f"{usage.format(program())}\n\n{inspect.cleandoc(about or '')}")
        return 0
    if not arguments or arguments[0].startswith("-"):
        raise ConfigError(usage.format(program()))
    folder = Path(arguments[0])
    config = read(folder, arguments[1:])
    check_export(config.export)
    if config.runtime.threads > 0:
        torch.set_num_threads(config.runtime.threads)
    for name, path in work(folder, config).items():
        print(f"{name:10} {path}")
    return 0


def config_of(verb: str, folder: Path) -> Path:
    """The config of the run in `folder`. Raises ConfigError if there is none."""
    saved = folder / "config.yaml"
    if not saved.is_file():
        raise ConfigError(f"{verb} {folder}: there is no run in that folder ({saved} is missing)")
    return saved.resolve()


def copy_checkpoints(checkpoints: Path, target: Path) -> None:
    """Loading in place would clean up after the writer that is at work there. Not finding any is not an error here."""
    for _ in range(3):  # all may be gone before they are copied, when the run has saved two more meanwhile
        found = saved_steps(checkpoints) if checkpoints.is_dir() else {}
        if not found or any([_is_copied(path, target / path.name) for path in found.values()]):
            return


def _is_copied(folder: Path, target: Path) -> bool:
    try:
        shutil.copytree(folder, target)
    except (FileNotFoundError, shutil.Error):
        shutil.rmtree(target, ignore_errors=True)
        return False
    return True


def load_newest(checkpoints: Path, folder: Path) -> Checkpoint:
    """The newest of the run in `folder` that is whole. Raises ConfigError if it has none."""
    checkpoint = load_latest_checkpoint(checkpoints)
    if checkpoint is None:
        if finished_results(folder) is None:
            raise ConfigError(f"{folder}: the run has no checkpoint yet")
        raise ConfigError(f"{folder}: the run is finished and kept no scene; another of the same command makes one")
    return checkpoint


def scene_of(checkpoint: Checkpoint, config: Config, folder: Path) -> RayScene:
    """The scene that a checkpoint holds. Raises ConfigError if it holds none."""
    tensors = {k.removeprefix(SCENE): v for k, v in checkpoint.tensors.items() if k.startswith(SCENE)}
    if not tensors:
        raise ConfigError(f"{folder}: the run's checkpoints hold no scene (its task is {config.task.name})")
    scene = make_scene(config, select_device(config.runtime))
    scene.load_state_dict(tensors)
    return scene
