"""`benchmarks/full_size_count.py` counts what operations cost by part, against sums that are known."""

from pathlib import Path

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from torch.nn.functional import group_norm

MIB = 2**20


@pytest.fixture(scope="module")
def benchmark(load_benchmark):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
        return load_benchmark("full_size_count")


def test_products_bytes_and_memory_are_those_of_the_part_that_was_begun(benchmark):
    with torch.device("meta"):
        a, b = torch.empty(64, 128, dtype=torch.half), torch.empty(128, 32, dtype=torch.half)
        with benchmark.CountedParts() as parts:
            parts.begin("product")
            product = a @ b
            parts.begin("memory")
            large = torch.empty(MIB, dtype=torch.half)
            del large
            parts.begin("nothing")
            product.view(-1).unsqueeze(0)
            parts.begin("in place")
            product.add_(1)
            parts.begin("")
    costs, held = parts.costs, 64 * 32 * 2
    assert costs["product"].flop == 2 * 64 * 128 * 32
    assert costs["product"].moved == 2 * (64 * 128 + 128 * 32 + 64 * 32)
    assert [costs[part].peak for part in ("product", "memory", "nothing")] == [held, held + 2 * MIB, held]
    assert costs["nothing"].moved == costs["nothing"].flop == costs["in place"].flop == 0
    assert costs["in place"].moved == 2 * held
    assert [costs[part].operations for part in ("product", "nothing", "in place")] == [1, 0, 1]


def test_time_is_that_of_the_products_or_of_the_bytes_of_each_operation(benchmark):
    with torch.device("meta"):
        large, small = torch.empty(8192, 8192, dtype=torch.half), torch.empty(8192, 1, dtype=torch.half)
        with benchmark.CountedParts() as parts:
            parts.begin("both")
            large @ large
            large @ small
            parts.begin("")
    by_products, by_bytes = 2 * 8192**3 / 989e12, 2 * (8192**2 + 2 * 8192) / 3.35e12
    assert parts.costs["both"].seconds == pytest.approx(by_products + by_bytes, rel=1e-9)


def test_what_follows_a_norm_by_torch_changes_the_layout_back(benchmark):
    """On top of what torch itself moves: the result is read and written once more, forward and backward."""
    with torch.device("meta"), benchmark.CountedParts() as parts:
        x = torch.empty(2, 8, 16, 16, dtype=torch.half, requires_grad=True)
        parts.begin("norm")
        y = group_norm(x, 4)
        parts.begin("backward")
        y.backward(torch.empty_like(y, memory_format=torch.channels_last))
        parts.begin("")
    once = 2 * 2 * 8 * 16 * 16 * 2
    assert parts.costs["norm"].copied == parts.costs["backward"].copied == once


def test_norms_of_our_own_spare_the_copies_and_the_passes_of_silu(benchmark):
    """A block of two norms, each with SiLU and a convolution, forward and backward."""
    costs = {}
    for own_norms in (True, False):
        with torch.device("meta"), benchmark.no_kernels(own_norms), benchmark.CountedParts() as parts:
            network = ResnetBlock2D(in_channels=32, temb_channels=None).half().eval().requires_grad_(False)
            benchmark.channels_last.hold_channels_last(network)
            x = torch.empty(2, 32, 16, 16, dtype=torch.half).to(memory_format=torch.channels_last).requires_grad_()
            parts.begin("all")
            network(x, None).sum().backward()
            parts.begin("")
        costs[own_norms] = parts.costs["all"]
    assert costs[True].copied == 0
    more = costs[False].moved + costs[False].copied - costs[True].moved
    # forward the layout is changed twice, and SiLU reads one picture and writes one; backward it reads two
    assert more == pytest.approx(2 * ((4 + 2) + (4 + 3)) * 2 * 32 * 16 * 16 * 2, rel=0.1)


def test_a_field_multiplies_once_forward_and_computes_its_hidden_layer_again(benchmark):
    ops = torch.ops.threedgen
    weights, positions = [torch.empty(16, 8), torch.empty(4, 16)], torch.empty(100, 3)
    field = None, weights, None, None, positions
    forward = 2 * 100 * (16 * 8 + 4 * 16)
    assert benchmark._flop(ops.evaluate_field.default, field, {}, None) == forward
    backward = benchmark._flop(ops.evaluate_field_backward.default, field, {}, None)
    assert backward == 2 * 100 * 16 * 8 + 2 * forward
