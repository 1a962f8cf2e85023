"""Pictures for people: PNG files, contact sheets with labels, turntable animations. Images are 0..1, display sRGB."""

from __future__ import annotations

import io
import math
import shutil
import subprocess
import tempfile
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from threedgen.core.files import write_bytes_atomically

Array = np.ndarray
Row = tuple[str, Any]  # a label and images [N, H, W, 3], array or tensor

_PAPER, _INK, _PALE_INK = (250, 250, 248), (32, 34, 38), (104, 108, 114)
_MARGIN, _GAP = 32, 8  # pixels: around the sheet, between tiles
_TITLE_SIZE, _LABEL_SIZE = 26, 16  # pixels
_TILE_RANGE = (160, 256)  # pixels: smallest and largest tile of a sheet
_PALETTE_FRAMES = 16  # frames of an animation from which its colours are chosen


def to_numpy(images: Any) -> Array:
    """An array as it is; a torch tensor, on any device and with or without a gradient, as an array."""
    return np.asarray(images.detach().cpu() if hasattr(images, "detach") else images)


def to_uint8(images: Any) -> Array:
    """0..1 -> 0..255, rounded and clipped; uint8 stays as it is. NaN becomes 0. Any shape."""
    images = to_numpy(images)
    if images.dtype == np.uint8:
        return images
    return np.rint(np.clip(np.nan_to_num(images.astype(np.float32)), 0.0, 1.0) * 255.0).astype(np.uint8)


def save_png(image: Any, path: str | Path, text: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write a PIL image, or [H, W, 3 or 4] in 0..1 or uint8, as a PNG. The file is whole or not there.

    text: goes into the PNG's text chunks, which `exiftool` and image viewers show.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(to_uint8(image))
    buffer, told = io.BytesIO(), PngInfo()
    for name, value in text.items():
        told.add_text(name, value)
    picture.save(buffer, "PNG", pnginfo=told)
    write_bytes_atomically(path, buffer.getvalue())


def save_strip(images: Any, path: str | Path) -> None:
    """Write square images [N, H, H, 3] side by side in one PNG."""
    save_png(np.concatenate(list(images), 1), path)


def read_strip(path: str | Path) -> Array:
    """The images of `save_strip`, [N, H, H, 3] uint8."""
    picture = np.asarray(Image.open(path))
    return np.stack(np.split(picture, picture.shape[1] // picture.shape[0], axis=1))


def tile(rows: Sequence[Any]) -> Image.Image:
    """Images without any frame: each element of `rows`, [N, H, W, 3], is one row; smaller ones are enlarged."""
    arrays = [to_uint8(row) for row in rows]
    height = max(row.shape[1] for row in arrays)
    pictures = [[_resized(image, height) for image in row] for row in arrays]
    width = max(sum(picture.width for picture in row) for row in pictures)
    canvas = Image.new("RGB", (width, height * len(rows)), _PAPER)
    for i, row in enumerate(pictures):
        _paste(canvas, row, 0, i * height, gap=0)
    return canvas


def contact_sheet(rows: Sequence[Row], title: str = "") -> Image.Image:
    """Labelled rows of images under a title, all tiles of one height, smaller images enlarged smoothly.

    Args:
        rows: (label, images [N, H, W, 3]); rows may differ in N and in size; an empty label takes no space.
        title: any text; it is wrapped to the sheet's width.
    """
    arrays = [(label, to_uint8(images)) for label, images in rows]
    height = min(max(_TILE_RANGE[0], *(images.shape[1] for _, images in arrays)), _TILE_RANGE[1])
    pictures = [(label, [_resized(image, height) for image in images]) for label, images in arrays]
    widths = [sum(p.width for p in row) + _GAP * (len(row) - 1) for _, row in pictures]
    width = max(widths)
    title_font, label_font = ImageFont.load_default(_TITLE_SIZE), ImageFont.load_default(_LABEL_SIZE)
    title_lines = _wrapped(title, title_font, width)
    labels = [_wrapped(label, label_font, width) for label, _ in pictures]

    title_line, label_line = round(_TITLE_SIZE * 1.35), round(_LABEL_SIZE * 1.6)
    total = 2 * _MARGIN + len(title_lines) * title_line + (_GAP * 2 if title_lines else 0)
    total += sum(len(lines) * label_line + height for lines in labels)
    row_gaps = [2 * _GAP if lines else _GAP for lines in labels[1:]]
    canvas = Image.new("RGB", (width + 2 * _MARGIN, total + sum(row_gaps)), _PAPER)
    draw = ImageDraw.Draw(canvas)
    y = _MARGIN
    for line in title_lines:
        draw.text((_MARGIN, y), line, _INK, title_font)
        y += title_line
    y += _GAP * 2 if title_lines else 0
    for lines, (_, row), gap in zip(labels, pictures, [0, *row_gaps], strict=True):
        y += gap
        for line in lines:
            draw.text((_MARGIN, y), line, _PALE_INK, label_font)
            y += label_line
        _paste(canvas, row, _MARGIN, y, _GAP)
        y += height
    return canvas


def save_turntable(frames: Iterable[Any], folder: str | Path, fps: float = 24) -> Path:
    """Write frames [H, W, 3] as `turntable.mp4`, or as `turntable.gif` where no ffmpeg is found; returns the path.

    The film is coded while the frames come. The reason for a GIF is printed in one line.
    """
    taken: list[Array] = []

    def keep(frame: Any) -> Array:
        taken.append(to_uint8(frame))
        return taken[-1]

    coming = map(keep, frames)
    ffmpeg = find_ffmpeg()
    if ffmpeg is None:
        print("turntable  as a GIF: there is no ffmpeg (pip install imageio-ffmpeg brings one)")
    else:
        try:
            return save_turntable_mp4(coming, Path(folder) / "turntable.mp4", fps, ffmpeg)
        except subprocess.CalledProcessError as error:
            reason = (error.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
            print(f"turntable  as a GIF: {ffmpeg} cannot write H.264 ({reason})")
    path = Path(folder) / "turntable.gif"
    deque(coming, maxlen=0)  # those that have not come yet
    save_turntable_gif(np.stack(taken), path, fps)
    return path


def find_ffmpeg() -> str | None:
    """The ffmpeg program: imageio-ffmpeg's if that package is there, otherwise the system's, otherwise None."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        own = shutil.which(get_ffmpeg_exe())  # IMAGEIO_FFMPEG_EXE may name what is not there
    except (ImportError, RuntimeError):  # RuntimeError: the package is there, its program is not
        own = None
    return own or shutil.which("ffmpeg")


def save_turntable_mp4(frames: Iterable[Array], path: Path, fps: float, ffmpeg: str) -> Path:
    """Write frames [H, W, 3] of eight bits, at least one, as H.264 in yuv420p, which all browsers play, with the
    colours marked as BT.709.

    yuv420p needs even sizes: an odd last row or column is repeated.

    Raises:
        subprocess.CalledProcessError: ffmpeg failed; `stderr` says why.
    """
    coming = iter(frames)
    first = next(coming)
    height, width, _ = first.shape
    pad = ((0, height % 2), (0, width % 2), (0, 0))
    size = f"{width + width % 2}x{height + height % 2}"
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", f"{fps:g}"]
    color = ["-vf", "scale=out_color_matrix=bt709:out_range=tv", "-colorspace", "bt709", "-color_primaries", "bt709"]
    color += ["-color_trc", "bt709", "-color_range", "tv"]
    codec = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "18", "-preset", "fast", "-movflags", "+faststart"]
    with tempfile.TemporaryDirectory() as folder:  # the program writes where it can seek
        made = Path(folder) / "turntable.mp4"
        command = [ffmpeg, "-v", "error", "-y", *source, "-i", "-", *color, *codec, "-threads", "2", str(made)]
        with open(Path(folder) / "messages", "w+b") as messages:
            program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=messages)
            with suppress(BrokenPipeError), program:  # broken: it has ended, and why is asked next
                assert program.stdin is not None
                for frame in chain([first], coming):
                    program.stdin.write(np.pad(frame, pad, "edge").tobytes())
            if program.returncode:
                messages.seek(0)
                raise subprocess.CalledProcessError(program.returncode, command, stderr=messages.read())
        write_bytes_atomically(path, made.read_bytes())
    return path


def save_turntable_gif(frames: Any, path: str | Path, fps: float = 24) -> None:
    """Write frames [N, H, W, 3] as an endless GIF: one palette for all frames, so that nothing flickers.

    GIF counts in hundredths of a second: the rate is rounded to 100 / a whole number.
    """
    frames = to_uint8(frames)
    sample = frames[:: math.ceil(len(frames) / _PALETTE_FRAMES)]
    palette = Image.fromarray(np.concatenate(list(sample))).quantize(256, Image.Quantize.MEDIANCUT, kmeans=1)
    indexed = [Image.fromarray(f).quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for f in frames]
    buffer = io.BytesIO()
    duration = max(round(100 / fps), 1) * 10  # milliseconds
    indexed[0].save(buffer, "GIF", save_all=True, append_images=indexed[1:], duration=duration, loop=0, optimize=False)
    write_bytes_atomically(path, buffer.getvalue())


def read_turntable(path: Path, count: int) -> list[Image.Image]:
    """About `count` frames, evenly spaced, of what `save_turntable` wrote; none of a film where there is no ffmpeg."""
    if path.suffix == ".gif":
        with Image.open(path) as film:
            total = getattr(film, "n_frames", 1)
            return [_frame(film, i * total // min(count, total)) for i in range(min(count, total))]
    ffmpeg = find_ffmpeg()
    if ffmpeg is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        command = [ffmpeg, "-v", "error", "-i", str(path), "-threads", "2", f"{folder}/%06d.png"]
        if subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).returncode != 0:
            return []
        frames = sorted(Path(folder).iterdir())
        chosen = [frames[i * len(frames) // min(count, len(frames))] for i in range(min(count, len(frames)))]
        return [Image.open(frame).convert("RGB") for frame in chosen]


def _frame(film: Image.Image, number: int) -> Image.Image:
    film.seek(number)
    return film.convert("RGB")


def _resized(image: Array, height: int) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(image))
    if picture.height == height:
        return picture
    width = max(round(picture.width * height / picture.height), 1)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _paste(canvas: Image.Image, row: Sequence[Image.Image], x: int, y: int, gap: int) -> None:
    for picture in row:
        canvas.paste(picture, (x, y))
        x += picture.width + gap


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    """Lines no wider than `width` pixels; a single word that is wider is cut."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        while font.getlength(word) > width and len(word) > 1:
            fitting = _fitting(word, font, width)
            lines.append(word[:fitting])
            word = word[fitting:]
        lines.append(word)
    return lines


def _fitting(word: str, font: Any, width: int) -> int:
    """How many letters of a word fit into `width` pixels, at least one."""
    return max(bisect_right(range(1, len(word)), width, key=lambda n: font.getlength(word[:n])), 1)
