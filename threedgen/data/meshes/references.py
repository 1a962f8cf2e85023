"""The files that a mesh file names, found as people have them; and what its reader says meanwhile."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from PIL import Image
from trimesh.resolvers import FilePathResolver

# how many words may follow an option before the name of a picture (Wavefront's .mtl); of `_NUMBERS` fewer numbers do
_WORDS = {"-blendu": 1, "-blendv": 1, "-bm": 1, "-boost": 1, "-cc": 1, "-clamp": 1, "-imfchan": 1, "-mm": 2}
_WORDS |= {"-texres": 1, "-type": 1, "-o": 3, "-s": 3, "-t": 3}
_NUMBERS = {"-o": 0.0, "-s": 1.0, "-t": 0.0}  # and the number that changes nothing
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tga", ".tif", ".tiff", ".gif", ".webp", ".dds", ".ppm")


class Reference(NamedTuple):
    """What stands behind `map_Kd`."""

    name: str
    left_out: tuple[str, ...]  # options that would move or scale the picture, such as "-s 2 2 1"


def read_reference(text: str) -> Reference:
    """Split options from a file's name, which may hold spaces: "-s 2 2 1 my picture.png"."""
    words, left_out = text.split(), []
    while len(words) > 1 and words[0].lower() in _WORDS:
        option = words.pop(0).lower()
        values: list[str] = []
        while len(words) > 1 and len(values) < _WORDS[option] and (option not in _NUMBERS or _is_number(words[0])):
            values.append(words.pop(0))
        if option in _NUMBERS and any(float(value) != _NUMBERS[option] for value in values):
            left_out.append(" ".join([option, *values]))
    return Reference(" ".join(words) if len(words) < len(text.split()) else text.strip(), tuple(left_out))


class References(FilePathResolver):
    """Finds files in the mesh's folder or below, and remembers what is to be said of them.

    A name may have options before it, backslashes, %20 for a space (glTF's are URIs), other upper and lower case than
    the file, and folders that are not here: the file is then looked for beside the mesh.
    """

    def __init__(self, path: Path):
        super().__init__(str(path))
        self.missing: list[str] = []
        self.unreadable: list[str] = []
        self.left_out: list[str] = []

    def get(self, name: str) -> bytes:
        folder = Path(self.parent)
        if as_it_stands := _find(folder, name.strip()):
            return self._checked(name.strip(), as_it_stands.read_bytes())
        reference = read_reference(name)
        self.left_out += [f"{option} of {reference.name}" for option in reference.left_out]
        plain = reference.name.replace("\\", "/").strip()
        names = [name for way in (plain, unquote(plain)) for name in (way, way.rpartition("/")[2])]
        found = next(filter(None, (_find(folder, name) for name in names)), None)
        if found is None:
            self.missing.append(reference.name)
            raise FileNotFoundError(reference.name)
        return self._checked(reference.name, found.read_bytes())

    def _checked(self, name: str, content: bytes) -> bytes:
        if name.lower().endswith(_PICTURES):
            try:
                Image.open(io.BytesIO(content)).close()
            except (OSError, ValueError, Image.DecompressionBombError):
                self.unreadable.append(name)
        return content

    def remarks(self) -> list[str]:
        """Phrases for the line about the mesh, each to follow a comma."""
        missing = [f"without {', '.join(dict.fromkeys(self.missing))}, which it names"] if self.missing else []
        unreadable = [f"without {name}, which cannot be read" for name in dict.fromkeys(self.unreadable)]
        return [*missing, *unreadable, *(f"without {option}" for option in dict.fromkeys(self.left_out))]


def _find(folder: Path, name: str) -> Path | None:
    """The file of this name in `folder` or below, whatever its case; the very name where there are several."""
    path = folder
    for part in name.split("/"):
        if part in ("", "."):
            continue
        if not path.is_dir():
            return None
        alike = sorted(entry.name for entry in path.iterdir() if entry.name.lower() == part.lower())
        if not alike:
            return None
        path /= part if part in alike else alike[0]
    return path if path.is_file() else None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


@contextmanager
def heard_from(library: str) -> Iterator[list[str]]:
    """Warnings that a library logs meanwhile, as lines in the list instead of text and tracebacks on stderr."""
    lines: list[str] = []
    logger, handler = logging.getLogger(library), _Listening(lines)
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield lines
    finally:
        logger.propagate = before
        logger.removeHandler(handler)


class _Listening(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(" ".join(record.getMessage().split())[:120])
