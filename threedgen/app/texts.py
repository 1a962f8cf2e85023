"""The HTML of the page's parts. Whatever a user typed is escaped."""

from __future__ import annotations

from html import escape
from pathlib import Path
from urllib.parse import quote

from threedgen.app.choices import Check
from threedgen.app.jobs import State
from threedgen.app.seen import Seen
from threedgen.config.schema import Task
from threedgen.data.miniworld.grammar import BASES, COLORS, SMALL
from threedgen.data.miniworld.kinds import KINDS
from threedgen.data.miniworld.parts import WORN
from threedgen.data.miniworld.textures import MATERIALS
from threedgen.runs.progress import format_seconds

HEADER = "<h1>threedgen</h1><p>Say what you want to see. Turn it around. Take it with you.</p>"
# a cube, in one line
_CUBE = (
    '<svg viewBox="0 0 64 64" width="72" height="72" fill="none" stroke="currentColor" stroke-width="1.5"'
    ' stroke-linejoin="round"><path d="M32 6 55 19v26L32 58 9 45V19z"/><path d="M9 19l23 13 23-13M32 32v26"/></svg>'
)
EMPTY = f'<div class="empty">{_CUBE}<p>What you make appears here.</p></div>'


def of_check(found: Check, prompt: str) -> str:
    """The line below the prompt."""
    if not found.text:
        return '<p class="check">&nbsp;</p>'
    if not found.is_fine:
        return f'<p class="check bad">{_sentence(found.text)}{" Try one of these:" if found.offers else ""}</p>'
    if prompt.lower().split() == found.text.split():
        return '<p class="check good">&#10003; This can be drawn.</p>'
    notes = "".join(f"<br>{_sentence(note)}" for note in found.notes)
    return f'<p class="check good">&#10003; Drawn as <b>{escape(found.text)}</b>.<span>{notes}</span></p>'


def of_run(seen: Seen | None, state: State, ahead: int, error: str, glb: Path | None) -> str:
    """What a run is about and how far it is, or the asset that it made, to turn around."""
    title, detail, part = _progress(seen, state, ahead, error)
    parts = [] if seen is None else [f'<h2 title="{escape(seen.folder.name)}">{escape(seen.title)}</h2>']
    if title:
        parts.append(f'<div class="status {state.value}"><b>{title}</b><span>{detail}</span></div>')
    if state is State.running:
        done = "" if part is None else f' style="width:{100 * part:.1f}%"'
        parts.append(f'<div class="bar"><div class="{"unknown" if part is None else "known"}"{done}></div></div>')
    if seen is not None and glb is not None:
        parts.append(_asset(seen, glb))
    return f'<div class="run">{"".join(parts)}</div>'


def of_pictures(seen: Seen | None, state: State) -> str:
    """The views, and while it is made the newest picture of the object."""
    if seen is None or not seen.views:
        return f'<div class="empty pulsing">{_CUBE}</div>' if state in (State.waiting, State.running) else ""
    pictures = "".join(f'<img alt="{escape(seen.title)}" src="{file_url(path)}">' for path in seen.views)
    parts = [f'<div class="views of{len(seen.views)}">{pictures}</div>']
    if seen.preview is not None and state is not State.done:
        step = int(seen.preview.stem.rpartition("-")[2])
        is_fitted = seen.config.task is Task.dense_views
        what = "the views, and below them the object so far" if is_fitted else "the object, and what it is to become"
        picture = f'<img alt="" src="{file_url(seen.preview)}">'
        parts.append(f"<figure>{picture}<figcaption>Step {step}: {what}</figcaption></figure>")
    return f'<div class="pictures">{"".join(parts)}</div>'


def of_words() -> str:
    """What the bundled models can be told."""
    swatches = (f'<i style="background:rgb{tuple(round(255 * v) for v in rgb)}"></i>{n}' for n, rgb in COLORS.items())
    rows = [("colours", "<wbr>".join(f'<span class="swatch">{swatch}</span>' for swatch in swatches))]
    rows.append(("materials", f"{', '.join(MATERIALS)}, in place of a colour"))
    for family in dict.fromkeys(kind.family for kind in KINDS.values()):
        things = ", ".join(
            f"<b>{name}</b>" + (f" ({', '.join(kind.features)})" if kind.features else "")
            for name, kind in KINDS.items()
            if kind.family == family
        )
        rows.append((family, things))
    rows.append(("parts", "with … one part from the brackets, in a colour of its own"))
    rows.append(("clothes", f"wearing a {' or a '.join(WORN)}: animals and figures"))
    rows.append(("on top", f"{', '.join(SMALL)}: on a {' or a '.join(BASES)}"))
    lines = "".join(f"<tr><th>{name}</th><td>{text}</td></tr>" for name, text in rows)
    return f'<table class="words">{lines}</table>'


def file_url(path: Path) -> str:
    """Where the app's server has a file of the output folder; another one after it was written again."""
    return f"gradio_api/file={quote(str(path.resolve()))}?{path.stat().st_mtime_ns}"


def _progress(seen: Seen | None, state: State, ahead: int, error: str) -> tuple[str, str, float | None]:
    """What is going on, more about it, and the part that is done; None: not known."""
    match state:
        case State.waiting:
            return "Waiting", f"{ahead + 1} in line" if ahead else "next in line", None
        case State.failed:
            return "That did not work", escape(error), None
        case State.stopped:
            is_begun = seen is not None and seen.step > 0
            return "Stopped", f"at step {seen.step} of {seen.num_steps}" if seen and is_begun else "", None
        case State.done:
            return "", "", None
    if seen is None or not (seen.views or seen.step) or seen.config.task is Task.sample_views:
        return "Drawing the views", "the first pictures come in seconds", None
    if seen.num_steps == 0 or seen.step >= seen.num_steps:
        return "Making the mesh", "and its texture and turntable", None
    if not seen.step:
        return "Shaping it", f"{seen.num_steps} steps", None
    left = "" if seen.remaining is None else f" &middot; about {format_seconds(seen.remaining)} left"
    return "Shaping it", f"step {seen.step} of {seen.num_steps}{left}", seen.step / seen.num_steps


def _asset(seen: Seen, glb: Path) -> str:
    report = seen.report
    facts = [f"{report['faces']:,} triangles", "watertight" if report["watertight"] else "not watertight"]
    if report["texture_size"]:
        facts.append(f"texture of {report['texture_size']} pixels")
    facts.append(f"variant {report['seed']}")
    return (
        f'<model-viewer src="{file_url(glb)}" alt="{escape(seen.title)}" camera-controls touch-action="pan-y"'
        ' auto-rotate auto-rotate-delay="1500" camera-orbit="25deg 75deg auto" environment-image="neutral"'
        ' shadow-intensity="0.6" tone-mapping="neutral" interaction-prompt="none"></model-viewer>'
        f'<p class="facts"><span>{" &middot; ".join(facts)}</span><span>drag to turn, scroll to zoom</span></p>'
    )


def _sentence(text: str) -> str:
    return escape(text[:1].upper() + text[1:]) + "."
