"""The file that describes the pictures of a folder; or what is there instead, and the next step from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from threedgen.core.errors import ConfigError
from threedgen.data.pictures.colmap import find_model
from threedgen.data.pictures.decoding import PICTURES, VIDEOS

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")


def described_by(path: Path, names: Sequence[str]) -> Path:
    """The JSON file, one of these names, that describes the pictures at `path`, or the folder of COLMAP's model.

    A folder with nothing but one such folder stands for that one.

    Raises:
        ConfigError: nothing describes any; says what to do with what is there.
    """
    if path.is_file():
        if path.stem in ("cameras", "images", "points3D") and path.suffix in (".txt", ".bin"):
            return path.parent
        if path.suffix.lower() in (*VIDEOS, *PICTURES):
            advice = video_advice(path) if path.suffix.lower() in VIDEOS else "is one picture: data is a folder of them"
            raise ConfigError(f"data={path}: {advice}")
        if path.suffix.lower() in _ARCHIVES:
            raise ConfigError(f"data={path}: is an archive: unpack it, and data is the folder that comes out")
        return path
    if not path.is_dir():
        raise ConfigError(f"data={path}: no such folder")
    found = _describing(path, names)
    if found:
        return found
    below = [file for folder in sorted(path.iterdir()) if folder.is_dir() and (file := _describing(folder, names))]
    if len(below) == 1:
        return below[0]
    hint = f"; did you mean {below[0].parent}?" if below else _advice(path)
    raise ConfigError(f"data={path}: holds no {', '.join(names[:-1])} or {names[-1]}{hint}")


def _describing(folder: Path, names: Sequence[str]) -> Path | None:
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    return found or find_model(folder)


def video_advice(path: Path) -> str:
    return (
        f"is a video: take pictures out of it (ffmpeg -i {path.name} -vf fps=2 images/%04d.jpg) and find their cameras "
        "with COLMAP"
    )


def _advice(folder: Path) -> str:
    """What to do with a folder that has no cameras."""
    places = (folder, folder / "images", folder / "input")
    files = [file for place in places if place.is_dir() for file in sorted(place.iterdir())]
    pictures = [file for file in files if file.suffix.lower() in PICTURES]
    videos = [file for file in files if file.suffix.lower() in VIDEOS]
    if any(file.name == "database.db" for file in files):
        return "; COLMAP has not placed the pictures yet: run its mapper (colmap mapper), which writes sparse/0"
    if pictures:
        command = f"colmap automatic_reconstructor --workspace_path {folder} --image_path {pictures[0].parent}"
        return f"; where the cameras of its {len(pictures)} pictures stood is not known: COLMAP finds out ({command})"
    return f"; {videos[0].name} {video_advice(videos[0])}" if videos else ""


def some(names: Sequence[str]) -> str:
    """For instance "a.jpg", or "7 pictures (a.jpg, b.jpg, c.jpg, ...)"."""
    if len(names) == 1:
        return names[0]
    return f"{len(names)} pictures ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
