import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from threedgen.core import memory
from threedgen.core.memory import forget_peak, peak_gib


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux forgets a peak")
def test_a_peak_is_of_what_was_held_since_it_was_forgotten():
    held = [int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line]
    large = np.ones(2**25)  # a quarter of a GiB
    assert peak_gib() > held[0] / 2**20 + 0.2
    del large
    forget_peak()
    assert peak_gib() < held[0] / 2**20 + 0.1


@pytest.mark.parametrize(("platform", "unit"), [("darwin", 1), ("freebsd14", 1024)])
def test_without_proc_the_system_is_asked_in_its_own_units(monkeypatch, platform, unit):
    def none(*_):
        raise FileNotFoundError

    monkeypatch.setattr(memory.Path, "read_text", none)
    monkeypatch.setattr(memory.sys, "platform", platform)
    monkeypatch.setattr(memory.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=3 * 2**30 // unit))
    assert peak_gib() == 3.0
