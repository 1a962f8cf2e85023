"""What the app offers: recipes whose weights are here, and whether a prompt can be drawn by them. Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from threedgen.config.load import all_recipes, config_name, find_config, load_config
from threedgen.config.schema import DRAWING, Config, Task
from threedgen.core.arguments import program
from threedgen.core.errors import ConfigError, WeightsMissingError
from threedgen.core.randomness import random_seed
from threedgen.data.miniworld.grammar import training_specs
from threedgen.data.miniworld.reading import read
from threedgen.diffusion.checkpoints.locate import (
    BUNDLED_NAMES,
    GAUSSIANS,
    locate_base,
    locate_part,
    locate_weights,
)
from threedgen.runs.directory import run_folder

# what the recipes of the bundled models are called for people, in the order of the page
_KNOWN = {
    "videomv-mini-refined": ("3D, drawn from all sides", "about a minute"),
    "videomv-mini-quick": ("3D, in the fewest seconds", "seconds"),
    "videomv-i2v-mini": ("3D, from a picture", "about a minute"),
    "mvdream-mini": ("3D, shaped step by step", "a few minutes"),
    "views-mini": ("Pictures only", "seconds"),
}
EXAMPLES = (
    "a red cat with a green face",
    "a wooden chair with a blue seat",
    "a blue elephant wearing a yellow hat",
    "a green teapot on a brick cube",
    "a white duck with an orange face",
)
_MOST_OFFERS = 3


@dataclass(frozen=True)
class Choice:
    """A recipe that can be run here."""

    recipe: Path
    title: str
    about: str
    config: Config  # with the settings that the app was started with

    @property
    def name(self) -> str:
        return config_name(self.recipe)

    @property
    def makes_mesh(self) -> bool:
        return self.config.task is not Task.sample_views

    @property
    def knows_captions_only(self) -> bool:
        """Whether what it can be told is known here: the bundled models' captions."""
        return self.config.weights in BUNDLED_NAMES and not self.config.allow_unknown_words

    @property
    def takes_picture(self) -> bool:
        """Whether its model is shown a picture."""
        if self.config.task is not Task.dense_views:
            return False
        settings = locate_part(locate_base(self.config.weights), "unet") / "config.json"
        return bool(json.loads(settings.read_text("utf-8")).get("image_conditioning"))

    @property
    def has_all(self) -> bool:
        """Whether its weights have what the task needs besides the prior: Gaussians, for dense views."""
        if self.config.task is not Task.dense_views or self.config.gaussians.weights:
            return True
        return locate_part(locate_weights(self.config.weights), GAUSSIANS).is_dir()


def choices(recipes: Sequence[str] = (), settings: Sequence[str] = ()) -> list[Choice]:
    """The recipes given; none: those of the bundled models, and all others that draw with weights that are here, but
    none that the weights among the settings are not for.

    settings: key=value words for all of them. Raises ConfigError for what cannot be used, WeightsMissingError where the
    weights of a recipe that was asked for are missing.
    """
    if recipes:
        found = [_choice(find_config(recipe), settings) for recipe in recipes]
        for choice in found:
            if choice.config.task not in DRAWING:
                raise ConfigError(f"--config {choice.recipe.name} draws nothing of a prompt: the app has no use for it")
            locate_weights(choice.config.weights)
        return found
    paths = {path.stem: path for path in all_recipes().values()}
    bundled = [_choice(paths[name], settings) for name in _KNOWN if name in paths]
    known = {choice.config.weights for choice in bundled}
    others = (path for name, path in sorted(paths.items()) if name not in _KNOWN and _draws_with_others(path, known))
    offered = [choice for choice in (*bundled, *(_choice(path, settings) for path in others)) if choice.has_all]
    if not offered:
        raise ConfigError(f"{' '.join(settings)}: no recipe has all that it needs then: ask for one by --config NAME")
    return offered


def command(choice: Choice, prompt: str, seed: int, picture: str, settings: Sequence[str]) -> tuple[Path, list[str]]:
    """The folder of the run that is wished for, and the words of the command line that make it.

    picture: a file, "": none; settings: those that the app was started with.
    """
    wished = [*settings, f"prompt={prompt}", f"seed={seed}", *([f"image={picture}"] if picture else [])]
    wished += ["export.ply=true"] if choice.makes_mesh else []
    config = load_config(choice.recipe, wished)
    return run_folder(config, choice.name), ["--config", str(choice.recipe), *wished]


@dataclass(frozen=True)
class Check:
    """What is to be said of a prompt while it is typed."""

    is_fine: bool
    text: str = ""  # how it is read, or why it cannot be; plain text
    notes: tuple[str, ...] = ()
    offers: tuple[str, ...] = ()  # prompts that can be drawn


def check(prompt: str, choice: Choice) -> Check:
    """Whether a prompt can be drawn, as the run itself will find; only the bundled models' words are known here."""
    if not prompt.strip():
        return Check(False)
    if not choice.knows_captions_only:
        return Check(True)
    try:
        reading = read(prompt)
    except ConfigError as error:
        reason = str(error).partition(f" ({program()} ")[0].partition("; try ")[0].partition("; nearest that")[0]
        return Check(False, reason, offers=tuple(_captions(str(error)))[:_MOST_OFFERS])
    return Check(True, reading.text, reading.notes)


def surprise() -> str:
    """A prompt nobody thought of."""
    return Random(random_seed()).choice(training_specs()).caption


def _captions(message: str) -> list[str]:
    """What a message puts in quotation marks and can be drawn as it stands."""
    return [text for text in re.findall(r"'([^']+)'", message) if _is_caption(text)]


def _is_caption(text: str) -> bool:
    try:
        return read(text).text == text
    except ConfigError:
        return False


def _choice(path: Path, settings: Sequence[str]) -> Choice:
    first = next((line for line in path.read_text("utf-8").splitlines() if line.startswith("#")), "")
    title, about = _KNOWN.get(path.stem, (path.stem, first.lstrip("# ").partition(":")[0]))
    return Choice(path, title, about, load_config(path, settings))


def _draws_with_others(path: Path, known: Collection[str]) -> bool:
    """Whether a recipe draws something of a prompt, by weights that lie in a folder here and are not those; the hub is
    not asked. Without settings, which may be none that it has a use for. Other programs have folders of the same name:
    what is no recipe is passed over."""
    try:
        config = load_config(path)
        if config.task not in DRAWING or config.weights in known:
            return False
        if not (config.weights in BUNDLED_NAMES or Path(config.weights).is_dir()):
            return False
        locate_weights(config.weights)
    except (OSError, ConfigError, WeightsMissingError):
        return False
    return True
