"""What the folder of a run shows: how far it is, its pictures, what can be had of it. Reads files only."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from PIL import Image

from threedgen.app.jobs import State
from threedgen.config.load import load_config
from threedgen.config.sampling import AssetFrom
from threedgen.config.schema import DRAWING, Config, Task
from threedgen.core.errors import ConfigError
from threedgen.core.files import write_bytes_atomically
from threedgen.runs.directory import SAMPLED_VIEWS, finished_results, slug
from threedgen.runs.events import read_events

_RECENT_REPORTS = 20  # of steps, from which the pace is judged
_WISHED = ("KeyboardInterrupt", "Terminated")  # what ends a run that is stopped from outside


@dataclass(frozen=True)
class Seen:
    """A run's folder as it is now."""

    folder: Path
    config: Config
    num_views: int  # `view-*.png`
    has_sampled_views: bool
    preview: Path | None  # the newest picture of the scene in the making
    step: int
    num_steps: int
    remaining: float | None  # seconds to the last step
    results: Mapping[str, Path] | None  # of a finished run, name -> path
    error: str  # why it failed, if it did

    @property
    def state(self) -> State:
        """As far as the folder tells: a run that another process works on looks as if it was stopped."""
        if self.results is not None:
            return State.done
        return State.failed if self.error else State.stopped

    @property
    def views(self) -> list[Path]:
        """Pictures of views, or one picture of them all; none: not drawn yet."""
        if self.num_views:
            return [self.folder / f"view-{i}.png" for i in range(self.num_views)]
        return [self.folder / SAMPLED_VIEWS] if self.has_sampled_views else []

    @property
    def title(self) -> str:
        return self.config.prompt.strip() or Path(self.config.image).stem or self.folder.name

    @cached_property
    def report(self) -> dict[str, object]:
        """report.json of a run that made a mesh, otherwise nothing."""
        path = (self.results or {}).get("report")
        return json.loads(path.read_text("utf-8")) if path else {}


def look(folder: Path) -> Seen | None:
    """The run in a folder; None if there is none yet, or none that draws something of a prompt or a picture.

    A folder that cannot be read, or holds what no run has written, is none.
    """
    try:
        config = _config(folder / "config.yaml", (folder / "config.yaml").stat().st_mtime_ns)
        events, results = read_events(folder / "events.jsonl"), finished_results(folder)
    except (OSError, ValueError, ConfigError):
        return None
    if config.task not in DRAWING:
        return None
    begun = max((i for i, event in enumerate(events) if event["event"] == "started"), default=0)
    steps, since = _reports(events), _reports(events[begun:])  # the pace is none of the time that it stood still
    num_steps = planned_steps(config)
    return Seen(
        folder,
        config,
        num_views=len(list(folder.glob("view-*.png"))),
        has_sampled_views=(folder / SAMPLED_VIEWS).exists(),
        preview=max(folder.glob("previews/step-*.png"), default=None),
        step=steps[-1][1] if steps else 0,
        num_steps=num_steps,
        remaining=remaining_seconds(since[-_RECENT_REPORTS:], num_steps),
        results=results,
        error=_failure(events[-1]) if events else "",
    )


def _reports(events: list[dict[str, object]]) -> list[tuple[float, int]]:
    """Time in seconds and number of the steps among them."""
    return [(float(str(event["time"])), int(str(event["step"]))) for event in events if event["event"] == "step"]


def _failure(last: dict[str, object]) -> str:
    """Why a run failed whose last event this is; empty if it did not."""
    if last["event"] != "stopped" or last["error"] in _WISHED:
        return ""
    return str(last["message"] or last["error"])


def planned_steps(config: Config) -> int:
    """Steps that a run of this config takes in all; 0: it optimises nothing."""
    fits = config.task is Task.dense_views and config.gaussians.asset is AssetFrom.views
    return config.steps + config.refine.rounds * config.refine.steps if fits or config.task is Task.generate else 0


def remaining_seconds(reports: list[tuple[float, int]], num_steps: int) -> float | None:
    """At the pace of some (time in seconds, step); None before there is a pace."""
    if len(reports) < 2 or reports[-1][1] <= reports[0][1]:
        return None
    (first, begin), (last, end) = reports[0], reports[-1]
    return (num_steps - end) * (last - first) / (end - begin)


def history(output_root: Path, limit: int) -> list[Seen]:
    """The latest runs that drew something, the newest first."""
    logs = sorted(output_root.glob("*/*/events.jsonl"), key=lambda path: -path.stat().st_mtime)
    found: list[Seen] = []
    for log in logs:
        seen = look(log.parent)
        if seen is not None and seen.views:
            found.append(seen)
        if len(found) == limit:
            break
    return found


def thumbnail(seen: Seen) -> Image.Image:
    """The first of the views, square."""
    picture = Image.open(seen.views[0]).convert("RGB")
    return picture.crop((0, 0, picture.height, picture.height)).resize((192, 192), Image.Resampling.LANCZOS)


def downloads(seen: Seen, into: Path) -> dict[str, Path]:
    """What a finished run made, as files with the prompt for a name: "GLB", "OBJ", "PLY", "Gaussians", "Turntable".

    into: a folder for the copies; those that are there already are taken. OBJ is a .zip with its material and texture.
    """
    results, name = seen.results or {}, slug(seen.title) or "asset"
    folder = into / seen.folder.parent.name / seen.folder.name / str((seen.folder / "result.json").stat().st_mtime_ns)
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[str, Path] = {}
    for label, key in (("GLB", "glb"), ("PLY", "ply"), ("Gaussians", "gaussians"), ("Turntable", "turntable")):
        if key in results:
            ending = "-gaussians.ply" if key == "gaussians" else results[key].suffix
            made[label] = folder / f"{name}{ending}"
            if not made[label].exists():  # whole or not there: others may look meanwhile
                write_bytes_atomically(made[label], results[key].read_bytes())
    if "obj" in results:
        made["OBJ"] = folder / f"{name}-obj.zip"
        if not made["OBJ"].exists():
            write_bytes_atomically(made["OBJ"], _zip_of_obj(results["obj"]))
    return made


def _zip_of_obj(obj: Path) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for suffix in (".obj", ".mtl", ".png"):  # the names inside refer to each other
            if (part := obj.with_suffix(suffix)).exists():
                archive.write(part, part.name)
    return content.getvalue()


@lru_cache(maxsize=256)
def _config(path: Path, _written: int) -> Config:
    """Reading one takes up to a tenth of a second: as long as it was not written again it is not read again."""
    return load_config(path.resolve())
