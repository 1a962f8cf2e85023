import pytest
import torch

from threedgen.ops import native, reference


@pytest.fixture(params=["reference", "native"])
def ops(request):
    """Each back end that is there; both must behave alike."""
    if request.param == "reference":
        return reference
    if not native.available("cpu"):
        pytest.skip(f"the native kernels are not available: {native.why_not('cpu')}")
    return native


@pytest.fixture
def threads():
    """A function that sets torch's number of threads for the rest of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
