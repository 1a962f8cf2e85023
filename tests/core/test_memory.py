import os
from pathlib import Path

import numpy as np
import pytest

from threedgen.core.memory import forget_peak, peak_gib


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux forgets a peak")
def test_a_peak_is_of_what_was_held_since_it_was_forgotten():
    held = [int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line]
    large = np.ones(2**25)  # a quarter of a GiB
    assert peak_gib() > held[0] / 2**20 + 0.2
    del large
    forget_peak()
    assert peak_gib() < held[0] / 2**20 + 0.1
