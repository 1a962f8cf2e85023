"""What can be said about miniworld: the captions, their meaning, and the captions kept for testing.

a red cat                                a thing in one colour
a wooden chair                           or of one material
a red cat with a green face              a part of it in another colour (see kinds.py for the parts)
a red cone on a blue cylinder            a small thing on a cube, a cylinder or a table
a red cat wearing a blue hat             animals and figures, with a hat or a scarf
a red cat with white stripes             patterns (see textures.py): in the 2D images, in views if asked for
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import permutations, product
from random import Random

from threedgen.core.errors import ConfigError
from threedgen.data.miniworld.kinds import KINDS
from threedgen.data.miniworld.parts import WORN
from threedgen.data.miniworld.textures import MATERIALS, PATTERNS

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "orange": (0.97, 0.50, 0.05),
    "yellow": (0.95, 0.85, 0.10),
    "green": (0.12, 0.65, 0.15),
    "blue": (0.12, 0.22, 0.85),
    "purple": (0.55, 0.12, 0.70),
    "white": (0.96, 0.96, 0.96),
    "black": (0.07, 0.07, 0.07),
    "grey": (0.36, 0.37, 0.39),
    "brown": (0.40, 0.22, 0.09),
    "pink": (0.97, 0.52, 0.70),
    "cyan": (0.10, 0.78, 0.82),
    "gold": (0.80, 0.60, 0.14),
}
BASES = tuple(name for name, kind in KINDS.items() if kind.base)
SMALL = tuple(name for name, kind in KINDS.items() if kind.small)
# How often training shows a family against the others, and a way of saying something about a kind against the others.
# Animals have the most to learn; solids, and things on one another, are what people try, and are soon forgotten.
_FAMILY_SHARE = {"animals": 2.0, "figures": 1.5, "solids": 1.5}
_HELD_OUT_EVERY = 31  # pattern, of those in the order of `patterned_specs`
_FORM_SHARE = {"plain": 3.0, "material": 1.0, "with": 5.0, "on": 4.0, "wearing": 2.5}


@dataclass(frozen=True)
class Spec:
    """The meaning of a caption.

    kind: a key of `KINDS`; color: its colour or material; feature: None, a part of the kind, a pattern, something worn,
    or the kind of base that it stands on; feature_color: the colour (or material) of that feature.
    """

    kind: str
    color: str
    feature: str | None = None
    feature_color: str | None = None

    @property
    def form(self) -> str:
        """How it is said: "plain", "material", "with", "on", "wearing" or "pattern"."""
        if self.feature is None:
            return "material" if self.color in MATERIALS else "plain"
        if self.feature in PATTERNS:
            return "pattern"
        if self.feature in KINDS[self.kind].features:
            return "with"
        return "wearing" if self.feature in WORN else "on"

    @property
    def caption(self) -> str:
        subject = with_article(f"{self.color} {self.kind}")
        if self.feature is None or self.feature_color is None:
            return subject
        joint = self.form if self.form in ("on", "wearing") else "with"
        feature = f"{self.feature_color} {self.feature}"
        return f"{subject} {joint} {feature if self.feature.endswith('s') else with_article(feature)}"


def with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _specs_3d(kinds: Collection[str] = KINDS) -> Iterator[Spec]:
    pairs = list(permutations(COLORS, 2))
    small, wearers = [kind for kind in SMALL if kind in kinds], [kind for kind in kinds if KINDS[kind].head]
    features = [(kind, feature) for kind in kinds for feature in KINDS[kind].features]
    for kind, color in product(kinds, (*COLORS, *MATERIALS)):
        yield Spec(kind, color)
    for (kind, feature), (color, other) in product(features, [*pairs, *product(MATERIALS, COLORS)]):
        yield Spec(kind, color, feature, other)
    for kind, base, (color, other) in product(small, BASES, [*pairs, *product(COLORS, MATERIALS)]):
        yield Spec(kind, color, base, other)
    for kind, clothing, (color, other) in product(wearers, WORN, pairs):
        yield Spec(kind, color, clothing, other)


def _specs_patterned(kinds: Collection[str] = KINDS) -> Iterator[Spec]:
    for kind, pattern, (color, other) in product(kinds, PATTERNS, permutations(COLORS, 2)):
        yield Spec(kind, color, pattern, other)


@cache
def held_out() -> tuple[Spec, ...]:
    """The captions of `held_out.txt`, in its order: never in any training data."""
    lines = resources.files(__package__).joinpath("held_out.txt").read_text(encoding="utf-8").splitlines()
    return tuple(parse(line) for line in lines if line)


@cache
def training_specs() -> tuple[Spec, ...]:
    """Every object that multi-view training may show."""
    kept_for_testing = set(held_out())
    return tuple(spec for spec in _specs_3d() if spec not in kept_for_testing)


@cache
def patterned_specs() -> tuple[Spec, ...]:
    """Objects with patterns: of single images, and of objects seen from all sides where a training asks for them."""
    return tuple(_specs_patterned())


def held_out_patterned() -> tuple[Spec, ...]:
    """Those with patterns that are never in any training data: about five pairs of colours of a kind and pattern."""
    return patterned_specs()[::_HELD_OUT_EVERY]


@cache
def training_patterned_specs() -> tuple[Spec, ...]:
    kept_for_testing = set(held_out_patterned())
    return tuple(spec for spec in patterned_specs() if spec not in kept_for_testing)


def of_kinds(specs: Sequence[Spec], kinds: Sequence[str]) -> tuple[Spec, ...]:
    """Those of some kinds; no kinds: all. Raises ConfigError for a kind that there is not."""
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ConfigError(f"train.kinds: there is no {unknown[0]!r} in miniworld; it has {', '.join(KINDS)}")
    return tuple(spec for spec in specs if not kinds or spec.kind in kinds)


def draw_training_specs(random: Random, count: int, kinds: Sequence[str] = ()) -> list[Spec]:
    """`count` of the training's objects: every kind of a family and every way of saying something alike.

    kinds: only these; none: all.
    """
    specs = of_kinds(training_specs(), kinds)
    group_sizes = Counter((spec.kind, spec.form) for spec in specs)
    forms_of = {kind: [form for name, form in group_sizes if name == kind] for kind in kinds or KINDS}

    def weight(spec: Spec) -> float:
        of_kind = sum(_FORM_SHARE[form] for form in forms_of[spec.kind])
        family = _FAMILY_SHARE.get(KINDS[spec.kind].family, 1.0)
        return family * _FORM_SHARE[spec.form] / of_kind / group_sizes[spec.kind, spec.form]

    return random.choices(specs, [weight(spec) for spec in specs], k=count)


@cache
def _spec_of_caption(kind: str) -> dict[str, Spec]:
    """All that can be said of a kind: of all kinds together it would take longer than reading a prompt may."""
    return {spec.caption: spec for spec in (*_specs_3d((kind,)), *_specs_patterned((kind,)))}


def parse(caption: str) -> Spec:
    """The object that a caption of the grammar names. Raises ConfigError for any other text."""
    said = words(caption)
    kind = said[2] if len(said) > 2 else ""  # after an article and a colour
    spec = _spec_of_caption(kind).get(" ".join(said)) if kind in KINDS else None
    if spec is None:
        raise ConfigError(f"{caption!r} is not a miniworld caption; one is 'a red cat with a green face'")
    return spec


def words(text: str) -> list[str]:
    """The words of a prompt as the mini prior's tokenizer splits them: lower case, punctuation on its own."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word of the grammar, and those of the suffix ", 3d asset", sorted."""
    names = (*KINDS, *(feature for kind in KINDS.values() for feature in kind.features), *WORN, *PATTERNS)
    said = ("a", "an", "with", "on", "wearing", *COLORS, *MATERIALS, *names)
    return tuple(sorted({*said, ",", "3d", "asset"}))
