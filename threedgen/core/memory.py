"""How much memory this process has held at most."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

_GIB = 2**20  # of the KiB that Linux counts in


def forget_peak() -> None:
    """What was held until now and is given back no longer counts; where the system cannot do that, it does."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_gib() -> float:
    """GiB at most since `forget_peak`."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / _GIB
    counted_in = 1024 if sys.platform == "darwin" else 1  # of a KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / counted_in / _GIB
