"""Files that are either whole or not there: a killed process never leaves half a file under a final name."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from threedgen.core.errors import ConfigError, StorageError, ThreedgenError

MANIFEST = "manifest.json"
TEMPORARY_PREFIX = ".tmp-"  # names of unfinished files and folders
_ASIDE_PREFIX = ".tmp-old-"  # holds a folder that is being replaced
_asks_umask = threading.Lock()
_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


@contextmanager
def storage_errors_told() -> Iterator[None]:
    """What says that a disk is full or that a folder is not to be written becomes a StorageError of one line; that a
    name is too long for a file's, such as a sentence in the place of one, a ConfigError."""
    try:
        yield
    except Exception as error:
        number = _errno_of(error)
        if number not in (*_REFUSALS, errno.ENAMETOOLONG):
            raise
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        if number == errno.ENAMETOOLONG:
            raise ConfigError(f"{where}{os.strerror(number)}") from error
        raise StorageError(
            f"{where}{os.strerror(number)}; make room or allow writing there, and the same command goes on from the "
            "last checkpoint"
        ) from error


def _errno_of(error: Exception) -> int | None:
    """The system's number of an error, also of one from libraries in Rust, which have it in their text only."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """An OSError of the block that names no file names this one."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def sha256_of_file(path: str | Path) -> str:
    """Hexadecimal sha256 of a file's content, read in pieces (large weights need no large memory)."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write_bytes_atomically(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader sees the old content or the new, never a part."""
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f"{TEMPORARY_PREFIX}{path.name}-", dir=path.parent)
    try:
        with _named(path), open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes it private to its owner
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)  # it is in place already where a signal came meanwhile
        raise
    _sync_folder(path.parent)


def write_text_atomically(path: str | Path, text: str) -> None:
    """As `write_bytes_atomically`, in UTF-8 and with the newlines as given."""
    write_bytes_atomically(path, text.encode("utf-8"))


def write_json_atomically(path: str | Path, value: Any) -> None:
    """As `write_text_atomically`, indented. NaN and infinities, which JSON does not have, are written as null."""
    write_text_atomically(path, json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path` to write into; it takes the final name only when all of it is on disk.

    On success `manifest.json` (file name -> sha256 and size) is written last, everything is flushed to disk and the
    folder is renamed, replacing an older one. On an exception the temporary folder is removed and `path` stays as it
    was.

    Example:
        with atomic_folder("checkpoints/step-000500") as folder:
            (folder / "info.json").write_text("{}")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY_PREFIX}{path.name}-", dir=path.parent))
    try:
        with _named(path):
            yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        _write_manifest(temporary)
        for file in sorted(temporary.rglob("*")):
            _sync_folder(file) if file.is_dir() else _sync_file(file)
        _sync_folder(temporary)
        _move_into_place(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(path.parent)


def verify_folder(path: str | Path) -> bool:
    """True when every file that the folder's manifest names has its size and sha256.

    Raises:
        ThreedgenError: the manifest or a file is missing, unreadable or changed; the message names it.
    """
    path = Path(path)
    manifest_path = path / MANIFEST
    try:
        manifest = json.loads(manifest_path.read_text("utf-8"))
        entries = {name: (str(entry["sha256"]), int(entry["size"])) for name, entry in manifest.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ThreedgenError(f"{manifest_path} is missing or cannot be read ({type(error).__name__})") from error
    for name, (sha256, size) in entries.items():
        file = path / name
        if not file.is_file():
            raise ThreedgenError(f"{file} is missing, although {MANIFEST} names it")
        if file.stat().st_size != size or sha256_of_file(file) != sha256:
            raise ThreedgenError(f"{file} is damaged: it is not what {MANIFEST} recorded")
    return True


def remove_temporaries(folder: str | Path) -> None:
    """Remove what a killed writer left in `folder`. Call it only where no other process is writing.

    A folder whose writer was killed between moving the old one aside and the new one in gets the old one back.
    """
    folder = Path(folder)
    for replaced in folder.glob(f"{_ASIDE_PREFIX}*/*"):
        if not (folder / replaced.name).exists():
            os.rename(replaced, folder / replaced.name)
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _write_manifest(folder: Path) -> None:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / MANIFEST)
    entries = {
        file.relative_to(folder).as_posix(): {"sha256": sha256_of_file(file), "size": file.stat().st_size}
        for file in files
    }
    (folder / MANIFEST).write_text(json.dumps(entries, indent=2) + "\n", "utf-8")


def _move_into_place(temporary: Path, path: Path) -> None:
    """Rename; an older folder steps aside first, because a rename cannot replace a folder that is not empty."""
    if not path.exists():
        os.rename(temporary, path)
        return
    aside = Path(tempfile.mkdtemp(prefix=f"{_ASIDE_PREFIX}{path.name}-", dir=path.parent))
    os.rename(path, aside / path.name)
    try:
        os.rename(temporary, path)
    except BaseException:
        if not path.exists():  # it does where a signal came meanwhile
            os.rename(aside / path.name, path)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Flush a folder's list of names, without which a rename may be lost in a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    with _asks_umask:  # it can only be asked for by changing it
        mask = os.umask(0)
        os.umask(mask)
    return mask
