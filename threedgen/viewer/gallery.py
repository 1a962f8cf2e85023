"""index.html and summary.csv of a batch: what became of every prompt, on one page without a network, and as a table."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from threedgen.core.files import write_text_atomically
from threedgen.imaging import read_turntable
from threedgen.runs.batch import Job, Outcome
from threedgen.runs.progress import format_seconds

_TEMPLATE = Path(__file__).with_name("gallery.html")
_FRAMES, _FRAME_SIZE = 24, 200  # of a turntable on the page; pixels, square
_WRITE_EVERY = 5.0  # seconds at most while a batch goes on: with hundreds of pictures the page is some ten MB
_COLUMNS = (
    "number",
    "prompt",
    "seed",
    "settings",
    "state",
    "seconds",
    "faces",
    "mesh_vs_scene_psnr",
    "folder",
    "error",
)
_LINKS = {"preview": "3D preview", "glb": "GLB", "obj": "OBJ", "turntable": "turntable", "views": "views"}


@dataclass(frozen=True)
class _Entry:
    """What the page shows of a job that has ended."""

    outcome: Outcome
    strip: bytes  # a JPEG: the frames of its turntable side by side; empty: there is none
    frames: int
    report: dict[str, object]


class Gallery:
    """Both files in `folder`, as far as the batch has got; written again and again while it goes on."""

    def __init__(self, folder: Path, title: str, jobs: Sequence[Job]) -> None:
        self.folder, self.title, self.jobs = folder, title, jobs
        self._entries: dict[int, _Entry] = {}
        self._written = -_WRITE_EVERY
        folder.mkdir(parents=True, exist_ok=True)

    def take(self, number: int, outcome: Outcome) -> None:
        """A job, counted from 0, has ended."""
        self._entries[number] = _entry(outcome)
        if time.monotonic() - self._written > _WRITE_EVERY or len(self._entries) == len(self.jobs):
            self.write()

    def write(self) -> Path:
        """Write both files as things are; returns the page."""
        write_text_atomically(self.folder / "summary.csv", self._table())
        parts = {
            "title": escape(self.title),
            "subtitle": self._subtitle(),
            "cards": "\n".join(self._card(number) for number in range(len(self.jobs))),
        }
        # in one pass: a prompt may hold a placeholder
        page = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _TEMPLATE.read_text("utf-8"))
        write_text_atomically(self.folder / "index.html", page)
        self._written = time.monotonic()  # a page that takes longer than the pause is not due again at once
        return self.folder / "index.html"

    def _subtitle(self) -> str:
        done = sum(entry.outcome.results is not None for entry in self._entries.values())
        failed = len(self._entries) - done
        parts = [f"{done} of {len(self.jobs)} done"]
        parts += [f"{failed} failed"] if failed else []
        return ", ".join(parts)

    def _card(self, number: int) -> str:
        job, entry = self.jobs[number], self._entries.get(number)
        state = _state(entry)
        facts = [f"seed {job.config.seed}", *map(escape, job.settings)]
        links = []
        if entry is not None:
            outcome, report = entry.outcome, entry.report
            facts += [f"{report['faces']:,} faces"] if "faces" in report else []
            facts += [format_seconds(outcome.seconds)] if outcome.seconds else []
            facts += [escape(outcome.error.partition("\n")[0])] if outcome.error else []
            found = outcome.results or {}
            links = [f'<a href="{self._link(found[key])}">{text}</a>' for key, text in _LINKS.items() if key in found]
        return (
            f'<article class="card {state}">{self._stage(entry, state)}<div class="text">'
            f'<p class="prompt">{escape(job.config.prompt)}</p><p class="facts">{" · ".join(facts)}</p>'
            f'<p class="links">{"".join(links)}</p></div></article>'
        )

    def _stage(self, entry: _Entry | None, state: str) -> str:
        if entry is None or not entry.strip:
            return f'<div class="stage word">{state}</div>'
        found = entry.outcome.results or {}
        target = self._link(found.get("preview") or next(iter(found.values())))
        image = base64.b64encode(entry.strip).decode("ascii")
        style = f"--n:{entry.frames};background-image:url(data:image/jpeg;base64,{image})"
        name = escape(entry.outcome.prompt)
        return f'<a class="stage turn" href="{target}" aria-label="{name}" style="{style}"></a>'

    def _link(self, path: Path) -> str:
        return escape(quote(Path(os.path.relpath(path, self.folder)).as_posix()))

    def _table(self) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n", restval="")
        writer.writeheader()
        for number, job in enumerate(self.jobs):
            entry = self._entries.get(number)
            row = {
                "number": number + 1,
                "prompt": job.config.prompt,
                "seed": job.config.seed,
                "settings": " ".join(job.settings),
                "state": _state(entry),
                "folder": os.path.relpath(job.folder, self.folder),
            }
            if entry is not None:
                row |= {key: entry.report.get(key, "") for key in ("faces", "mesh_vs_scene_psnr")}
                row |= {"seconds": round(entry.outcome.seconds, 1), "error": entry.outcome.error}
            writer.writerow(row)
        return text.getvalue()


def _entry(outcome: Outcome) -> _Entry:
    results = outcome.results or {}
    try:
        frames = _frames(results)
        facts = json.loads(results["report"].read_text("utf-8")) if "report" in results else {}
        return _Entry(outcome, _strip(frames), len(frames), facts)
    except (OSError, ValueError) as error:  # somebody has changed a file; the other runs have their page all the same
        print(f"warning: {outcome.prompt}: no picture on the page: {error}", file=sys.stderr, flush=True)
        return _Entry(outcome, b"", 0, {})


def _state(entry: _Entry | None) -> str:
    if entry is None:
        return "waiting"
    return "done" if entry.outcome.results is not None else "failed"


def _frames(results: dict[str, Path]) -> list[Image.Image]:
    """Once around the object, from what a run has made; nothing where there is no picture."""
    if "turntable" in results:
        return read_turntable(results["turntable"], _FRAMES)
    views = [results[name] for name in sorted(results, key=_number_of_view) if name.startswith("view ")]
    return [Image.open(path).convert("RGB") for path in views]


def _number_of_view(name: str) -> int:
    return int(name.removeprefix("view ")) if name.startswith("view ") else -1


def _strip(frames: Sequence[Image.Image]) -> bytes:
    """The frames side by side as a JPEG."""
    if not frames:
        return b""
    strip, buffer = Image.new("RGB", (_FRAME_SIZE * len(frames), _FRAME_SIZE)), io.BytesIO()
    for i, frame in enumerate(frames):
        strip.paste(frame.resize((_FRAME_SIZE, _FRAME_SIZE), Image.Resampling.LANCZOS), (i * _FRAME_SIZE, 0))
    strip.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()
