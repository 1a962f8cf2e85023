"""Arguments of the command line."""

from __future__ import annotations

import argparse
from typing import NoReturn

from threedgen.core.errors import ConfigError


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, which raises ConfigError with one line instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} ({self.prog} --help shows the usage)")
