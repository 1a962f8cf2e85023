"""A plain English sentence taken apart: its nouns, each with the colours and patterns said of it, and the rest.

No grammar of English: words are looked up in tables, and a colour belongs to the noun after it, or, behind "is", a
comma or the noun itself, to the one before it.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import product

from threedgen.data.miniworld import synonyms
from threedgen.data.miniworld.grammar import COLORS
from threedgen.data.miniworld.kinds import KINDS
from threedgen.data.miniworld.parts import WORN
from threedgen.data.miniworld.textures import MATERIALS, PATTERNS

_NOUNS = ("kind", "part", "worn", "body", "pattern")
CONTENT = ("kind", "part", "worn", "pattern", "material", "color")
_LONGEST = 5  # words of a phrase in the tables
_BACKGROUND = re.compile(r"(\b(on|with|against|in front of|in|over) )?(\b(a|an|the) )?(\w+ )?\bbackground\b")
_ARTICLES = ("article", "the")


@dataclass(frozen=True)
class Token:
    """A word or a phrase as it was typed, and what it can be: role -> the grammar's word for it."""

    said: str
    roles: Mapping[str, str]

    def __contains__(self, role: str) -> bool:
        return role in self.roles

    @property
    def is_noun(self) -> bool:
        return any(role in self.roles for role in _NOUNS)

    @property
    def content(self) -> str:
        """The word of the grammar for what it names, "" if it names nothing."""
        return next((self.roles[role] for role in CONTENT if self.roles.get(role)), "")

    @property
    def is_small(self) -> bool:
        """Whether it only joins other words."""
        return bool(self.roles.keys() & {"comma", *synonyms.JOINTS})

    @property
    def is_unknown(self) -> bool:
        """Whether it means nothing where it stands: a word of asking does so at the beginning only."""
        return self.roles.keys() <= {"request"}

    @property
    def is_paint(self) -> bool:
        return "color" in self.roles or "material" in self.roles


@dataclass
class Noun:
    """A noun, what was said of it, and how it joins what stands before it."""

    token: Token
    paints: list[Token] = field(default_factory=list)
    patterns: list[Token] = field(default_factory=list)
    joint: str = ""  # a key of `synonyms.JOINTS`
    is_definite: bool = False  # "the cat": perhaps one that was named before
    count: str = ""  # "two"


@dataclass
class Sentence:
    """nouns: in order; unknown, left_out, sizes: words as typed; on_top: "... with a cone on top"."""

    nouns: list[Noun]
    unknown: list[str]
    left_out: list[str]
    sizes: list[str]
    on_top: bool


def phrases(listed: str) -> list[str]:
    """The entries of one of the tables' comma lists."""
    return [phrase for phrase in listed.split(", ") if phrase]


def plural(word: str) -> str:
    if word.endswith(("s", "x", "ch", "sh")):
        return word if word.endswith("s") else word + "es"
    return word[:-1] + "ies" if word.endswith("y") and word[-2] not in "aeiou" else word + "s"


@cache
def lexicon() -> dict[str, dict[str, str]]:
    """Every word and phrase that is understood -> its roles; "plural" is a role of the plurals of kinds."""
    words: dict[str, dict[str, str]] = {}

    def add(role: str, name: str, listed: str, *, inflected: bool = False) -> None:
        for phrase in phrases(listed):
            words.setdefault(phrase, {}).setdefault(role, name)
            other = plural(phrase) if plural(phrase) != phrase else phrase[:-1]
            if inflected and not other.endswith("s" * 2):
                roles = words.setdefault(other, {})
                if role == "kind" and not roles:
                    roles["plural"] = phrase
                roles.setdefault(role, name)

    for role, names, table in (
        ("kind", tuple(KINDS), synonyms.KIND_SYNONYMS),
        ("part", tuple(dict.fromkeys(f for kind in KINDS.values() for f in kind.features)), synonyms.PART_SYNONYMS),
        ("worn", WORN, synonyms.PART_SYNONYMS),
        ("pattern", tuple(PATTERNS), synonyms.PATTERN_SYNONYMS),
        ("material", tuple(MATERIALS), synonyms.MATERIAL_SYNONYMS),
        ("color", tuple(dict.fromkeys((*COLORS, *synonyms.COLOR_SYNONYMS))), synonyms.COLOR_SYNONYMS),
    ):
        for name in names:
            is_thing = role in ("kind", "part", "worn")
            add(role, name, name, inflected=is_thing)
            add(role, name, table.get(name, ""), inflected=is_thing)
    for kind, listed in synonyms.BODY_NAMES.items():
        add("body", kind, listed, inflected=bool(kind))
    for listed in synonyms.ALWAYS_THERE.values():
        add("part", "", listed)
    colors = [(phrase, roles["color"]) for phrase, roles in words.items() if "color" in roles]
    for shade, (phrase, color) in product(phrases(synonyms.SHADES), colors):
        words.setdefault(f"{shade} {phrase}", {"color": color})
    for joint, listed in synonyms.JOINTS.items():
        add(joint, joint, listed)
    for role, listed in (
        ("request", synonyms.REQUESTS),
        ("praise", synonyms.PRAISE),
        ("size", synonyms.SIZES),
        ("count", synonyms.COUNTS),
        ("filler", synonyms.FILLERS),
    ):
        add(role, role, listed)
    return words


def feature_of(kind: str, token: Token) -> str | None:
    """The feature of a kind that a noun names: a part, "" for its body, something worn or a pattern; None if none."""
    said = token.said

    def is_one_of(listed: str) -> bool:
        return any(said in (word, plural(word)) or plural(said) == word for word in phrases(listed))

    features = KINDS[kind].features
    if any(is_one_of(synonyms.BODY_NAMES.get(key, "")) for key in ("", kind)):
        return ""
    for feature in features:
        if is_one_of(feature):
            return feature
    for feature in features:
        if is_one_of(synonyms.PART_SYNONYMS.get(feature, "")):
            return feature
    if "worn" in token and KINDS[kind].head:
        return token.roles["worn"]
    return token.roles.get("pattern")


def tokens(sentence: str) -> list[Token]:
    """The longest phrases of the lexicon; a word that it lacks has no roles. Commas and stops are the role "comma"."""
    raw, found, i = re.findall(r"\[\w+\]|\w+|[.,;:!?]", _plain(sentence)), [], 0
    while i < len(raw):
        if not (raw[i][0].isalnum() or raw[i][0] in "[_"):
            found.append(Token(raw[i], {"comma": ","}))
            i += 1
            continue
        for length in range(min(_LONGEST, len(raw) - i), 0, -1):
            phrase = " ".join(raw[i : i + length])
            if length == 1 or phrase in lexicon():
                found.append(Token(phrase, lexicon().get(phrase, {})))
                i += length
                break
    return found


def take_apart(text: str) -> Sentence:
    """Look up and sort the words of a sentence."""
    text = " ".join(_plain(text).split())  # twice is once: `tokens` does it too
    left_out = [match.group().strip() for match in _BACKGROUND.finditer(text)]
    found, request = without_requests(tokens(_BACKGROUND.sub(",", text)))
    left_out = [*request, *left_out]
    sizes: list[str] = []
    unknown: list[str] = []
    rest = []
    for token in found:
        if "praise" in token and not token.is_noun:
            left_out.append(token.said)
        elif "size" in token:
            sizes.append(token.said)
        elif token.is_unknown:
            unknown.append(token.said)
        elif "filler" not in token or token.is_noun:
            rest.append(token)
    on_top = any("top" in token for token in rest)
    return Sentence(list(_nouns(rest)), unknown, left_out, sizes, on_top)


def _plain(text: str) -> str:
    """Lower case, straight apostrophes resolved, hyphens as spaces, the weights of other programs' prompts removed."""
    text = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'").replace("&", " and ")
    text = re.sub(r"\b(it|that|there|he|she|who|here|what)'s\b", r"\1 is", text)
    text = re.sub(r"(\w)'d\b", r"\1 would", text)
    text = re.sub(r"(\w)'s\b", r"\1 whose", text)
    text = re.sub(r":\d+(\.\d+)?", " ", text)
    return re.sub(r"[-\u2010-\u2015_/\\+*]", " ", text)


def without_requests(found: list[Token]) -> tuple[list[Token], list[str]]:
    """Drop "please draw a picture of" before and "please" behind; also returns what was dropped."""
    start = i = 0
    while i < len(found) and (
        found[i].roles.keys() & {"request", "comma", "praise", *_ARTICLES} or found[i].said in ("some", "me")
    ):
        i += 1
        if "request" in found[i - 1]:
            start = i
    end = len(found)
    while end > start and found[end - 1].roles and found[end - 1].roles.keys() <= {"request", "comma"}:
        end -= 1
    dropped = [" ".join(token.said for token in part if "comma" not in token) for part in (found[:start], found[end:])]
    return found[start:end], [part for part in dropped if part]


def _nouns(found: list[Token]) -> Iterator[Noun]:
    nouns: list[Noun] = []
    target: Noun | None = None  # of colours that no noun follows
    waiting = Noun(Token("", {}))  # what is said of the next noun
    expects_noun = False

    def settle() -> None:
        nonlocal waiting
        if target is not None:
            target.paints += waiting.paints
            target.patterns += waiting.patterns
            waiting.paints, waiting.patterns = [], []

    for i, token in enumerate(found):
        follows_noun = i + 1 < len(found) and found[i + 1].is_noun
        if "pattern" in token and (follows_noun or token.said.endswith(("ed", "y")) or token.said == "stripey"):
            waiting.patterns.append(token)
        elif token.is_paint:
            waiting.paints.append(token)
        elif token.is_noun:
            waiting.token = token
            nouns.append(waiting)
            target = target if waiting.joint == "of" and target is not None else waiting
            waiting, expects_noun = Noun(Token("", {})), False
        elif "count" in token:
            waiting.count, expects_noun = token.said, True
        elif token.roles.keys() & {"comma", "and"}:
            if not expects_noun:
                settle()
            if nouns and nouns[-1].joint == "without":
                waiting.joint = "without"
        elif token.roles.keys() & {*_ARTICLES}:
            if not expects_noun:
                settle()
            waiting.is_definite, expects_noun = "the" in token, True
        else:
            settle()
            joint = next((joint for joint in synonyms.JOINTS if joint in token), "")
            if joint == "it":
                target = next((noun for noun in nouns if "kind" in noun.token), target)
            elif joint not in ("is", "that", "top"):
                waiting.joint = "with" if joint == "whose" else joint
            expects_noun = joint in ("with", "wear", "on", "whose", "without")
    settle()
    yield from nouns
