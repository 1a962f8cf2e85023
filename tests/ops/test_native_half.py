"""Half precision where the processor has no instruction for it: the kernels' own conversion is torch's, bit for bit."""

import ctypes
import os
import platform
import shutil
import subprocess

import pytest
import torch

from threedgen.ops.native.build import source_folder

SOURCE = """
#include "cpu/vectors.h"
using namespace threedgen;
extern "C" void to_half_bits(long count, const float* from, uint16_t* to) {
    for (long i = 0; i < count; i += 8) store_as(to + i, to_half(load8(from + i)));
}
extern "C" void from_half_bits(long count, const uint16_t* from, float* to) {
    for (long i = 0; i < count; i += 8) store8(to + i, from_half(load_as<u16x8>(from + i)));
}
"""
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


@pytest.mark.skipif(not COMPILER, reason="there is no C++ compiler")
@pytest.mark.parametrize("level", ["x86-64-v2", "native"])
def test_conversion_is_torchs(level, tmp_path):
    if level != "native" and platform.machine() != "x86_64":
        pytest.skip("not this processor's")
    (tmp_path / "half.cpp").write_text(SOURCE)
    folders = [f"-I{source_folder()}", f"-I{source_folder() / 'include'}"]
    command = [COMPILER, "-std=c++17", "-O2", "-shared", "-fPIC", "-Wno-psabi", f"-march={level}", *folders]
    subprocess.run([*command, str(tmp_path / "half.cpp"), "-o", str(tmp_path / "half.so")], check=True)
    library = ctypes.CDLL(str(tmp_path / "half.so"))

    def convert(name, source, target):
        library[name](ctypes.c_long(source.numel()), *(ctypes.c_void_p(x.data_ptr()) for x in (source, target)))
        return target

    halves = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.float16)  # all there are
    floats = convert("from_half_bits", halves, torch.empty(2**16))
    number = ~halves.isnan()
    assert torch.equal(floats[number], halves[number].float()) and floats[~number].isnan().all()

    # each half, what lies midway to the next, and the float32 on both sides of it; and what is too large or too small
    exact = halves[number].float()
    midway = exact + 0.5 * (torch.nextafter(halves[number], torch.tensor(torch.inf).half()).float() - exact)
    both = [torch.nextafter(midway, torch.tensor(side)) for side in (-torch.inf, torch.inf)]
    special = torch.tensor([65504.0, 65519.9, 65520.0, 1e9, torch.inf, -torch.inf, 1e-9, 0.0])
    values = torch.cat([special, exact, midway.nan_to_num(1.0), *(x.nan_to_num(1.0) for x in both)])
    values = values[: len(values) // 8 * 8].contiguous()  # whole vectors
    ours = convert("to_half_bits", values, torch.empty(len(values), dtype=torch.float16))
    assert torch.equal(ours.view(torch.int16), values.half().view(torch.int16))
