"""Posed pictures from the layouts that people have.

cameras.json       views rendered from a mesh (`meshes/views.py`), or sampled from a prior (task sample_views)
transforms.json    the layout of NeRF's synthetic scenes, of instant-ngp and of nerfstudio
sparse/0           COLMAP's model, text or binary

All are read as the frames of a transforms.json, and all pictures become those of pinholes of one size: `Cameras` know
no others.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from threedgen.config.scene import DataConvention, MaskUse
from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.data.pictures.colmap import read_model
from threedgen.data.pictures.conventions import check_convention, to_opengl
from threedgen.data.pictures.decoding import PICTURES, VIDEOS, Stored, open_picture, stored
from threedgen.data.pictures.finding import described_by, some, video_advice
from threedgen.data.pictures.lens import Lens, Pinhole, lens_of, pinholes, straightened
from threedgen.data.pictures.masks import masks_beside, read_mask
from threedgen.data.posed_images import CAMERAS, PosedImages, cameras_at
from threedgen.mesh.types import Array

_TRANSFORMS = ("transforms.json", "transforms_train.json")
_TOLERANCE = 0.01  # relative: another aspect
_LEAST_FOUND = 0.5  # of the pictures that are listed


def read_posed_images(
    path: str | Path,
    max_size: int = 0,
    convention: DataConvention = DataConvention.opengl,
    masks: MaskUse = MaskUse.empty,
) -> PosedImages:
    """The pictures in a folder (or of one cameras.json or transforms.json, or of COLMAP's model).

    A folder with nothing but one folder of pictures stands for that one. Lenses that distort, pixels that are not
    square and principal points off the middle are straightened while reading (`pictures/lens.py`). What is passed over
    or decided is told on stderr, a line each.

    Args:
        max_size: larger pictures are made smaller until no edge is longer, in pixels; 0: they stay.
        convention: what the matrices in a JSON file are.
        masks: what is black in masks.

    Raises:
        ConfigError: nothing to read, a file that is missing or damaged, or cameras that cannot be. One line that names
            the file.
    """
    path = described_by(Path(path), (CAMERAS, *_TRANSFORMS))
    layout = _layout_of(path, convention)
    check_convention(layout.matrices, convention, str(path))
    there = _found(layout.files, path)
    if len(there) <= 2:
        _tell("warning", f"{path}: {len(there)} pictures are hardly enough: what they do not show is guessed")
    pictures = _described(layout, there, path)
    becomes = pinholes([picture.lens for picture in pictures], max_size)
    poses = torch.tensor(to_opengl(layout.matrices[there], convention), dtype=torch.float32)
    fov_y = torch.tensor([2.0 * math.atan(pinhole.tangent) for pinhole in becomes], dtype=torch.float32)
    read = [_read(picture, pinhole, masks) for picture, pinhole in zip(pictures, becomes, strict=True)]
    images, seen, photographs = _assembled(read, pictures, path)
    return PosedImages(
        images,
        cameras_at(poses, fov_y, becomes[0].height, becomes[0].width),
        tuple(picture.file.name for picture in pictures),
        layout.half_edge,
        seen,
        photographs,
        layout.world,
    )


class _Layout(NamedTuple):
    """What a cameras' file says, whatever its kind."""

    frames: Sequence[Mapping[str, Any]]  # in the words of a transforms.json, the file's own settings included
    matrices: Array  # [N, 4, 4]
    files: Sequence[Path]  # of the pictures
    folder: Path  # from which paths are written
    masks: Path  # the folder that may have some
    half_edge: float | None = None
    world: Array | None = None


def _layout_of(path: Path, convention: DataConvention) -> _Layout:
    if path.is_dir():
        if convention is not DataConvention.opengl:
            raise ConfigError(f"data_convention={convention.value}: COLMAP's models have one meaning; leave it out")
        content, folder, world = read_model(path)
        masks = folder / "masks" if (folder / "masks").is_dir() else folder.parent / "masks"
    else:
        content, folder, world, masks = None, path.parent, None, path.parent / "masks"
    try:
        if content is None:
            content = json.loads(path.read_text("utf-8-sig"))  # Windows begins files with a mark
        frames = _of_cameras(content) if path.name == CAMERAS else [{**content, **f} for f in content["frames"]]
        matrices = np.array([_matrix(frame["transform_matrix"]) for frame in frames])
        files = [_file_of(frame, folder) for frame in frames]
        half_edge = float(content["half_edge"]) if "half_edge" in content else None
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise _unreadable(path, error) from error
    if not frames:
        raise ConfigError(f"{path}: lists no pictures")
    return _Layout(frames, matrices, files, folder, masks, half_edge, world)


def _of_cameras(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    if "views" in content:
        return [
            {
                "file_path": view["file"],
                "transform_matrix": view["camera_to_world"],
                "camera_angle_y": math.radians(view["fov_y_deg"]),
            }
            for view in content["views"]
        ]
    # of task sample_views: positions of unit length, one distance and field of view for all
    fov_y, distance = math.radians(content["assumed_fov_y_deg"]), float(content["assumed_distance"])
    frames = []
    for i, matrix in enumerate(content["camera_matrices"]):
        pose = _matrix(matrix)
        pose[:3, 3] *= distance
        frames.append({"file_path": f"view-{i}.png", "transform_matrix": pose, "camera_angle_y": fov_y})
    return frames


def _matrix(matrix: Any) -> Array:
    """[4, 4] float64 from rows of numbers; the last row may be left out."""
    pose = np.eye(4)
    rows = np.asarray(matrix, np.float64)
    if rows.shape not in ((3, 4), (4, 4)):
        raise ValueError(f"a camera's matrix has the shape {list(rows.shape)} instead of [4, 4]")
    pose[: len(rows)] = rows
    rotation = pose[:3, :3]
    is_rotation = np.abs(rotation.T @ rotation - np.eye(3)).max() < 1e-3 and np.linalg.det(rotation) > 0
    if not np.isfinite(pose).all() or not is_rotation:
        raise ValueError("a camera's matrix is not a rotation and a position")
    return pose


def _path(name: Any) -> Path:
    return Path(str(name).replace("\\", "/"))


def _file_of(frame: Mapping[str, Any], folder: Path) -> Path:
    file = folder / _path(frame["file_path"])
    if file.suffix.lower() in VIDEOS:
        raise ConfigError(f"{file}: {video_advice(file)}")
    if not file.is_file():  # NeRF's synthetic scenes leave the ending out
        candidates = [Path(f"{file}{ending}") for ending in PICTURES]
        file = next((candidate for candidate in candidates if candidate.is_file()), file)
    return file


def _found(files: Sequence[Path], path: Path) -> list[int]:
    """The numbers of the pictures that are there; the others are told, as long as they are few."""
    there = [i for i, file in enumerate(files) if file.is_file()]
    missing = [str(file) for file in files if not file.is_file()]
    if len(there) < max(_LEAST_FOUND * len(files), 1):
        lost = f"{len(missing)} of {len(files)} pictures are missing"
        raise ConfigError(f"{missing[0]}: is not there, although {path.name} lists it; {lost}")
    if missing:
        _tell("warning", f"{path}: {some(missing)} of {len(files)} are missing and passed over")
    return there


class _Picture(NamedTuple):
    """One picture as its files describe it."""

    file: Path
    lens: Lens
    turn: bool  # as its EXIF says
    mask: Path | None


class _Read(NamedTuple):
    pixels: Array  # [H, W, 3 or 4] uint8
    seen: Array | None  # [H, W] bool


def _described(layout: _Layout, there: Sequence[int], path: Path) -> list[_Picture]:
    """The listed pictures that are there; tells what their EXIF and the masks' folder leave open."""
    masks = masks_beside(layout.files, layout.masks)
    pictures: list[_Picture] = []
    turned: list[str] = []
    left: list[str] = []
    for i in there:
        frame, file = layout.frames[i], layout.files[i]
        try:
            found = stored(file)
        except ThreedgenError as error:
            raise ConfigError(str(error)) from error
        try:
            turn = found.on_its_side and _lists_it_turned(frame, found)
            size = (found.height, found.width) if turn else (found.width, found.height)
            lens = lens_of(frame, *size, f"{path}: {frame['file_path']}")
        except (ValueError, TypeError, OverflowError) as error:
            raise _unreadable(path, error) from error
        if found.orientation != 1:
            (turned if turn else left).append(file.name)
        mask = layout.folder / _path(frame["mask_path"]) if frame.get("mask_path") else masks[i]
        pictures.append(_Picture(file, lens, turn, mask))
    if turned:
        _tell("note", f"{path}: EXIF turns {some(turned)}, and w and h say so too: turned")
    if left:
        _tell("note", f"{path}: EXIF turns {some(left)}, but w and h do not say so: left as stored in the file")
    without = [picture.file.name for picture in pictures if picture.mask is None]
    if without and (len(without) < len(pictures) or layout.masks.is_dir()):
        _tell("note", f"{path}: there is no mask for {some(without)}")
    return pictures


def _lists_it_turned(frame: Mapping[str, Any], found: Stored) -> bool:
    """Whether the camera's size is that of the picture after its turn, and not that of the pixels in the file."""
    width, height = (float(frame.get(name, 0)) for name in ("w", "h"))
    if not (width > 0 and height > 0):
        return False
    aspect, own = width / height, found.width / found.height
    return abs(aspect * own - 1.0) < _TOLERANCE < abs(aspect / own - 1.0)


def _read(picture: _Picture, pinhole: Pinhole, use: MaskUse) -> _Read:
    try:
        image = open_picture(picture.file.read_bytes(), str(picture.file), turned=picture.turn)
    except (ThreedgenError, OSError) as error:
        raise ConfigError(str(error)) from error
    if picture.mask is None:
        return _Read(*straightened(image, picture.lens, pinhole))
    mask = read_mask(picture.mask, image.size)
    if use is MaskUse.empty:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A")) / 255.0
        image.putalpha(Image.fromarray(np.rint(alpha * np.asarray(mask)).astype(np.uint8)))
        return _Read(*straightened(image, picture.lens, pinhole))
    pixels, seen = straightened(image, picture.lens, pinhole)
    looked_at = straightened(mask, picture.lens, pinhole)[0] > 127
    return _Read(pixels, looked_at if seen is None else looked_at & seen)


def _assembled(
    read: Sequence[_Read], pictures: Sequence[_Picture], path: Path
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """`PosedImages.images`, `seen` and `photographs`."""
    images = np.full((len(read), *read[0].pixels.shape[:2], 4), 255, np.uint8)
    for image, each in zip(images, read, strict=True):
        image[..., : each.pixels.shape[-1]] = each.pixels
    seen = None
    if any(each.seen is not None for each in read):
        all_of_it = np.ones(images.shape[1:3], bool)
        seen = np.stack([all_of_it if each.seen is None else each.seen for each in read])
        if blind := [p.file.name for p, shows in zip(pictures, seen, strict=True) if not shows.any()]:
            raise ConfigError(f"{path}: masks leave nothing to look at in {some(blind)}; leave them out of the file")
    alpha_says = (images[..., 3] < 255).any() if seen is None else (images[seen][:, 3] < 255).any()
    is_photograph = [each.pixels.shape[-1] == 3 for each in read]
    if not alpha_says:
        images = np.ascontiguousarray(images[..., :3])
    elif any(is_photograph):
        names = [picture.file.name for picture, is_one in zip(pictures, is_photograph, strict=True) if is_one]
        _tell("note", f"{path}: there is no alpha in {some(names)}: taken with their background")
    return (
        torch.from_numpy(images),
        None if seen is None else torch.from_numpy(seen),
        torch.tensor(is_photograph) if alpha_says and any(is_photograph) else None,
    )


def _unreadable(path: Path, error: Exception) -> ConfigError:
    what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
    return ConfigError(f"{path}: cannot be read: {what}")


def _tell(kind: str, text: str) -> None:
    print(f"{kind}: {text}", file=sys.stderr, flush=True)
