"""The emulation of CUDA itself: that it computes what a GPU would, and refuses what a GPU may hang on."""

import ctypes
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from threedgen.ops.native import build


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    """The kernels of emulator_probe.cu, with the library's own error text beside them."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        pytest.skip("no C++ compiler (g++ or clang++) is installed")
    library, cuda = tmp_path_factory.mktemp("probe") / "probe.so", build.source_folder() / "cuda"
    sources = [Path(__file__).parent / "emulator_probe.cu", cuda / "library.cu"]
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", f"-I{cuda}", f"-I{build.source_folder() / 'include'}"]
    subprocess.run([compiler, *flags, "-x", "c++", *map(str, sources), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.tg_error_text.restype = ctypes.c_char_p
    return loaded


@pytest.fixture(params=[False, True], ids=["forwards", "backwards"])
def either_order(probe, request):
    """Threads run first to last, or last to first."""
    probe.tg_emulate_backwards(ctypes.c_int64(request.param))
    yield
    probe.tg_emulate_backwards(ctypes.c_int64(False))


@pytest.fixture
def call(probe):
    """Calls with tensors as pointers and numbers as int64; returns the error's text, empty if there was none."""

    def called(name, *arguments):
        code = getattr(probe, name)(
            *[ctypes.c_void_p(x.data_ptr()) if isinstance(x, torch.Tensor) else ctypes.c_int64(x) for x in arguments]
        )
        return "" if code == 0 else probe.tg_error_text(ctypes.c_int64(code)).decode()

    return called


@pytest.mark.usefixtures("either_order")
def test_shuffles_votes_and_scans(call):
    values = torch.randn(64, generator=torch.Generator().manual_seed(0))
    out = torch.full((6, 64), math.nan)
    assert call("probe_exchange", 64, values, out) == ""
    for first in (0, 32):
        warp, got = values[first : first + 32], out[:, first : first + 32]
        lanes = torch.arange(32)
        assert torch.equal(got[0], warp[5].expand(32))
        assert torch.equal(got[1], warp[torch.where(lanes < 3, lanes, lanes - 3)])
        assert torch.equal(got[2], warp[torch.where(lanes > 28, lanes, lanes + 3)])
        assert torch.equal(got[3], warp[lanes ^ 1])
        assert (got[4] == (warp > 0).sum()).all()
        torch.testing.assert_close(got[5], warp.cumprod(0) + warp.flip(0).cumsum(0).flip(0), atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("either_order")
def test_lanes_with_masks_of_their_own(call):
    values, out = torch.arange(32.0), torch.full((32,), math.nan)
    assert call("probe_exchange_in_halves", values, out) == ""
    assert out.int().tolist() == [i ^ 8 for i in range(16)] + [i ^ 1 for i in range(16, 32)]


@pytest.mark.usefixtures("either_order")
def test_shared_memory_barriers_and_atomics(call):
    values, out = torch.arange(5 * 128.0), torch.zeros(2)
    assert call("probe_sum", 5, 128, values, out) == ""
    assert out.tolist() == [values.sum().item(), 5 * 128]


@pytest.mark.usefixtures("either_order")
def test_votes_of_a_block(call):
    values, out = -torch.ones(4, 64), torch.full((4, 64), math.nan)
    values[1, 63], values[2, 5], values[3, 33] = 1.0, 6.0, 5.5
    assert call("probe_any_of_block", 4, values, out) == ""
    assert torch.equal(out, torch.tensor([0.0, 1.0, 3.0, 3.0])[:, None].expand(4, 64))


def test_a_missing_barrier_shows_as_nan_in_one_of_the_orders(call, probe):
    found = []
    for backwards in (False, True):
        out = torch.zeros(64)
        probe.tg_emulate_backwards(ctypes.c_int64(backwards))
        assert call("probe_sum_without_barrier", torch.arange(64.0), out) == ""
        found.append(out.isnan().any().item())
    probe.tg_emulate_backwards(ctypes.c_int64(False))
    assert any(found)


def test_shared_memory_starts_as_nan(call):
    out = torch.zeros(32)
    assert call("probe_read_before_writing", out) == ""
    assert out.isnan().all()


@pytest.mark.usefixtures("either_order")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("probe_diverging_barrier", r"deadlock: thread \(\d+, 0\) of block \(0, 0\) waits at a barrier"),
        ("probe_diverging_warp", "deadlock"),
        ("probe_barrier_and_vote", "threads of one block wait at a barrier and at a vote"),
        ("probe_foreign_mask", "is not in its own mask"),
        ("probe_half_of_a_warp", "works with matrices alone"),
        ("probe_too_much_shared_memory", "invalid launch configuration"),
    ],
)
def test_what_a_gpu_may_hang_on_is_an_error(call, name, message):
    assert re.search(message, call(name, torch.zeros(128)))
    out = torch.zeros(32)
    assert call("probe_read_before_writing", out) == ""  # and the next launch is a new one


@pytest.mark.usefixtures("either_order")
def test_a_lane_that_left_gives_nan_and_holds_nobody_up(call):
    out = torch.zeros(32)
    assert call("probe_leave_early", out) == ""
    assert out[:7].tolist() == [2.0] * 7 and out[7] == 0 and out[16:].isnan().all()


@pytest.mark.usefixtures("either_order")
def test_products_of_matrices(call):
    """In the fragments of the PTX ISA, which the probe fills by their definition: against torch's product."""
    rng = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(shape, generator=rng) for shape in ((16, 16), (16, 8), (16, 8)))
    product, turned = torch.full((16, 8), math.nan), torch.full((8, 8), math.nan)
    assert call("probe_matrices", a, b, c, product, turned) == ""
    expected = a.half().double() @ b.half().double() + c
    torch.testing.assert_close(product.double(), expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(turned, a[:8, :8].half().float().T)


def test_half_precision_is_torchs(call):
    """Every number of half precision, and numbers between them, below and above all of them."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.half).float()
    between = torch.randn(20_000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-9, 6, 20_000)
    ties = every[every.isfinite()] * (1 + 2.0**-11)
    values = torch.cat([every, between, ties, torch.tensor([65519.9, 65520.0, -1e-8, 2.0**-25])]).contiguous()
    out = torch.empty_like(values)
    assert call("probe_round_trip", len(values), values, out) == ""
    torch.testing.assert_close(out, values.half().float(), atol=0, rtol=0, equal_nan=True)
