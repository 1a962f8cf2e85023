"""`launch.py render-meshes SRC DST`: mesh files as posed pictures, to train a prior on or to reconstruct from."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from threedgen.config.export import RasterizerName
from threedgen.core.arguments import ArgumentParser, program
from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.core.files import sha256_of_file
from threedgen.core.processes import mapping
from threedgen.data.captions import CAPTIONS, read_caption_lines
from threedgen.data.meshes.files import SUFFIXES
from threedgen.data.meshes.views import (
    ORBIT,
    SPHERE,
    Layout,
    Light,
    RenderSettings,
    is_rendered,
    recaption,
    render_files,
    write_views,
)
from threedgen.data.posed_images import CAMERAS
from threedgen.data.shards import ABOUT, Shards, key_of, read_about, write_shard
from threedgen.mesh.rasterizers import make_rasterizer

_DESCRIPTION = f"""\
Renders mesh files ({", ".join(SUFFIXES)}) to DST/NAME/: RGBA pictures and cameras.json.
SRC is a file, or a folder that is searched with all below it; {CAPTIONS} in that folder gives captions, one
{{"file": ..., "caption": ...}} a line.
Meshes that have been rendered with the same settings are passed over, those that cannot be are listed; the exit status
is then 1."""


@dataclass(frozen=True)
class _Job:
    name: str  # path below SRC without the suffix
    source: Path
    caption: str
    target: Path  # the mesh's folder, or its shard
    settings: RenderSettings
    rasterizer: RasterizerName


@dataclass(frozen=True)
class _Outcome:
    """What became of one mesh: `failed`, or rendered in some seconds, or (None) there already."""

    job: _Job
    seconds: float | None
    failed: str = ""
    remarks: tuple[str, ...] = ()


def main(arguments: Sequence[str]) -> int:
    """Carry out `render-meshes SRC DST [options]`; returns the exit status: 1 if a mesh could not be rendered."""
    given = _parser().parse_args(arguments)
    settings, rasterizer = _settings(given), _rasterizer(given.rasterizer)
    files = _mesh_files(given.source)
    captions = _read_captions(given.source, files)
    jobs = []
    for number, (name, file) in enumerate(files):
        target = given.destination / (f"{number // given.shards:05d}.tar" if given.shards else name)
        jobs.append(_Job(name, file, captions.get(name, ""), target, settings, rasterizer))
    outcomes = []
    with mapping(given.workers, "try fewer --workers") as map_jobs:
        for outcome in _sharded(jobs, given.destination, map_jobs) if given.shards else map_jobs(_render, jobs):
            outcomes.append(outcome)
            print(_line(outcome), flush=True)
    failed = sum(bool(outcome.failed) for outcome in outcomes)
    there = sum(outcome.seconds is None and not outcome.failed for outcome in outcomes)
    rendered = len(outcomes) - failed - there
    print(f"{rendered} rendered, {there} there already, {failed} failed: {given.destination}")
    return 1 if failed else 0


def _render(job: _Job) -> _Outcome:
    started = time.monotonic()
    try:
        if is_rendered(job.source, job.target, job.settings):
            recaption(job.target, job.caption)
            return _Outcome(job, None)
        rasterizer = make_rasterizer(job.rasterizer)
        remarks = write_views(job.source, job.target, job.name, job.settings, job.caption, rasterizer)
    except ThreedgenError as error:
        return _Outcome(job, None, failed=str(error))
    return _Outcome(job, time.monotonic() - started, remarks=tuple(remarks))


def _sharded(jobs: Sequence[_Job], folder: Path, map_jobs: Callable[..., Iterable[Any]]) -> Iterator[_Outcome]:
    """Shard after shard; those that hold just these meshes with just these settings and captions are passed over."""
    if strangers := sorted(set(folder.glob("*.tar")) - {job.target for job in jobs}):
        raise ConfigError(
            f"render-meshes: {strangers[0]} is none of this call's shards and would be read with them; "
            "remove it or take another DST"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path, group in groupby(jobs, key=lambda job: job.target):
        mine = list(group)
        digests = map_jobs(_digest, mine)
        meshes = [
            {"key": key_of(job.name), "sha256": digest, "caption": job.caption}
            for job, digest in zip(mine, digests, strict=True)
        ]
        about = json.dumps({"settings": mine[0].settings.as_json(), "meshes": meshes}).encode()
        before = read_about(path) if path.exists() else b""
        if before is None:
            raise ConfigError(f"render-meshes: {path} is there already and none of its shards; remove it")
        yield from _in_shard(path, mine) if before == about else _write_shard(path, about, mine, map_jobs)


def _digest(job: _Job) -> str:
    """sha256 of the mesh; empty for a file that cannot be read, which rendering will say."""
    try:
        return sha256_of_file(job.source)
    except OSError:
        return ""


def _in_shard(path: Path, jobs: Sequence[_Job]) -> Iterator[_Outcome]:
    shard = Shards([path])
    keys = {shard[i].key for i in range(len(shard))}
    for job in jobs:
        failed = "" if key_of(job.name) in keys else f"it could not be rendered; remove {path} to try again"
        yield _Outcome(job, None, failed)


def _write_shard(
    path: Path, about: bytes, jobs: Sequence[_Job], map_jobs: Callable[..., Iterable[Any]]
) -> Iterator[_Outcome]:
    with write_shard(path) as shard:
        shard.add_file(ABOUT, about)
        for outcome, files in map_jobs(_render_files, jobs):
            shard.add(key_of(outcome.job.name), files)
            yield outcome


def _render_files(job: _Job) -> tuple[_Outcome, list[tuple[str, bytes]]]:
    """Extensions and contents of the files of a mesh's sample; none if it failed."""
    started = time.monotonic()
    try:
        rasterizer = make_rasterizer(job.rasterizer)
        drawn, remarks = render_files(job.source, job.name, job.settings, job.caption, rasterizer)
        files = [("json" if file == CAMERAS else file, content) for file, content in drawn]
    except ThreedgenError as error:
        return _Outcome(job, None, failed=str(error)), []
    return _Outcome(job, time.monotonic() - started, remarks=tuple(remarks)), files


def _line(outcome: _Outcome) -> str:
    source, target = outcome.job.source, outcome.job.target
    if outcome.failed:
        return f"{source}: FAILED: {outcome.failed}"
    if outcome.seconds is None:
        return f"{source}: there already: {target}"
    return ", ".join([f"{source}: {outcome.seconds:.1f} s: {target}", *outcome.remarks])


def _mesh_files(source: Path) -> list[tuple[str, Path]]:
    """(name, file) of all meshes, in order of their files; names are those of `_own_names`."""
    if source.is_file():
        return [(source.stem, source)]
    if not source.is_dir():
        raise ConfigError(f"render-meshes: {source} is not there")
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise ConfigError(f"render-meshes: there is no mesh in {source} or below ({', '.join(SUFFIXES)})")
    names = _own_names([path.relative_to(source) for path in files])
    return [(name.as_posix(), path) for name, path in zip(names, files, strict=True)]


def _own_names(files: Sequence[Path]) -> list[Path]:
    """A name for each file, none twice and none inside another: the path without the suffix, where that is neither.

    Otherwise the suffix joins the name: chair.glb and chair.obj are chair-glb and chair-obj, and chair.obj beside a
    folder chair is chair-obj.
    """
    plain = [file.with_suffix("") for file in files]
    count = Counter(plain)
    folders = {folder for file in files for folder in file.parents}
    names: dict[Path, None] = {}  # in order; a list would be searched from end to end for each of them
    for file, name in zip(files, plain, strict=True):
        if count[name] > 1 or name in folders:
            name = name.with_name(f"{name.name}-{file.suffix[1:].lower()}")
            while name in names or name in count or name in folders:
                name = name.with_name(f"{name.name}-{file.suffix[1:].lower()}")
        names[name] = None
    return list(names)


def _read_captions(source: Path, files: Sequence[tuple[str, Path]]) -> dict[str, str]:
    """Name -> caption, from captions.jsonl beside the meshes, if it is there."""
    root = source if source.is_dir() else source.parent
    path = root / CAPTIONS
    if not path.is_file():
        return {}
    names = {file.relative_to(root).as_posix(): name for name, file in files}
    captions = {}
    for number, file, caption in read_caption_lines(path):
        if file in names:
            captions[names[file]] = caption
        elif source.is_dir():
            raise ConfigError(f"{path}:{number}: {file} is not there")
    return captions


def _rasterizer(name: str) -> RasterizerName:
    """What cannot be used is told before any work is done."""
    try:
        make_rasterizer(RasterizerName[name])
    except ConfigError as error:
        raise ConfigError(f"render-meshes: {str(error).replace('export.rasterizer=', '--rasterizer ')}") from error
    return RasterizerName[name]


def _settings(given: argparse.Namespace) -> RenderSettings:
    preset = SPHERE if given.cameras == Layout.sphere.name else ORBIT
    if preset is SPHERE and (given.passes is not None or given.elevation is not None):
        raise ConfigError("render-meshes: --passes and --elevation belong to --cameras orbit")
    options = {
        "views": given.views,
        "passes": given.passes,
        "size": given.size,
        "fov_deg": given.fov and tuple(given.fov),
        "elevation_deg": given.elevation and tuple(given.elevation),
        "distance": given.distance and tuple(given.distance),
        "light": given.light and Light[given.light],
        "up": given.up,
        "supersample": given.supersample,
        "seed": given.seed,
        "texture": given.texture,
    }
    if given.texture is not None and not (given.texture.is_file() and given.source.is_file()):
        raise ConfigError("render-meshes: --texture takes a picture file, and SRC is then one mesh file")
    settings = replace(preset, **{name: value for name, value in options.items() if value is not None})
    ranges = {
        "--views": (settings.views, 1, 100_000),
        "--passes": (settings.passes, 1, 1000),
        "--size": (settings.size, 1, 8192),
        "--fov": (settings.fov_deg, 0.1, 179.0),
        "--elevation": (settings.elevation_deg, -89.9, 89.9),
        "--distance": (settings.distance, 0.01, 1000.0),
        "--supersample": (settings.supersample, 1, 16),
        "--workers": (given.workers, 1, 1024),
        "--shards": (1 if given.shards is None else given.shards, 1, 1_000_000),
    }
    for name, (value, low, high) in ranges.items():
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(low <= number <= high for number in numbers):
            raise ConfigError(f"render-meshes: {name} must be between {low:g} and {high:g}")
        if numbers[0] > numbers[-1]:
            raise ConfigError(f"render-meshes: {name}: the first number must not be larger than the second")
    return settings


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog=f"{program()} render-meshes",
        description=_DESCRIPTION,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", type=Path, metavar="SRC", help="a mesh file, or a folder of them")
    add("destination", type=Path, metavar="DST", help="the folder that gets a folder for each mesh")
    layouts, lights = [layout.name for layout in Layout], [light.name for light in Light]
    add("--cameras", choices=layouts, default=ORBIT.layout.name, help="rings (default), or evenly all around")
    add("--views", type=int, metavar="N", help=f"of each ring ({ORBIT.views}), or of the sphere ({SPHERE.views})")
    add("--passes", type=int, metavar="N", help=f"rings ({ORBIT.passes})")
    add("--size", type=int, metavar="N", help=f"of the square pictures, pixels ({ORBIT.size})")
    low_high = ("LOW", "HIGH")
    add("--fov", type=float, nargs=2, metavar=low_high, help=f"field of view, degrees {_shown(ORBIT.fov_deg)}")
    add("--elevation", type=float, nargs=2, metavar=low_high, help=f"degrees {_shown(ORBIT.elevation_deg)}")
    text = (
        f"orbit {_shown(ORBIT.distance)}: times 0.5 / tan(fov / 2), from where an edge of 1 is as high as the picture; "
    )
    text += f"sphere {_shown(SPHERE.distance)}: times the least distance that shows the whole object"
    add("--distance", type=float, nargs=2, metavar=low_high, help=text)
    text = "soft: light from above; off: the mesh's own colours; auto (default): soft for one plain colour, or none"
    add("--light", choices=lights, help=text)
    add("--texture", type=Path, metavar="FILE", help="picture for texture coordinates that have none; SRC is one file")
    add("--up", choices=("y", "z"), help="which axis of the files points up (y, as in glTF)")
    add("--supersample", type=int, metavar="N", help=f"N x N rays a pixel ({ORBIT.supersample})")
    add("--seed", type=int, metavar="N", help=f"of the cameras ({ORBIT.seed})")
    text = "write WebDataset shards of N meshes, DST/00000.tar and on, instead of a folder a mesh"
    add("--shards", type=int, metavar="N", help=text)
    rasterizers = [rasterizer.name for rasterizer in RasterizerName]
    text = "native: the CPU; kaolin: a CUDA device; auto (default): kaolin where it can be used"
    add("--rasterizer", choices=rasterizers, default=RasterizerName.auto.name, help=text)
    add("--workers", type=int, default=1, metavar="N", help="meshes rendered at once (1)")
    return parser


def _shown(numbers: tuple[float, float]) -> str:
    return f"({numbers[0]:g} {numbers[1]:g})"
