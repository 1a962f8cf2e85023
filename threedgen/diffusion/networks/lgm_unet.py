"""LGM's network: views of an object and the rays of their pixels in, numbers of Gaussians out (Tang et al. 2024)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention, silu

from threedgen.config.sampling import QuaternionNorm
from threedgen.core.errors import ThreedgenError
from threedgen.diffusion.formats.tensor_files import MatchedTensors, Source, StoredTensor, on_meta, stored_tensors
from threedgen.diffusion.networks.view_attention import fused_attention_is_slow

IN_CHANNELS, OUT_CHANNELS = 9, 14  # a colour and a ray; a Gaussian, see `scene.gaussians.lgm`
_RESNETS_DOWN, _RESNETS_UP = 2, 3  # per level
_HEADS = 16
_RESIDUAL_SCALE = math.sqrt(0.5)  # keeps the variance of a sum of two

# The released sizes, and `mini` for views of 64 pixels. Pictures of 256 pixels give Gaussians at 128 x 128 (big) or
# 64 x 64 (small, tiny) pixels of each view, those of 64 pixels at 32 x 32.
PRESETS: dict[str, dict[str, object]] = {
    "big": {
        "down_channels": [64, 128, 256, 512, 1024, 1024],
        "down_attention": [False, False, False, True, True, True],
        "up_channels": [1024, 1024, 512, 256, 128],
        "up_attention": [True, True, True, False, False],
    },
    "small": {
        "down_channels": [64, 128, 256, 512, 1024, 1024],
        "down_attention": [False, False, False, True, True, True],
        "up_channels": [1024, 1024, 512, 256],
        "up_attention": [True, True, True, False],
    },
    "tiny": {
        "down_channels": [32, 64, 128, 256, 512],
        "down_attention": [False, False, False, False, True],
        "up_channels": [512, 256, 128],
        "up_attention": [True, False, False],
    },
    "mini": {
        "down_channels": [32, 48, 64, 80],
        "down_attention": [False, False, False, True],
        "up_channels": [80, 64, 48],
        "up_attention": [True, False, False],
        "norm_groups": 8,
    },
}


class LGMUNet(ModelMixin, ConfigMixin):
    """A UNet that goes further down than up, so that a view of H x W pixels gives fewer Gaussians than it has pixels.

    Its tensors are named as in the released files: `unet.*`, and `conv.*` of a last 1 x 1 convolution. Attention runs
    over the pixels of all views of an object, however many these are; only the rays in the input tell views apart.

    quaternion_norm, pixel_aligned: how the weights were trained to have their answers read, see `scene.gaussians.lgm`;
    the network itself does not use them.
    """

    @register_to_config
    def __init__(
        self,
        down_channels: Sequence[int],
        down_attention: Sequence[bool],
        up_channels: Sequence[int],
        up_attention: Sequence[bool],
        mid_attention: bool = True,
        quaternion_norm: str = QuaternionNorm.each.value,
        norm_groups: int = 32,
        pixel_aligned: bool = False,
    ) -> None:
        super().__init__()
        self.unet = _UNet(down_channels, down_attention, up_channels, up_attention, mid_attention, norm_groups)
        self.conv = nn.Conv2d(OUT_CHANNELS, OUT_CHANNELS, 1)

    def forward(self, views: Tensor) -> Tensor:
        """views: [N, V, 9, H, W], N objects with V views each, see `scene.gaussians.lgm.lgm_inputs`; H and W are
        multiples of 2 to the number of steps down.

        Returns [N, V, 14, h, w] with h = H / 2^(steps down - steps up). Raises ValueError for other sizes.
        """
        factor = 2 ** (len(self.config.down_channels) - 1)
        *_, channels, height, width = views.shape
        if views.ndim != 5 or channels != IN_CHANNELS or height % factor or width % factor or not height * width:
            raise ValueError(f"views are [N, V, 9, H, W] with H, W multiples of {factor}, not {list(views.shape)}")
        return self.conv(self.unet(views.flatten(0, 1), views.shape[1])).unflatten(0, views.shape[:2])


class _UNet(nn.Module):
    def __init__(
        self,
        down_channels: Sequence[int],
        down_attention: Sequence[bool],
        up_channels: Sequence[int],
        up_attention: Sequence[bool],
        mid_attention: bool,
        groups: int,
    ) -> None:
        super().__init__()
        self.conv_in = _conv(IN_CHANNELS, down_channels[0])
        inputs, skipped = down_channels[0], [down_channels[0]]
        self.down_blocks = nn.ModuleList()
        for level, (width, attention) in enumerate(zip(down_channels, down_attention, strict=True)):
            is_last = level == len(down_channels) - 1
            self.down_blocks.append(_Down(inputs, width, attention, is_last, groups))
            skipped += [width] * (_RESNETS_DOWN if is_last else _RESNETS_DOWN + 1)
            inputs = width
        self.mid_block = _Middle(inputs, mid_attention, groups)
        self.up_blocks = nn.ModuleList()
        for level, (width, attention) in enumerate(zip(up_channels, up_attention, strict=True)):
            joined = [skipped.pop() for _ in range(_RESNETS_UP)]
            self.up_blocks.append(_Up(inputs, joined, width, attention, level == len(up_channels) - 1, groups))
            inputs = width
        self.norm_out = nn.GroupNorm(groups, inputs)
        self.conv_out = _conv(inputs, OUT_CHANNELS)

    def forward(self, x: Tensor, num_views: int) -> Tensor:
        x = self.conv_in(x)
        skipped = [x]
        for down in self.down_blocks:
            x = down(x, num_views, skipped)
        x = self.mid_block(x, num_views)
        for up in self.up_blocks:
            x = up(x, num_views, skipped)
        return self.conv_out(silu(self.norm_out(x)))


class _Down(nn.Module):
    """Two residual blocks, each with attention or without; then half the size but for the last level."""

    def __init__(self, inputs: int, width: int, attention: bool, is_last: bool, groups: int) -> None:
        super().__init__()
        self.nets = nn.ModuleList(_ResNet(inputs if i == 0 else width, width, groups) for i in range(_RESNETS_DOWN))
        self.attns = nn.ModuleList(_ViewAttention(width, groups) for _ in range(_RESNETS_DOWN if attention else 0))
        self.downsample = None if is_last else _conv(width, width, stride=2)

    def forward(self, x: Tensor, num_views: int, skipped: list[Tensor]) -> Tensor:
        """Adds to `skipped` what the way up will be given."""
        for i, net in enumerate(self.nets):
            x = net(x)
            if self.attns:
                x = self.attns[i](x, num_views)
            skipped.append(x)
        if self.downsample is not None:
            x = self.downsample(x)
            skipped.append(x)
        return x


class _Middle(nn.Module):
    def __init__(self, width: int, attention: bool, groups: int) -> None:
        super().__init__()
        self.nets = nn.ModuleList(_ResNet(width, width, groups) for _ in range(2))
        self.attns = nn.ModuleList(_ViewAttention(width, groups) for _ in range(attention))

    def forward(self, x: Tensor, num_views: int) -> Tensor:
        x = self.nets[0](x)
        for attn in self.attns:
            x = attn(x, num_views)
        return self.nets[1](x)


class _Up(nn.Module):
    """Three residual blocks, each of which takes one of the tensors of the way down; then twice the size."""

    def __init__(
        self, inputs: int, joined: Sequence[int], width: int, attention: bool, is_last: bool, groups: int
    ) -> None:
        super().__init__()
        entering = [inputs, *[width] * (len(joined) - 1)]
        self.nets = nn.ModuleList(_ResNet(a + b, width, groups) for a, b in zip(entering, joined, strict=True))
        self.attns = nn.ModuleList(_ViewAttention(width, groups) for _ in range(len(joined) if attention else 0))
        self.upsample = None if is_last else _conv(width, width)

    def forward(self, x: Tensor, num_views: int, skipped: list[Tensor]) -> Tensor:
        """Takes from the end of `skipped`."""
        for i, net in enumerate(self.nets):
            x = net(torch.cat([x, skipped.pop()], 1))
            if self.attns:
                x = self.attns[i](x, num_views)
        return x if self.upsample is None else self.upsample(interpolate(x, scale_factor=2.0, mode="nearest"))


class _ResNet(nn.Module):
    def __init__(self, inputs: int, width: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, inputs), _conv(inputs, width)
        self.norm2, self.conv2 = nn.GroupNorm(groups, width), _conv(width, width)
        self.shortcut = nn.Identity() if inputs == width else nn.Conv2d(inputs, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(silu(self.norm1(x)))
        y = self.conv2(silu(self.norm2(y)))
        return _RESIDUAL_SCALE * (y + self.shortcut(x))


class _ViewAttention(nn.Module):
    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm, self.attn = nn.GroupNorm(groups, width), _Attention(width)

    def forward(self, x: Tensor, num_views: int) -> Tensor:
        """[N * V, C, h, w] -> the same, every pixel of an object's views having seen all others."""
        tokens = self.norm(x).unflatten(0, (-1, num_views)).movedim(2, -1)  # [N, V, h, w, C]
        y = self.attn(tokens.flatten(1, 3)).reshape(tokens.shape).movedim(-1, 2).flatten(0, 1)
        return _RESIDUAL_SCALE * (y + x)


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, L, C] -> [N, L, C]."""
        q, k, v = self.qkv(tokens).unflatten(-1, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)  # [N, heads, L, C / heads]
        if fused_attention_is_slow(tokens):
            y = (q.shape[-1] ** -0.5 * q @ k.mT).softmax(-1).to(v.dtype) @ v
        else:
            y = scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).flatten(2))


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1)


def lgm_unet_from_released(config: Mapping[str, object], state_dict: Mapping[str, Tensor]) -> LGMUNet:
    """The network of a released state_dict, of any size.

    config: down_channels, down_attention, mid_attention, up_channels, up_attention, norm_groups, quaternion_norm,
    pixel_aligned; the first five show in the tensors' shapes and are read off there where they are left out.
    norm_groups: 32 unless stated; quaternion_norm: "each" unless stated, "all" for what VideoMV released;
    pixel_aligned: false unless stated, as it is for all that was released. state_dict: `unet.*` and `conv.*`; its
    tensors become the parameters without a copy, in their dtype.

    Raises ThreedgenError for words that are not known or have no meaning, and for missing, unknown or misshaped keys.
    """
    unet = match_lgm_unet(config, stored_tensors(state_dict), "LGM's state_dict")
    unet.fill()
    return unet.module.eval()


def match_lgm_unet(
    config: Mapping[str, object], tensors: Mapping[str, StoredTensor], where: str
) -> MatchedTensors[LGMUNet]:
    """As `lgm_unet_from_released`, with nothing read yet and the network on the meta device."""
    words = _words_of_shapes({key: tensor.shape for key, tensor in tensors.items()}) | dict(config)
    _check_words(words, where)
    with on_meta():
        unet = LGMUNet(**words)
    return MatchedTensors(unet, {name: Source(name) for name in unet.state_dict()}, tensors, where)


def _words_of_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, object]:
    """What the shapes tell; a level is seen by any of its tensors, so that one that is missing can be named."""
    words: dict[str, object] = {"mid_attention": any(key.startswith("unet.mid_block.attns.") for key in shapes)}
    for way in ("down", "up"):
        channels: list[int] = []
        attention: list[bool] = []
        pattern = re.compile(rf"unet\.{way}_blocks\.(\d+)\.(?:nets\.\d+\.(?:conv[12]|norm2)|attns\.\d+\.norm)\.")
        while own := [key for key in shapes if (m := pattern.match(key)) and int(m[1]) == len(channels)]:
            attention.append(any(".attns." in key for key in own))
            channels.append(shapes[own[0]][0])
        words |= {f"{way}_channels": channels, f"{way}_attention": attention}
    return words


def _check_words(words: Mapping[str, object], where: str) -> None:
    """Raises ThreedgenError for words of which no network can be made."""
    known = {"down_channels", "down_attention", "mid_attention", "up_channels", "up_attention"}
    known |= {"quaternion_norm", "norm_groups", "pixel_aligned"}
    if unknown := sorted(set(words) - known):
        raise ThreedgenError(f"{where}: {', '.join(unknown)}: not a word of LGM's network ({', '.join(sorted(known))})")
    norm = words.get("quaternion_norm", QuaternionNorm.each.value)
    if norm not in [choice.value for choice in QuaternionNorm]:
        raise ThreedgenError(f"{where}: quaternion_norm={norm!r} must be 'each' or 'all'")
    aligned = words.get("pixel_aligned", False)
    if not isinstance(aligned, bool) or (aligned and norm == QuaternionNorm.all.value):
        raise ThreedgenError(
            f"{where}: pixel_aligned={aligned!r} must be true or false, and false with quaternion_norm=all"
        )
    groups = words.get("norm_groups", 32)
    if not isinstance(groups, int) or groups < 1:
        raise ThreedgenError(f"{where}: norm_groups={groups!r} must be a whole number of at least 1")
    levels = {}
    for way in ("down", "up"):
        channels, attention = words[f"{way}_channels"], words[f"{way}_attention"]
        if not isinstance(channels, Sequence) or not channels or any(width % groups for width in channels):
            raise ThreedgenError(
                f"{where}: {way}_channels={channels!r}: one multiple of {groups} for each level is needed; they are "
                "neither stated nor to be read off the tensors' shapes"
            )
        if not isinstance(attention, Sequence) or len(attention) != len(channels):
            raise ThreedgenError(f"{where}: {way}_attention={attention!r}: {len(channels)} levels need one each")
        levels[way] = len(channels)
    if levels["up"] > levels["down"]:
        raise ThreedgenError(f"{where}: {levels['up']} levels up are more than the {levels['down']} down")
