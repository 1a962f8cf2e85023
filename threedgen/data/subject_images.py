"""A few pictures of one subject, as people take them, made square and of one size."""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.data.training_samples import PICTURES, middle_square, open_picture


def read_subject_images(folder: Path, size: int, remove_background: bool = False) -> NDArray[np.uint8]:
    """The pictures in `folder` as premultiplied RGBA [N, size, size, 4], in the order of their names.

    They may differ in size and format and are turned as their EXIF says. One with transparent pixels is filled up to
    a square with nothing; of any other the middle square is taken, opaque, unless `remove_background` cuts its subject
    out first. What cannot be read is named on stderr and passed over.

    Raises ConfigError if there is no folder, if no picture remains, or if rembg is asked for and not installed.
    """
    if not folder.is_dir():
        raise ConfigError(f"data={folder}: is not a folder; put the pictures of the subject into one")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURES)
    if not files:
        raise ConfigError(f"data={folder}: no pictures in that folder ({' '.join(PICTURES)}); 3 to 6 are wanted")
    pictures = []
    for file in files:
        try:
            pictures.append(open_picture(file.read_bytes(), str(file)))
        except (ThreedgenError, OSError) as error:
            print(f"warning: {error}: passed over", file=sys.stderr)
    if not pictures:
        raise ConfigError(f"data={folder}: none of its {len(files)} pictures can be read")
    if remove_background:
        pictures = [picture if _has_alpha(picture) else cut_out(picture) for picture in pictures]
    return np.stack([_square(picture, size) for picture in pictures])


def read_object_picture(path: Path, size: int, border: float, remove_background: bool) -> NDArray[np.uint8]:
    """A picture of one object, in the middle of premultiplied RGBA [size, size, 4], `border` of it around the object.

    What the object is follows from the picture's alpha, or rembg cuts it out of one that has none.

    Raises ConfigError, one line, for a picture without alpha or without an object, for one that is animated or has more
    than eight bits a channel, and for what is no picture.
    """
    if not path.is_file():
        raise ConfigError(f"image={path}: there is no such file")
    _check_kind(path)
    try:
        picture = open_picture(path.read_bytes(), str(path))
    except ThreedgenError as error:
        raise ConfigError(f"image={error}") from error
    if not _has_alpha(picture):
        if not remove_background:
            raise ConfigError(
                f"image={path}: it has no transparent pixels that say where the object is; cut it out, or set "
                "remove_background=true"
            )
        picture = cut_out(picture)
    opaque = np.argwhere(np.asarray(picture.getchannel("A")) > _SOLID)
    if not len(opaque):
        raise ConfigError(f"image={path}: there is no object in it, it is transparent everywhere")
    (top, left), (bottom, right) = opaque.min(0), opaque.max(0) + 1
    edge = round(max(bottom - top, right - left) / (1 - border))
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    corner = round(middle_x - edge / 2), round(middle_y - edge / 2)
    square = picture.crop((*corner, corner[0] + edge, corner[1] + edge))
    return middle_square(square, edge, size)


_SOLID = 127  # alpha above which a pixel is the object's


def _check_kind(path: Path) -> None:
    try:
        with Image.open(path) as opened:
            frames, mode = getattr(opened, "n_frames", 1), opened.mode
    except (OSError, Image.DecompressionBombError) as error:
        raise ConfigError(f"image={path}: is no picture that can be read ({type(error).__name__})") from error
    if frames > 1:
        raise ConfigError(f"image={path}: it has {frames} frames; save the one that is meant as a picture of its own")
    if mode.startswith(("I", "F")):
        raise ConfigError(f"image={path}: it has more than eight bits a channel; save it with eight")


def _has_alpha(picture: Image.Image) -> bool:
    return bool(np.asarray(picture.getchannel("A")).min() < 255)


def cut_out(picture: Image.Image) -> Image.Image:
    """The picture's object with alpha, by rembg. Raises ConfigError if that is not installed."""
    try:
        from rembg import remove
    except ImportError as error:
        raise ConfigError("remove_background needs rembg: pip install 'rembg[cpu]'") from error
    return remove(picture.convert("RGB")).convert("RGBA")


def _square(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    edge = max(picture.size) if _has_alpha(picture) else min(picture.size)
    return middle_square(picture, edge, size)
