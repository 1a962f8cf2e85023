"""preview.html: an asset to turn in any browser, with its pictures and figures, in one file and without a network."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from threedgen.core.files import write_text_atomically
from threedgen.imaging import Row, tile

_FOLDER = Path(__file__).parent
_MEDIA_TYPES = {".mp4": "video/mp4", ".gif": "image/gif"}


def write_preview(
    path: str | Path,
    *,
    title: str,
    subtitle: str,
    glb: bytes,
    turntable: Path,
    views: Sequence[Row],
    facts: Mapping[str, Mapping[str, str]],
    settings: str,
) -> None:
    """Everything is put into the page itself, the viewer (model-viewer, see vendor/) too: about 3 MB.

    Args:
        title: the prompt, shown as it was typed, whatever characters it has.
        turntable: an .mp4 or a .gif.
        views: (label, images [N, H, W, 3]), one strip of pictures each.
        facts: heading -> name -> value, shown as tables.
        settings: text for the part that is folded away.
    """
    viewer = (_FOLDER / "vendor/model-viewer-umd.min.js").read_text("utf-8")
    parts = {
        "title": escape(title),
        "subtitle": escape(subtitle),
        "glb": base64.b64encode(glb).decode("ascii"),
        "turntable": _moving_picture(turntable),
        "tables": "\n".join(_table(heading, rows) for heading, rows in facts.items()),
        "views": "\n".join(_strip(label, images) for label, images in views),
        "settings": escape(settings),
        "model-viewer": re.sub(r"\n//# sourceMappingURL=.*\s*$", "", viewer),  # the map is not here
    }
    template = (_FOLDER / "preview.html").read_text("utf-8")
    # in one pass: a prompt that contains {{views}} stays as typed
    write_text_atomically(path, re.sub(r"\{\{([a-z-]+)\}\}", lambda match: parts[match[1]], template))


def _moving_picture(path: Path) -> str:
    uri = _data_uri(_MEDIA_TYPES[path.suffix], path.read_bytes())
    if path.suffix == ".gif":
        return f'<img class="turntable" alt="turntable" src="{uri}">'
    how = "autoplay loop muted playsinline controls"
    return f'<video class="turntable" aria-label="turntable" {how} src="{uri}"></video>'


def _table(heading: str, rows: Mapping[str, str]) -> str:
    lines = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows.items())
    return f'<section class="card"><h2>{escape(heading)}</h2><table>{lines}</table></section>'


def _strip(label: str, images: Any) -> str:
    png = io.BytesIO()
    tile([images]).save(png, "PNG")
    picture = f'<img alt="{escape(label)}" src="{_data_uri("image/png", png.getvalue())}">'
    return f"<figure><figcaption>{escape(label)}</figcaption>{picture}</figure>"


def _data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
