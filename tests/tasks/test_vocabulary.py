"""`launch.py vocabulary` names all that the grammar has, and its examples can be said."""

import re

from threedgen.cli import main
from threedgen.data.miniworld import parse, vocabulary
from threedgen.tasks.tools.vocabulary import _EXAMPLES


def test_every_word_of_the_grammar_is_printed(capsys):
    assert main(["vocabulary"]) == 0
    printed = set(re.findall(r"\w+", capsys.readouterr().out))
    assert set(vocabulary()) - printed <= {",", "3d", "asset", "a", "an", "wearing"}
    for example in _EXAMPLES:
        assert parse(example).caption == example


def test_arguments_are_refused(capsys):
    assert main(["vocabulary", "cats"]) == 2
    assert "cats" in capsys.readouterr().err
