"""`launch.py export RUN [export.*=...]`: the files of a run once more, with other export settings if wanted."""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from threedgen.config.load import load_config
from threedgen.config.schema import Config
from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.runs.directory import open_run
from threedgen.tasks.export import write_assets
from threedgen.tasks.on_runs.run_verb import config_of, copy_checkpoints, load_newest, run_verb, scene_of

USAGE = "usage: {} export RUN [export.KEY=VALUE ...]   (RUN: the folder of a run, finished or not)"


def main(arguments: Sequence[str]) -> int:
    """Export a run's latest checkpoint again; prints what was written.

    A run that nobody works on gets the files in its own folder, in place of the old ones. While it is being
    optimised they go to `RUN/exports/step-000200/`, and the run is not disturbed: its checkpoint is read from a copy.
    """
    return run_verb(arguments, USAGE, main.__doc__, _config, export_run)


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
            copy_checkpoints(folder / "checkpoints", copy)
            checkpoint = load_newest(copy, folder)
            target = folder / "exports" / f"step-{checkpoint.step:06d}"
            target.mkdir(parents=True, exist_ok=True)
            return write_assets(scene_of(checkpoint, config, folder), config, folder, target, checkpoint.step)
        checkpoint = load_newest(run.checkpoints, folder)
        before = run.finished_results()
        results = write_assets(scene_of(checkpoint, config, folder), config, folder, folder, checkpoint.step)
        run.events.write("exported", step=checkpoint.step)
        if before is not None:  # what only the run itself makes is among its results still
            run.finish({name: path for name, path in before.items() if path.exists()} | results)
        return results


def _config(folder: Path, settings: Sequence[str]) -> Config:
    """The run's config with the export settings given."""
    config = load_config(config_of("export", folder), settings)
    for word in settings:
        if not word.startswith("export."):
            raise ConfigError(f"export changes only export.* settings: {word} needs a run of its own")
    return config
