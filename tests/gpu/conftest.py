"""The device that tests run on here."""

import pytest
import torch

from threedgen.ops.native import cuda


@pytest.fixture
def device():
    assert cuda.why_not() == ""  # a GPU without kernels is a failure, not a reason to skip
    return torch.device("cuda")


@pytest.fixture
def adding():
    """How the emulation adds to memory; a device does as it does."""
