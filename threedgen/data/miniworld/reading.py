"""From a plain English sentence to the caption of the grammar that says the same, or one line on why there is none.

"please draw a big kitty that wears a crimson hat." -> "an orange cat wearing a red hat", with notes on what was
completed, replaced and left out. What the grammar cannot say is refused with things near to it that it can.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from threedgen.core.errors import ConfigError
from threedgen.data.miniworld import synonyms
from threedgen.data.miniworld.grammar import BASES, SMALL, Spec, parse, with_article, words
from threedgen.data.miniworld.kinds import KINDS
from threedgen.data.miniworld.nearest import nearest
from threedgen.data.miniworld.refusing import BODIES, EVERYTHING, PARTS, Refusals, listed
from threedgen.data.miniworld.sentence import Noun, Sentence, Token, feature_of, phrases, plural, take_apart, tokens
from threedgen.data.miniworld.textures import MATERIALS, PATTERNS


@dataclass(frozen=True)
class Reading:
    """text: what the model is told; notes: one line each on what was changed, empty if nothing that matters was."""

    text: str
    notes: tuple[str, ...] = ()


def read(sentence: str, known: Collection[str] = EVERYTHING) -> Reading:
    """The caption of the grammar that a sentence means; a caption of the grammar is its own, without notes.

    Args:
        sentence: in plain English.
        known: words that the model has learned; other colours and patterns are replaced by the nearest of them.

    Raises:
        ConfigError: the sentence says something that the grammar cannot; the message offers what it can.
    """
    spec = _parsed(sentence)
    if spec is not None and {spec.color, spec.feature_color, spec.feature} & {*EVERYTHING} <= {*known}:
        return Reading(spec.caption)
    try:
        return _Reader(sentence, known).read()
    except ConfigError:
        found = nearest(sentence, lambda part: _Reader(part, known).read())
        reading = _Reader(found.text, known).read()
        return Reading(reading.text, (*found.notes, *reading.notes))


def read_negative(sentence: str, known: Collection[str] = EVERYTHING) -> Reading:
    """What of a negative prompt the grammar has words for, perhaps nothing; nothing is refused or completed."""
    if _parsed(sentence) is not None:
        return read(sentence, known)
    found, refusals = tokens(sentence), Refusals(sentence, known)
    kept = [
        refusals.paint(token) if token.is_paint else refusals.known_pattern(token.content)
        for token in found
        if token.content
    ]
    left_out = [token.said for token in found if not (token.content or token.is_small)]
    note = f"the negative prompt is read as {' '.join(kept)!r}; left out: {_quoted(left_out)}"
    return Reading(" ".join(kept), (note,) if left_out else ())


def _parsed(text: str) -> Spec | None:
    try:
        return parse(" ".join(words(text)))
    except ConfigError:
        return None


class _Reader(Refusals):
    """One sentence being read; gathers what the user should be told."""

    def __init__(self, sentence: str, known: Collection[str]) -> None:
        super().__init__(sentence, known)
        self.heard: dict[str, str] = {}
        self.notes: list[str] = []

    def read(self) -> Reading:
        pieces = take_apart(self.sentence)
        if pieces.unknown:
            self.refuse_unknown(pieces, lambda other: _Reader(other, self.known).read().text)
        head, base, others = self._things(pieces)
        kind = head.token.roles["kind"]
        paints, features = [*head.paints], self._features(kind, head, others)
        paints += features.pop("", [])
        if base is not None:
            features.setdefault(base.token.roles["kind"], []).extend(base.paints)
        spec = self._spec(head, [self.color(p) for p in paints], {f: map(self.color, p) for f, p in features.items()})
        heard = "; ".join(f"{said!r} is read as {name}" for said, name in self.heard.items())
        notes = [heard] if heard else []
        if pieces.left_out:
            notes.append(f"left out: {_quoted(pieces.left_out)}")
        if pieces.sizes:
            notes.append(f"left out: {_quoted(pieces.sizes)}, everything is drawn in one size")
        return Reading(spec.caption, (*notes, *self.notes))

    # which thing, on which, with what

    def _things(self, pieces: Sentence) -> tuple[Noun, Noun | None, list[Noun]]:
        """The thing that is asked for, what it stands on, and the nouns that are neither."""
        nouns = pieces.nouns
        first = next((noun for noun in nouns if "kind" in noun.token), None)
        if first is None:
            self.refuse_no_kind(nouns)
        others: list[Noun] = []
        kinds = [first]
        for noun in nouns:
            same = noun.token.roles.get("kind") == first.token.roles["kind"]
            if noun is first:
                continue
            if "kind" not in noun.token or feature_of(first.token.roles["kind"], noun.token) is not None:
                others.append(noun)
            elif same and noun.is_definite and noun.joint != "on":
                first.paints += noun.paints
                first.patterns += noun.patterns
            else:
                kinds.append(noun)
        for noun in kinds:
            if noun.count:
                self.refuse(f"one thing is drawn at a time, not {noun.count!r}", [self.plain_caption(noun)])
            if singular := noun.token.roles.get("plural"):
                self.notes.append(f"one thing is drawn at a time: one {singular}")
            self._hear(noun.token, noun.token.roles["kind"])
        if len(kinds) == 1:
            return first, None, others
        if len(kinds) > 2:
            self.refuse("one thing is drawn at a time", map(self.plain_caption, kinds))
        one, two = kinds
        if one.joint == "on" or (pieces.on_top and two.joint in ("", "with")):
            one, two = two, one
            two.joint = "on"
        top, below = (noun.token.roles["kind"] for noun in (one, two))
        if two.joint != "on":
            self.refuse("one thing is drawn at a time", [self.plain_caption(noun) for noun in kinds])
        if below not in BASES or top not in SMALL:
            can = f"things can stand on a {listed(BASES, 'or')} only" if below not in BASES else ""
            can = can or f"{with_article(top)} cannot stand on anything; small things can: {', '.join(SMALL)}"
            offers = [self.plain_caption(noun) for noun in (one, two)]
            if top in SMALL:
                offers.append(self.example(top, BASES[0], [self.paint(paint) for paint in one.paints], ()))
            self.refuse(can, offers)
        return one, two, others

    def _features(self, kind: str, head: Noun, others: list[Noun]) -> dict[str, list[Token]]:
        """The features that the nouns name, each with its paints; "" is the body."""
        features: dict[str, list[Token]] = {}
        always_there = phrases(synonyms.ALWAYS_THERE.get(KINDS[kind].family, ""))
        for pattern in head.patterns:
            said = pattern.roles["pattern"]
            features.setdefault(self.known_pattern(said), [])
            if said not in self.known:
                self._hear(pattern, self.known_pattern(said))
        for noun in others:
            named = feature_of(kind, noun.token)
            name = named and self.known_pattern(named)
            if noun.patterns:
                self.refuse("a pattern covers the whole thing", [self.plain_caption(head)])
            if noun.joint == "without":
                is_always_there = name in KINDS[kind].features or noun.token.said in always_there
                if not is_always_there or name in KINDS[kind].optional:
                    continue
                reason = f"{with_article(kind)} is always drawn with its {noun.token.said}"
                self.refuse(reason, [self.plain_caption(head)])
            if name is not None:
                features.setdefault(name, []).extend(noun.paints)
                self._hear(noun.token, name)
            elif noun.paints or noun.token.said not in always_there:
                self.refuse_feature(kind, head, noun)
            if noun.count:
                self.notes.append(f"left out: {noun.count!r}, the number of {noun.token.said} is always the same")
        return features

    # colours

    def color(self, token: Token) -> str:
        """The colour or material that a word means, or the nearest that the model has."""
        name = self.paint(token)
        self._hear(token, name)
        return name

    def _as_color(self, name: str, of: str) -> str:
        """A colour in place of a material where the grammar has colours only."""
        if name not in MATERIALS:
            return name
        color = self.nearest(synonyms.FALLBACKS[name])
        self.notes.append(f"{name} stands for a whole thing alone, or with a part in a colour: {of} is drawn {color}")
        return color

    def _natural(self, name: str, implied: str, but: str | None, others: Collection[str], *, color_only: bool) -> str:
        """The colour of what has none: its own, or, where that is taken by `but`, one of the others."""
        chosen = self.nearest(implied)
        if color_only and chosen in MATERIALS:
            chosen = self.nearest(synonyms.FALLBACKS[chosen])
        if chosen == but:
            chosen = next(color for color in (*others, *self.colors) if color in self.colors and color != but)
        self.notes.append(f"no colour is said for the {name}: drawn {chosen}")
        return chosen

    def _spec(self, head: Noun, paints: list[str], features: dict[str, Iterable[str]]) -> Spec:
        kind, said = head.token.roles["kind"], head.token.roles.get("plural", head.token.said)
        body, kinds_own = list(dict.fromkeys(paints)), synonyms.IMPLIED_COLORS.get(said)
        implied = kinds_own or synonyms.NATURAL_COLORS.get(kind, "white")
        if len(features) > 1:
            reason = f"only one of {listed(list(features), 'and')} can be had at a time"
            self.refuse(reason, [self.example(kind, name, body, given) for name, given in features.items()])
        feature, given = next(iter(features.items()), (None, ()))
        other = list(dict.fromkeys(given))
        if feature in PATTERNS and len(body) + len(other) == 2 and len(body) != 1:
            body, other = (body or other)[:1], (body or other)[1:]
        for name, colors in ((kind, body), (feature or "", other)):
            if len(colors) > 1:
                self.refuse_two_colors(kind, name, colors)
        if feature is None:
            return Spec(kind, body[0] if body else self._natural(kind, implied, None, BODIES, color_only=False))
        return self._with_feature(kind, body, implied, feature, other)

    def _with_feature(self, kind: str, body: list[str], implied: str, feature: str, other: list[str]) -> Spec:
        is_part, is_base = feature in KINDS[kind].features, feature in BASES and feature not in KINDS[kind].features
        color = (body[0] if is_part else self._as_color(body[0], f"the {kind}")) if body else None
        second = (other[0] if is_base else self._as_color(other[0], f"the {feature}")) if other else None
        if color is None:
            color = self._natural(kind, implied, second, BODIES, color_only=not is_part)
        if second is None:
            own = KINDS[kind].defaults.get(feature) or synonyms.NATURAL_PART_COLORS.get(feature, "white")
            own = synonyms.NATURAL_COLORS.get(feature, "white") if is_base else own
            second = self._natural(feature, own, color, PARTS, color_only=not is_base)
        if color != second:
            return Spec(kind, color, feature, second)
        default = KINDS[kind].defaults.get(feature)
        if feature in PATTERNS or (is_part and feature not in KINDS[kind].optional and default in (None, color)):
            self.notes.append(f"the {feature} in the same colour as the {kind} needs no saying")
            return Spec(kind, color)
        reason = f"the {kind} and its {feature} cannot have the same colour"
        self.refuse(reason, [self.example(kind, feature, [color], [])])

    def _hear(self, token: Token, name: str) -> None:
        if name and name not in (token.said, plural(token.said)) and token.said != plural(name):
            self.heard[token.said] = name


def _quoted(said: Iterable[str]) -> str:
    return ", ".join(map(repr, dict.fromkeys(said)))
