"""What of a sentence can be drawn where the whole cannot: the thing that it names first, and what can be said of it.

"a big brown bear sitting on a log" -> "a big brown bear", and a note that 'sitting on a log' was left out. Which thing,
and that it is one, has to be said.
"""

from collections.abc import Callable
from typing import NamedTuple

from threedgen.core.errors import ConfigError
from threedgen.data.miniworld import synonyms
from threedgen.data.miniworld.refusing import CannotDraw
from threedgen.data.miniworld.sentence import (
    CONTENT,
    Token,
    feature_of,
    lexicon,
    phrases,
    plural,
    tokens,
    without_requests,
)

_STARTS = {"comma", "filler", *synonyms.JOINTS} - {"article", "the"}
_BESIDE = {"comma", "and", "article", "the", "size", "praise", "color", "material"}  # before another thing in a list
_NEGATIONS = ("not", "isn", "aren", "never")  # left out they would turn a sentence into its opposite
_SHORTEST = 4  # letters of a word that may be misspelt: one letter makes too many short ones another


class Nearest(NamedTuple):
    """text: what is left of the sentence; notes: what was taken otherwise or left out, and why."""

    text: str
    notes: tuple[str, ...]


def nearest(sentence: str, read: Callable[[str], object]) -> Nearest:
    """As much of a sentence as `read` takes, phrase by phrase, beginning with the first thing that it names.

    A word that means nothing is dropped where one that does follows in its phrase, and with its phrase where it ends
    it; so is a phrase that says what cannot be drawn.

    Raises:
        ConfigError: what `read` says of the sentence, where it names nothing that can be drawn, or several things, or
            says what a thing is not.
    """
    found, notes = _spelt(tokens(sentence))
    place = next((i for i, token in enumerate(found) if "kind" in token), None)
    if place is None or any(token.said.startswith("[") or token.said in _NEGATIONS for token in found):
        return _refused(sentence, read)
    text, unknown, refused = _thing(found[: place + 1], sentence, read)
    for phrase in _phrases(found[place + 1 :]):
        if _is_another_thing(phrase, found[place]):
            return _refused(sentence, read)
        known, odd = _known(phrase)
        if phrase[-1].is_unknown:
            unknown.append(_text(phrase).lstrip(", "))
            continue
        try:
            read(f"{text} {_text(known)}")
        except CannotDraw as error:
            said = _text(phrase).lstrip(", ")
            refused.append(f"{said!r}: {error.why}")
        else:
            text = f"{text} {_text(known)}"
            unknown += odd
    if unknown:
        notes.append(f"left out, the mini model does not know it: {', '.join(map(repr, unknown))}")
    return Nearest(text, (*notes, *(f"left out: {what}" for what in refused)))


def _refused(sentence: str, read: Callable[[str], object]) -> Nearest:
    read(sentence)
    return Nearest(sentence, ())


def _thing(head: list[Token], sentence: str, read: Callable[[str], object]) -> tuple[str, list[str], list[str]]:
    """The thing with what stands before it: what is left, the words that are unknown, and what cannot be drawn."""
    asked, _ = without_requests([token for token in head if token.roles])
    is_one = "plural" not in head[-1]  # "a three tier cake"
    known = [token for token in asked if not (token.is_unknown or (is_one and "count" in token))]
    unknown = [token.said for token in head if not token.roles or (token in asked and token not in known)]
    text = _text(known)
    try:
        read(text)
    except CannotDraw as error:
        paints = [token for token in known if token.is_paint]
        text = _text([token for token in known if token not in paints[1:] and "and" not in token])
        try:
            read(text)
        except ConfigError:
            _refused(sentence, read)
            raise
        return text, unknown, [f"{_text(paints[1:])!r}: {error.why}"]
    return text, unknown, []


def _phrases(found: list[Token]) -> list[list[Token]]:
    """Cut before words that join, and before an unknown one behind a noun: it is a verb, or means as little."""
    cut: list[list[Token]] = []
    for i, token in enumerate(found):
        starts = bool(token.roles.keys() & _STARTS) and not token.is_noun
        before = found[i - 1] if i else None
        if before is None:
            starts = True
        elif starts:
            starts = not all(other.roles.keys() & _STARTS and not other.is_noun for other in cut[-1])
        else:
            starts = token.is_unknown and before.is_noun
        if starts:
            cut.append([])
        cut[-1].append(token)
    return cut


def _is_another_thing(phrase: list[Token], head: Token) -> bool:
    """Whether a phrase names one more thing beside the first: ", a dog", "and a dog"."""
    said = next((token for token in phrase if not token.roles.keys() & _BESIDE), None)
    if said is None or "kind" not in said or {"part", "worn"} & said.roles.keys():
        return False
    return feature_of(head.roles["kind"], said) is None


def _known(found: list[Token]) -> tuple[list[Token], list[str]]:
    known = [token for token in found if not token.is_unknown]
    return known, [token.said for token in found if token.is_unknown]


def _text(found: list[Token]) -> str:
    return " ".join(token.said for token in found)


def _spelt(found: list[Token]) -> tuple[list[Token], list[str]]:
    """Misspelt words as they are meant, and a note on each."""
    spelt, notes = [], []
    for token in found:
        meant = _meant(token.said) if not token.roles else None
        if meant is not None:
            notes.append(f"{token.said!r} is read as {meant}")
            token = Token(meant, lexicon()[meant])
        spelt.append(token)
    return spelt, notes


def _meant(word: str) -> str | None:
    """The word that it becomes by one letter more, one less, or two changed about, if there is one such word.

    Another letter in place of one is no slip: it makes a table of a cable.
    """
    others = {member for members in synonyms.ALIKE.values() for member in phrases(members)}
    if len(word) < _SHORTEST or word in others or word in map(plural, others):  # these it is known not to draw
        return None
    roles = {*CONTENT, *synonyms.JOINTS, "request"}
    near = [
        known
        for known, means in lexicon().items()
        if " " not in known and len(known) >= _SHORTEST and means.keys() & roles
        if known[0] == word[0] and word != known + "d" and (known in _slips(word) or word in _slips(known))
    ]
    return near[0] if len(near) == 1 else None


def _slips(word: str) -> set[str]:
    """The word with a letter left out, and, but for the shortest, with two neighbours changed about."""
    out = {word[:i] + word[i + 1 :] for i in range(len(word))}
    if len(word) == _SHORTEST:  # a tier is no tire
        return out
    return out | {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)}
