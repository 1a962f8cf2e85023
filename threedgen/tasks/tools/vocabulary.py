"""`launch.py vocabulary`: what can be said to the mini model."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

from threedgen.core.arguments import ArgumentParser, program
from threedgen.data.miniworld import synonyms
from threedgen.data.miniworld.grammar import BASES, COLORS, SMALL
from threedgen.data.miniworld.kinds import KINDS
from threedgen.data.miniworld.parts import WORN
from threedgen.data.miniworld.reading import read
from threedgen.data.miniworld.textures import MATERIALS, PATTERNS
from threedgen.diffusion.checkpoints.locate import BUNDLED, locate_part, locate_weights
from threedgen.diffusion.text.word_file import WordFile

_WIDTH = 100
_EXAMPLES = (
    "a red cat",
    "a wooden chair with a blue seat",
    "a blue elephant wearing a yellow hat",
    "a green teapot on a brick cube",
    "a white rabbit with purple dots",
)


def main(arguments: Sequence[str]) -> int:
    """Print the vocabulary of the mini model's training captions; returns the exit status."""
    parser = ArgumentParser(prog=f"{program()} vocabulary", description="What can be said to the mini model.")
    parser.parse_args(arguments)
    print("\n".join(_lines()))
    return 0


def _patterns() -> str:
    """Those that the bundled weights have learned; the others are known to trainings on miniworld."""
    words = WordFile.of_folder(locate_part(locate_weights(BUNDLED), "tokenizer"))
    assert words is not None  # the bundled weights know words one by one
    learned = [pattern for pattern in PATTERNS if pattern in words.get_vocab()]
    others = [f"{pattern} as {synonyms.FALLBACKS[pattern]}" for pattern in PATTERNS if pattern not in learned]
    return f"with ... {', '.join(learned)}: anything" + (f" (drawn are {', '.join(others)})" if others else "")


def _lines() -> list[str]:
    lines = [_entry("colours", COLORS), _entry("materials", [f"{', '.join(MATERIALS)}: in place of a colour"]), ""]
    for family in dict.fromkeys(kind.family for kind in KINDS.values()):
        of_family = {name: kind for name, kind in KINDS.items() if kind.family == family}
        lines.append(_entry(family, (f"{name} ({', '.join(kind.features)})" for name, kind in of_family.items())))
    wearers = " ".join(name for name, kind in KINDS.items() if kind.head)
    lines += [
        "",
        _entry("with", ["a part in brackets above, in a colour of its own"]),
        _entry("wearing", [f"{' or '.join(WORN)}: {wearers}"]),
        _entry("on", [f"{', '.join(BASES)}: {' '.join(SMALL)}"]),
        _entry("patterns", [_patterns()]),
        "",
        "Plain English is read as the caption that means the same; notes say what was changed or left out. Read too:",
        "",
        _entry("things", _other_words(synonyms.KIND_SYNONYMS)),
        _entry("colours", _other_words(synonyms.COLOR_SYNONYMS)),
        _entry("surfaces", _other_words(synonyms.MATERIAL_SYNONYMS | synonyms.PATTERN_SYNONYMS)),
        _entry("parts", _other_words(synonyms.PART_SYNONYMS)),
        _entry("left out", [f"{synonyms.SIZES} (everything is drawn in one size), {synonyms.PRAISE}"]),
        _entry("no colour", [_usual_colors()]),
        "",
        "examples:",
    ]
    return lines + [f"  {example}" for example in _EXAMPLES]


def _usual_colors() -> str:
    of_color: dict[str, list[str]] = {}
    for kind in KINDS:
        of_color.setdefault(read(kind).text.split()[1], []).append(kind)
    return "; ".join(f"{color}: {', '.join(kinds)}" for color, kinds in of_color.items())


def _other_words(table: Mapping[str, str]) -> list[str]:
    return ["; ".join(f"{name}: {others}" for name, others in table.items())]


def _entry(name: str, items: Iterable[str]) -> str:
    text = ", ".join(items).replace(" ()", "")
    return textwrap.fill(text, _WIDTH, initial_indent=f"{name:11}", subsequent_indent=" " * 11)
