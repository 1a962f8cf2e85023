"""A few pictures of one subject, as people take them, made square and of one size."""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.data.pictures.decoding import PICTURES, has_transparency, open_picture
from threedgen.data.training_samples import middle_square

_SMALLEST = 16  # pixels: what is smaller shows nothing that could be learned
_SOLID = 127  # alpha above which a pixel is the object's
_NAMED = 20  # files that are left out, at most


def read_subject_images(folder: Path, size: int, remove_background: bool = False) -> NDArray[np.uint8]:
    """The pictures in `folder` as premultiplied RGBA [N, size, size, 4], in the order of their names.

    They may differ in size and format and are turned as their EXIF says. One with transparent pixels is filled up to
    a square with nothing; of any other the middle square is taken, opaque, unless `remove_background` cuts its subject
    out first. Whatever else lies in the folder is named on stderr with the reason why it is left out.

    Raises ConfigError if there is no folder, if no picture remains, or if rembg is asked for and not installed.
    """
    if not folder.is_dir():
        raise ConfigError(f"data={folder}: is not a folder; put the pictures of the subject into one")
    pictures, left_out, tried = [], [], 0
    for file in sorted(folder.iterdir()):
        try:
            _check_name(file)
            tried += 1
            picture = open_picture(file.read_bytes(), str(file))
            pictures.append(_square(_subject_of(picture, str(file), remove_background), size))
        except (ThreedgenError, OSError) as error:
            if isinstance(error, ConfigError):
                raise
            left_out.append(str(error))
    for reason in left_out[:_NAMED]:
        print(f"warning: {reason}: passed over", file=sys.stderr)
    if len(left_out) > _NAMED:
        print(f"warning: {folder}: {len(left_out) - _NAMED} more files are passed over", file=sys.stderr)
    if not tried:
        raise ConfigError(f"data={folder}: no pictures in that folder ({' '.join(PICTURES)}); 3 to 6 are wanted")
    if not pictures:
        raise ConfigError(f"data={folder}: none of its {tried} pictures can be used")
    return np.stack(pictures)


def _check_name(file: Path) -> None:
    """Raises ThreedgenError for what cannot be a picture of the subject."""
    if file.name.startswith("."):
        raise ThreedgenError(f"{file} is hidden")
    if file.is_dir():
        raise ThreedgenError(f"{file} is a folder; pictures lie beside each other")
    if file.suffix.lower() not in PICTURES:
        raise ThreedgenError(f"{file} is no picture by its name ({' '.join(PICTURES)})")


def _subject_of(picture: Image.Image, where: str, remove_background: bool) -> Image.Image:
    if min(picture.size) < _SMALLEST:
        raise ThreedgenError(f"{where} has only {picture.width} x {picture.height} pixels")
    if remove_background and not has_transparency(picture):
        picture = cut_out(picture)
    if has_transparency(picture) and not _solid_pixels(picture).any():
        raise ThreedgenError(f"{where} is transparent everywhere")
    return picture


def read_object_picture(path: Path, size: int, border: float, remove_background: bool) -> NDArray[np.uint8]:
    """A picture of one object, in the middle of premultiplied RGBA [size, size, 4], `border` of it around the object.

    What the object is follows from the picture's alpha, or rembg cuts it out of one that has none.

    Raises ConfigError, one line, for a picture without alpha, without an object or with one of a few pixels, for one
    that is animated, and for what is no picture.
    """
    if not path.is_file():
        raise ConfigError(f"image={path}: there is no such file")
    try:
        picture = open_picture(path.read_bytes(), str(path))
    except (ThreedgenError, OSError) as error:
        raise ConfigError(f"image={error}") from error
    if not has_transparency(picture):
        if not remove_background:
            raise ConfigError(
                f"image={path}: it has no transparent pixels that say where the object is; cut it out, or set "
                "remove_background=true"
            )
        picture = cut_out(picture)
    opaque = np.argwhere(_solid_pixels(picture))
    if not len(opaque):
        raise ConfigError(f"image={path}: there is no object in it, it is transparent everywhere")
    (top, left), (bottom, right) = opaque.min(0), opaque.max(0) + 1
    if max(bottom - top, right - left) < _SMALLEST:
        raise ConfigError(f"image={path}: the object in it has only {right - left} x {bottom - top} pixels")
    edge = round(max(bottom - top, right - left) / (1 - border))
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    corner = round(middle_x - edge / 2), round(middle_y - edge / 2)
    square = picture.crop((*corner, corner[0] + edge, corner[1] + edge))
    return middle_square(square, edge, size)


def _solid_pixels(picture: Image.Image) -> NDArray[np.bool_]:
    return np.asarray(picture.getchannel("A")) > _SOLID


def cut_out(picture: Image.Image) -> Image.Image:
    """The picture's object with alpha, by rembg. Raises ConfigError if that is not installed."""
    try:
        from rembg import remove
    except ImportError as error:
        raise ConfigError("remove_background needs rembg: pip install 'rembg[cpu]'") from error
    return remove(picture.convert("RGB")).convert("RGBA")


def _square(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    edge = max(picture.size) if has_transparency(picture) else min(picture.size)
    return middle_square(picture, edge, size)
