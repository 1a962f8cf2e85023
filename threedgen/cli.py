"""The command line: read the settings, open the run's folder, hand over to the task.

Nothing here imports torch until a task starts, so that `--help` and a typo answer at once.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path

from threedgen.config.guidance import OWN_2D_MODE
from threedgen.config.limits import INCIDENTAL, flatten
from threedgen.config.load import all_recipes, config_name, find_config, load_config, to_yaml
from threedgen.config.runtime import Executor
from threedgen.config.schema import DRAWING, Config, Task
from threedgen.core import light_imports
from threedgen.core.arguments import ArgumentParser, program
from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.core.files import storage_errors_told
from threedgen.core.memory import forget_peak
from threedgen.core.threads import most_threads
from threedgen.diffusion.checkpoints.locate import adapter_base, locate_part, locate_weights
from threedgen.runs.batch import Item, Job, read_items, read_seeds, run_batch, summary
from threedgen.runs.directory import REFINED, RunDirectory, config_hash, locked, make_folder, open_run, run_folder, slug
from threedgen.runs.dispatch import processes, run_apart
from threedgen.runs.distributed import process_group, rank, world_size
from threedgen.runs.longer import LENGTHENED, as_it_went_on, check_longer, lengthen
from threedgen.runs.ray_tasks import import_ray, ray_cluster
from threedgen.runs.stopping import Terminated, terminated_like_interrupted

DEFAULT_RECIPE = "mvdream-mini.yaml"
# words that stand where --config would: each a module with `main(arguments) -> exit status`, imported when it is used
VERBS: dict[str, str] = {
    "app": "threedgen.app.command",
    "doctor": "threedgen.tasks.tools.doctor",
    "export": "threedgen.tasks.on_runs.export_run",
    "measure": "threedgen.tasks.on_runs.measure_run",
    "refine": "threedgen.tasks.on_runs.refine_run",
    "render-meshes": "threedgen.tasks.tools.render_meshes",
    "vocabulary": "threedgen.tasks.tools.vocabulary",
    "weights": "threedgen.tasks.tools.weights",
}
# each a module with `run(config, run) -> the files by name`
TASKS: dict[Task, str] = {
    Task.generate: "threedgen.tasks.generate",
    Task.sample_views: "threedgen.tasks.sample_views",
    Task.train_prior: "threedgen.tasks.training.train_prior",
    Task.evaluate: "threedgen.tasks.evaluation.evaluate",
    Task.ablation: "threedgen.tasks.evaluation.ablation",
    Task.reconstruct: "threedgen.tasks.reconstruct",
    Task.dreambooth: "threedgen.tasks.training.dreambooth",
    Task.dense_views: "threedgen.tasks.dense_views",
    Task.train_gaussians: "threedgen.tasks.training.train_gaussians",
}
WITH_PRIOR = ("measure", "refine")  # verbs that load one, or its autoencoder
WITH_SCENE = (Task.generate, Task.reconstruct, Task.evaluate, Task.ablation)  # tasks that need the kernels
INTERRUPTED = 130  # as a shell reports a process that Ctrl-C ended
NOT_READ = 141  # or one that wrote to a pipe which nobody reads any more

_LISTED = 8  # views, at most, that are listed singly
_EXAMPLES = f"""\
examples:
  PROGRAM --config {DEFAULT_RECIPE} prompt="a red cat with a green face"
  PROGRAM --config {DEFAULT_RECIPE} prompt="a blue cube with a red nose" steps=300 seed=1
  PROGRAM --config {DEFAULT_RECIPE} prompts=custom_prompts/demo.txt seeds=0..3 batch.workers=2 batch.timeout=60
  PROGRAM --config {DEFAULT_RECIPE} --print-config
  PROGRAM --resume outputs/mvdream-mini/a-red-cat-with-a-green-face-0a1b2c3d

The same command again goes on where it stopped."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the return value is the exit status.

    argv: its words; None: those of this process, which is then all that the process is for.
    """
    if argv is None:
        light_imports.own_process()
        if isinstance(sys.stdout, io.TextIOWrapper):  # no fault of a prompt that the locale has no letters for it
            sys.stdout.reconfigure(errors="backslashreplace")
    # Read when torch starts its threads. Idle threads spin a little, then sleep: without the spin small layers take
    # twice as long, without the sleep two processes on one machine slow each other several times.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    argv = sys.argv[1:] if argv is None else argv
    try:
        if rank() == 0:
            with terminated_like_interrupted(), storage_errors_told():
                status = _command(argv)
                print(end="", flush=True)  # here, where a reader that is gone is no fault
                return status
        with (
            terminated_like_interrupted(),
            open(os.devnull, "w", encoding="utf-8") as nowhere,
            redirect_stdout(nowhere),
        ):  # the first process speaks for all
            return _command(argv)
    except ThreedgenError as error:
        _last_words(f"error: {error}")
        return error.exit_status
    except BrokenPipeError:  # who read the output has seen enough: `... vocabulary | head`
        _last_words()
        return NOT_READ
    except KeyboardInterrupt:
        _last_words("interrupted; the same command goes on from the last checkpoint")
        return INTERRUPTED
    except Terminated as error:
        _last_words("stopped by SIGTERM; the same command goes on from the last checkpoint")
        return error.exit_status


def _last_words(text: str = "") -> None:
    """Say it on stderr, for all processes once. Where that cannot be, the status says it alone."""
    words = f"{text}\n" if text and rank() == 0 else ""
    for stream, said in ((sys.stdout, ""), (sys.stderr, words)):
        try:
            print(said, end="", file=stream, flush=True)
        except OSError:  # nobody reads any more, or a full disk: what is left shall be no fault when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _command(argv: Sequence[str]) -> int:
    if argv and argv[0] in VERBS:
        with light_imports.imports():
            if argv[0] in WITH_PRIOR:
                light_imports.import_diffusers()
            verb = importlib.import_module(VERBS[argv[0]])
        return verb.main(argv[1:])
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
    if config.seeds and (folder or not needs_prompt):
        raise ConfigError(f"seeds={config.seeds}: only for new runs of a prompt; elsewhere it is seed=N")
    if config.prompts and not needs_prompt and not folder:
        raise ConfigError(f"prompts={config.prompts}: only for tasks that are told a prompt, and not with image=FILE")
    if needs_prompt and not folder and config.prompts:
        return _run_batch(config, arguments)
    if needs_prompt and not config.prompt.strip():
        raise ConfigError('the prompt is empty: add prompt="a red cat with a green face" (or prompts=FILE)')
    if config.seeds:
        return _run_batch(config, arguments)
    needs_data = config.task in (Task.reconstruct, Task.dreambooth)
    if needs_data and not (config.data and Path(config.data).exists()):
        guide = f"docs/howto/{config.task.name}.md"
        raise ConfigError(f"data={config.data}: no such folder: add data=FOLDER, see {guide}")
    _show(_run(config, folder or run_folder(config, name), arguments.fresh, before))
    return 0


def _run_batch(config: Config, arguments: argparse.Namespace) -> int:
    """Every prompt with every seed as a run of its own, in the folder that the same prompt alone would have."""
    from threedgen.viewer.gallery import Gallery

    recipe = find_config(arguments.config or DEFAULT_RECIPE)
    name = config_name(recipe)
    if config.batch.timeout and not config.batch.workers:
        raise ConfigError("batch.timeout needs processes that can be ended: add batch.workers=1")
    if config.batch.executor is Executor.ray:
        if not config.batch.workers:
            raise ConfigError("batch.executor=ray needs the number of tasks at once: add batch.workers=2")
        import_ray()  # before a folder is made
    items = read_items(config.prompts) if config.prompts else [Item(config.prompt)]
    found = [job for item in items for job in _jobs(item, config, recipe, arguments.settings)]
    jobs = list({job.folder: job for job in found}.values())
    if len(jobs) < len(found):
        print(f"note       {len(found) - len(jobs)} runs are the same as another and are left out", flush=True)
    title = Path(config.prompts).stem or config.prompt
    of_seeds = f"{name} seeds={config.seeds}" if config.seeds else name  # which are no part of a run's own settings
    folder = Path(config.output_root) / name / "batches" / f"{slug(title) or 'batch'}-{config_hash(config, of_seeds)}"
    make_folder(folder, "the batch's")
    with locked(folder):
        gallery = Gallery(folder, title, jobs)
        try:
            if config.batch.workers:
                how = _words_of(recipe, arguments), 60.0 * config.batch.timeout
                on_ray = config.batch.executor is Executor.ray
                with ray_cluster(*how) if on_ray else nullcontext(processes(*how)) as start:
                    logs, workers = folder / "logs", config.batch.workers
                    outcomes = run_apart(jobs, start, logs, workers, arguments.fresh, gallery.take)
            else:
                outcomes = run_batch(jobs, lambda job: _run_and_show(job, arguments.fresh), gallery.take)
        finally:
            page = gallery.write()
    print(f"gallery    {page}\n{summary(outcomes)}")
    return 1 if any(outcome.results is None for outcome in outcomes) else 0


def _jobs(item: Item, config: Config, recipe: Path, settings: Sequence[str]) -> list[Job]:
    """The runs of a line: one for each seed, or, where it names its own, one."""
    if item.settings:
        try:
            config = load_config(recipe, [*settings, f"seed={config.seed}"], item.settings)
        except ConfigError as error:
            raise ConfigError(f"{item.where}: {error}") from error
    has_own_seed = any(word.startswith("seed=") for word in item.settings)
    seeds = [config.seed] if has_own_seed else read_seeds(config.seeds, config.seed)
    name = config_name(recipe)
    configs = [replace(config, prompt=item.prompt, prompts="", seeds="", seed=seed) for seed in seeds]
    return [Job(one, run_folder(one, name), item.settings) for one in configs]


def _words_of(recipe: Path, arguments: argparse.Namespace) -> Callable[[Job], list[str]]:
    """The command line of a job alone, in a process that shares the machine with the other workers."""

    def words(job: Job) -> list[str]:
        threads = job.config.runtime.threads or max(1, most_threads() // job.config.batch.workers)
        own = [f"seed={job.config.seed}", "prompts=", "seeds=", f"runtime.threads={threads}"]
        fresh = ["--fresh"] if arguments.fresh else []
        given = ["--config", str(recipe), *fresh, *arguments.settings, *job.settings]
        return [*given, *own, f"prompt={job.config.prompt}"]

    return words


def _run_and_show(job: Job, fresh: bool) -> dict[str, Path]:
    results = _run(job.config, job.folder, fresh)
    _show(results)
    return results


@storage_errors_told()
def _run(config: Config, folder: Path, fresh: bool, before: Config | None = None) -> dict[str, Path]:
    """Carry out one run, or find it finished; its results as name -> path.

    before: what the run in the folder is, if it is to go on with more steps.
    """
    if not folder.exists():  # before one is made
        _check_prompt(config, _require_weights(config))
        _check_prompt(config, locate_weights(config.refine.weights) if config.refine.weights else None)
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
        forget_peak()  # of the runs before in this process
        try:
            results = _task(config)(config, run)
        except BaseException as error:
            with suppress(OSError):  # the disk may be what has failed
                run.events.write("stopped", error=type(error).__name__, message=str(error))
            raise
        run.finish(results)
        return results


def _require_weights(config: Config) -> Path | None:
    """The folder of the weights that the task needs; None: it needs none.

    Raises WeightsMissingError, before torch is imported, if they are not there.
    """
    weights = config.train.start_from if config.task is Task.train_prior else config.weights
    joints = [joint.weights for joint in (config.views.joint, config.guidance.joint) if joint.weights != OWN_2D_MODE]
    for other in (*joints, config.refine.weights):
        if other:
            locate_weights(other)
    return locate_weights(weights) if weights and config.task is not Task.reconstruct else None


def _check_prompt(config: Config, weights: Path | None) -> None:
    """Raise ConfigError, before torch is imported, if the weights know their words one by one and not the prompt's."""
    if weights is None or config.task not in DRAWING or config.allow_unknown_words:
        return
    from threedgen.diffusion.text.prompts import read_prompt
    from threedgen.diffusion.text.word_file import WordFile

    tokenizer = None if adapter_base(weights) else WordFile.of_folder(locate_part(weights, "tokenizer"))
    if tokenizer is None:
        return
    if config.prompt.strip():
        read_prompt(tokenizer, config.prompt)
    read_prompt(tokenizer, config.negative_prompt, negative=True)


def _task(config: Config) -> Callable[[Config, RunDirectory], dict[str, Path]]:
    """The function that carries out `config.task`. From here on torch is there."""
    _require_weights(config)
    if config.runtime.threads > 0:
        import torch

        torch.set_num_threads(config.runtime.threads)
    with light_imports.imports():
        if config.task in WITH_SCENE:
            light_imports.compile_kernels()
        if config.task is not Task.reconstruct:
            light_imports.import_diffusers()
        return importlib.import_module(TASKS[config.task]).run


def _show(results: dict[str, Path]) -> None:
    """A line for each result; of many views for the first and the last."""
    views = [name for name in results if name.startswith("view ")]
    between = views[1:-1] if len(views) > _LISTED else []
    for name, path in results.items():
        if name not in between:
            print(f"{name:10} {path}", flush=True)
        elif name == between[0]:
            print("...", flush=True)


def _config_to_resume(folder: Path, arguments: argparse.Namespace) -> tuple[Config, Config]:
    """The saved config of a run, and what it goes on with: only settings that leave its outcome alone may differ, and
    its steps may be more."""
    if arguments.config or arguments.fresh:
        raise ConfigError("--resume goes on with a run as it is: leave out --config and --fresh")
    saved = folder / "config.yaml"
    if not saved.is_file():
        raise ConfigError(f"--resume {folder}: there is no run in that folder ({saved} is missing)")
    if folder.resolve().name == REFINED and (run := folder.resolve().parent / "config.yaml").is_file():
        again = f"{program()} refine {run.parent}"
        raise ConfigError(f"--resume {folder}: that is a refinement: `{again}` with its settings goes on")
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
        "  app                all this in a browser",
        "  doctor             what this machine can run, and why not the rest",
        "  export RUN         write the assets of a run again, with other export.* settings",
        "  measure RUN        do a run's views agree, and show the prompt? With CLIP, LPIPS and RAFT where these are",
        "  refine RUN         the scene of a run, refined by the prior, beside what it was",
        "  render-meshes ...  pictures of meshes from known cameras",
        "  vocabulary         what can be said to the mini model",
        "  weights import ... a public checkpoint of MVDream or VideoMV into a folder that weights=FOLDER takes",
        "",
        "recipes:",
    ]
    recipes = all_recipes()
    width = max((len(name) for name in recipes), default=0)
    lines += [f"  {name:{width}}  {_first_comment(path)}".rstrip() for name, path in recipes.items()]
    return "\n".join([*lines, "", _EXAMPLES.replace("PROGRAM", program())])


def _first_comment(path: Path) -> str:
    """What a recipe says about itself in its first comment line."""
    lines = path.read_text("utf-8", errors="replace").splitlines()
    return next((line.lstrip("# ").rstrip() for line in lines if line.startswith("#")), "")
