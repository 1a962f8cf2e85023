"""Masks that lie beside pictures: white is the object, or what is to be looked at."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.data.pictures.decoding import PICTURES, open_picture
from threedgen.data.pictures.lens import resized

_ASPECT_TOLERANCE = 0.01  # relative


def masks_beside(pictures: Sequence[Path], folder: Path) -> list[Path | None]:
    """The mask of each picture in `folder`: images/a/1.jpg has masks/a/1.jpg.png or masks/a/1.png (.jpg, ...).

    Where all pictures are in images/a it may also be masks/1.png.
    """
    if not folder.is_dir():
        return [None] * len(pictures)
    common = Path(os.path.commonpath([picture.parent for picture in pictures]))
    bases = [common, *(base for base in common.parents if base.is_relative_to(folder.parent))]
    return [_mask_of([folder / picture.relative_to(base) for base in bases]) for picture in pictures]


def _mask_of(places: Sequence[Path]) -> Path | None:
    """The first that there is; places: where a mask would be, with the picture's own ending."""
    endings = [(place.with_name(place.name + ".png"), *map(place.with_suffix, PICTURES)) for place in places]
    return next((candidate for candidates in endings for candidate in candidates if candidate.is_file()), None)


def read_mask(file: Path, size: tuple[int, int]) -> Image.Image:
    """A mask in grey for a picture of this size, 0 to 255, made smaller or larger to fit.

    Raises:
        ConfigError: it is not there, is no picture, or of another shape.
    """
    try:
        mask = open_picture(file.read_bytes(), str(file), turned=False).convert("RGB").convert("L")
    except FileNotFoundError as error:
        raise ConfigError(f"{file}: the mask is not there, although the cameras' file lists it") from error
    except (ThreedgenError, OSError) as error:
        raise ConfigError(str(error)) from error
    if abs(mask.width * size[1] / (mask.height * size[0]) - 1.0) > _ASPECT_TOLERANCE:
        raise ConfigError(
            f"{file}: the mask has {mask.width} x {mask.height} pixels, its picture {size[0]} x {size[1]}"
        )
    grey = np.asarray(mask)
    if grey.max() == 1:  # numbers of classes instead of colours
        mask = Image.fromarray(grey * np.uint8(255))
    return resized(mask, *size)
