"""What cannot be drawn is answered with what can: the words for a refusal, and captions near to what was asked."""

import re
from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches
from typing import NoReturn

from threedgen.core.arguments import program
from threedgen.core.errors import ConfigError
from threedgen.data.miniworld import synonyms
from threedgen.data.miniworld.grammar import COLORS, Spec, with_article
from threedgen.data.miniworld.kinds import KINDS
from threedgen.data.miniworld.parts import WORN
from threedgen.data.miniworld.sentence import (
    CONTENT,
    Noun,
    Sentence,
    Token,
    feature_of,
    lexicon,
    phrases,
    plural,
    take_apart,
)
from threedgen.data.miniworld.textures import MATERIALS, PATTERNS

# colours for bodies and for parts where the natural one is taken
BODIES, PARTS = ("red", "blue"), ("white", "black", "blue")
EVERYTHING = (*COLORS, *PATTERNS)  # that a model may have learned or not
_LONGEST_WORD = 40  # of a prompt's words in a message
_SOME = ("a red cat with a green face", "a wooden chair", "a blue car")


class CannotDraw(ConfigError):
    """The words are known, and what they say cannot be drawn; `why`: the reason, and what can."""

    def __init__(self, said: str, why: str) -> None:
        super().__init__(f"{said!r} cannot be drawn: {why} ({program()} vocabulary shows all)")
        self.why = why


class Refusals:
    """What a model that knows some of the colours and patterns can be asked instead of one sentence."""

    def __init__(self, sentence: str, known: Collection[str]) -> None:
        self.sentence = sentence
        self.known = known
        self.colors = [color for color in COLORS if color in known]

    def nearest(self, name: str) -> str:
        while name not in self.colors and name not in MATERIALS:
            name = synonyms.FALLBACKS.get(name, "white")
        return name

    def known_pattern(self, feature: str) -> str:
        """For a pattern that the model has not learned the nearest; everything else is itself."""
        is_unknown = feature in PATTERNS and feature not in self.known
        return synonyms.FALLBACKS.get(feature, feature) if is_unknown else feature

    def paint(self, token: Token) -> str:
        """The colour or material that a word means, or the nearest that the model has."""
        return self.nearest(token.roles.get("color") or token.roles["material"])

    def example(self, kind: str, feature: str, body: Iterable[str], other: Iterable[str]) -> str:
        """A caption of a kind with a feature, in the first colours given that go together."""
        color = next(name for name in (*body, *BODIES, *self.colors) if name in self.colors)
        second = next(name for name in (*other, *PARTS, *self.colors) if name in self.colors and name != color)
        return Spec(kind, color, feature, second).caption

    def plain_caption(self, noun: Noun) -> str:
        kind = noun.token.roles["kind"]
        names = [self.paint(paint) for paint in noun.paints]
        return Spec(kind, names[0] if names else self.nearest(synonyms.NATURAL_COLORS.get(kind, "white"))).caption

    def refuse(self, reason: str, offers: Iterable[str]) -> NoReturn:
        tries = listed([repr(offer) for offer in dict.fromkeys(offers)][:3], "or")
        said = " ".join(self.sentence.split())
        said = said if len(said) <= 80 else said[:77] + "..."
        raise CannotDraw(said, f"{reason}; try {tries}")

    def refuse_two_colors(self, kind: str, name: str, colors: list[str]) -> NoReturn:
        named = [color for color in colors if color in self.colors]
        offers = [Spec(kind, color).caption for color in colors]
        if name == kind and len(named) > 1:
            part = next(iter(KINDS[kind].features), "stripes")
            offers = [offers[0], *(Spec(kind, named[0], f, named[1]).caption for f in (part, "stripes"))]
        self.refuse(f"the {name} can have one colour or material, not {listed(colors, 'and')}", offers)

    def refuse_feature(self, kind: str, head: Noun, noun: Noun) -> NoReturn:
        has, wears = KINDS[kind].features, WORN if KINDS[kind].head else ()
        own = f"a part that can have a colour: {listed(has, 'or')}" if has else "no part that can have one"
        worn = f"; it can wear a {listed(wears, 'or')}" if wears else "; it can wear nothing"
        if "worn" in noun.token:
            reason = f"{with_article(kind)} can wear nothing; it has {own}"
        else:
            lacks = f"{with_article(kind)} has no {noun.token.said} in a colour of its own"
            reason = f"{lacks}; it has {own}{worn if wears else ''}"
        body, other = ([self.paint(paint) for paint in one.paints] for one in (head, noun))
        offers = [self.example(kind, name, body, other) for name in (*has, *wears)]
        self.refuse(reason, [*offers, self.plain_caption(head)])

    def refuse_no_kind(self, nouns: list[Noun]) -> NoReturn:
        for noun in nouns:
            for kind in KINDS:
                if (name := feature_of(kind, noun.token)) in KINDS[kind].features:
                    offer = self.example(kind, name, (), [self.paint(paint) for paint in noun.paints])
                    self.refuse(f"{noun.token.said!r} is drawn as a part only", [offer])
        worn = [f"{noun.token.said!r} is drawn on an animal or a figure only" for noun in nouns if "worn" in noun.token]
        self.refuse(next(iter(worn), "it names nothing that can be drawn"), _SOME)

    def refuse_unknown(self, pieces: Sentence, read: Callable[[str], str]) -> NoReturn:
        unknown = list(dict.fromkeys(pieces.unknown))
        offers: list[str] = []
        for word in unknown:
            offers += [
                text for near in _near(word) if (text := _instead(self.sentence, word, near, unknown, read)) is not None
            ]
        shown = [word if len(word) <= _LONGEST_WORD else word[: _LONGEST_WORD - 3] + "..." for word in unknown[:8]]
        tries = listed([repr(offer) for offer in dict.fromkeys([*offers, *_SOME])][:3], "or")
        raise ConfigError(
            f"the mini model does not know {', '.join(map(repr, shown))}; nearest that it can draw: {tries} "
            f"({program()} vocabulary shows all). For any other prompt use --config mvdream-sd21.yaml (full-size "
            "weights), or set allow_unknown_words=true to send it as it is"
        )


def _instead(sentence: str, word: str, near: str, unknown: list[str], read: Callable[[str], str]) -> str | None:
    """The caption with `near` for an unknown word and without the other unknown words, if there is one."""
    said = re.sub(rf"\b{re.escape(word)}\b", near, sentence.lower())
    for other in unknown:
        said = re.sub(rf"\b{re.escape(other)}\b", "", said)
    if take_apart(said).unknown:
        return None
    try:
        return read(said)
    except ConfigError:
        return None


def _near(word: str) -> list[str]:
    """Up to three words of the lexicon near to an unknown one: first by family, then by spelling."""
    for family, members in synonyms.ALIKE.items():
        if any(word in (member, plural(member)) for member in phrases(members)):
            return phrases(family)
    known = [entry for entry, roles in lexicon().items() if " " not in entry and roles.keys() & set(CONTENT)]
    return get_close_matches(word, known, 3, 0.65)


def listed(names: Collection[str], joint: str) -> str:
    *first, last = names
    return f"{', '.join(first)} {joint} {last}" if first else last
