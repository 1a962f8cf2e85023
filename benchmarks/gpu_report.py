"""A plugin of pytest for `gpu_stages.py`: what comes of each test, in a file that is written while they run.

    python -m pytest -p gpu_report --told=FILE --share 0 4 tests/gpu

Several processes share the tests, each with a file of its own. What stands in it is not run again: after a test that
ended the process, or left it a card that no longer answers, the same command goes on with the next one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

BROKEN = 70  # exit status where the card does not answer any more


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--told", type=Path, required=True, help="a line of JSON is added where a test begins, and ends")
    parser.addoption(
        "--share", type=int, nargs=2, default=(0, 1), help="every so manieth test: from which on, of how many"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Teller(config.option.told, *config.option.share))


def outcomes(files: Sequence[Path]) -> dict[str, dict[str, str]]:
    """Test -> its `outcome` ("passed", "failed", "skipped"; "begun" and no further) and, of a failure, its `text`."""
    lines = (line for file in files if file.exists() for line in file.read_text("utf-8").splitlines(keepends=True))
    told = [json.loads(line) for line in lines if line.endswith("\n")]  # the last one may be half there
    return {line["test"]: line for line in told}


class _Teller:
    def __init__(self, file: Path, number: int, count: int) -> None:
        self.file, self.number, self.count = file, number, count

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        done = outcomes([self.file])
        items[:] = [item for item in items[self.number :: self.count] if item.nodeid not in done]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._tell(nodeid, "begun")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._tell(report.nodeid, "failed", report.longreprtext)
            if _is_broken():
                pytest.exit("the card no longer answers this process", returncode=BROKEN)
        elif report.when == "call" or report.skipped:
            self._tell(report.nodeid, report.outcome)

    def _tell(self, test: str, outcome: str, text: str = "") -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"test": test, "outcome": outcome, "text": text}) + "\n")


def _is_broken() -> bool:
    """Whether an error of CUDA stays with this process, as that of an illegal address does."""
    try:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
