"""Networks whose pictures keep their channels beside each other in memory (channels-last), as convolutions want it."""

from __future__ import annotations

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional


class GroupNorm(nn.GroupNorm):
    """torch's, which gives the layout that it is given on CUDA too, then SiLU with `silu`.

    Where our kernels cover it (`ops.native.group_norm`), SiLU is part of it; elsewhere both are torch's, bit for bit.
    """

    silu = False

    def forward(self, x: Tensor) -> Tensor:
        if is_covered(x, self.weight, self.bias):
            from threedgen.ops.native.group_norm import group_norm

            return group_norm(x, self.num_groups, self.weight, self.bias, self.eps, self.silu)
        normalised = super().forward(x)
        return functional.silu(normalised) if self.silu else normalised


class SiLUOfEmbedding(nn.SiLU):
    """For a block whose norms apply SiLU to its pictures [B, C, H, W]: only its timestep embedding [B, C] is left."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.ndim == 4 else super().forward(x)


def is_covered(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Whether our kernels normalise x; they are not even imported where there is no GPU."""
    if not x.is_cuda:
        return False
    from threedgen.ops.native import group_norm

    return group_norm.is_covered(x, weight, bias)


def hold_channels_last(network: nn.Module) -> None:
    """Lay out the weights of 2D convolutions channels-last, and put norms that keep this layout in place of torch's.

    The parameters and their names stay, and on a CPU every bit of what the network computes for a given layout.
    """
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster
        for name, child in module.named_children():
            if type(child) is nn.GroupNorm and child.affine:
                setattr(module, name, _keeping(child))
        if isinstance(module, ResnetBlock2D):
            if type(module.nonlinearity) is nn.SiLU and module.time_embedding_norm != "scale_shift":
                module.norm1.silu = module.norm2.silu = True
                module.nonlinearity = SiLUOfEmbedding()
        elif type(getattr(module, "conv_act", None)) is nn.SiLU and isinstance(module.conv_norm_out, GroupNorm):
            module.conv_norm_out.silu = True
            module.conv_act = nn.Identity()


def _keeping(norm: nn.GroupNorm) -> GroupNorm:
    """The same parameters in a norm that keeps the layout."""
    with torch.device("meta"):
        kept = GroupNorm(norm.num_groups, norm.num_channels, norm.eps)
    kept.weight, kept.bias = norm.weight, norm.bias
    return kept.train(norm.training)
