"""How the views of an object see each other inside a UNet: MVDream's way, and that of video networks."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from threedgen.diffusion.networks.epipolar import ViewGeometry


class MultiViewAttnProcessor:
    """Self-attention over the tokens of all views of an object; cross-attention to the text stays per view.

    along_lines: a token sees those of the other views that lie along the epipolar line of its ray, as in SPAD (Kant et
    al. 2024), where the geometry of the views is told.
    """

    def __init__(self, along_lines: bool = False) -> None:
        self._along_lines = along_lines
        self._fused, self._plain = AttnProcessor2_0(), AttnProcessor()

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        num_views: int = 1,
        geometry: ViewGeometry | None = None,
    ) -> Tensor:
        """hidden_states: [B, L, C] with B = objects * num_views -> [B, L, C]."""
        if encoder_hidden_states is not None:
            return self._attend(attn, hidden_states, encoder_hidden_states, attention_mask)
        b, length, channels = hidden_states.shape
        if self._along_lines and geometry is not None:
            attention_mask = geometry.level(length).mask
        inflated = hidden_states.reshape(b // num_views, num_views * length, channels)
        return self._attend(attn, inflated, None, attention_mask).reshape(b, length, channels)

    def _attend(self, attn: Attention, tokens: Tensor, text: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        if not fused_attention_is_slow(tokens):
            return self._fused(attn, tokens, text, attention_mask)
        if attention_mask is not None and attention_mask.dtype == torch.bool:  # plain products add it to the scores
            attention_mask = torch.zeros_like(attention_mask, dtype=tokens.dtype).masked_fill(
                ~attention_mask, -torch.inf
            )
        return self._plain(attn, tokens, text, attention_mask)


def fused_attention_is_slow(tokens: Tensor) -> bool:
    """In bfloat16 on a CPU the fused kernel's backward pass takes four times as long as that of plain products."""
    return tokens.device.type == "cpu" and torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()


class ViewTransformerBlock(nn.Module):
    """diffusers' transformer block with two places for what is new: before it, and between self- and cross-attention.

    What is not overridden changes nothing: self-attention over the tokens of all views of an object.
    """

    def __init__(self, block: BasicTransformerBlock) -> None:
        """block: its layers become this one's under their own names, so that its tensors keep their keys."""
        super().__init__()
        self.norm1, self.attn1 = block.norm1, block.attn1
        self.norm2, self.attn2 = block.norm2, block.attn2
        self.norm3, self.ff = block.norm3, block.ff

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        timestep: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        class_labels: Tensor | None = None,
    ) -> Tensor:
        """hidden_states: [B, L, C] with B = objects * cross_attention_kwargs["num_views"] -> [B, L, C].

        cross_attention_kwargs["geometry"] is that of the views, or None. The arguments, and their order, are those
        that diffusers hands to its own block.
        """
        told = cross_attention_kwargs or {}
        num_views, geometry = told.get("num_views", 1), told.get("geometry")
        x = self._enter(hidden_states, geometry)
        x = x + self._attend(self.norm1(x), attention_mask, num_views, geometry)
        x = self._join(x, num_views, geometry)
        x = x + self.attn2(
            self.norm2(x), encoder_hidden_states=encoder_hidden_states, attention_mask=encoder_attention_mask
        )
        return x + self.ff(self.norm3(x))

    def _enter(self, x: Tensor, geometry: ViewGeometry | None) -> Tensor:
        return x

    def _attend(self, x: Tensor, mask: Tensor | None, num_views: int, geometry: ViewGeometry | None) -> Tensor:
        return self.attn1(x, attention_mask=mask, num_views=num_views, geometry=geometry)

    def _join(self, x: Tensor, num_views: int, geometry: ViewGeometry | None) -> Tensor:
        return x


class TemporalTransformerBlock(ViewTransformerBlock):
    """diffusers' transformer block with attention over the views at each pixel, between self- and cross-attention.

    This is how image networks become video networks (VideoLDM, Blattmann et al. 2023; Tune-A-Video, Wu et al. 2022),
    and what MVDream's inflated attention is compared with. Views have no order, so there is no position: the camera
    tells them apart. The new attention's output starts at zero, so that a network just made is the 2D network. With
    one view it is left out.
    """

    def __init__(self, block: BasicTransformerBlock) -> None:
        super().__init__(block)
        self.view_norm = nn.LayerNorm(block.dim)
        self.view_attn = Attention(block.dim, heads=block.attn1.heads, dim_head=block.dim // block.attn1.heads)
        nn.init.zeros_(self.view_attn.to_out[0].weight)
        nn.init.zeros_(self.view_attn.to_out[0].bias)

    def _attend(self, x: Tensor, mask: Tensor | None, num_views: int, geometry: ViewGeometry | None) -> Tensor:
        return self.attn1(x, attention_mask=mask)

    def _join(self, x: Tensor, num_views: int, geometry: ViewGeometry | None) -> Tensor:
        return x + self._over_views(self.view_norm(x), num_views) if num_views > 1 else x

    def _over_views(self, x: Tensor, num_views: int) -> Tensor:
        """[B, L, C] -> [B, L, C]: each pixel of a view attends to the same pixel of all views of its object."""
        by_pixel = x.unflatten(0, (-1, num_views)).transpose(1, 2)  # [objects, L, V, C]
        attended = self.view_attn(by_pixel.flatten(0, 1)).reshape(by_pixel.shape)
        return attended.transpose(1, 2).reshape(x.shape)


def replace_blocks(
    unet: UNet2DConditionModel, make: Callable[[BasicTransformerBlock], nn.Module], from_level: int = 0
) -> None:
    """Give `unet` other transformer blocks, made of its own, where it has halved its input `from_level` times or more.

    All tensors keep their names.
    """
    levels = len(unet.down_blocks)
    stages = [*enumerate(unet.down_blocks), (levels - 1, unet.mid_block)]
    stages += [(levels - 1 - i, block) for i, block in enumerate(unet.up_blocks)]
    for level, stage in stages:
        for module in stage.modules():
            if isinstance(module, Transformer2DModel) and level >= from_level:
                module.transformer_blocks = nn.ModuleList(make(block) for block in module.transformer_blocks)
