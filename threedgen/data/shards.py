"""WebDataset shards: plain tar files in which the files of one sample stand side by side, KEY.json, KEY.000.png, ...

A sample is the files whose names are equal up to the first dot of the last part. Names like `__this__` are about the
shard and belong to no sample (https://github.com/webdataset/webdataset, "The WebDataset Format").
Reading is by number: a list of the places where samples begin is made once for each shard and kept beside it.
"""

from __future__ import annotations

import glob
import io
import os
import re
import tarfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.core.files import TEMPORARY_PREFIX, write_bytes_atomically

ABOUT = "__source__"  # first in a shard of ours: what it was made from
_INDEX = ".index"  # after the shard's name
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def key_of(name: str) -> str:
    """A mesh's or picture's name as the key of its sample: a dot would end the key, so it is written as in a URL."""
    return name.replace("%", "%25").replace(".", "%2E")


def is_shards(where: str) -> bool:
    """Whether `where` means shards: a name or pattern of .tar files (also of compressed ones), or a folder of them."""
    return ".tar" in Path(where).name or any(Path(where).glob("*.tar"))


def shard_paths(where: str) -> list[Path]:
    """The tar files that `where` means: a folder, a pattern (`DIR/*.tar`) or a range (`DIR/{00000..00012}.tar`).

    Raises:
        ConfigError: there is none, or one of a range is missing.
    """
    if numbers := _RANGE.search(where):
        first, last = numbers.groups()
        names = [f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1)]
        paths = [Path(where[: numbers.start()] + name + where[numbers.end() :]) for name in names]
        if missing := [path for path in paths if not path.is_file()]:
            raise ConfigError(f"{where}: {missing[0]} is not there ({len(missing)} of {len(paths)} shards are missing)")
    else:
        found = Path(where).glob("*.tar") if Path(where).is_dir() else map(Path, glob.glob(where))
        paths = sorted(found)
    if not paths:
        raise ConfigError(f"{where}: there are no shards")
    return paths


@dataclass(frozen=True)
class ShardSample:
    """The files of one sample."""

    shard: Path
    key: str
    _members: dict[str, tuple[int, int]]  # extension -> offset and size

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.shard}: {self.key}"

    @property
    def files(self) -> Sequence[str]:
        """What follows the key and its dot in the names, in lower case: `json`, `000.png`."""
        return list(self._members)

    def read(self, file: str) -> bytes:
        """Raises ThreedgenError where there is no such file."""
        if file not in self._members:
            raise ThreedgenError(f"{self.name}: has no {file}")
        offset, size = self._members[file]
        with open(self.shard, "rb") as opened:
            opened.seek(offset)
            return opened.read(size)


class Shards:
    """The samples of shards, by number. Holds no open files, so it may be used by any number of processes and threads.

    Raises:
        ConfigError: a shard is no tar file, compressed or cut off.
    """

    def __init__(self, paths: Sequence[Path]):
        self._paths = list(paths)
        self._bounds = [_bounds(path) for path in self._paths]  # each [samples + 1] byte offsets
        self._ends = list(accumulate(len(bounds) - 1 for bounds in self._bounds))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> ShardSample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._ends, index)
        bounds = self._bounds[number]
        i = index - self._ends[number] + len(bounds) - 1
        return self._sample(self._paths[number], int(bounds[i]), int(bounds[i + 1]))

    def _sample(self, path: Path, start: int, stop: int) -> ShardSample:
        key, members = "", {}
        with open(path, "rb") as shard:
            shard.seek(start)
            tar = tarfile.TarFile(fileobj=shard)
            while (member := tar.next()) is not None and member.offset < stop:
                if (split := _split(member)) is not None:
                    key, extension = split
                    members[extension] = (member.offset_data, member.size)
        return ShardSample(path, key, members)


class ShardWriter:
    def __init__(self, tar: tarfile.TarFile):
        self._tar = tar

    def add(self, key: str, files: Iterable[tuple[str, bytes]]) -> None:
        """One sample: (extension, content) of its files. `key` as `key_of` gives it."""
        for extension, content in files:
            self.add_file(f"{key}.{extension}", content)

    def add_file(self, name: str, content: bytes) -> None:
        member = tarfile.TarInfo(name)  # no time and no owner: equal content gives equal shards
        member.size = len(content)
        self._tar.addfile(member, io.BytesIO(content))


@contextmanager
def write_shard(path: Path) -> Iterator[ShardWriter]:
    """A shard that appears under its name only when it is whole and on disk."""
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")  # a killed writer's is written over
    try:
        with open(temporary, "wb") as file:
            with tarfile.TarFile(fileobj=file, mode="w") as tar:
                yield ShardWriter(tar)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_about(path: Path) -> bytes | None:
    """The content of `ABOUT` in a shard of ours; None: somebody else's, or not a tar file."""
    try:
        with tarfile.TarFile(path) as tar:
            first = tar.next()
            if first is None or first.name != ABOUT or first.issparse():
                return None
            content = tar.extractfile(first)
            return content.read() if content else None
    except tarfile.TarError:
        return None


def _split(member: tarfile.TarInfo) -> tuple[str, str] | None:
    """Key and extension of a sample's file; None for what belongs to no sample."""
    folder, _, name = member.name.rpartition("/")
    base, dot, extension = name.partition(".")
    if not member.isfile() or not dot or not base:
        return None
    return (f"{folder}/{base}" if folder else base), extension.lower()


def _bounds(path: Path) -> NDArray[np.int64]:
    """Where each sample begins, and where the last one ends, [samples + 1]; kept beside the shard.

    The file beside it starts with the shard's size, and is made again if the shard is newer or has another size.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    kept = path.with_name(path.name + _INDEX)
    if kept.is_file() and kept.stat().st_mtime_ns >= state.st_mtime_ns:
        numbers = np.frombuffer(kept.read_bytes(), "<i8")
        if len(numbers) > 1 and numbers[0] == state.st_size:
            return numbers[1:]
    bounds = _scan(path)
    try:
        write_bytes_atomically(kept, np.concatenate([[state.st_size], bounds]).astype("<i8").tobytes())
    except OSError:
        return bounds  # a folder that cannot be written: the list is made again the next time
    return bounds


def _scan(path: Path) -> NDArray[np.int64]:
    starts, previous = [], None
    with open(path, "rb") as shard:
        head = shard.read(8)
        for magic, name in _COMPRESSED.items():
            if head.startswith(magic):
                raise ConfigError(f"{path} is compressed ({name}); shards are read in place: unpack it to a plain .tar")
        shard.seek(0)
        try:
            tar = tarfile.TarFile(fileobj=shard)
            while (member := tar.next()) is not None:
                if member.issparse():
                    problem = "is stored with holes and can unpack to any size; write the shard without --sparse"
                    raise ConfigError(f"{path}: {member.name} {problem}")
                split = _split(member)
                if split is not None and split[0] != previous:
                    starts.append(member.offset)
                    previous = split[0]
        except tarfile.TarError as error:
            raise ConfigError(f"{path} is no tar file, or one that is cut off ({error})") from error
        shard.seek(tar.offset)  # behind the last member: a whole tar file goes on with a block of zeros
        if shard.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ConfigError(f"{path} is cut off or damaged at byte {tar.offset}")
        return np.array([*starts, tar.offset], np.int64)
