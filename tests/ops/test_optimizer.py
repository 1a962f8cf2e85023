import pytest
import torch

from threedgen.config.scene import BackendName
from threedgen.ops.backends import select_backend
from threedgen.ops.optimizer import AdamW

OPTIONS = {"lr": 0.03, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}


@pytest.mark.parametrize("backend", [BackendName.plain, BackendName.native])
def test_equals_torch(backend, threads):
    """Sizes around the kernel's eight lanes and its pieces of 16384; a parameter without a gradient stays."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(n, generator=generator) for n in (0, 1, 7, 8, 257, 40_001)]
    torchs = [p.clone().requires_grad_() for p in start]
    ours = [p.clone().requires_grad_() for p in start]
    idle = torch.ones(3, requires_grad=True)
    theirs = torch.optim.AdamW(torchs, **OPTIONS)
    optimizer = AdamW([{"params": [*ours, idle]}], select_backend(backend), **OPTIONS)
    threads(3)
    for _ in range(5):
        for a, b in zip(torchs, ours, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        theirs.step()
        optimizer.step()
    for a, b in zip(torchs, ours, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert (idle == 1).all()


def test_goes_on_from_torchs_state():
    param, other = (torch.full((4,), 2.0, requires_grad=True) for _ in range(2))
    first = torch.optim.AdamW([param], **OPTIONS)
    second = AdamW([{"params": [other]}], select_backend(BackendName.plain), **OPTIONS)
    for optimizer, p in ((first, param), (second, other)):
        p.grad = torch.tensor([1.0, -2.0, 0.5, 0.0])
        optimizer.step()
    third = AdamW([{"params": [param]}], select_backend(BackendName.native), **OPTIONS)
    third.load_state_dict(first.state_dict())
    for optimizer, p in ((third, param), (second, other)):
        p.grad = torch.tensor([0.1, 0.2, 0.3, 0.4])
        optimizer.step()
    torch.testing.assert_close(param, other)
