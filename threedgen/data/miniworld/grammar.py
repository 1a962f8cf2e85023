"""What can be said about miniworld: the captions, their meaning, and the captions kept for testing.

a red cat                                plain: animals and solids in one colour
a red cat with a green face              animals: the face looks along +x and is on the front only
a blue cube with a white nose            solids: the nose sits on the front
a red cone on a blue cylinder            stacks
a red cat with white stripes             patterns (stripes, dots): seen in the 2D images only
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import permutations, product

from threedgen.core.errors import ConfigError

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "orange": (0.97, 0.50, 0.05),
    "yellow": (0.95, 0.85, 0.10),
    "green": (0.12, 0.65, 0.15),
    "blue": (0.12, 0.22, 0.85),
    "purple": (0.55, 0.12, 0.70),
    "white": (0.96, 0.96, 0.96),
    "black": (0.07, 0.07, 0.07),
}
ANIMALS = ("cat", "bear", "rabbit", "duck")
SOLIDS = ("ball", "cube", "cylinder", "cone")
BASES = ("cube", "cylinder")  # what another solid can stand on
PATTERNS = ("stripes", "dots")


@dataclass(frozen=True)
class Spec:
    """The meaning of a caption.

    kind: the animal or solid; color: its colour; feature: None, "face", "nose", "stripes", "dots" or the base's kind;
    feature_color: the colour of that feature.
    """

    kind: str
    color: str
    feature: str | None = None
    feature_color: str | None = None

    @property
    def caption(self) -> str:
        subject = f"{_article(self.color)} {self.color} {self.kind}"
        if self.feature is None or self.feature_color is None:
            return subject
        if self.feature in PATTERNS:
            return f"{subject} with {self.feature_color} {self.feature}"
        joint = "on" if self.feature in BASES else "with"
        return f"{subject} {joint} {_article(self.feature_color)} {self.feature_color} {self.feature}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _specs_3d() -> Iterator[Spec]:
    pairs = list(permutations(COLORS, 2))
    for kind, color in product(ANIMALS + SOLIDS, COLORS):
        yield Spec(kind, color)
    for kind, (color, other) in product(ANIMALS, pairs):
        yield Spec(kind, color, "face", other)
    for kind, (color, other) in product(SOLIDS, pairs):
        yield Spec(kind, color, "nose", other)
    for kind, base, (color, other) in product(SOLIDS, BASES, pairs):
        yield Spec(kind, color, base, other)


@cache
def held_out() -> tuple[Spec, ...]:
    """The captions of `held_out.txt`, in its order: never in any training data."""
    lines = resources.files(__package__).joinpath("held_out.txt").read_text(encoding="utf-8").splitlines()
    return tuple(parse(line) for line in lines if line)


@cache
def training_specs() -> tuple[Spec, ...]:
    """Every object that multi-view training may show."""
    return tuple(spec for spec in _specs_3d() if spec not in set(held_out()))


@cache
def patterned_specs() -> tuple[Spec, ...]:
    """Objects with patterns, which only the 2D images show."""
    kinds = product(ANIMALS + SOLIDS, PATTERNS, permutations(COLORS, 2))
    return tuple(Spec(kind, color, pattern, other) for kind, pattern, (color, other) in kinds)


@cache
def _spec_of_caption() -> dict[str, Spec]:
    return {spec.caption: spec for spec in (*_specs_3d(), *patterned_specs())}


def parse(caption: str) -> Spec:
    """The object that a caption of the grammar names. Raises ConfigError for any other text."""
    spec = _spec_of_caption().get(" ".join(words(caption)))
    if spec is None:
        raise ConfigError(f"{caption!r} is not a miniworld caption; one is 'a red cat with a green face'")
    return spec


def words(text: str) -> list[str]:
    """The words of a prompt as the mini prior's tokenizer splits them: lower case, punctuation on its own."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word of the grammar, and those of the suffix ", 3d asset", sorted."""
    return tuple(sorted({word for caption in _spec_of_caption() for word in words(caption)} | {",", "3d", "asset"}))
