"""Captioned pictures: folders as people have them, and WebDataset shards."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.data.captions import CAPTIONS, as_caption, read_caption_lines
from threedgen.data.pictures.decoding import PICTURES
from threedgen.data.shards import Shards, ShardSample
from threedgen.data.training_samples import CaptionedImage, ReplacingSource, decode_picture

_METADATA = "metadata.jsonl"  # of the Hugging Face `imagefolder`: {"file_name": ..., "text": ...} a line


class FolderImages(ReplacingSource[CaptionedImage]):
    def __init__(self, pictures: Sequence[tuple[Path, str]], image_size: int):
        super().__init__()
        self._pictures, self._image_size = pictures, image_size

    def __len__(self) -> int:
        return len(self._pictures)

    def read(self, index: int, rng: np.random.Generator) -> CaptionedImage:
        path, caption = self._pictures[index]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ThreedgenError(f"{path} cannot be read: {error.strerror}") from error
        return CaptionedImage(decode_picture(data, self._image_size, str(path)), caption)

    def caption(self, index: int) -> str:
        return self._pictures[index][1]


class ShardImages(ReplacingSource[CaptionedImage]):
    """Samples of a picture and a caption, KEY.txt or the `caption` of KEY.json."""

    def __init__(self, shards: Shards, image_size: int):
        super().__init__()
        self._shards, self._image_size = shards, image_size

    def __len__(self) -> int:
        return len(self._shards)

    def read(self, index: int, rng: np.random.Generator) -> CaptionedImage:
        sample = self._shards[index]
        picture = next((file for file in sample.files if f".{file}" in PICTURES), None)
        if picture is None:
            raise ThreedgenError(f"{sample.name}: has no picture ({', '.join(PICTURES)})")
        caption = _caption(sample)
        image = decode_picture(sample.read(picture), self._image_size, f"{sample.name}.{picture}")
        return CaptionedImage(image, caption)

    def caption(self, index: int) -> str:
        return _caption(self._shards[index])


def _caption(sample: ShardSample) -> str:
    if "txt" in sample.files:
        caption = sample.read("txt").decode("utf-8-sig", errors="replace").strip()
    else:
        try:
            caption = as_caption(json.loads(sample.read("json"))["caption"]).strip()
        except (ValueError, KeyError, TypeError, ThreedgenError) as error:
            raise ThreedgenError(f'{sample.name}: has no caption (.txt, or .json with "caption")') from error
    if not caption:
        raise ThreedgenError(f"{sample.name}: has an empty caption")
    return caption


def captioned_pictures(folder: Path) -> list[tuple[Path, str]]:
    """The pictures of a folder and their captions, in order of their names.

    captions.jsonl and metadata.jsonl list them; without either, the caption of any NAME.jpg (.png, ...) in the folder
    or below is in NAME.txt beside it. Pictures without caption are left out, and a line says how many.

    Raises:
        ConfigError: no folder, no pictures, no captions, or a listed picture that is not there.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder")
    for name, keys in ((CAPTIONS, ("file", "caption")), (_METADATA, ("file_name", "text"))):
        if (folder / name).is_file():
            pictures = {}
            for number, file, caption in read_caption_lines(folder / name, *keys):
                if not (folder / file).is_file():
                    raise ConfigError(f"{folder / name}:{number}: {file} is not there")
                pictures[folder / file] = caption.strip()
            break
    else:
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
        pictures = {path: _text_beside(path) for path in found}
    if not pictures:
        raise ConfigError(f"{folder}: holds no pictures ({', '.join(PICTURES)})")
    captioned = sorted((path, caption) for path, caption in pictures.items() if caption)
    if not captioned:
        raise ConfigError(f"{folder}: its pictures have no captions (NAME.txt beside NAME.jpg, or {CAPTIONS})")
    if left_out := len(pictures) - len(captioned):
        first = next(path for path, caption in pictures.items() if not caption)
        text = f"{left_out} of {len(pictures)} pictures have no caption and are left out, {first.name} first"
        print(f"note: {folder}: {text}", file=sys.stderr, flush=True)
    return captioned


def _text_beside(path: Path) -> str:
    text = path.with_suffix(".txt")
    return text.read_text("utf-8-sig", errors="replace").strip() if text.is_file() else ""
