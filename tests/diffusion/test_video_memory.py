"""`benchmarks/video_memory.py` counts what is alive at once, against sums that are known."""

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

MIB = 2**20


@pytest.fixture(scope="module")
def benchmark(load_benchmark):
    return load_benchmark("video_memory")


def test_a_chain_holds_two_neighbours_and_what_is_kept(benchmark):
    """Layers of 1, 4, 2 and 1 MiB: a layer's input is freed once its output is there, what is kept is not."""
    with torch.device("meta"):
        x = torch.empty(MIB // 4)
        sizes = ((1, 4), (4, 2), (2, 1))
        layers = nn.Sequential(*(nn.Linear(a * MIB // 4, b * MIB // 4, bias=False) for a, b in sizes))

        def keeping():
            first = layers[0](x)
            return layers[2](layers[1](first)) + x, first

        assert benchmark.peak(lambda: layers(x)) == 6 * MIB
        assert benchmark.peak(keeping) == 7 * MIB
        assert benchmark.peak(lambda: x.view(2, -1).t()[0]) == 0  # views are no memory


def test_attention_has_no_matrix(benchmark):
    with torch.device("meta"):
        q, k, v = torch.empty(1, 1, 1000, 8), torch.empty(1, 1, 500, 8), torch.empty(1, 1, 500, 4)
        # the kernel also says where the random numbers of a dropout stood, two of 8 bytes
        assert benchmark.peak(lambda: scaled_dot_product_attention(q, k, v)) == 1000 * 4 * 4 + 16
