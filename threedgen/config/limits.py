"""Which values make sense. Types are checked when a value is read (`load.py`); here are ranges and combinations."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from threedgen.config.evaluation import ABLATION_TABLES, GUIDED_TABLES, RECIPE_TABLES
from threedgen.config.export import EXPORT_FORMATS
from threedgen.config.guidance import JointConfig, JointMode
from threedgen.config.scene import Geometry
from threedgen.config.schedules import Schedule, value_at
from threedgen.config.schema import Config, Task
from threedgen.config.training import PriorNetwork
from threedgen.config.views import INPUTS, MINI_SIZE
from threedgen.core.errors import ConfigError
from threedgen.core.network import is_local

_INF = math.inf


def _described(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted key and the metadata of every setting below a config; a schedule's ends have the schedule's."""
    for entry in fields(config):
        value = getattr(config, entry.name)
        if isinstance(value, Schedule):
            yield from ((f"{prefix}{entry.name}.{end}", entry.metadata) for end in ("start", "end"))
        if is_dataclass(value):
            yield from _described(value, f"{prefix}{entry.name}.")
        else:
            yield prefix + entry.name, entry.metadata


# dotted key -> smallest and largest value, both allowed (`views` has its own in views.py)
LIMITS = {
    key: metadata["range"]
    for key, metadata in _described(Config())
    if metadata.get("range", (-_INF, _INF)) != (-_INF, _INF)
}
# section whose `joint` it is -> tasks that make use of it, or whose runs `launch.py refine` goes on with
_JOINT_IN = {
    "views": (Task.sample_views, Task.dense_views, Task.generate, Task.dreambooth),
    "guidance": (Task.generate, Task.evaluate, Task.reconstruct, Task.dense_views),
}
# task -> a setting of other tasks, which it does not read -> its own in place of it
_OWN = {
    Task.train_prior: {
        "weights": "train.start_from",
        "steps": "train.steps",
        "checkpoint_every": "train.checkpoint_every",
        "preview_every": "train.sample_every",
    },
    Task.train_gaussians: {
        "steps": "train.steps",
        "checkpoint_every": "train.checkpoint_every",
        "preview_every": "train.sample_every",
    },
}
# settings that change how a run is carried out, never what comes out
INCIDENTAL = tuple(key for key, metadata in _described(Config()) if metadata.get("incidental"))


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """The settings of a config dataclass as {dotted key: value}, in the schema's order."""
    flat: dict[str, Any] = {}
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value):
            flat.update(flatten(value, f"{prefix}{entry.name}."))
        else:
            flat[prefix + entry.name] = value
    return flat


def validate(config: Config, where: Mapping[str, str] | None = None, passed_over: Collection[str] = ()) -> None:
    """Raise ConfigError, one line, for the first value that cannot work.

    `where` says where a key was set ("recipe.yaml:3", "on the command line"), for the message; `passed_over`: keys that
    may be set though the task does not read them.
    """
    places = where or {}
    flat = flatten(config)

    def fail(key: str, problem: str) -> None:
        place = f" ({places[key]})" if key in places else ""
        value = flat.get(key)
        shown = "" if value is None else f"={_text(value)}"
        raise ConfigError(f"{key}{shown}{place}: {problem}")

    for key, value in flat.items():
        if isinstance(value, str) and not _is_utf8(value):
            fail(key, "is not valid UTF-8")
        if key.endswith("_fraction") and not 0 <= value <= 1:
            fail(key, "must be between 0 and 1")
        low, high = LIMITS.get(key, (-_INF, _INF))
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                fail(key, "must be a finite number")
            if isinstance(number, (int, float)) and not low <= number <= high:
                fail(key, f"must be {_span(low, high)}")
        if key.endswith("_range") and value[0] > value[1]:
            fail(key, "the first number must not be larger than the second")
        section, _, name = key.rpartition(".")
        if section == "views" and name in INPUTS and (problem := INPUTS[name].problem(value, MINI_SIZE)):
            fail(key, problem)
        if name == "to_fraction" and flat[f"{section}.from_fraction"] > value:
            fail(key, f"must not be smaller than {section}.from_fraction={flat[f'{section}.from_fraction']}")

    if not config.viewer.token and not is_local(config.viewer.host):
        fail("viewer.host", "can be reached by others: add viewer.token=WORD, or stay on 127.0.0.1")
    if not config.eval.views:
        fail("eval.views", "must name at least one number of views")
    for table in config.ablation.only:
        if table not in (tables := (*ABLATION_TABLES, *GUIDED_TABLES, *RECIPE_TABLES)):
            fail("ablation.only", f"there is no table {table!r}; there are {', '.join(tables)}")
    for name in config.export.formats:
        if name not in EXPORT_FORMATS:
            fail("export.formats", f"there is no format {name!r}; there are {', '.join(EXPORT_FORMATS)}")
    if not config.export.formats:
        fail("export.formats", f"must name at least one of {', '.join(EXPORT_FORMATS)}")
    if config.scene.grid.max_resolution < config.scene.grid.base_resolution:
        fail("scene.grid.max_resolution", "must not be smaller than scene.grid.base_resolution")
    if config.scene.geometry is Geometry.sdf and config.export.threshold > 0:
        fail("export.threshold", "must be 0 with scene.geometry=sdf, whose surface is where the distance is 0")
    for section, joint in (("views", config.views.joint), ("guidance", config.guidance.joint)):
        if found := joint_problem(joint):
            fail(f"{section}.joint.{found[0]}", found[1])
    defaults = flatten(Config())
    for key, problem in _unread(config):
        if flat[key] != defaults[key] and key not in passed_over:
            fail(key, problem)
    lowest, highest = config.guidance.min_timestep, config.guidance.max_timestep
    # both are piecewise linear: it is enough to compare them where either bends
    for fraction in sorted({s for x in (lowest, highest) for s in (x.from_fraction, x.to_fraction)}):
        low, high = value_at(lowest, fraction), value_at(highest, fraction)
        if low > high:
            problem = f"is {low:g}, above guidance.max_timestep's {high:g}, at fraction {fraction:g} of the run"
            fail("guidance.min_timestep", problem)


def _unread(config: Config) -> Iterator[tuple[str, str]]:
    """The settings that the task would ignore, each with what is to be said to who sets it."""
    task = config.task.name
    for key, own in _OWN.get(config.task, {}).items():
        yield key, f"task {task} does not read it: set {own}"
    if config.task is not Task.dense_views:
        yield "image", f"task {task} shows no picture to its model; dense_views does"
        yield "views.image_pinned", f"task {task} draws no views beside a picture; dense_views does"
        yield "refine.weights", f"task {task} refines by the prior that it has; dense_views may by another"
        for entry in fields(config.aware):
            yield f"aware.{entry.name}", f"task {task} has no 3D-aware steps; dense_views has"
    if config.train.network is PriorNetwork.video:
        for name in ("view_attention", "camera_input"):
            yield f"train.{name}", "is of a multi-view network only; leave it out with train.network=video"
    for section, tasks in _JOINT_IN.items():
        if config.task not in tasks:
            yield f"{section}.joint.weights", f"task {task} has no use for a 2D model there"


def joint_problem(joint: JointConfig) -> tuple[str, str] | None:
    """The first setting below `joint` that cannot work, and why; None if all can."""
    highest = 1 if joint.mode is JointMode.mix else _INF
    for end in ("start", "end"):
        if not 0 <= getattr(joint.multiview_weight, end) <= highest:
            return f"multiview_weight.{end}", f"must be {_span(0, highest)} with mode={joint.mode.name}"
    if joint.self_camera and joint.mode is JointMode.mix:
        return "self_camera", "only mode=consistency looks at each view alone"
    return None


def _span(low: float, high: float) -> str:
    return f"at least {low}" if high == _INF else f"between {low} and {high}"


def _text(value: object) -> str:
    if isinstance(value, Enum):
        return value.name
    return repr(value) if isinstance(value, str) else str(list(value) if isinstance(value, tuple) else value)


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
