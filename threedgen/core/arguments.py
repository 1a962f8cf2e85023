"""Arguments of the command line, and what it is called by."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from threedgen.core.errors import ConfigError

_INSTALLED = "threedgen"  # the command, and the package that `python -m` runs


def program() -> str:
    """What this program is called in messages and help: "threedgen" where it is installed, else "launch.py"."""
    started = Path(sys.argv[0])
    is_module = started.name == "__main__.py" and started.parent.name == _INSTALLED
    return _INSTALLED if is_module or started.name == _INSTALLED else "launch.py"


def command() -> str:
    """The same as it is typed into a shell."""
    return program() if program() == _INSTALLED else f"python {program()}"


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, which raises ConfigError with one line instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} ({self.prog} --help shows the usage)")
