"""Captions of files: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from threedgen.core.errors import ConfigError

CAPTIONS = "captions.jsonl"  # {"file": ..., "caption": ...} a line


def read_caption_lines(path: Path, file_key: str = "file", text_key: str = "caption") -> Iterator[tuple[int, str, str]]:
    """(line number, file, caption) of each line that is not empty; a caption of null is an empty one.

    Raises:
        ConfigError: a line has another form; names it.
    """
    # "\n" alone: JSON's strings may hold the other ends of lines that Unicode has. Windows begins files with a mark
    for number, line in enumerate(path.read_text("utf-8-sig", errors="replace").split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            yield number, str(entry[file_key]), as_caption(entry[text_key])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f'{path}:{number}: is not {{"{file_key}": ..., "{text_key}": ...}}') from error


def as_caption(value: object) -> str:
    """A caption as JSON has it; empty for null."""
    return "" if value is None else str(value)
