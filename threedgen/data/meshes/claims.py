"""What a mesh file says of its own size, looked at before anything is allocated for it.

A few bytes of glTF can ask for any number of zeros, and a scene can place one mesh any number of times: files that
unpack to far more than they are, made by accident or to harm.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from threedgen.core.errors import ThreedgenError

MOST_TRIANGLES = 20_000_000  # of a scene, each as often as it is placed; about 6 GB while they are read
MOST_BYTES = 1 << 30  # of all numbers of a glTF file
MOST_ZEROS = 1 << 26  # of those that have no buffer
_MAGIC, _JSON = b"glTF", b"JSON"
_COLUMNS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_BYTES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}  # of a number, by componentType


def check_gltf(path: Path) -> None:
    """Raises ThreedgenError if a .glb's chunks are longer than the file, or if the numbers of a .glb or .gltf would
    fill more than `MOST_BYTES`, or those that no buffer holds more than `MOST_ZEROS`. What is damaged otherwise is left
    to the reader.

    glTF 2.0 specification, sections 3.6.2 (accessors; without a buffer they are zeros) and 4.4 (GLB).
    """
    text = _json_of_glb(path) if path.suffix.lower() == ".glb" else path.read_bytes()
    try:
        accessors = list(json.loads(text)["accessors"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return
    zeros = [accessor for accessor in accessors if isinstance(accessor, dict) and "bufferView" not in accessor]
    for these, what, most in ((accessors, "numbers", MOST_BYTES), (zeros, "numbers that it does not hold", MOST_ZEROS)):
        if (total := sum(map(_bytes_of, these))) > most:
            raise ThreedgenError(f"asks for {total >> 20:,} MiB of {what}, more than the {most >> 20:,} allowed")


def check_triangles(count: int) -> None:
    """Raises ThreedgenError if there are more than `MOST_TRIANGLES`."""
    if count > MOST_TRIANGLES:
        raise ThreedgenError(f"places {count:,} triangles, more than the {MOST_TRIANGLES:,} allowed; simplify it first")


def _json_of_glb(path: Path) -> bytes:
    size, text = path.stat().st_size, b""
    with open(path, "rb") as file:
        if file.read(12)[:4] != _MAGIC:
            return b""
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack("<I4s", head)
            if length > size - file.tell():
                raise ThreedgenError(
                    f"says that a part of it has {length:,} bytes, but the file has {size:,}; is it cut off?"
                )
            if kind == _JSON and not text:  # the first, as the reader does
                text = file.read(length)
            else:
                file.seek(length, 1)
    return text


def _bytes_of(accessor: Any) -> int:
    try:
        return max(0, int(accessor["count"])) * _COLUMNS[accessor["type"]] * _BYTES[accessor["componentType"]]
    except (ValueError, KeyError, TypeError, OverflowError):
        return 0  # where the reader stops, but what stood before it would have been allocated
