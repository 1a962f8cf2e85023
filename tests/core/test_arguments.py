"""What the program is called in messages."""

import sys

import pytest

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
