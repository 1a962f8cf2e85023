"""What the program is called in messages."""

import sys
from contextlib import suppress

import pytest

from threedgen.cli import VERBS, main
from threedgen.core.arguments import command, program


@pytest.mark.parametrize(
    ("started", "name"),
    [
        ("launch.py", "launch.py"),
        ("/home/me/threedgen/launch.py", "launch.py"),  # a checkout has the package's name
        ("/usr/local/bin/threedgen", "threedgen"),
        ("/usr/lib/python3/site-packages/threedgen/__main__.py", "threedgen"),
    ],
)
def test_it_is_called_by_what_started_it(monkeypatch, started, name):
    monkeypatch.setattr(sys, "argv", [started])
    assert program() == name
    assert command() == (name if name == "threedgen" else "python launch.py")


@pytest.mark.parametrize("verb", sorted({*VERBS} - {"doctor"}))  # which takes no words
def test_every_verbs_help_calls_it_so(monkeypatch, capsys, verb):
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/threedgen"])
    with suppress(SystemExit):  # argparse's way
        main([verb, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: threedgen {verb}")
