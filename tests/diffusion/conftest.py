"""Shared by the tests of weights: reference numbers beside the main file, and a small checkpoint in original layout."""

from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def goldens_folder():
    folder = ROOT.parent / "shared" / "goldens"
    if not folder.is_dir():
        pytest.skip("the reference implementation's golden numbers are not here")
    return folder


@pytest.fixture(scope="session")
def full_size_cpu(load_benchmark):
    """The benchmark's module, which can write checkpoints of any size."""
    return load_benchmark("full_size_cpu")


@pytest.fixture(scope="session")
def original(full_size_cpu):
    """The tensors of a small checkpoint in the layout of sd-v2.1-base-4view.pt."""
    return full_size_cpu.random_checkpoint("small")


@pytest.fixture(scope="session")
def original_file(original, tmp_path_factory):
    path = tmp_path_factory.mktemp("original") / "sd-small-4view.pt"
    torch.save(original, path)
    return path
