"""`launch.py refine RUN`: the scene of a run, refined by a prior, beside what it was."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from threedgen.config.load import load_config
from threedgen.config.schema import Config
from threedgen.core.errors import ConfigError
from threedgen.runs.checkpoint import load_latest_checkpoint
from threedgen.runs.directory import REFINED, config_hash, open_run
from threedgen.runs.events import read_events
from threedgen.tasks.export import write_assets
from threedgen.tasks.on_runs.run_verb import config_of, copy_checkpoints, load_newest, run_verb, scene_of
from threedgen.tasks.prior_fit import note_prior_fit
from threedgen.tasks.prompting import encode_prompts, load_prior, read_prompts
from threedgen.tasks.refine import refine
from threedgen.tasks.scene_optimizer import tell_times

USAGE = 'usage: {} refine RUN [prompt="..."] [refine.KEY=VALUE ...] [KEY=VALUE ...]   (RUN: the folder of a run)'
_OF_THE_SCENE = ("scene.", "steps=", "task=", "data=", "output_root=", "prompts=", "seeds=")


def main(arguments: Sequence[str]) -> int:
    """Refine a run's scene: the prior draws its views anew, and the scene is fitted to them, in refine.rounds rounds.

    The files go to RUN/refined/, which is made anew each time, unless the same command was stopped in it: then it goes
    on. The run itself is not changed. A run that was told no prompt, such as a reconstruction, needs one, and with the
    mini model guidance.image_size=64. One round if the run's recipe has none.
    """
    return run_verb(arguments, USAGE, main.__doc__, _config, refine_run)


def refine_run(folder: Path, config: Config) -> dict[str, Path]:
    """Refine the scene of the run in `folder` and write its assets into folder/refined; name -> path.

    Raises:
        ConfigError: the run has no scene yet, or the prior cannot be told the prompt, or no cameras.
        EmptyMeshError: the scene has no surface.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as copy:
        copy_checkpoints(folder / "checkpoints", Path(copy))
        checkpoint = load_newest(Path(copy), folder)
    scene = scene_of(checkpoint, config, folder)
    prior = load_prior(config)
    prior.check_knows_cameras()  # how well the refined scene fits it is asked with cameras, even of single pictures
    as_read = read_prompts(config, prior)
    text, negative, mix = encode_prompts(as_read, prior, config)
    begin = checkpoint.step
    goes_on = _was_stopped(folder / REFINED, config, begin)
    with open_run(folder / REFINED, config, fresh=not goes_on) as run:
        run.events.write("started", refines=begin)
        run.events.write("prompt", as_read=as_read.prompt, negative_as_read=as_read.negative_prompt)
        if latest := load_latest_checkpoint(run.checkpoints):
            checkpoint, scene = latest, scene_of(latest, config, folder)
            print(f"resumed    at step {latest.step}")
        prior = prior.without_text_encoder()
        done = refine(scene, config, run, prior, text, negative, begin, checkpoint.step, mix)
        refined = time.monotonic()
        note_prior_fit(scene, config, run, prior, text, negative, done)
        measured = time.monotonic()
        results = write_assets(scene, config, folder, run.folder, done)
        tell_times(run, started, refined, measured)
        run.finish(results)
        return results


def _was_stopped(folder: Path, config: Config, begin: int) -> bool:
    """Whether a refinement like this, of the scene of step `begin`, was begun in the folder and not finished."""
    saved, events = folder / "config.yaml", folder / "events.jsonl"
    if not (saved.is_file() and events.is_file()) or (folder / "result.json").exists():
        return False
    begun = [event["refines"] for event in read_events(events) if "refines" in event]
    return begun[:1] == [begin] and config_hash(load_config(saved.resolve()), "") == config_hash(config, "")


def _config(folder: Path, settings: Sequence[str]) -> Config:
    """The run's config with the settings given, and at least one round."""
    saved = config_of("refine", folder)
    for word in settings:
        if word.startswith(_OF_THE_SCENE):
            raise ConfigError(f"refine takes the scene as it is: {word} needs a run of its own")
    config = load_config(saved, list(settings))
    if any(word.startswith("weights=") for word in settings):  # said now, it counts more than the run's own
        config = replace(config, refine=replace(config.refine, weights=""))
    if not config.prompt.strip():
        raise ConfigError(f'refine {folder}: the run was told no prompt: add prompt="a red cat with a green face"')
    rounds = replace(config.refine, rounds=max(1, config.refine.rounds))
    return replace(config, refine=rounds, weights=config.refine.weights or config.weights)
