"""The CUDA kernels of group normalisation against torch's, in float64 on the CPU. Here they run by the emulation in
cuda_ext/emu; the same tests run on a GPU in tests/gpu."""

import copy

import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from threedgen.diffusion.networks import channels_last
from threedgen.diffusion.networks.channels_last import hold_channels_last
from threedgen.ops.native.group_norm import fits, group_norm

# of a number of about 1: as it is rounded, and of sums in float32
TOLERANCES = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
CASES = {  # [N, C, ...], groups
    "two chunks of pixels": ((2, 64, 17, 20), 8),
    "groups across packs": ((2, 40, 3, 5), 4),
    "groups across blocks": ((1, 96, 2, 3), 2),
    "part of a block": ((3, 24, 5, 7), 8),
    "tokens": ((2, 32, 33), 4),
    "one pixel": ((1, 16, 1, 1), 2),
    "nothing": ((0, 16, 4, 4), 4),
}
pytestmark = pytest.mark.filterwarnings("ignore:Warning only once for all operators")


def inputs_of(shape, kind, device, mean=0.7):
    """Channels-last numbers around `mean`, weight, bias, and the gradient of the output."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=rng) + mean
    weight, bias = torch.randn(shape[1], generator=rng) + 1, torch.randn(shape[1], generator=rng)
    grad = torch.randn(shape, generator=rng)
    x, grad = (t.movedim(1, -1).contiguous().movedim(-1, 1) for t in (x, grad))
    return [t.to(device, kind) for t in (x, weight, bias, grad)]


def reference(x, weight, bias, grad, groups, silu):
    """What torch gives in float64: the output, and the gradients of x, weight and bias."""
    given = [t.cpu().double().requires_grad_() for t in (x, weight, bias)]
    out = functional.group_norm(given[0], groups, *given[1:], 1e-5)
    out = functional.silu(out) if silu else out
    return [out.detach(), *torch.autograd.grad(out, given, grad.cpu().double())]


def difference(found, expected):
    """The largest, against numbers of about 1 or of the size of the largest."""
    if not expected.numel():
        return 0.0
    return float((found.cpu().double() - expected).abs().max() / max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("kind", TOLERANCES)
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(("name", "backwards"), [(name, i % 2 == 0) for i, name in enumerate(CASES)])
def test_group_norm_with_gradients(device, poisoned, name, backwards, silu, kind):
    shape, groups = CASES[name]
    x, weight, bias, grad = inputs_of(shape, kind, device)
    expected = reference(x, weight, bias, grad, groups, silu)
    given = [t.requires_grad_() for t in (x, weight, bias)]
    out = group_norm(x, groups, weight, bias, 1e-5, silu)
    assert out.stride() == x.stride() and out.dtype == kind
    found = [out.detach(), *torch.autograd.grad(out, given, grad)]
    assert found[1].stride() == x.stride() and all(t.dtype == kind for t in found)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and difference(one, other) < TOLERANCES[kind]


def test_a_mean_far_from_zero_costs_the_variance_nothing(device, poisoned):
    """A thousand standard deviations; squares of such numbers, added up in float32, would leave two digits."""
    x, weight, bias, grad = inputs_of((2, 32, 20, 20), torch.float32, device, mean=1000.0)
    x.requires_grad_()
    out = group_norm(x, 4, weight, bias, 1e-5)
    expected = reference(x.detach(), weight, bias, grad, 4, False)
    assert difference(out.detach(), expected[0]) < 5e-4  # x itself is rounded to 6e-5
    assert difference(torch.autograd.grad(out, x, grad)[0], expected[1]) < 5e-4


def test_a_gradient_in_the_other_layout_is_taken(device):
    x, weight, bias, grad = inputs_of((2, 32, 4, 4), torch.float32, device)
    x.requires_grad_()
    found = [
        torch.autograd.grad(group_norm(x, 4, weight, bias, 1e-5, True), x, given)[0]
        for given in (grad, grad.contiguous())
    ]
    assert torch.equal(*found)


def test_only_what_is_asked_for_gets_a_gradient(device):
    x, weight, bias, _ = inputs_of((2, 32, 4, 4), torch.float32, device)
    x.requires_grad_()
    group_norm(x, 4, weight, bias, 1e-5).sum().backward()
    assert x.grad is not None and weight.grad is None and bias.grad is None


def test_values_without_a_number_stay_in_their_group(device):
    x, weight, bias, _ = inputs_of((2, 32, 4, 4), torch.float16, device)
    x[0, 3, 1, 1] = torch.nan
    missing = group_norm(x, 4, weight, bias, 1e-5, True).isnan()
    assert missing[0, :8].all() and missing.sum() == missing[0, :8].numel()


def test_what_is_not_covered_is_refused(device):
    x, weight, bias, _ = inputs_of((2, 32, 4, 4), torch.float16, device)
    assert fits(x, weight, bias)
    others = {
        "the other layout": (x.contiguous(), weight, bias),
        "another kind of weights": (x, weight.float(), bias.float()),
        "half a pack": (x[:, :12].movedim(1, -1).contiguous().movedim(-1, 1), weight[:12], bias[:12]),
        "float64": (x.double(), weight.double(), bias.double()),
    }
    for given in others.values():
        assert not fits(*given)
        with pytest.raises(ValueError, match="is not covered"):
            torch.ops.threedgen.group_norm(*given, 4, 1e-5, True)
    assert not fits(x, None, None)
    with pytest.raises(ValueError, match="in 5 groups is not covered"):
        torch.ops.threedgen.group_norm(x, weight, bias, 5, 1e-5, True)


def test_the_op_is_registered_right(device):
    x, weight, bias, _ = inputs_of((2, 32, 4, 4), torch.float32, device)
    given = [*(t.requires_grad_() for t in (x, weight, bias)), 4, 1e-5, True]
    checks = "test_schema", "test_autograd_registration", "test_faketensor"
    torch.library.opcheck(torch.ops.threedgen.group_norm.default, given, test_utils=checks)


class Layouts(TorchDispatchMode):
    """How often each operation was called, and how many convolutions were given pictures in the other layout."""

    def __init__(self):
        super().__init__()
        self.calls, self.others = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func.overloadpacket] = self.calls.get(func.overloadpacket, 0) + 1
        if func.overloadpacket is torch.ops.aten.convolution:
            self.others += not args[0].is_contiguous(memory_format=torch.channels_last)
        return func(*args, **(kwargs or {}))


def test_an_encoder_keeps_its_layout_with_its_gradient(device, monkeypatch):
    """Every norm by our kernels, SiLU in it, no convolution that has to change the layout; numbers as torch's."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # a card's convolutions would keep three digits
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = AutoencoderKL(**blocks, block_out_channels=(16, 32), norm_num_groups=4, layers_per_block=1)
    expected_vae = copy.deepcopy(vae.eval().requires_grad_(False)).double()
    hold_channels_last(vae.to(device))
    monkeypatch.setattr(channels_last, "is_covered", fits)
    images = torch.rand(1, 3, 16, 16, dtype=torch.float64).requires_grad_()
    given = images.detach().to(device, torch.float32, memory_format=torch.channels_last).requires_grad_()
    expected = expected_vae.encode(images).latent_dist.mean
    grad = torch.randn(expected.shape, dtype=torch.float64)
    with Layouts() as layouts:
        found = vae.encode(given).latent_dist.mean
    assert difference(found.detach(), expected.detach()) < 1e-4
    (of_expected,), (of_found,) = (
        torch.autograd.grad(out, x, grad.to(out)) for out, x in ((expected, images), (found, given))
    )
    assert difference(of_found, of_expected) < 1e-4 * float(of_expected.abs().max())
    norms = sum(isinstance(module, nn.GroupNorm) for module in vae.encoder.modules())
    assert layouts.calls[torch.ops.threedgen.group_norm] == norms > 5
    assert torch.ops.aten.native_group_norm not in layouts.calls and torch.ops.aten.silu not in layouts.calls
    assert layouts.others == 0
