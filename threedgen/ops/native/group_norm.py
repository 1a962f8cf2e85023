"""Group normalisation on CUDA that keeps the layout of channels-last pictures, with SiLU after it if that is wanted.

On CUDA torch's own makes the other layout of what it is given (https://github.com/pytorch/pytorch/issues/111824, at
least up to 2.13), and the convolution that follows changes it back.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from threedgen.ops.native.cuda import aligned, call, why_not
from threedgen.ops.native.library import TORCH_LIBRARY, define

_KINDS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_PIXELS = 256  # that sums are written of: kPixels in cuda_ext/cuda/group_norm.cu


def is_covered(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> bool:
    """Whether `group_norm` computes this: on CUDA, if our kernels are there, outside of autocast, numbers of one kind
    (float32, float16, bfloat16), [N, C, ...] whose channels lie beside each other and fill packs of 16 bytes."""
    return x.is_cuda and not torch.is_autocast_enabled("cuda") and fits(x, weight, bias) and why_not() == ""


def fits(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> bool:
    """What of `is_covered` does not depend on the device."""
    if x.dtype not in _KINDS or weight is None or bias is None or not weight.dtype == bias.dtype == x.dtype:
        return False
    return x.ndim > 2 and x.movedim(1, -1).is_contiguous() and x.shape[1] * x.element_size() % 16 == 0


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, silu: bool = False) -> Tensor:
    """As `torch.nn.functional.group_norm`, then SiLU with `silu`, in x's layout; sums are in float32.

    x: [N, C, ...], weight, bias: [C], as `is_covered` asks for. Gradients to all three; the same bits every time.
    """
    return torch.ops.threedgen.group_norm(x, weight, bias, groups, eps, silu)[0]


def _group_norm_cuda(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    out, mean, rstd = _fake(x, weight, bias, groups, eps, silu)
    call(
        "tg_group_norm", torch.float32, *_sizes(x, weight, bias, groups), _words(x), _words(weight), _words(bias),
        float(eps), int(silu), _new_sums(x), mean, rstd, _words(out),
    )  # fmt: skip
    return out, mean, rstd


def _group_norm_backward_cuda(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, groups: int, silu: bool
) -> tuple[Tensor, Tensor]:
    """The gradient of x, and sums over pixels from which those of bias and weight follow, [N, chunks, C, 2]."""
    grad = grad.movedim(1, -1).contiguous().movedim(-1, 1)  # the next layer may have handed it over in another layout
    out, sums, means = torch.empty_like(x), _new_sums(x), mean.new_empty(*mean.shape, 2)
    call(
        "tg_group_norm_backward", torch.float32, *_sizes(x, weight, bias, groups), _words(x), _words(weight),
        _words(bias), mean, rstd, _words(grad), int(silu), sums, means, _words(out),
    )  # fmt: skip
    return out, sums


def _sizes(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> tuple[int, int, int, int, int]:
    """Kind of numbers, pictures, pixels, channels, groups. Raises ValueError for what the kernels would misread."""
    count, channels = x.shape[:2]
    if not fits(x, weight, bias) or not weight.shape == bias.shape == (channels,) or channels % groups:
        raise ValueError(
            f"group_norm: {x.dtype} {list(x.shape)} of strides {list(x.stride())} in {groups} groups is not covered"
        )
    return _KINDS[x.dtype], count, math.prod(x.shape[2:]), channels, groups


def _words(tensor: Tensor) -> Tensor:
    """Channels last, seen as words of 32 bits at an address that is a multiple of 16 bytes."""
    return aligned(tensor.movedim(1, -1) if tensor.ndim > 1 else tensor).view(-1).view(torch.int32)


def _new_sums(x: Tensor) -> Tensor:
    chunks = -(-math.prod(x.shape[2:]) // _PIXELS)
    return torch.empty(x.shape[0], chunks, x.shape[1], 2, dtype=torch.float32, device=x.device)


def _fake(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    mean = torch.empty(x.shape[0], groups, dtype=torch.float32, device=x.device)
    return torch.empty_like(x), mean, torch.empty_like(mean)


def _setup(ctx, inputs, output):
    x, weight, bias, ctx.groups, _, ctx.silu = inputs
    ctx.save_for_backward(x, weight, bias, *output[1:])


def _autograd(ctx, grad: Tensor, *_: Tensor):
    x, weight, bias, mean, rstd = ctx.saved_tensors
    of_x, sums = torch.ops.threedgen.group_norm_backward(grad, x, weight, bias, mean, rstd, ctx.groups, ctx.silu)
    of_weight = of_bias = None
    if ctx.needs_input_grad[1]:
        of_weight = sums[..., 1].sum((0, 1)).to(weight.dtype)
    if ctx.needs_input_grad[2]:
        of_bias = sums[..., 0].sum((0, 1)).to(bias.dtype)
    return of_x, of_weight, of_bias, None, None, None


define(
    "group_norm_backward(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor rstd, int groups,"
    " bool silu) -> (Tensor, Tensor)",
    None,
    lambda grad, x, *_: (torch.empty_like(x), _new_sums(x)),
)
define(
    "group_norm(Tensor x, Tensor weight, Tensor bias, int groups, float eps, bool silu) -> (Tensor, Tensor, Tensor)",
    None,
    _fake,
    _autograd,
    _setup,
)

CUDA_KERNELS = {"group_norm": _group_norm_cuda, "group_norm_backward": _group_norm_backward_cuda}
for _name, _kernel in CUDA_KERNELS.items():
    TORCH_LIBRARY.impl(_name, _kernel, "CUDA")
