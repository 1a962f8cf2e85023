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
        pictures = [picture if _has_alpha(picture) else _cut_out(picture) for picture in pictures]
    return np.stack([_square(picture, size) for picture in pictures])


def _has_alpha(picture: Image.Image) -> bool:
    return bool(np.asarray(picture.getchannel("A")).min() < 255)


def _cut_out(picture: Image.Image) -> Image.Image:
    try:
        from rembg import remove
    except ImportError as error:
        raise ConfigError("dreambooth.remove_background needs rembg: pip install 'rembg[cpu]'") from error
    return remove(picture.convert("RGB")).convert("RGBA")


def _square(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    edge = max(picture.size) if _has_alpha(picture) else min(picture.size)
    return middle_square(picture, edge, size)
