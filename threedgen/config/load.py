"""From a recipe (YAML) and `key=value` words to a checked `Config`.

Nothing here evaluates a value: a setting whose type is text (the prompt above all) is taken byte for byte but for a
path's `~/`, `${...}` is never resolved, and YAML decides only where a value starts and ends, never what `yes` or `1e5`
means: the type in the schema does. Importing this module imports no torch.
"""

from __future__ import annotations

import difflib
import os
import re
import threading
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, is_dataclass, make_dataclass, replace
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from threedgen.config.limits import flatten, validate
from threedgen.config.schema import Config
from threedgen.core.errors import ConfigError
from threedgen.core.randomness import random_seed

RANDOM = "random"  # seed=random: drawn here, once, so that the config of the run has the number
_RENAMED = {"num_threads": "runtime.threads"}  # old word -> the setting that it now is
_CONVERTING = threading.Lock()  # one value at a time: see `_tree_of`
_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class _Assignment:
    """`key` set to `value` (text, or a list of texts for a tuple setting); `where` is for error messages."""

    key: str
    value: str | list[str]
    where: str


def load_config(
    config: str | os.PathLike[str] | None, overrides: Sequence[str] = (), line: Sequence[str] = ()
) -> Config:
    """The schema's defaults, changed by the recipe `config` (None: no recipe), changed by `key=value` words.

    Of two words with one key the last wins. line: further words, of a line of a file that the caller names. What the
    task does not read is refused, but in a run's own config.yaml, where an older version let it stand and ignored it.

    Raises:
        ConfigError: no such recipe, unknown key, wrong type or impossible value; one line that says where.
    """
    path = None if config is None else find_config(config)
    assignments = [] if path is None else list(_read_recipe(path))
    words = [each for word in overrides for each in _read_override(word, "on the command line")]
    words += [each for word in line for each in _read_override(word, "in this line")]
    ignored = {one.key for one in assignments} - {one.key for one in words} if path and _is_of_run(path) else set()
    assignments += words

    result = Config()
    for assignment in assignments:
        *sections, name = assignment.key.split(".")
        owner: Any = result
        for section in sections:
            owner = getattr(owner, section)
        setattr(owner, name, _value(assignment))
    validate(result, {assignment.key: assignment.where for assignment in assignments}, ignored)
    return result


def to_yaml(config: Config) -> str:
    """Every setting as YAML; `load_config` of a file with this text gives an equal Config, whatever the prompt is."""
    tree: dict[str, Any] = {}
    for key, value in flatten(config).items():
        *sections, name = key.split(".")
        owner = tree
        for section in sections:
            owner = owner.setdefault(section, {})
        owner[name] = value.name if isinstance(value, Enum) else list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False, width=2**31)


def config_folders() -> list[Path]:
    """Where recipes are looked for after the current folder; a folder that does not exist is left out."""
    folders = [Path.cwd() / "configs", _PACKAGE.parent / "configs", _PACKAGE / "configs"]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def all_recipes() -> dict[str, Path]:
    """File name -> recipe, of all in these folders, by name; of two with one name the one that `find_config` takes."""
    found = (path for folder in reversed(config_folders()) for path in folder.glob("*.yaml"))
    # an editor leaves links to nowhere beside a file in work
    return dict(sorted({path.name: path for path in found if path.is_file()}.items()))


def find_config(name: str | os.PathLike[str]) -> Path:
    """The recipe's file: `name` as given, then in `configs/`; each with and without `.yaml`.

    Raises:
        ConfigError: there is none.
    """
    for folder in [Path.cwd(), *config_folders()]:
        for candidate in (folder / name, folder / f"{os.fspath(name)}.yaml"):
            if candidate.is_file():
                return candidate
    names = list(all_recipes())
    close = difflib.get_close_matches(f"{Path(name).stem}.yaml", names, n=1)
    hint = f"; did you mean {close[0]}?" if close else f"; there are: {', '.join(names) or 'none'}"
    raise ConfigError(f"no recipe {os.fspath(name)!r} here or in configs/{hint}")


def config_name(path: str | os.PathLike[str]) -> str:
    """The recipe's name, safe as a folder's name: the file's stem.

    A run's own `outputs/NAME/RUN/config.yaml` keeps NAME, so that running it again finds the same run.
    """
    path = Path(path).resolve()
    name = path.parent.parent.name if _is_of_run(path) else path.stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:80] or "config"


def _is_of_run(path: Path) -> bool:
    """Whether a file is what a run keeps its settings in."""
    return path.name == "config.yaml" and (path.parent / "events.jsonl").exists()


def unknown_key_message(key: str, where: str) -> str:
    """The line for a key that the schema does not have, with the nearest that it has."""
    matches = _closest(key)
    hint = f"; did you mean {' or '.join(matches)}?" if matches else "; --print-config shows every setting"
    return f"unknown setting {key!r} ({where}){hint}"


@cache
def _leaf_types() -> dict[str, Any]:
    """Dotted key -> declared type of every setting."""

    def walk(section: type, prefix: str) -> Iterator[tuple[str, Any]]:
        for name, declared in typing.get_type_hints(section).items():
            if is_dataclass(declared):
                yield from walk(typing.cast(type, declared), f"{prefix}{name}.")
            else:
                yield prefix + name, declared

    return dict(walk(Config, ""))


@cache
def _sections() -> dict[str, str]:
    """Dotted name of every section -> its first setting (an example for messages)."""
    sections: dict[str, str] = {}
    for key in _leaf_types():
        parts = key.split(".")
        for depth in range(1, len(parts)):
            sections.setdefault(".".join(parts[:depth]), key)
    return sections


@cache
def _schedules() -> set[str]:
    """Dotted names of the sections that are schedules."""
    return {section for key in _leaf_types() for section, _, name in [key.rpartition(".")] if name == "to_fraction"}


def _constant(key: str, value: str, where: str) -> list[_Assignment]:
    """One number for a schedule: both of its ends."""
    return [_Assignment(f"{key}.{end}", value, where) for end in ("start", "end")]


def _closest(key: str) -> list[str]:
    """Up to three known keys like `key`; the last part counts as much as the whole, so a lost section is found."""

    def ratio(a: str, b: str) -> float:
        return difflib.SequenceMatcher(None, a.lower(), b.lower()).ratio()

    def score(candidate: str) -> float:
        whole, leaf = ratio(key, candidate), ratio(key.rpartition(".")[2], candidate.rpartition(".")[2])
        # a word without a section is first of all meant as one that has none
        return (whole + leaf) / 2 if "." in key else max(whole, 0.98 * leaf)

    scores = {candidate: score(candidate) for candidate in [*_leaf_types(), *_sections()]}
    best = max(scores.values())
    if best < 0.6:
        return []
    return [candidate for candidate, value in scores.items() if value > best - 0.01][:3]


def _check_key(key: str, where: str) -> None:
    """Raise unless `key` is a setting that can hold a value."""
    if key in _sections():
        raise ConfigError(f"{key!r} ({where}) is a section: set one of its settings, such as {_sections()[key]}")
    if key not in _leaf_types():
        raise ConfigError(unknown_key_message(key, where))


def _read_override(word: str, where: str) -> list[_Assignment]:
    key, equals, text = word.partition("=")
    key = _RENAMED.get(key, key)
    if not equals:
        raise ConfigError(f'{word!r} ({where}) is not key=value; a prompt is written prompt="a red cat"')
    if key in _sections() and text.lstrip().startswith("{"):
        return _read_section(key, text, where)
    if key in _schedules():
        return _constant(key, text, where)
    _check_key(key, where)
    if typing.get_origin(_leaf_types()[key]) is not tuple:
        return [_Assignment(key, text, where)]
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError:
        node = None
    if not isinstance(node, yaml.SequenceNode):
        raise _wrong_type(_Assignment(key, text, where))
    return [_Assignment(key, _elements(node, key, where), where)]


def _read_section(key: str, text: str, where: str) -> list[_Assignment]:
    """Of a whole section in braces, as recipes write short ones."""
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key} ({where}): {text!r} is not YAML; write {{setting: value, setting: value}}") from error
    return [replace(one, where=where) for one in _walk(node, f"{key}.", where)]


def _read_recipe(path: Path, extended_by: tuple[Path, ...] = ()) -> Iterator[_Assignment]:
    """The recipe's assignments, after those of the recipe that its `extends: NAME` line names."""
    shown = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    try:
        root = yaml.compose(path.read_text("utf-8"), yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{shown}:{line}: is not YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{shown}: is not YAML text in UTF-8: {' '.join(str(error).split())}") from error
    if root is None:  # an empty recipe: the defaults
        return
    for entry in [e for e in root.value if isinstance(root, yaml.MappingNode) and e[0].value == "extends"]:
        root.value.remove(entry)
        if not isinstance(entry[1], yaml.ScalarNode):
            raise ConfigError(f"{shown}:{_line(entry[0])}: extends takes the name of one recipe")
        base, chain = find_config(entry[1].value), (*extended_by, path.resolve())
        if base.resolve() in chain:
            raise ConfigError(f"{shown}:{_line(entry[0])}: extends {base.name}, which extends this recipe")
        yield from _read_recipe(base, chain)
    yield from _walk(root, "", shown)


def _walk(node: yaml.Node, prefix: str, file: str) -> Iterator[_Assignment]:
    """Assignments of one YAML mapping (`prefix`: the dotted name of its section, with a final dot)."""
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{file}:{_line(node)}: {prefix.rstrip('.') or 'a recipe'} must hold `setting: value` lines")
    seen: dict[str, int] = {}
    for key_node, value in node.value:
        where = f"{file}:{_line(key_node)}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{where}: a setting's name must be plain text")
        if key_node.value in seen:
            raise ConfigError(f"{where}: {prefix}{key_node.value} is already set in line {seen[key_node.value]}")
        seen[key_node.value] = _line(key_node)
        key = _RENAMED.get(prefix + key_node.value, prefix + key_node.value)
        if key in _schedules() and isinstance(value, yaml.ScalarNode):
            yield from _constant(key, value.value, where)
            continue
        if key in _sections():
            yield from _walk(value, f"{key}.", file)
            continue
        _check_key(key, where)
        if isinstance(value, yaml.ScalarNode):
            yield _Assignment(key, value.value, where)
        elif isinstance(value, yaml.SequenceNode) and typing.get_origin(_leaf_types()[key]) is tuple:
            yield _Assignment(key, _elements(value, key, where), where)
        else:
            raise ConfigError(f"{key} ({where}): expected {_expected(key)}, got a {value.id}")


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _elements(node: yaml.SequenceNode, key: str, where: str) -> list[str]:
    if not all(isinstance(element, yaml.ScalarNode) for element in node.value):
        raise ConfigError(f"{key} ({where}): expected {_expected(key)}, got a list of other lists")
    return [element.value for element in node.value]


def _text(assignment: _Assignment) -> str:
    """As it stands; but a path from `~/` on, which a shell replaces in some places and a recipe never, is at home."""
    text = str(assignment.value)
    return os.path.expanduser(text) if text.startswith("~/") and not assignment.key.endswith("prompt") else text


def _value(assignment: _Assignment) -> Any:
    """The text as the schema's type; OmegaConf's two special spellings are refused."""
    if _leaf_types()[assignment.key] is str:
        return _text(assignment)
    if assignment.key == "seed" and assignment.value == RANDOM:
        return random_seed()
    texts = assignment.value if isinstance(assignment.value, list) else [assignment.value]
    if any("${" in text or text == "???" for text in texts):
        raise _wrong_type(assignment)
    with _CONVERTING:
        tree = _tree_of(_leaf_types()[assignment.key])
        try:
            OmegaConf.update(tree, "value", assignment.value)
        except OmegaConfBaseException as error:
            raise _wrong_type(assignment) from error
        setting: Any = OmegaConf.to_object(tree)
        return setting.value


@cache
def _tree_of(declared: Any) -> Any:
    """OmegaConf's tree of one setting of this type; one of the whole schema takes it a tenth of a second to make."""
    return OmegaConf.structured(make_dataclass("Setting", [("value", declared)]))


def _wrong_type(assignment: _Assignment) -> ConfigError:
    value = assignment.value
    shown = repr(value) if isinstance(value, str) else f"[{', '.join(value)}]"
    return ConfigError(f"{assignment.key} ({assignment.where}): expected {_expected(assignment.key)}, got {shown}")


def _expected(key: str) -> str:
    """The setting's type in words."""
    declared = _leaf_types()[key]
    if key == "seed":
        return f"a whole number or {RANDOM}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if declared in names:
        return names[declared]
    if isinstance(declared, type) and issubclass(declared, Enum):
        return f"one of {', '.join(member.name for member in declared)}"
    kinds = typing.get_args(declared)
    word = {int: "whole numbers", float: "numbers", str: "words"}[kinds[0]]
    if kinds == (str, Ellipsis):
        return f"a list of {word}, such as [a, b]"
    if kinds[-1] is Ellipsis:
        return f"a list of {word}, such as [1, 2]"
    return f"{len(kinds)} {word} in brackets, such as [{', '.join(str(n) for n in range(1, len(kinds) + 1))}]"
