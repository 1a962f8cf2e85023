"""What training draws: sets of views and captioned pictures, and how any picture file becomes one of their size.

Colours are premultiplied by opacity, so that any background can be put behind them later
(`captioned_views.composite_on`): image = rgb + (1 - opacity) * background.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from threedgen.cameras import Cameras
from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.data.pictures.decoding import open_picture

_REPLACEMENTS = 100  # tried in the place of one that cannot be used
_WARNINGS = 20  # shown by one source


@dataclass(frozen=True)
class ViewSet:
    """V views of one object at one elevation."""

    images: NDArray[Any]  # uint8 [V, S, S, 4] premultiplied RGBA, or half-precision latents [V, 4, h, w]
    cameras: Cameras | None  # V, those of one object; None where nobody is to be told them
    caption: str  # without ", 3d asset"


@dataclass(frozen=True)
class CaptionedImage:
    image: NDArray[Any]  # as those; alpha is 255 where the picture has none
    caption: str


class ViewSource(Protocol):
    """Objects to draw views of. `draw` is a function of its arguments alone, whatever was drawn before or elsewhere."""

    def __len__(self) -> int: ...

    def draw(self, index: int, rng: np.random.Generator) -> ViewSet: ...

    def texts(self) -> Iterable[str]:
        """Captions, or words, that hold every word that a caption may have."""


class ImageSource(Protocol):
    """As `ViewSource`, for single pictures without cameras."""

    def __len__(self) -> int: ...

    def draw(self, index: int, rng: np.random.Generator) -> CaptionedImage: ...

    def texts(self) -> Iterable[str]: ...


def decode_picture(data: bytes, size: int, where: str) -> NDArray[np.uint8]:
    """A picture file's content as premultiplied RGBA [size, size, 4]: turned as EXIF says, its middle square, scaled.

    Raises:
        ThreedgenError: this is no picture, or a damaged one; names `where`.
    """
    picture = open_picture(data, where, still=False)
    return middle_square(picture, min(picture.size), size)


def middle_square(picture: Image.Image, edge: int, size: int) -> NDArray[np.uint8]:
    """The middle `edge` x `edge` pixels of a picture (RGB, RGBA), scaled to premultiplied [size, size, 4].

    Beyond the picture's border there is nothing. Scaling averages areas of the premultiplied colours, so that what
    transparent pixels hide does not show.
    """
    left, top = (picture.width - edge) // 2, (picture.height - edge) // 2
    square = picture.convert("RGBA").crop((left, top, left + edge, top + edge)).convert("RGBa")  # premultiplied
    filtered = Image.Resampling.BOX if edge >= size else Image.Resampling.BILINEAR
    return np.asarray(square.resize((size, size), filtered))


Sample = TypeVar("Sample", ViewSet, CaptionedImage)


class ReplacingSource(ABC, Generic[Sample]):
    """A source whose samples may be damaged: the next one that can be used stands for such a one, and a line tells.

    A long run goes on, and what is drawn stays a function of the arguments and the files.
    """

    def __init__(self) -> None:
        self._told: set[int] = set()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int, rng: np.random.Generator) -> Sample:
        """The sample of just this number. Raises ThreedgenError if it cannot be used."""

    @abstractmethod
    def caption(self, index: int) -> str:
        """The caption of just this number, without its pictures. Raises ThreedgenError if it has none."""

    def texts(self) -> Iterable[str]:
        """The captions; those that cannot be read are left out, `draw` tells of them."""
        for index in range(len(self)):
            with suppress(ThreedgenError):
                yield self.caption(index)

    def draw(self, index: int, rng: np.random.Generator) -> Sample:
        """Raises ThreedgenError if a hundred in a row cannot be used."""
        for number in range(index, index + _REPLACEMENTS):
            try:
                return self.read(number % len(self), rng)
            except ThreedgenError as error:
                self._tell(number % len(self), error)
                problem = error
        raise ThreedgenError(f"{_REPLACEMENTS} samples in a row cannot be used; the last one: {problem}") from problem

    def check(self, where: str) -> None:
        """Look whether one of the first hundred can be used.

        Raises:
            ConfigError: none; says what is wrong with the first.
        """
        problems = []
        for index in range(min(len(self), _REPLACEMENTS)):
            try:
                self.read(index, np.random.default_rng(0))
                return
            except ThreedgenError as error:
                problems.append(error)
        if not problems:
            raise ConfigError(f"{where}: there is nothing in it")
        others = f" (nor can the {len(problems) - 1} after it be used)" if len(problems) > 1 else ""
        raise ConfigError(f"{problems[0]}{others}") from problems[0]

    def _tell(self, index: int, error: ThreedgenError) -> None:
        if index in self._told or len(self._told) > _WARNINGS:
            return
        self._told.add(index)
        last = "; further ones are not told" if len(self._told) > _WARNINGS else ""
        print(f"warning: another sample stands for one that cannot be used: {error}{last}", file=sys.stderr, flush=True)
