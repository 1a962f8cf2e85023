"""Any picture file as eight bits of RGB or RGBA: photographs of telephones, scans, and what drawing programs write."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageOps

from threedgen.core.errors import ThreedgenError

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".avif", ".bmp", ".heic", ".heif")
VIDEOS = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mts", ".3gp")
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error, zlib.error)  # what decoders raise
_HEIF = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftyphevx", b"ftypheim", b"ftypheis", b"ftypmif1", b"ftypmsf1")
_STILL = ("MPO", "HEIF")  # their further pictures are previews, depths and brightnesses of the first
_ORIENTATION = 0x0112  # the EXIF tag


class Stored(NamedTuple):
    """How a picture lies in its file, known from the file's beginning."""

    width: int  # pixels
    height: int
    orientation: int  # as EXIF counts it: 1 as it is, 2 to 4 turned round or mirrored, 5 to 8 on its side

    @property
    def on_its_side(self) -> bool:
        return 5 <= self.orientation <= 8


def stored(path: Path) -> Stored:
    """Raises ThreedgenError as `open_picture`."""
    try:
        with open(path, "rb") as file, _opened(file, str(path)) as picture:
            return Stored(*picture.size, picture.getexif().get(_ORIENTATION, 1))
    except (*_DAMAGE, Image.DecompressionBombError) as error:
        raise _damaged(str(path), error) from error


def open_picture(data: bytes, where: str, turned: bool = True, still: bool = True) -> Image.Image:
    """A picture file's content in RGB, or in RGBA where it has alpha, sRGB whatever its colour profile. More than eight
    bits a channel are rounded.

    turned: as EXIF says; otherwise as the pixels lie in the file. still: an animation is refused; otherwise its first
    frame is the picture.

    Raises:
        ThreedgenError: this is no picture, a damaged one, several, or one in floating-point numbers, or HEIC without
            the package that reads it; names `where`.
    """
    try:
        with _opened(io.BytesIO(data), where) as opened:
            frames = getattr(opened, "n_frames", 1)
            if still and frames > 1 and opened.format not in _STILL:
                problem = f"it has {frames} frames; save the one that is meant as a picture of its own"
                raise ThreedgenError(f"{where}: {problem}")
            opened.load()
            if opened.mode == "F":
                problem = "its colours are floating-point numbers; save it with eight or sixteen bits a channel"
                raise ThreedgenError(f"{where}: {problem}")
            has_alpha = "A" in opened.getbands() or "transparency" in opened.info
            picture = ImageOps.exif_transpose(opened) if turned else opened
            if picture.mode.startswith("I"):  # sixteen bits of grey: Pillow's own conversion clips them at 255
                sixteen = np.asarray(picture).astype(np.int64).clip(0, 65535)
                picture = Image.fromarray(np.rint(sixteen / 257.0).astype(np.uint8))
                has_alpha = False
            return _in_srgb(picture.convert("RGBA" if has_alpha else "RGB"), opened.info.get("icc_profile"))
    except (*_DAMAGE, Image.DecompressionBombError) as error:
        raise _damaged(where, error) from error


def _in_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Colours of another profile, such as a telephone's Display P3, as sRGB. Profiles of inks and greys, and damaged
    ones, say nothing of RGB: the picture then stays as it is."""
    if not profile:
        return picture
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if own.profile.xcolor_space.strip() != "RGB" or "sRGB" in ImageCms.getProfileDescription(own):
            return picture
        return (
            ImageCms.profileToProfile(picture, own, ImageCms.createProfile("sRGB"), outputMode=picture.mode) or picture
        )
    except (ImageCms.PyCMSError, OSError):
        return picture


def has_transparency(picture: Image.Image) -> bool:
    """Whether some pixel is not quite opaque."""
    return picture.mode == "RGBA" and bool(np.asarray(picture.getchannel("A")).min() < 255)


def _opened(file: BinaryIO, where: str) -> Image.Image:
    head = file.read(12)
    file.seek(0)
    if head[4:] in _HEIF:
        try:
            from pillow_heif import register_heif_opener
        except ImportError as error:
            raise ThreedgenError(f"{where}: HEIC needs pillow-heif (pip install pillow-heif)") from error
        register_heif_opener()
    return Image.open(file)


def _damaged(where: str, error: BaseException) -> ThreedgenError:
    return ThreedgenError(f"{where} is no picture, or a damaged one ({type(error).__name__})")
