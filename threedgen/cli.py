"""The command line: read the settings, open the run's folder, hand over to the task.

Nothing here imports torch until a task starts, so that `--help` and a typo answer at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

from threedgen.config.limits import INCIDENTAL, flatten
from threedgen.config.load import config_folders, config_name, find_config, load_config, to_yaml
from threedgen.config.schema import DRAWING, Config, Task
from threedgen.core.arguments import ArgumentParser, program
from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.diffusion.checkpoints.locate import locate_weights
from threedgen.runs.batch import read_prompts, run_batch, summary
from threedgen.runs.directory import RunDirectory, open_run, run_folder
from threedgen.runs.distributed import process_group, rank, world_size
from threedgen.runs.longer import LENGTHENED, as_it_went_on, check_longer, lengthen

DEFAULT_RECIPE = "mvdream-mini.yaml"
# words that stand where --config would: each a module with `main(arguments) -> exit status`, imported when it is used
VERBS: dict[str, str] = {
    "doctor": "threedgen.tasks.tools.doctor",
    "export": "threedgen.tasks.export_run",
    "refine": "threedgen.tasks.refine_run",
    "render-meshes": "threedgen.tasks.tools.render_meshes",
    "vocabulary": "threedgen.tasks.tools.vocabulary",
    "weights": "threedgen.tasks.tools.weights",
}
INTERRUPTED = 130  # as a shell reports a process that Ctrl-C ended

_EXAMPLES = f"""\
examples:
  PROGRAM --config {DEFAULT_RECIPE} prompt="a red cat with a green face"
  PROGRAM --config {DEFAULT_RECIPE} prompt="a blue cube with a red nose" steps=300 seed=1
  PROGRAM --config {DEFAULT_RECIPE} prompts=custom_prompts/demo.txt output_root=/data/runs
  PROGRAM --config {DEFAULT_RECIPE} --print-config
  PROGRAM --resume outputs/mvdream-mini/a-red-cat-with-a-green-face-0a1b2c3d

The same command again goes on where it stopped."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the return value is the exit status."""
    # Read when torch starts its threads. Idle threads spin a little, then sleep: without the spin small layers take
    # twice as long, without the sleep two processes on one machine slow each other several times.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    argv = sys.argv[1:] if argv is None else argv
    try:
        if rank() == 0:
            return _command(argv)
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # the first process speaks for all
            return _command(argv)
    except ThreedgenError as error:
        if rank() == 0:
            print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return INTERRUPTED


def _command(argv: Sequence[str]) -> int:
    if argv and argv[0] in VERBS:
        return importlib.import_module(VERBS[argv[0]]).main(argv[1:])
    arguments, before = _parse(argv), None
    if arguments.help:
        print(_help())
        return 0
    if arguments.resume:
        folder = Path(arguments.resume)
        (before, config), name = _config_to_resume(folder, arguments), ""
    else:
        recipe = find_config(arguments.config or DEFAULT_RECIPE)
        folder, config, name = None, load_config(recipe, arguments.settings), config_name(recipe)
    if arguments.print_config:
        print(to_yaml(config), end="")
        return 0

    if world_size() > 1 and config.task is not Task.train_prior:
        raise ConfigError(f"task {config.task.name} runs in one process: start it without torchrun")
    needs_prompt = config.task in DRAWING and not (config.task is Task.dense_views and config.image)
    if needs_prompt and config.prompts and not folder:
        return _run_prompts(config, name, arguments.fresh)
    if needs_prompt and not config.prompt.strip():
        raise ConfigError('the prompt is empty: add prompt="a red cat with a green face" (or prompts=FILE)')
    needs_data = config.task in (Task.reconstruct, Task.dreambooth)
    if needs_data and not (config.data and Path(config.data).exists()):
        guide = f"docs/howto/{config.task.name}.md"
        raise ConfigError(f"data={config.data}: no such folder: add data=FOLDER, see {guide}")
    _show(_run(config, folder or run_folder(config, name), arguments.fresh, before))
    return 0


def _run_prompts(config: Config, name: str, fresh: bool) -> int:
    """Every prompt of a file as a run of its own, in the folder that the same prompt alone would have."""

    def run_one(prompt: str) -> dict[str, Path]:
        one = replace(config, prompt=prompt, prompts="")
        results = _run(one, run_folder(one, name), fresh)
        _show(results)
        return results

    outcomes = run_batch(read_prompts(config.prompts), run_one)
    print(summary(outcomes))
    return 1 if any(outcome.results is None for outcome in outcomes) else 0


def _run(config: Config, folder: Path, fresh: bool, before: Config | None = None) -> dict[str, Path]:
    """Carry out one run, or find it finished; its results as name -> path.

    before: what the run in the folder is, if it is to go on with more steps.
    """
    if not folder.exists():
        _require_weights(config)  # before a folder is made
    elif not fresh:
        config = as_it_went_on(config, folder)
    shorter = before if before and before.steps < config.steps else None
    with process_group(config.runtime), open_run(folder, shorter or config, fresh=fresh) as run:
        if shorter:
            print(lengthen(run, shorter, config), flush=True)
        finished = run.finished_results()
        if finished is not None:
            print(f"this run was finished before (--fresh starts it anew): {folder}")
            return finished
        print(f"run        {folder}\nseed       {config.seed}", flush=True)
        run.events.write("started", task=config.task.name)
        try:
            results = _task(config)(config, run)
        except BaseException as error:
            run.events.write("stopped", error=type(error).__name__, message=str(error))
            raise
        run.finish(results)
        return results


def _require_weights(config: Config) -> None:
    """Raise WeightsMissingError, before torch is imported, if the task needs weights that are not there."""
    weights = config.train.start_from if config.task is Task.train_prior else config.weights
    if weights and config.task is not Task.reconstruct:
        locate_weights(weights)


def _task(config: Config) -> Callable[[Config, RunDirectory], dict[str, Path]]:
    """The function that carries out `config.task`. From here on torch is there."""
    _require_weights(config)
    if config.num_threads > 0:
        import torch

        torch.set_num_threads(config.num_threads)
    match config.task:
        case Task.generate:
            from threedgen.tasks import generate

            return generate.run
        case Task.sample_views:
            from threedgen.tasks import sample_views

            return sample_views.run
        case Task.train_prior:
            from threedgen.tasks.training import train_prior

            return train_prior.run
        case Task.evaluate:
            from threedgen.tasks.evaluation import evaluate

            return evaluate.run
        case Task.ablation:
            from threedgen.tasks.evaluation import ablation

            return ablation.run
        case Task.reconstruct:
            from threedgen.tasks import reconstruct

            return reconstruct.run
        case Task.dreambooth:
            from threedgen.tasks.training import dreambooth

            return dreambooth.run
        case Task.dense_views:
            from threedgen.tasks import dense_views

            return dense_views.run
        case Task.train_gaussians:
            from threedgen.tasks.training import train_gaussians

            return train_gaussians.run


def _show(results: dict[str, Path]) -> None:
    for name, path in results.items():
        print(f"{name:10} {path}", flush=True)


def _config_to_resume(folder: Path, arguments: argparse.Namespace) -> tuple[Config, Config]:
    """The saved config of a run, and what it goes on with: only settings that leave its outcome alone may differ, and
    its steps may be more."""
    if arguments.config or arguments.fresh:
        raise ConfigError("--resume goes on with a run as it is: leave out --config and --fresh")
    saved = folder / "config.yaml"
    if not saved.is_file():
        raise ConfigError(f"--resume {folder}: there is no run in that folder ({saved} is missing)")
    before, config = load_config(saved.resolve()), load_config(saved.resolve(), arguments.settings)
    old, new = flatten(before), flatten(config)
    may_grow = config.task in LENGTHENED
    if may_grow and config.steps != before.steps:
        check_longer(folder, before, config)
    for key in new:
        if key == "steps" and may_grow:
            continue
        if new[key] != old[key] and (key not in INCIDENTAL or key == "output_root"):
            raise ConfigError(f"--resume cannot change {key}: start another run with --config {saved} {key}=...")
    return before, config


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = ArgumentParser(prog=program(), add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    parser.add_argument("--print-config", action="store_true")
    parser.add_argument("--resume")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("settings", nargs="*")
    return parser.parse_intermixed_args(list(argv))


def _help() -> str:
    lines = [
        f"usage: {program()} [--config NAME] [key=value ...] [--print-config] [--fresh] [--resume RUN_DIR]",
        f"       {program()} {'|'.join(VERBS)} ...",
        "",
        "From a sentence to a textured 3D mesh.",
        "",
        f"  --config NAME      a recipe: a YAML file here or in configs/ (without it: {DEFAULT_RECIPE})",
        "  key=value          change a setting: prompt=TEXT, seed=1, camera.num_views=1, ...",
        "  --print-config     show every setting as it would be used, and stop",
        "  --fresh            delete what this very run has left and start it anew",
        "  --resume RUN_DIR   go on with the run in that folder; with steps=N, more than it had, until that many",
        "  --help             this text",
        "",
        "  doctor             what this machine can run, and why not the rest",
        "  export RUN         write the assets of a run again, with other export.* settings",
        "  render-meshes ...  pictures of meshes from known cameras",
        "  vocabulary         what can be said to the mini model",
        "  weights import ... the public MVDream checkpoints into a folder that weights=FOLDER takes",
        "",
        "recipes:",
    ]
    recipes = {path.name: path for folder in reversed(config_folders()) for path in sorted(folder.glob("*.yaml"))}
    width = max((len(name) for name in recipes), default=0)
    lines += [f"  {name:{width}}  {_first_comment(path)}".rstrip() for name, path in sorted(recipes.items())]
    return "\n".join([*lines, "", _EXAMPLES.replace("PROGRAM", program())])


def _first_comment(path: Path) -> str:
    """What a recipe says about itself in its first comment line."""
    lines = path.read_text("utf-8", errors="replace").splitlines()
    return next((line.lstrip("# ").rstrip() for line in lines if line.startswith("#")), "")
