"""Shared by all tests: the reference implementation's numbers, where they are at hand."""

from pathlib import Path

import pytest
import torch

GOLDENS = Path(__file__).parent.parent.parent / "shared" / "goldens"


@pytest.fixture(scope="session")
def goldens():
    """The tensors of the reference network, guidance, sampler and cameras; skips where the folder is absent."""
    path = GOLDENS / "golden_mvunet_small.safetensors"
    if not path.exists():
        pytest.skip("the reference implementation's golden numbers are not here")
    from safetensors.torch import load_file

    return load_file(path)


@pytest.fixture(autouse=True)
def threads():
    """As many threads after a test as before it: a run sets its own, and threads of two workers wait for each other."""
    before = torch.get_num_threads()
    yield
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture
def poisoned():
    """New tensors hold nan instead of zeros that happened to lie there: what a kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
