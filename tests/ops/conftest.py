import contextlib
import ctypes
import itertools

import pytest
import torch

from threedgen.ops import native, plain
from threedgen.ops.native import build, cuda, cuda_field, gaussian_field, group_norm, splats


@pytest.fixture(params=["plain", "native"])
def ops(request):
    """Each back end that is there; both must behave alike."""
    if request.param == "plain":
        return plain
    if not native.available("cpu"):
        pytest.skip(f"the native kernels are not available: {native.why_not('cpu')}")
    return native


@pytest.fixture
def threads():
    """A function that sets torch's number of threads for the rest of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def emulated_library():
    try:
        return ctypes.CDLL(str(build.cached_emulated_cuda_library()))
    except build.BuildError as error:
        pytest.skip(str(error))


@pytest.fixture
def device(emulated_library, monkeypatch, request):
    """The CPU, with the CUDA kernels as the kernels of every op that has one.

    Tests in float32 run the threads of a block last to first, or where they say `backwards`: a missing barrier shows in
    one of the two orders.
    """
    params = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    backwards = params.get("backwards", params.get("real") == torch.float32)
    emulated_library.tg_emulate_backwards(ctypes.c_int64(backwards))
    monkeypatch.setattr(cuda, "_load", lambda: (emulated_library, ""))
    monkeypatch.setattr(cuda, "_stream_of", lambda _: contextlib.nullcontext())
    with torch.library._scoped_library("threedgen", "IMPL") as library:
        kernels = [cuda.KERNELS, cuda_field.KERNELS]
        kernels += [module.CUDA_KERNELS for module in (splats, gaussian_field, group_norm)]
        for name, kernel in itertools.chain(*(of.items() for of in kernels)):
            library.impl(name, kernel, "CPU", allow_override=True)
        yield torch.device("cpu")


@pytest.fixture(params=[False, True], ids=["one by one", "in pairs"])
def adding(request, emulated_library):
    """How the emulated GPU adds to memory: as an A100, or as an H100."""
    emulated_library.tg_emulate_pairs(ctypes.c_int64(request.param))
    yield
    emulated_library.tg_emulate_pairs(ctypes.c_int64(False))
