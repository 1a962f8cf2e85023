"""What happened in a run, one JSON object a line, in `events.jsonl`."""

from __future__ import annotations

import errno
import json
import math
import os
import time
from pathlib import Path


class EventLog:
    """Append-only and flushed line by line, so that a killed run keeps everything it reported.

    Example:
        with EventLog("events.jsonl") as events:
            events.write("step", step=10, loss=0.25)
        # {"time": 1750000000.123, "event": "step", "step": 10, "loss": 0.25}
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        drop_unfinished_line(self.path)
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - closed by close()

    def write(self, event: str, **fields: object) -> None:
        """Add one line: `time` (seconds since 1970), `event` (its kind) and the fields.

        NaN and infinities, which JSON does not have, are written as the texts "nan", "inf" and "-inf". Raises OSError,
        and leaves nothing of the line, where the disk is full.
        """
        record = {"time": round(time.time(), 3), "event": event, **{k: _plain(v) for k, v in fields.items()}}
        text = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        line = text.encode("utf-8", "backslashreplace")  # of a file's name that is no UTF-8; JSON has the same escapes
        written = self._file.write(line)
        if written < len(line):  # a disk takes what fits, and only the next write would be refused
            os.ftruncate(self._file.fileno(), self._file.tell() - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_events(path: str | Path) -> list[dict[str, object]]:
    """All whole lines of an events file (a line that is still being written is left out)."""
    lines = Path(path).read_text("utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]  # after the last newline: nothing, or an unfinished line


def _plain(value: object) -> object:
    """`value` in types that JSON has."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def drop_unfinished_line(path: Path) -> None:
    """Cut off what a killed writer left after the last newline."""
    if not path.exists():
        return
    with open(path, "rb+") as file:
        data = file.read()
        end = data.rfind(b"\n") + 1
        if end < len(data):
            file.seek(end)
            file.truncate()
            os.fsync(file.fileno())
